//! Blockwise 4-bit quantization: one absmax per block of the flattened tensor, two codes per byte.
//!
//! Blocks run over the flattened (row-major) tensor and may straddle rows; the last one may be short. The inner loop
//! counts thresholds without a branch, so it costs the same for every value and vectorises.

#![expect(clippy::inline_always, reason = "the loops must be compiled for the caller's instruction set")]

use rayon::prelude::*;

use crate::arith::{INFINITE, first_non_finite, flush, max_magnitude, reciprocal};
use crate::fourbit::{fp4_code, nf4_code};
use crate::packed::restore_block;
use crate::simd::widest;
use crate::stats::{ErrorStats, Sums, measure};
use crate::{BlockSize, CodecError, Element, FourBit, Packed4};

/// Weights of one parallel task; a multiple of every block size.
const TASK: usize = 1 << 15;
/// Weights whose codes are computed at a time; divides every block size.
const STRIP: usize = 32;
const LARGEST_BLOCK: usize = BlockSize::MAX.get();

/// A tensor of `n` weights as 4-bit codes.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantized4 {
    /// `[(n + 1) / 2]`: byte i holds code 2i in its high nibble and code 2i + 1 in its low one.
    pub packed: Vec<u8>,
    /// `[n / block, rounded up]`: the largest magnitude of each block.
    pub absmax: Vec<f32>,
}

/// Encodes f32 weights; see [`quantize4_measured`].
pub fn quantize4(kind: FourBit, w: &[f32], block: BlockSize) -> Result<Quantized4, CodecError> {
    quantize4_measured(kind, w, block).map(|(quantized, _)| quantized)
}

/// Encodes weights of any checkpoint dtype and measures what is lost, in one pass and without a copy of the tensor
/// in f32.
///
/// # Errors
/// [`CodecError::NonFinite`] with the first NaN or infinity.
pub fn quantize4_measured<T: Element>(
    kind: FourBit,
    w: &[T],
    block: BlockSize,
) -> Result<(Quantized4, ErrorStats), CodecError> {
    let mut packed = vec![0; w.len().div_ceil(2)];
    let mut absmax = vec![0.0; block.blocks(w.len())];
    let parts: Vec<Result<Sums, usize>> = w
        .par_chunks(TASK)
        .zip(packed.par_chunks_mut(TASK / 2))
        .zip(absmax.par_chunks_mut(TASK / block.get()))
        .enumerate()
        .map(|(task, ((w, packed), absmax))| {
            widest(|| encode(kind, w, block, packed, absmax)).map_err(|at| task * TASK + at)
        })
        .collect();
    match parts.into_iter().collect::<Result<Vec<Sums>, usize>>() {
        Ok(sums) => Ok((Quantized4 { packed, absmax }, Sums::total(&sums).stats(w.len()))),
        Err(index) => Err(CodecError::NonFinite { index, value: T::value(w, index) }),
    }
}

/// How far stored weights are from the ones they were made of.
///
/// # Panics
/// If the lengths differ.
pub fn measure4<T: Element>(reference: &[T], stored: &Packed4<'_>) -> ErrorStats {
    assert_eq!(reference.len(), stored.len(), "compared tensors differ in length");
    measure(reference, |start, out| stored.dequantize_range(start, out))
}

/// Decodes `n` weights to f32 (level · absmax), in parallel.
///
/// # Panics
/// If the slices do not have the lengths that `n` and `block` ask for. For stored, hence untrusted, parts use
/// [`Packed4::new`], which answers with an error.
pub fn dequantize4(
    kind: FourBit,
    packed: &[u8],
    absmax: &[f32],
    block: BlockSize,
    n: usize,
    out: &mut [f32],
) {
    let restored = Packed4::new(kind, packed, absmax, block, n).and_then(|view| view.dequantize(out));
    if let Err(error) = restored {
        panic!("{error}");
    }
}

/// Encodes whole blocks one after the other; the error is the position of the first weight that is not finite.
#[inline(always)]
fn encode<T: Element>(
    kind: FourBit,
    w: &[T],
    block: BlockSize,
    packed: &mut [u8],
    absmax: &mut [f32],
) -> Result<Sums, usize> {
    let (mut buffer, mut restored, mut sums) = ([0.0; LARGEST_BLOCK], [0.0; LARGEST_BLOCK], Sums::default());
    let blocks = w.chunks(block.get()).zip(packed.chunks_mut(block.get() / 2)).zip(absmax);
    for (i, ((w, packed), absmax)) in blocks.enumerate() {
        let (weights, rest) = buffer.split_at_mut(w.len());
        T::widen(w, weights);
        let largest = max_magnitude(weights);
        if largest >= INFINITE {
            return Err(i * block.get() + first_non_finite(weights).unwrap_or(0));
        }
        // a short block is padded with zeros: the odd weight's neighbour gets the code of 0.0
        let whole = w.len().next_multiple_of(STRIP);
        rest[..whole - w.len()].fill(0.0);
        *absmax = flush(f32::from_bits(largest));
        match kind {
            FourBit::Nf4 => encode_block(&buffer[..whole], *absmax, packed, nf4_code),
            FourBit::Fp4 => encode_block(&buffer[..whole], *absmax, packed, fp4_code),
        }
        restore_block(kind, packed, *absmax, &mut restored[..w.len()]);
        sums.add(&buffer[..w.len()], &restored[..w.len()]);
    }
    Ok(sums)
}

/// Encodes one block, padded to whole strips, into as many bytes as `packed` has.
#[inline(always)]
fn encode_block(weights: &[f32], absmax: f32, packed: &mut [u8], code: impl Fn(f32) -> u32) {
    let scale = reciprocal(absmax);
    for (strip, out) in weights.as_chunks::<STRIP>().0.iter().zip(packed.chunks_mut(STRIP / 2)) {
        let bytes = encode_strip(strip, scale, &code);
        match out.as_mut_array() {
            Some(whole) => *whole = bytes,
            None => out.copy_from_slice(&bytes[..out.len()]),
        }
    }
}

#[inline(always)]
fn encode_strip(w: &[f32; STRIP], scale: f32, code: impl Fn(f32) -> u32) -> [u8; STRIP / 2] {
    let (mut codes, mut bytes) = ([0u32; STRIP], [0; STRIP / 2]);
    for i in 0..STRIP {
        codes[i] = code(flush(w[i]) * scale);
    }
    for i in 0..STRIP / 2 {
        bytes[i] = (codes[2 * i] << 4 | codes[2 * i + 1]) as u8;
    }
    bytes
}
