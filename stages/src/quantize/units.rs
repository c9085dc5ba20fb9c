//! The units of work of `quantize`: one module, one blob.

use qpipe_cache::{ActionRecord, Digest, KeyDoc};
use qpipe_codecs::{BlockSize, CodecError, DoubleQuantized, ErrorStats, FourBit};
use qpipe_formats::DType;
use qpipe_sdk::{Context, Params, StageError, UnitOutput};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::artifact::{Encoding, Module, TensorRef};
use crate::blobs::{self, f32_bytes};
use crate::weights::BlobReader;

/// Raised when a unit's bytes may change for equal inputs.
const SEMANTICS: u32 = 1;

/// What to do with each linear module.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scheme {
    Four { kind: FourBit, block: BlockSize, double_quant: bool },
    Int8,
}

/// How far the restored weight is from the original.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct UnitStats {
    pub mse: f64,
    pub snr_db: f64,
    pub max_abs: f64,
    pub cosine: f64,
}

impl From<ErrorStats> for UnitStats {
    /// Infinite ratios (an exact restoration) become the largest finite number, which JSON can hold.
    fn from(s: ErrorStats) -> Self {
        let finite = |x: f64| x.clamp(f64::MIN, f64::MAX);
        Self { mse: s.mse, snr_db: finite(s.snr_db), max_abs: s.max_abs, cosine: s.cosine }
    }
}

impl Scheme {
    /// The scheme that the parameters ask for; `None` leaves weights as they are.
    pub(super) fn of(params: &Params) -> Result<Option<Self>, StageError> {
        let kind = match params.text("scheme") {
            Some("nf4") => FourBit::Nf4,
            Some("fp4") => FourBit::Fp4,
            Some("int8") => return Ok(Some(Self::Int8)),
            Some("none") => return Ok(None),
            other => return Err(StageError::bug(format!("scheme {other:?} is not in the schema"))),
        };
        let block = u32::try_from(params.int("scheme.block").unwrap_or(64)).map_err(StageError::config)?;
        let block = BlockSize::try_from(block).map_err(StageError::config)?;
        let double_quant = params.bool("scheme.double-quant").unwrap_or(false);
        Ok(Some(Self::Four { kind, block, double_quant }))
    }

    /// Quantizes one dense module: found in the cache, or done and committed.
    pub(super) fn quantize(
        self,
        ctx: &Context<'_>,
        blobs: &BlobReader<'_>,
        name: &str,
        module: &Module,
    ) -> Result<(Module, UnitStats), StageError> {
        let weight = Weight { name, tensor: module.part("weight")?, shape: &module.shape };
        match self {
            Self::Four { kind, block, double_quant: false } => four(ctx, blobs, &weight, kind, block),
            Self::Four { kind, block, double_quant: true } => nested(ctx, blobs, &weight, kind, block),
            Self::Int8 => int8(ctx, blobs, &weight),
        }
    }
}

/// A dense weight, `[out, in]`.
struct Weight<'a> {
    name: &'a str,
    tensor: &'a TensorRef,
    shape: &'a [usize],
}

impl Weight<'_> {
    fn key(&self, kind: &str) -> KeyDoc {
        KeyDoc::new(format!("quantize/{kind}"), SEMANTICS)
            .param("tensor", self.tensor.name.as_str())
            .input("weight", self.tensor.blob)
    }

    fn refuse(&self, error: CodecError) -> StageError {
        StageError::config(format!("module `{}`: {error}", self.name))
    }

    fn module(&self, encoding: Encoding, parts: &[(&str, Digest, DType, Vec<usize>)]) -> Module {
        let part = |(role, blob, dtype, shape): &(&str, Digest, DType, Vec<usize>)| {
            let tensor =
                TensorRef { blob: *blob, name: (*role).to_owned(), dtype: *dtype, shape: shape.clone() };
            ((*role).to_owned(), tensor)
        };
        Module { shape: self.shape.to_vec(), encoding, parts: parts.iter().map(part).collect() }
    }
}

fn encoding(kind: FourBit, block: BlockSize, double_quant: bool) -> Encoding {
    match kind {
        FourBit::Nf4 => Encoding::Nf4 { block: block.get() as u32, double_quant },
        FourBit::Fp4 => Encoding::Fp4 { block: block.get() as u32, double_quant },
    }
}

fn with_stats(mut output: UnitOutput, original: &[f32], restored: &[f32]) -> UnitOutput {
    let stats = UnitStats::from(qpipe_codecs::error_stats(original, restored));
    output.metrics = json!(stats);
    output
}

fn finish(record: &ActionRecord) -> Result<(Digest, UnitStats), StageError> {
    let blob =
        record.outputs.get("module").ok_or_else(|| StageError::bug("a unit's record lacks its blob"))?.digest;
    let stats = serde_json::from_value(record.metrics.clone()).map_err(StageError::bug)?;
    Ok((blob, stats))
}

