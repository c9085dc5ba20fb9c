//! How far restored weights are from the ones they stand for.

use rayon::prelude::*;

/// Elements summed by one task. Fixed, since the order of f64 additions decides the last bits.
const TASK: usize = 1 << 16;
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
    let parts: Vec<Sums> =
        reference.par_chunks(TASK).zip(restored.par_chunks(TASK)).map(|(a, b)| Sums::over(a, b)).collect();
    parts.into_iter().fold(Sums::default(), Sums::and).stats(reference.len())
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    error: f64,
    reference: f64,
    restored: f64,
    dot: f64,
    max_abs: f64,
}

impl Sums {
    fn over(reference: &[f32], restored: &[f32]) -> Self {
        let mut lanes = [Self::default(); LANES];
        let (a, a_tail) = reference.as_chunks::<LANES>();
        let (b, b_tail) = restored.as_chunks::<LANES>();
        for (a, b) in a.iter().zip(b) {
            for (lane, (&a, &b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
                lane.add(a, b);
            }
        }
        for (lane, (&a, &b)) in lanes.iter_mut().zip(a_tail.iter().zip(b_tail)) {
            lane.add(a, b);
        }
        lanes.into_iter().fold(Self::default(), Self::and)
    }

    #[inline]
    fn add(&mut self, reference: f32, restored: f32) {
        let (a, b) = (f64::from(reference), f64::from(restored));
        let difference = a - b;
        self.error += difference * difference;
        self.reference += a * a;
        self.restored += b * b;
        self.dot += a * b;
        self.max_abs = larger(self.max_abs, difference.abs());
    }

    fn and(self, other: Self) -> Self {
        Self {
            error: self.error + other.error,
            reference: self.reference + other.reference,
            restored: self.restored + other.restored,
            dot: self.dot + other.dot,
            max_abs: larger(self.max_abs, other.max_abs),
        }
    }

    fn stats(self, n: usize) -> ErrorStats {
        let norms = (self.reference * self.restored).sqrt();
        let both_zero = self.reference == 0.0 && self.restored == 0.0;
        let cosine = match norms {
            _ if both_zero => 1.0,
            0.0 => 0.0,
            norms => self.dot / norms,
        };
        let snr_db =
            if self.error == 0.0 { f64::INFINITY } else { 10.0 * (self.reference / self.error).log10() };
        ErrorStats { mse: self.error / n.max(1) as f64, snr_db, max_abs: self.max_abs, cosine }
    }
}

/// The larger of two numbers; NaN if one is NaN.
#[inline]
fn larger(a: f64, b: f64) -> f64 {
    if a >= b || a.is_nan() { a } else { b }
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
