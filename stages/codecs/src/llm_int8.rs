//! The LLM.int8 product: int8 activations against int8 weights, with the outlier features apart in the compute dtype
//! (arXiv 2208.07339, section 3).
//!
//! Which columns count as outliers is decided by all rows of a batch together, so an output depends on the batch:
//! whoever caches results has to know the batch plan.

#![expect(clippy::inline_always, reason = "the loops must be compiled for the caller's instruction set")]

use rayon::prelude::*;

use crate::CodecError;
use crate::arith::{INFINITE, first_non_finite, max_magnitude};
use crate::int8::{encode_row, restore_row};
use crate::product::{FEW_TOKENS, Shape, transpose};
use crate::rounding::{Rounding, round_slice};
use crate::simd::widest;
use crate::tiles::{Plain, Restored, tiled};

/// 1 / (127 · 127), as the reference spells it.
const PER_PRODUCT_STEP: f32 = 6.200_012e-05;
/// From this magnitude on, a value is infinite in f16.
const BEYOND_F16: f32 = 65_520.0;
/// Columns up to which a sum of products of two codes fits an i32.
const MAX_COLUMNS: usize = i32::MAX as usize / (127 * 127);
/// Columns whose sum of products of codes is exact in f32: 1040 · 127² < 2²⁴; a round number below.
const EXACT: usize = 1024;
/// Products of one parallel task, at least; a task has whole output features.
const TASK: usize = 1 << 15;

/// From which magnitude on an activation makes its column an outlier.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OutlierThreshold {
    /// No outliers: all activations are int8 (W8A8).
    Off,
    /// Columns with a magnitude of at least this value are kept out of the int8 product; 6.0 in the paper.
    AtLeast(f32),
}

impl OutlierThreshold {
    fn is_outlier(self, activation: f32) -> bool {
        match self {
            Self::Off => false,
            Self::AtLeast(limit) => activation.abs() >= limit,
        }
    }
}

/// A batch of activations `[tokens, k]` in int8.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedActivations {
    /// `[tokens, k]`: codes; 0 in outlier columns.
    pub codes: Vec<i8>,
    /// `[tokens]`: the largest magnitude below the threshold in each row, outlier columns included.
    pub sca: Vec<f32>,
    /// The outlier columns, ascending.
    pub outliers: Vec<usize>,
}

impl QuantizedActivations {
    /// Encodes activations `[tokens, k]`, after rounding them to f16. A token with a NaN, or with a value that is
    /// infinite in f16 and no outlier, has codes 0 and the scale NaN, which makes all its outputs NaN, as in any
    /// floating-point product.
    ///
    /// # Panics
    /// If `a` is not `tokens · k` long.
    pub fn of(a: &[f32], tokens: usize, k: usize, threshold: OutlierThreshold) -> Self {
        assert_eq!(a.len(), tokens * k, "length of `a`");
        let mut half = a.to_vec();
        half.par_chunks_mut(TASK).for_each(|half| round_slice(half, Rounding::F16));
        let outliers = outlier_columns(&half, k, threshold);
        let (mut codes, mut sca) = (vec![0; a.len()], vec![0.0; tokens]);
        let rows = half.par_chunks_mut(k.max(1)).zip(codes.par_chunks_mut(k.max(1))).zip(&mut sca);
        rows.for_each(|((row, codes), sca)| {
            *sca = widest(|| encode_token(row, codes, &outliers, threshold));
        });
        Self { codes, sca, outliers }
    }
}

/// Encodes activations as [`QuantizedActivations::of`] does, and refuses what it cannot express.
///
/// # Errors
/// [`CodecError::Length`]; [`CodecError::NonFinite`]; [`CodecError::ExceedsF16`] for an activation that becomes
/// infinite in f16 and is no outlier.
pub fn quantize_activations(
    a: &[f32],
    tokens: usize,
    k: usize,
    threshold: OutlierThreshold,
) -> Result<QuantizedActivations, CodecError> {
    CodecError::check_len("a", tokens.saturating_mul(k), a.len())?;
    if let Some(index) = first_non_finite(a) {
        return Err(CodecError::NonFinite { index, value: a[index] });
    }
    let quantized = QuantizedActivations::of(a, tokens, k, threshold);
    match quantized.sca.iter().position(|sca| sca.is_nan()) {
        None => Ok(quantized),
        Some(token) => {
            let row = &a[token * k..(token + 1) * k];
            let exceeds = |v: &f32| v.abs() >= BEYOND_F16 && !threshold.is_outlier(*v);
            let index = token * k + row.iter().position(exceeds).unwrap_or(0);
            Err(CodecError::ExceedsF16 { index, value: a[index] })
        }
    }
}

/// Encodes one token, its values in f16; returns its scale.
#[inline(always)]
fn encode_token(row: &mut [f32], codes: &mut [i8], outliers: &[usize], threshold: OutlierThreshold) -> f32 {
    for v in row.iter_mut() {
        *v = if threshold.is_outlier(*v) { 0.0 } else { *v };
    }
    let largest = max_magnitude(row);
    if largest >= INFINITE {
        return f32::NAN;
    }
    for &column in outliers {
        row[column] = 0.0;
    }
    encode_row(row, f32::from_bits(largest), codes);
    f32::from_bits(largest)
}

