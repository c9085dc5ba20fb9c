//! Round to nearest in groups.

use qpipe_codecs::{RtnFormat, Symmetry};
use qpipe_formats::DType;
use qpipe_sdk::{Context, StageError};

use super::unit::{Parts, UnitStats, Values, Weight, each_dtype, finished, parts, store};
use crate::weights::BlobReader;

/// Parts `codes`, `scales` and, unless symmetric, `zeros`. `group` is the format's, as a number.
pub(super) fn codes(
    ctx: &Context<'_>,
    blobs: &BlobReader<'_>,
    weight: &Weight<'_>,
    format: RtnFormat,
    group: i64,
) -> Result<(Parts, UnitStats), StageError> {
    let (rows, columns) = (weight.rows, weight.columns);
    let asymmetric = format.symmetry == Symmetry::Asymmetric;
    let tensors = [
        ("codes", DType::U8, vec![rows, format.code_bytes(columns)]),
        ("scales", DType::F16, vec![rows, format.groups(columns)]),
        ("zeros", DType::U8, vec![rows, format.zero_bytes(columns)]),
    ];
    let doc = weight
        .key("rtn")
        .param("bits", format.bits.get() as i64)
        .param("group", group)
        .param("symmetric", !asymmetric);
    let record = ctx.unit(weight.name, &doc, || {
        let bytes = weight.bytes(blobs)?;
        let values = Values::of(weight, &bytes)?;
        let (quantized, stats) =
            each_dtype!(values, w => qpipe_codecs::quantize_rtn(&w, rows, columns, format))
                .map_err(|e| weight.refuse(e))?;
        let contents = [&quantized.codes[..], bytemuck::cast_slice(&quantized.scales), &quantized.zeros[..]];
        let all = tensors
            .iter()
            .zip(contents)
            .map(|((role, dtype, shape), bytes)| (*role, *dtype, shape.clone(), bytes));
        store(ctx.store, &all.take(if asymmetric { 3 } else { 2 }).collect::<Vec<_>>(), stats)
    })?;
    let (blob, stats) = finished(&record)?;
    let mut stored = parts(blob, tensors);
    if !asymmetric {
        stored.remove("zeros");
    }
    Ok((stored, stats))
}
