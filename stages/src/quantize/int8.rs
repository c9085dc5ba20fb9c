//! Row-wise int8. What products do with the codes is no part of the unit, so LLM.int8 at every threshold and
//! int8-weight-only share them.

use qpipe_formats::DType;
use qpipe_sdk::{Context, StageError};

use super::unit::{Parts, UnitStats, Values, Weight, each_dtype, finished, parts, store};
use crate::blobs::f32_bytes;
use crate::weights::BlobReader;

/// Parts `codes` and `scb`.
pub(super) fn codes(
    ctx: &Context<'_>,
    blobs: &BlobReader<'_>,
    weight: &Weight<'_>,
) -> Result<(Parts, UnitStats), StageError> {
    let (rows, columns) = (weight.rows, weight.columns);
    let record = ctx.unit(weight.name, &weight.key("int8"), || {
        let bytes = weight.bytes(blobs)?;
        let values = Values::of(weight, &bytes)?;
        let (quantized, stats) =
            each_dtype!(values, w => qpipe_codecs::quantize_int8_measured(&w, rows, columns))
                .map_err(|e| weight.refuse(e))?;
        let scb = f32_bytes(&quantized.scb);
        let tensors = [
            ("codes", DType::I8, vec![rows, columns], bytemuck::cast_slice(&quantized.codes)),
            ("scb", DType::F32, vec![rows], &scb[..]),
        ];
        store(ctx.store, &tensors, stats)
    })?;
    let (blob, stats) = finished(&record)?;
    Ok((parts(blob, [("codes", DType::I8, vec![rows, columns]), ("scb", DType::F32, vec![rows])]), stats))
}