/// `y[m, out] = a[m, k] · W[out, k]ᵀ` as LLM.int8 computes it, with `a` already in the compute dtype `dtype`. `codes`
/// `[out, k]` and `scb` `[out]` are those of [`QuantizedInt8`](crate::QuantizedInt8).
///
/// The int8 part is rounded to f16 and then to `dtype`; outlier columns are multiplied with weights rounded to
/// `dtype`, summed in f32, and the total is rounded to `dtype`.
///
/// # Errors
/// [`CodecError::Length`].
///
/// # Panics
/// If `k` exceeds 133,144, beyond which a sum may overflow.
#[expect(clippy::too_many_arguments, reason = "the parts of a stored tensor, and the shape of a product")]
pub fn int8_linear(
    a: &[f32],
    m: usize,
    k: usize,
    codes: &[i8],
    scb: &[f32],
    threshold: OutlierThreshold,
    dtype: Rounding,
    y: &mut [f32],
) -> Result<(), CodecError> {
    assert!(k <= MAX_COLUMNS, "a sum of {k} int8 products may overflow");
    let out = scb.len();
    CodecError::check_len("a", m * k, a.len())?;
    CodecError::check_len("codes", out * k, codes.len())?;
    CodecError::check_len("y", m * out, y.len())?;
    let activations = QuantizedActivations::of(a, m, k, threshold);
    if m == 0 {
        return Ok(());
    }
    let weights = outlier_weights(codes, scb, k, &activations.outliers, dtype);
    if m > FEW_TOKENS {
        many_tokens(a, &activations, k, codes, scb, &weights, dtype, y);
        return Ok(());
    }
    let mut by_row = vec![0.0; y.len()];
    let features_per_task = TASK.div_ceil(k.max(1) * m);
    by_row.par_chunks_mut(features_per_task * m).enumerate().for_each(|(task, y)| {
        for (i, y) in y.chunks_mut(m).enumerate() {
            let row = task * features_per_task + i;
            let outlier_weights = &weights[row * activations.outliers.len()..][..activations.outliers.len()];
            feature(a, &activations, k, &codes[row * k..(row + 1) * k], scb[row], outlier_weights, dtype, y);
        }
    });
    transpose(&by_row, m, y);
    Ok(())
}

/// Weights `[out, outliers]` of the outlier columns: restored, then rounded to `dtype`.
fn outlier_weights(codes: &[i8], scb: &[f32], k: usize, outliers: &[usize], dtype: Rounding) -> Vec<f32> {
    let mut weights = vec![0.0; scb.len() * outliers.len()];
    for (row, (weights, scb)) in weights.chunks_mut(outliers.len().max(1)).zip(scb).enumerate() {
        let kept: Vec<i8> = outliers.iter().map(|&column| codes[row * k + column]).collect();
        restore_row(&kept, *scb, weights);
    }
    round_slice(&mut weights, dtype);
    weights
}

/// A token's int8 part `[out]` from the sums of products of codes: scaled, rounded to f16, then to `dtype`.
fn scale_int8(sums: &[i32], sca: f32, scb: &[f32], dtype: Rounding, y: &mut [f32]) {
    for ((y, sum), scb) in y.iter_mut().zip(sums).zip(scb) {
        *y = *sum as f32 * sca * scb * PER_PRODUCT_STEP;
    }
    round_slice(y, Rounding::F16);
    round_slice(y, dtype);
}

/// The product in tiles. Sums of products of codes are taken in f32, [`EXACT`] columns at a time, where they are exact
/// whatever the order.
#[expect(clippy::too_many_arguments, reason = "the parts of a stored tensor, and the batch")]
fn many_tokens(
    a: &[f32],
    activations: &QuantizedActivations,
    k: usize,
    codes: &[i8],
    scb: &[f32],
    outlier_weights: &[f32],
    dtype: Rounding,
    y: &mut [f32],
) {
    let (out, m) = (scb.len(), activations.sca.len());
    let mut sums = vec![0i32; y.len()];
    for at in (0..k).step_by(EXACT) {
        let len = EXACT.min(k - at);
        let mut x = vec![0.0; m * len];
        let tokens = x.par_chunks_mut(len).zip(activations.codes.par_chunks(k));
        tokens.for_each(|(x, codes)| widen(&codes[at..at + len], x));
        let restore = |row: usize, column: usize, part: &mut [f32]| {
            widen(&codes[row * k + at + column..][..part.len()], part);
        };
        tiled(Shape { out, k: len, m }, &x, y, &Restored { restore, k: len });
        sums.par_iter_mut().zip(&*y).for_each(|(sum, part)| *sum += *part as i32);
    }
    let rows = y.par_chunks_mut(out.max(1)).zip(sums.par_chunks(out.max(1))).zip(&activations.sca);
    rows.for_each(|((y, sums), sca)| scale_int8(sums, *sca, scb, dtype, y));
    let outliers = &activations.outliers;
    if outliers.is_empty() {
        return;
    }
    let picked: Vec<f32> = a.chunks(k).flat_map(|row| outliers.iter().map(|column| row[*column])).collect();
    let mut apart = vec![0.0; y.len()];
    let weights = Plain { values: outlier_weights, k: outliers.len() };
    tiled(Shape { out, k: outliers.len(), m }, &picked, &mut apart, &weights);
    y.par_chunks_mut(TASK).zip(apart.par_chunks(TASK)).for_each(|(y, apart)| {
        y.iter_mut().zip(apart).for_each(|(y, apart)| *y += apart);
        round_slice(y, dtype);
    });
}

