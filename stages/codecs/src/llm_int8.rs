//! The LLM.int8 product: int8 activations against int8 weights, with the outlier features apart in the compute dtype
//! (arXiv 2208.07339, section 3).
//!
//! Which columns count as outliers is decided by all rows of a batch together, so an output depends on the batch:
//! whoever caches results has to know the batch plan.

use rayon::prelude::*;

use crate::arith::first_non_finite;
use crate::int8::{encode_row, restore_row};
use crate::product::transpose;
use crate::rounding::{Rounding, round_slice};
use crate::{CodecError, QuantizedInt8};

/// 1 / (127 · 127), as the reference spells it.
const PER_PRODUCT_STEP: f32 = 6.200_012e-05;
/// Columns up to which a sum of products of two codes fits an i32.
const MAX_COLUMNS: usize = i32::MAX as usize / (127 * 127);
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

/// Encodes activations `[tokens, k]`, after rounding them to f16.
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
    let mut half = a.to_vec();
    round_slice(&mut half, Rounding::F16);
    let outliers = outlier_columns(&half, k, threshold);
    let mut codes = vec![0; a.len()];
    let mut sca = Vec::with_capacity(tokens);
    for token in 0..tokens {
        let range = token * k..(token + 1) * k;
        let (row, codes) = (&mut half[range.clone()], &mut codes[range]);
        row.iter_mut().filter(|v| threshold.is_outlier(**v)).for_each(|v| *v = 0.0);
        if let Some(at) = first_non_finite(row) {
            let index = token * k + at;
            return Err(CodecError::ExceedsF16 { index, value: a[index] });
        }
        let largest = row.iter().fold(0.0, |largest: f32, v| largest.max(v.abs()));
        for &column in &outliers {
            row[column] = 0.0;
        }
        encode_row(row, largest, codes);
        sca.push(largest);
    }
    Ok(QuantizedActivations { codes, sca, outliers })
}

/// `y[m, out] = a[m, k] · W[out, k]ᵀ` as LLM.int8 computes it, with `a` already in the compute dtype `dtype`.
///
/// The int8 part is rounded to f16 and then to `dtype`; outlier columns are multiplied with weights rounded to
/// `dtype`, summed in f32, and the total is rounded to `dtype`.
///
/// # Errors
/// Those of [`quantize_activations`], and [`CodecError::Length`] for the other slices.
///
/// # Panics
/// If `k` exceeds 133,144, beyond which a sum may overflow.
pub fn int8_linear(
    a: &[f32],
    m: usize,
    k: usize,
    weights: &QuantizedInt8,
    threshold: OutlierThreshold,
    dtype: Rounding,
    y: &mut [f32],
) -> Result<(), CodecError> {
    assert!(k <= MAX_COLUMNS, "a sum of {k} int8 products may overflow");
    let out = weights.scb.len();
    CodecError::check_len("codes", out * k, weights.codes.len())?;
    CodecError::check_len("y", m * out, y.len())?;
    let activations = quantize_activations(a, m, k, threshold)?;
    if m == 0 {
        return Ok(());
    }
    let mut by_row = vec![0.0; y.len()];
    let features_per_task = TASK.div_ceil(k.max(1) * m);
    by_row.par_chunks_mut(features_per_task * m).enumerate().for_each(|(task, y)| {
        for (i, y) in y.chunks_mut(m).enumerate() {
            feature(a, &activations, k, weights, task * features_per_task + i, dtype, y);
        }
    });
    transpose(&by_row, m, y);
    Ok(())
}

/// One output feature for every token: `y[m]`.
fn feature(
    a: &[f32],
    activations: &QuantizedActivations,
    k: usize,
    weights: &QuantizedInt8,
    row: usize,
    dtype: Rounding,
    y: &mut [f32],
) {
    let (codes, scb) = (&weights.codes[row * k..(row + 1) * k], weights.scb[row]);
    let kept: Vec<i8> = activations.outliers.iter().map(|&column| codes[column]).collect();
    let mut outlier_weights = vec![0.0; kept.len()];
    restore_row(&kept, scb, &mut outlier_weights);
    round_slice(&mut outlier_weights, dtype);
    for (token, y) in y.iter_mut().enumerate() {
        let span = token * k..(token + 1) * k;
        let sum = int_dot(&activations.codes[span.clone()], codes);
        *y = sum as f32 * activations.sca[token] * scb * PER_PRODUCT_STEP;
        round_slice(std::slice::from_mut(y), Rounding::F16);
        round_slice(std::slice::from_mut(y), dtype);
        let a = &a[span];
        let outliers = activations.outliers.iter().zip(&outlier_weights);
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
    fn empty_batches() {
        let weights = QuantizedInt8 { codes: vec![1; 6], scb: vec![1.0; 2] };
        int8_linear(&[], 0, 3, &weights, OutlierThreshold::Off, Rounding::F16, &mut []).unwrap();
        let weights = QuantizedInt8 { codes: vec![], scb: vec![1.0; 2] };
        let mut y = [1.0; 4];
        int8_linear(&[], 2, 0, &weights, OutlierThreshold::Off, Rounding::F16, &mut y).unwrap();
        assert_eq!(y, [0.0; 4]);
    }
}
