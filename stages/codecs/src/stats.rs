//! How far restored weights are from the ones they stand for.
#![expect(clippy::inline_always, reason = "the sums must be compiled for the caller's instruction set")]

use rayon::prelude::*;

use crate::Element;
use crate::simd::widest;

/// Elements summed by one task. Fixed, since the order of f64 additions decides the last bits.
const TASK: usize = 1 << 16;
/// Elements widened and restored at a time; they stay in the first-level cache.
const STRIP: usize = 1024;
/// Independent partial sums within a task.
const LANES: usize = 8;

/// Distance between two tensors of the same length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorStats {
    /// Mean of the squared differences; 0 for empty tensors.
    pub mse: f64,
    /// Signal-to-noise ratio in decibel, 10 · log₁₀(Σ reference² / Σ difference²); infinite without a difference.
    pub snr_db: f64,
    /// Largest magnitude of a difference; NaN if there is a NaN.
    pub max_abs: f64,
    /// Cosine of the angle between the tensors; 1 if both are zero, 0 if only one is.
    pub cosine: f64,
}

/// Compares `restored` with `reference`, summing in f64. The result does not depend on the number of threads.
///
/// # Panics
/// If the lengths differ.
pub fn error_stats(reference: &[f32], restored: &[f32]) -> ErrorStats {
    assert_eq!(reference.len(), restored.len(), "compared tensors differ in length");
    measure(reference, |start, out| out.copy_from_slice(&restored[start..start + out.len()]))
}

/// Compares weights with what `restore(first position, strip)` writes, without a copy of either tensor.
pub(crate) fn measure<T: Element>(reference: &[T], restore: impl Fn(usize, &mut [f32]) + Sync) -> ErrorStats {
    let task = |(task, reference): (usize, &[T])| {
        let (mut sums, mut wide, mut restored) = (Sums::default(), [0.0; STRIP], [0.0; STRIP]);
        for (i, strip) in reference.chunks(STRIP).enumerate() {
            let (wide, restored) = (&mut wide[..strip.len()], &mut restored[..strip.len()]);
            T::widen(strip, wide);
            restore(task * TASK + i * STRIP, restored);
            widest(|| sums.add(wide, restored));
        }
        sums
    };
    let parts: Vec<Sums> = reference.par_chunks(TASK).enumerate().map(task).collect();
    Sums::total(&parts).stats(reference.len())
}

/// Sums over pairs of values, in lanes that are added up at the end.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sums {
    error: [f64; LANES],
    reference: [f64; LANES],
    restored: [f64; LANES],
    /// NaN is not seen here, but in `error`.
    max_abs: [f64; LANES],
}

impl Sums {
    /// Takes in two slices of the same length.
    #[inline(always)]
    pub(crate) fn add(&mut self, reference: &[f32], restored: &[f32]) {
        let (a, a_tail) = reference.as_chunks::<LANES>();
        let (b, b_tail) = restored.as_chunks::<LANES>();
        // a copy, which can stay in registers
        let mut sums = *self;
        for (a, b) in a.iter().zip(b) {
            sums.add_lanes(a, b);
        }
        if !a_tail.is_empty() {
            // zeros add nothing
            let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
            a[..a_tail.len()].copy_from_slice(a_tail);
            b[..b_tail.len()].copy_from_slice(b_tail);
            sums.add_lanes(&a, &b);
        }
        *self = sums;
    }

    #[inline(always)]
    fn add_lanes(&mut self, reference: &[f32; LANES], restored: &[f32; LANES]) {
        for i in 0..LANES {
            let (a, b) = (f64::from(reference[i]), f64::from(restored[i]));
            let difference = a - b;
            self.error[i] += difference * difference;
            self.reference[i] += a * a;
            self.restored[i] += b * b;
            let magnitude = difference.abs();
            self.max_abs[i] = if magnitude > self.max_abs[i] { magnitude } else { self.max_abs[i] };
        }
    }

    /// The sums of all parts, in their order.
    pub(crate) fn total(parts: &[Self]) -> Self {
        let mut total = Self::default();
        for part in parts {
            for i in 0..LANES {
                total.error[i] += part.error[i];
                total.reference[i] += part.reference[i];
                total.restored[i] += part.restored[i];
                total.max_abs[i] = total.max_abs[i].max(part.max_abs[i]);
            }
        }
        total
    }

    /// The statistics of `n` pairs.
    pub(crate) fn stats(&self, n: usize) -> ErrorStats {
        let sum = |lanes: &[f64; LANES]| lanes.iter().sum::<f64>();
        let (error, reference, restored) = (sum(&self.error), sum(&self.reference), sum(&self.restored));
        let norms = (reference * restored).sqrt();
        let cosine = match norms {
            _ if reference == 0.0 && restored == 0.0 => 1.0,
            0.0 => 0.0,
            // the dot product, by |a − b|² = |a|² + |b|² − 2ab
            norms => f64::midpoint(reference - error, restored) / norms,
        };
        let snr_db = if error == 0.0 { f64::INFINITY } else { 10.0 * (reference / error).log10() };
        let largest = self.max_abs.iter().copied().fold(0.0, f64::max);
        let max_abs = if error.is_nan() { f64::NAN } else { largest };
        ErrorStats { mse: error / n.max(1) as f64, snr_db, max_abs, cosine }
    }
}
#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these results are exact")]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let stats = error_stats(&[3.0, 4.0], &[3.0, 3.0]);
        assert_eq!(stats.mse, 0.5);
        assert_eq!(stats.max_abs, 1.0);
        assert!((stats.snr_db - 10.0 * 25f64.log10()).abs() < 1e-12);
        assert!((stats.cosine - 21.0 / (5.0 * 18f64.sqrt())).abs() < 1e-12);
    }

    #[test]
    fn degenerate_values() {
        let same = error_stats(&[1.0; 9], &[1.0; 9]);
        assert_eq!((same.mse, same.snr_db, same.cosine), (0.0, f64::INFINITY, 1.0));
        assert_eq!(error_stats(&[], &[]).mse, 0.0);
        assert_eq!(error_stats(&[0.0], &[0.0]).cosine, 1.0);
        assert_eq!(error_stats(&[1.0], &[0.0]).cosine, 0.0);
        assert_eq!(error_stats(&[0.0], &[1.0]).snr_db, f64::NEG_INFINITY);
        assert!(error_stats(&[1.0, f32::NAN, 2.0], &[1.0, 1.0, 0.0]).max_abs.is_nan());
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let a: Vec<f32> = (0..300_001).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = a.iter().map(|x| x + 1e-3 * (x * 50.0).cos()).collect();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| error_stats(&a, &b))
        };
        assert_eq!(with(1), with(3));
    }
}