fn four(
    ctx: &Context<'_>,
    blobs: &BlobReader<'_>,
    weight: &Weight<'_>,
    kind: FourBit,
    block: BlockSize,
) -> Result<(Module, UnitStats), StageError> {
    let n: usize = weight.shape.iter().product();
    let (codes_shape, absmax_shape) = (vec![n.div_ceil(2), 1], vec![block.blocks(n)]);
    let doc = weight.key(kind.name()).param("block", block.get() as i64);
    let record = ctx.unit(weight.name, &doc, || {
        let values = blobs.values(weight.tensor)?;
        let quantized = qpipe_codecs::quantize4(kind, &values, block).map_err(|e| weight.refuse(e))?;
        let output = blobs::write(
            ctx.store,
            &[
                ("codes", DType::U8, codes_shape.clone(), &quantized.packed),
                ("absmax", DType::F32, absmax_shape.clone(), &f32_bytes(&quantized.absmax)),
            ],
        )?;
        let mut restored = vec![0.0; n];
        qpipe_codecs::dequantize4(kind, &quantized.packed, &quantized.absmax, block, n, &mut restored);
        Ok(with_stats(output, &values, &restored))
    })?;
    let (blob, stats) = finish(&record)?;
    let parts = [("codes", blob, DType::U8, codes_shape), ("absmax", blob, DType::F32, absmax_shape)];
    Ok((weight.module(encoding(kind, block, false), &parts), stats))
}

fn nested(
    ctx: &Context<'_>,
    blobs: &BlobReader<'_>,
    weight: &Weight<'_>,
    kind: FourBit,
    block: BlockSize,
) -> Result<(Module, UnitStats), StageError> {
    let (plain, _) = four(ctx, blobs, weight, kind, block)?;
    let (codes, absmax) = (plain.part("codes")?, plain.part("absmax")?);
    let scales = absmax.shape[0];
    let n: usize = weight.shape.iter().product();
    let doc = weight.key("double-quant").param("scheme", kind.name()).input("codes", codes.blob);
    let record = ctx.unit(weight.name, &doc, || {
        let quantized = qpipe_codecs::double_quantize(&blobs.values(absmax)?);
        let output = write_nested(ctx, &quantized)?;
        let restored_scales = qpipe_codecs::double_dequantize(&quantized);
        let mut restored = vec![0.0; n];
        qpipe_codecs::dequantize4(kind, &blobs.bytes(codes)?, &restored_scales, block, n, &mut restored);
        Ok(with_stats(output, &blobs.values(weight.tensor)?, &restored))
    })?;
    let (blob, stats) = finish(&record)?;
    let parts = [
        ("codes", codes.blob, DType::U8, codes.shape.clone()),
        ("absmax_codes", blob, DType::U8, vec![scales]),
        ("absmax_offset", blob, DType::F32, vec![1]),
        ("nested_absmax", blob, DType::F32, vec![scales.div_ceil(qpipe_codecs::NESTED_BLOCK)]),
    ];
    Ok((weight.module(encoding(kind, block, true), &parts), stats))
}

fn write_nested(ctx: &Context<'_>, quantized: &DoubleQuantized) -> Result<UnitOutput, StageError> {
    let nested = &quantized.nested_absmax;
    blobs::write(
        ctx.store,
        &[
            ("absmax_codes", DType::U8, vec![quantized.codes.len()], &quantized.codes),
            ("absmax_offset", DType::F32, vec![1], &quantized.offset.to_le_bytes()),
            ("nested_absmax", DType::F32, vec![nested.len()], &f32_bytes(nested)),
        ],
    )
}

fn int8(
    ctx: &Context<'_>,
    blobs: &BlobReader<'_>,
    weight: &Weight<'_>,
) -> Result<(Module, UnitStats), StageError> {
    let &[rows, columns] = weight.shape else {
        return Err(StageError::config(format!("module `{}` is not a matrix", weight.name)));
    };
    let record = ctx.unit(weight.name, &weight.key("int8"), || {
        let values = blobs.values(weight.tensor)?;
        let quantized = qpipe_codecs::quantize_int8(&values, rows, columns).map_err(|e| weight.refuse(e))?;
        let codes: &[u8] = bytemuck::cast_slice(&quantized.codes);
        let output = blobs::write(
            ctx.store,
            &[
                ("codes", DType::I8, vec![rows, columns], codes),
                ("scb", DType::F32, vec![rows], &f32_bytes(&quantized.scb)),
            ],
        )?;
        let mut restored = vec![0.0; rows * columns];
        qpipe_codecs::dequantize_int8(&quantized.codes, &quantized.scb, rows, columns, &mut restored);
        Ok(with_stats(output, &values, &restored))
    })?;
    let (blob, stats) = finish(&record)?;
    let parts = [("codes", blob, DType::I8, vec![rows, columns]), ("scb", blob, DType::F32, vec![rows])];
    Ok((weight.module(Encoding::Int8, &parts), stats))
}