fn widen(codes: &[i8], out: &mut [f32]) {
    widest(|| out.iter_mut().zip(codes).for_each(|(out, code)| *out = f32::from(*code)));
}

/// One output feature for every token: `y[m]`.
#[expect(clippy::too_many_arguments, reason = "one row of a stored tensor, and the batch")]
fn feature(
    a: &[f32],
    activations: &QuantizedActivations,
    k: usize,
    codes: &[i8],
    scb: f32,
    outlier_weights: &[f32],
    dtype: Rounding,
    y: &mut [f32],
) {
    for (token, y) in y.iter_mut().enumerate() {
        let span = token * k..(token + 1) * k;
        let sum = widest(|| int_dot(&activations.codes[span.clone()], codes));
        scale_int8(&[sum], activations.sca[token], &[scb], dtype, std::slice::from_mut(y));
        let a = &a[span];
        let outliers = activations.outliers.iter().zip(outlier_weights);
        *y += outliers.map(|(&column, w)| a[column] * w).sum::<f32>();
    }
    round_slice(y, dtype);
}

/// Columns in which any token has an outlier.
fn outlier_columns(a: &[f32], k: usize, threshold: OutlierThreshold) -> Vec<usize> {
    let mut found = vec![false; k];
    for row in a.chunks(k.max(1)) {
        for (found, v) in found.iter_mut().zip(row) {
            *found |= threshold.is_outlier(*v);
        }
    }
    (0..k).filter(|&column| found[column]).collect()
}

/// The exact dot product of two rows of codes.
#[inline(always)]
fn int_dot(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these results are exact")]
mod tests {
    use super::*;

    #[test]
    fn a_value_beyond_f16_needs_an_outlier_column() {
        let a = [1.0, 70_000.0];
        let error = quantize_activations(&a, 1, 2, OutlierThreshold::Off).unwrap_err();
        assert_eq!(error, CodecError::ExceedsF16 { index: 1, value: 70_000.0 });
        let q = quantize_activations(&a, 1, 2, OutlierThreshold::AtLeast(6.0)).unwrap();
        assert_eq!((q.outliers, q.sca, q.codes), (vec![1], vec![1.0], vec![127, 0]));
    }

    #[test]
    fn a_token_that_is_not_finite_spoils_its_own_outputs_alone() {
        let (codes, scb) = ([127, 127, 127, -127], [1.0; 2]);
        let mut y = [0.0; 4];
        let a = [f32::NAN, 1.0, 1.0, 1.0];
        int8_linear(&a, 2, 2, &codes, &scb, OutlierThreshold::AtLeast(6.0), Rounding::F16, &mut y).unwrap();
        assert!(y[0].is_nan() && y[1].is_nan());
        assert_eq!(y[2..], [2.0, 0.0]);
    }

    #[test]
    fn many_tokens_are_as_few() {
        let (m, k, out) = (11, 2500, 33);
        let mut state = 7u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        let mut a: Vec<f32> = (0..m * k).map(|_| next()).collect();
        // every token has the same outlier column, so that which columns are outliers does not depend on the batch
        a.iter_mut().skip(5).step_by(k).for_each(|v| *v = v.signum() * 20.0);
        let codes: Vec<i8> = (0..out * k).map(|_| (next() * 127.0) as i8).collect();
        let scb: Vec<f32> = (0..out).map(|_| 0.1 + next().abs()).collect();
        for threshold in [OutlierThreshold::Off, OutlierThreshold::AtLeast(6.0)] {
            let (mut many, mut few) = (vec![0.0; m * out], vec![0.0; m * out]);
            int8_linear(&a, m, k, &codes, &scb, threshold, Rounding::Bf16, &mut many).unwrap();
            for (a, y) in a.chunks(k).zip(few.chunks_mut(out)) {
                int8_linear(a, 1, k, &codes, &scb, threshold, Rounding::Bf16, y).unwrap();
            }
            assert_eq!(many, few, "{threshold:?}");
        }
    }

    #[test]
    fn empty_batches() {
        int8_linear(&[], 0, 3, &[1; 6], &[1.0; 2], OutlierThreshold::Off, Rounding::F16, &mut []).unwrap();
        let mut y = [1.0; 4];
        int8_linear(&[], 2, 0, &[], &[1.0; 2], OutlierThreshold::Off, Rounding::F16, &mut y).unwrap();
        assert_eq!(y, [0.0; 4]);
    }
}
