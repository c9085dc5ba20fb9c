//! Row-wise int8 weights, as LLM.int8 stores them (arXiv 2208.07339).
//!
//! A weight is rounded to f16 first, whatever its dtype: that is the contract of the reference, whose int8 layers
//! only know f16 weights. Then each row has the scale `scb = max |w|` and the codes `round(w · (127 · (1 / scb)))`.

#![expect(clippy::inline_always, reason = "the loops must be compiled for the caller's instruction set")]

use rayon::prelude::*;

use crate::arith::{INFINITE, first_non_finite, max_magnitude, reciprocal, round_to_i8};
use crate::rounding::{Rounding, round_slice};
use crate::simd::widest;
use crate::stats::{ErrorStats, Sums};
use crate::{CodecError, Element};

/// Weights of one parallel task, at least; a task has whole rows.
const TASK: usize = 1 << 15;
/// The reference restores with this factor, not with a division by 127.
const PER_STEP: f32 = 1.0 / 127.0;

/// A matrix as int8 codes.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedInt8 {
    /// `[rows, cols]`: codes from −127 to 127.
    pub codes: Vec<i8>,
    /// `[rows]`: the largest magnitude of each row, after rounding to f16.
    pub scb: Vec<f32>,
}

/// Encodes f32 weights `[rows, cols]`; see [`quantize_int8_measured`].
pub fn quantize_int8(w: &[f32], rows: usize, cols: usize) -> Result<QuantizedInt8, CodecError> {
    quantize_int8_measured(w, rows, cols).map(|(quantized, _)| quantized)
}

/// Encodes weights `[rows, cols]` of any checkpoint dtype and measures what is lost. A row of zeros has scale 0 and
/// codes 0.
///
/// # Errors
/// [`CodecError::Length`] if `w` is not `rows · cols` long; [`CodecError::NonFinite`] or
/// [`CodecError::ExceedsF16`] with the first weight that has no code.
pub fn quantize_int8_measured<T: Element>(
    w: &[T],
    rows: usize,
    cols: usize,
) -> Result<(QuantizedInt8, ErrorStats), CodecError> {
    CodecError::check_len("w", rows.saturating_mul(cols), w.len())?;
    let mut codes = vec![0; w.len()];
    let mut scb = vec![0.0; rows];
    let rows_per_task = rows_per_task(cols);
    let task_len = rows_per_task * cols.max(1);
    let parts: Vec<Result<Sums, usize>> = w
        .par_chunks(task_len)
        .zip(codes.par_chunks_mut(task_len))
        .zip(scb.par_chunks_mut(rows_per_task))
        .enumerate()
        .map(|(task, ((w, codes), scb))| {
            widest(|| encode(w, cols, codes, scb)).map_err(|at| task * task_len + at)
        })
        .collect();
    match parts.into_iter().collect::<Result<Vec<Sums>, usize>>() {
        Ok(sums) => Ok((QuantizedInt8 { codes, scb }, Sums::total(&sums).stats(w.len()))),
        Err(index) => Err(no_code(T::value(w, index), index)),
    }
}

/// Decodes `[rows, cols]` codes to f32: `(code · scb) · (1 / 127)`.
///
/// # Panics
/// If `codes` or `out` are not `rows · cols` long or `scb` is not `rows` long.
pub fn dequantize_int8(codes: &[i8], scb: &[f32], rows: usize, cols: usize, out: &mut [f32]) {
    assert_eq!(scb.len(), rows, "length of `scb`");
    assert_eq!(codes.len(), rows * cols, "length of `codes`");
    assert_eq!(out.len(), codes.len(), "length of `out`");
    let rows_per_task = rows_per_task(cols);
    let task_len = rows_per_task * cols.max(1);
    let tasks =
        out.par_chunks_mut(task_len).zip(codes.par_chunks(task_len)).zip(scb.par_chunks(rows_per_task));
    tasks.for_each(|((out, codes), scb)| {
        for ((out, codes), &scb) in out.chunks_mut(cols).zip(codes.chunks(cols)).zip(scb) {
            restore_row(codes, scb, out);
        }
    });
}

/// Restores a part of a row.
#[inline(always)]
pub(crate) fn restore_row(codes: &[i8], scb: f32, out: &mut [f32]) {
    for (o, &code) in out.iter_mut().zip(codes) {
        *o = f32::from(code) * scb * PER_STEP;
    }
}

/// The codes of one row, given its largest magnitude.
#[inline(always)]
pub(crate) fn encode_row(row: &[f32], largest: f32, codes: &mut [i8]) {
    let scale = if largest == 0.0 { 0.0 } else { 127.0 * reciprocal(largest) };
    for (code, w) in codes.iter_mut().zip(row) {
        *code = round_to_i8(w * scale);
    }
}

fn rows_per_task(cols: usize) -> usize {
    TASK.div_ceil(cols.max(1))
}

/// Encodes whole rows; the error is the position of the first weight without a code.
#[inline(always)]
fn encode<T: Element>(w: &[T], cols: usize, codes: &mut [i8], scb: &mut [f32]) -> Result<Sums, usize> {
    let (mut wide, mut row, mut sums) = (vec![0.0; cols], vec![0.0; cols], Sums::default());
    for (i, ((w, codes), scb)) in w.chunks(cols).zip(codes.chunks_mut(cols)).zip(scb).enumerate() {
        T::widen(w, &mut wide);
        row.copy_from_slice(&wide);
        round_slice(&mut row, Rounding::F16);
        let largest = max_magnitude(&row);
        if largest >= INFINITE {
            return Err(i * cols + first_non_finite(&row).unwrap_or(0));
        }
        *scb = f32::from_bits(largest);
        encode_row(&row, *scb, codes);
        restore_row(codes, *scb, &mut row);
        sums.add(&wide, &row);
    }
    Ok(sums)
}

/// Why a weight has no code: it, or what it becomes in f16, is not finite.
pub(crate) fn no_code(value: f32, index: usize) -> CodecError {
    if value.is_finite() {
        CodecError::ExceedsF16 { index, value }
    } else {
        CodecError::NonFinite { index, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_rows_and_empty_matrices() {
        let q = quantize_int8(&[0.0, 0.0, 1.0, -0.5], 2, 2).unwrap();
        assert_eq!(q.codes, [0, 0, 127, -64]);
        assert_eq!(q.scb, [0.0, 1.0]);
        for (rows, cols) in [(0, 5), (5, 0), (0, 0)] {
            let q = quantize_int8(&[], rows, cols).unwrap();
            assert_eq!((q.codes.len(), q.scb.len()), (0, rows));
            dequantize_int8(&q.codes, &q.scb, rows, cols, &mut []);
        }
    }

    #[test]
    fn the_first_weight_without_a_code_is_named() {
        let mut w = vec![0.5f32; 64 * 1024];
        w[60_000] = f32::NAN;
        w[40_000] = 65_520.0;
        let error = quantize_int8(&w, 64, 1024).unwrap_err();
        assert_eq!(error, CodecError::ExceedsF16 { index: 40_000, value: 65_520.0 });
        w[1] = f32::NEG_INFINITY;
        let error = quantize_int8(&w, 64, 1024).unwrap_err();
        assert_eq!(error, CodecError::NonFinite { index: 1, value: f32::NEG_INFINITY });
        let error = quantize_int8(&w, 63, 1024).unwrap_err();
        assert_eq!(error, CodecError::Length { what: "w", expected: 63 * 1024, actual: 64 * 1024 });
    }
}
