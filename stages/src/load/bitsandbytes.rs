//! Modules that `bitsandbytes` quantized: their codes and scales stay where they are, in the checkpoint's own file.
//! Only a double-quantized module's offset, a number in its JSON, is written to a blob of its own.

use qpipe_cache::Digest;
use qpipe_codecs::{BlockSize, FourBit, NESTED_BLOCK};
use qpipe_formats::bitsandbytes::{self as bnb, QuantState, QuantizationConfig};
use qpipe_formats::{DType, FormatError, to_f32};
use qpipe_sdk::{Context, StageError};

use super::module_name;
use super::safetensors::Shards;
use crate::artifact::{Encoding, Module, TensorRef};

/// Whether a weight is there as codes.
pub(super) fn is_quantized(shards: &Shards, tensor: &str) -> bool {
    four_bit(shards, tensor).is_some() || shards.contains(&scb_name(tensor))
}

/// The module of a quantized weight, under its name.
pub(super) fn module(
    ctx: &Context<'_>,
    shards: &Shards,
    about: &QuantizationConfig,
    tensor: &str,
    shape: &[usize],
) -> Result<(String, Module), StageError> {
    let module = match four_bit(shards, tensor) {
        Some(kind) => four(ctx, shards, kind, tensor, shape)?,
        None => int8(shards, about, tensor, shape)?,
    };
    Ok((module_name(tensor).to_owned(), module))
}

fn four_bit(shards: &Shards, tensor: &str) -> Option<FourBit> {
    FourBit::ALL.into_iter().find(|kind| shards.contains(&bnb::state_name(tensor, kind.name())))
}

fn scb_name(tensor: &str) -> String {
    format!("{}.SCB", module_name(tensor))
}

fn four(
    ctx: &Context<'_>,
    shards: &Shards,
    kind: FourBit,
    tensor: &str,
    shape: &[usize],
) -> Result<Module, StageError> {
    let (json, _) = shards.get(&bnb::state_name(tensor, kind.name()))?;
    let state = bnb::quant_state(tensor, json.bytes).map_err(StageError::config)?;
    check_state(&state, kind, tensor, shape)?;
    let block = BlockSize::try_from(state.blocksize).map_err(|error| wrong(tensor, error))?;
    check_table(shards, &format!("{tensor}.quant_map"), kind.levels())?;
    let n: usize = shape.iter().product();
    let blocks = block.blocks(n);
    let (_, codes) = shards.exactly(tensor, DType::U8, &[n.div_ceil(2), 1])?;
    let absmax = format!("{tensor}.absmax");
    let mut parts = vec![("codes", codes)];
    match state.nested_offset {
        None => parts.push(("absmax", shards.exactly(&absmax, DType::F32, &[blocks])?.1)),
        Some(offset) => {
            check_table(shards, &format!("{tensor}.nested_quant_map"), qpipe_codecs::dynamic_map())?;
            let nested = format!("{tensor}.nested_absmax");
            parts.push(("absmax_codes", shards.exactly(&absmax, DType::U8, &[blocks])?.1));
            parts.push(("absmax_offset", offset_blob(ctx, offset)?));
            parts.push((
                "nested_absmax",
                shards.exactly(&nested, DType::F32, &[blocks.div_ceil(NESTED_BLOCK)])?.1,
            ));
        }
    }
    let (block, double_quant) = (state.blocksize, state.nested_offset.is_some());
    let encoding = match kind {
        FourBit::Nf4 => Encoding::Nf4 { block, double_quant },
        FourBit::Fp4 => Encoding::Fp4 { block, double_quant },
    };
    Ok(quantized(shape, encoding, parts))
}

fn check_state(state: &QuantState, kind: FourBit, tensor: &str, shape: &[usize]) -> Result<(), StageError> {
    if state.quant_type != kind.name() {
        let found = &state.quant_type;
        return Err(wrong(tensor, format!("its state is of `{}` and says `{found}`", kind.name())));
    }
    if state.shape != shape {
        let (tensor, expected, found) = (tensor.to_owned(), shape.to_vec(), state.shape.clone());
        return Err(StageError::config(FormatError::WrongShape { tensor, expected, found }));
    }
    match (state.nested_blocksize, state.nested_offset) {
        (None, None) => Ok(()),
        (Some(block), Some(offset)) if block as usize == NESTED_BLOCK && offset.is_finite() => Ok(()),
        nested => Err(wrong(
            tensor,
            format!("double quantization is in blocks of {NESTED_BLOCK} around an offset, not {nested:?}"),
        )),
    }
}

/// Codes mean something only with the table they were made with: it must be ours, bit for bit.
fn check_table(shards: &Shards, tensor: &str, ours: &[f32]) -> Result<(), StageError> {
    let (view, _) = shards.exactly(tensor, DType::F32, &[ours.len()])?;
    let same = to_f32(&view).iter().zip(ours).all(|(theirs, ours)| theirs.to_bits() == ours.to_bits());
    if same { Ok(()) } else { Err(wrong(tensor, "it is not the table of its quantization type")) }
}

fn offset_blob(ctx: &Context<'_>, offset: f32) -> Result<TensorRef, StageError> {
    let (name, dtype, shape) = ("absmax_offset", DType::F32, vec![1]);
    let output = crate::blobs::write(ctx.store, &[(name, dtype, shape.clone(), &offset.to_le_bytes())])?;
    let blob: Option<Digest> = output.blobs.values().next().copied();
    let blob = blob.ok_or_else(|| StageError::bug("a blob was written and is not there"))?;
    Ok(TensorRef { blob, name: name.into(), dtype, shape })
}

fn int8(
    shards: &Shards,
    about: &QuantizationConfig,
    tensor: &str,
    shape: &[usize],
) -> Result<Module, StageError> {
    let &[rows, _] = shape else { return Err(wrong(tensor, "it is not a matrix")) };
    let format = format!("{tensor}_format");
    if shards.contains(&format) {
        let (view, _) = shards.exactly(&format, DType::U8, &[])?;
        if view.bytes != [0] {
            return Err(wrong(&format, "int8 codes are by rows, format 0"));
        }
    }
    let (_, codes) = shards.exactly(tensor, DType::I8, shape)?;
    let (_, scb) = shards.exactly(&scb_name(tensor), DType::F32, &[rows])?;
    Ok(quantized(
        shape,
        Encoding::Int8 { threshold: about.llm_int8_threshold },
        vec![("codes", codes), ("scb", scb)],
    ))
}

fn quantized(shape: &[usize], encoding: Encoding, parts: Vec<(&str, TensorRef)>) -> Module {
    let parts = parts.into_iter().map(|(role, tensor)| (role.to_owned(), tensor)).collect();
    Module { shape: shape.to_vec(), encoding, parts }
}

fn wrong(tensor: &str, what: impl std::fmt::Display) -> StageError {
    StageError::config(format!("tensor `{tensor}`: {what}"))
}
