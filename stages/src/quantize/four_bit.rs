//! NF4 and FP4: codes and absmax are one unit, double quantization of absmax another, so both variants of a scheme
//! share the codes.

use qpipe_codecs::{BlockSize, DoubleQuantized, FourBit, Packed4};
use qpipe_formats::DType;
use qpipe_sdk::{Context, StageError, UnitOutput};

use super::unit::{Parts, UnitStats, Values, Weight, each_dtype, finished, parts, store};
use crate::blobs::f32_bytes;
use crate::weights::BlobReader;

/// Parts `codes` and `absmax`.
pub(super) fn codes(
    ctx: &Context<'_>,
    blobs: &BlobReader<'_>,
    weight: &Weight<'_>,
    kind: FourBit,
    block: BlockSize,
) -> Result<(Parts, UnitStats), StageError> {
    let (codes_shape, absmax_shape) = (vec![weight.len().div_ceil(2), 1], vec![block.blocks(weight.len())]);
    let doc = weight.key(kind.name()).param("block", block.get() as i64);
    let record = ctx.unit(weight.name, &doc, || {
        let bytes = weight.bytes(blobs)?;
        let values = Values::of(weight, &bytes)?;
        let (quantized, stats) = each_dtype!(values, w => qpipe_codecs::quantize4_measured(kind, &w, block))
            .map_err(|e| weight.refuse(e))?;
        let absmax = f32_bytes(&quantized.absmax);
        let tensors = [
            ("codes", DType::U8, codes_shape.clone(), &quantized.packed[..]),
            ("absmax", DType::F32, absmax_shape.clone(), &absmax[..]),
        ];
        store(ctx.store, &tensors, stats)
    })?;
    let (blob, stats) = finished(&record)?;
    let tensors = [("codes", DType::U8, codes_shape), ("absmax", DType::F32, absmax_shape)];
    Ok((parts(blob, tensors), stats))
}

/// Parts `codes`, `absmax_codes`, `absmax_offset` and `nested_absmax`.
pub(super) fn double_quantized(
    ctx: &Context<'_>,
    blobs: &BlobReader<'_>,
    weight: &Weight<'_>,
    kind: FourBit,
    block: BlockSize,
) -> Result<(Parts, UnitStats), StageError> {
    let (mut plain, _) = codes(ctx, blobs, weight, kind, block)?;
    let (Some(codes), Some(absmax)) = (plain.remove("codes"), plain.remove("absmax")) else {
        return Err(StageError::bug("a 4-bit unit lacks its parts"));
    };
    let scales = absmax.shape[0];
    let doc = weight.key("double-quant").param("scheme", kind.name()).input("codes", codes.blob);
    let record = ctx.unit(weight.name, &doc, || {
        let quantized = qpipe_codecs::double_quantize(&blobs.values(&absmax)?);
        let restored = qpipe_codecs::double_dequantize(&quantized);
        let (bytes, packed) = (weight.bytes(blobs)?, blobs.bytes(&codes)?);
        let stored = Packed4::new(kind, &packed, &restored, block, weight.len()).map_err(StageError::bug)?;
        let stats = each_dtype!(Values::of(weight, &bytes)?, w => qpipe_codecs::measure4(&w, &stored));
        write(ctx, &quantized, stats)
    })?;
    let (blob, stats) = finished(&record)?;
    let nested = scales.div_ceil(qpipe_codecs::NESTED_BLOCK);
    let mut all = parts(
        blob,
        [
            ("absmax_codes", DType::U8, vec![scales]),
            ("absmax_offset", DType::F32, vec![1]),
            ("nested_absmax", DType::F32, vec![nested]),
        ],
    );
    all.insert("codes".to_owned(), codes);
    Ok((all, stats))
}

fn write(
    ctx: &Context<'_>,
    quantized: &DoubleQuantized,
    stats: qpipe_codecs::ErrorStats,
) -> Result<UnitOutput, StageError> {
    let (nested, offset) = (f32_bytes(&quantized.nested_absmax), quantized.offset.to_le_bytes());
    let tensors = [
        ("absmax_codes", DType::U8, vec![quantized.codes.len()], &quantized.codes[..]),
        ("absmax_offset", DType::F32, vec![1], &offset[..]),
        ("nested_absmax", DType::F32, vec![quantized.nested_absmax.len()], &nested[..]),
    ];
    store(ctx.store, &tensors, stats)
}
