//! Statistics of item logs.

/// Counts of a binary classification; positive = yes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confusion {
    pub tp: u64,
    pub fp: u64,
    pub tn: u64,
    pub fn_: u64,
}

impl Confusion {
    /// Of `(prediction, label)` pairs.
    pub fn of(pairs: &[(bool, bool)]) -> Self {
        let mut all = Self::default();
        for pair in pairs {
            match pair {
                (true, true) => all.tp += 1,
                (true, false) => all.fp += 1,
                (false, false) => all.tn += 1,
                (false, true) => all.fn_ += 1,
            }
        }
        all
    }

    pub fn accuracy(&self) -> f64 {
        (self.tp + self.tn) as f64 / (self.tp + self.fp + self.tn + self.fn_).max(1) as f64
    }

    /// `2·tp / (2·tp + fp + fn)`; 0 where nothing is positive.
    pub fn f1(&self) -> f64 {
        2.0 * self.tp as f64 / (2 * self.tp + self.fp + self.fn_).max(1) as f64
    }
}

/// Samples drawn by a bootstrap.
const RESAMPLES: usize = 1000;

/// Standard error of a statistic by the bootstrap (Efron 1979) over items, with a fixed seed: the same log gives
/// the same figure.
pub fn bootstrap_stderr<T: Copy>(items: &[T], statistic: impl Fn(&[T]) -> f64) -> f64 {
    let mut state = 0x9E37_79B9_7F4A_7C15;
    let mut sample = Vec::with_capacity(items.len());
    let mut values = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        sample.clear();
        sample
            .extend((0..items.len()).map(|_| items[(splitmix64(&mut state) % items.len() as u64) as usize]));
        values.push(statistic(&sample));
    }
    let mean = values.iter().sum::<f64>() / RESAMPLES as f64;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (RESAMPLES - 1) as f64).sqrt()
}

/// SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f1_and_accuracy_of_known_counts() {
        let c = Confusion { tp: 30, fp: 10, tn: 40, fn_: 20 };
        assert!((c.f1() - 60.0 / 90.0).abs() < 1e-12);
        assert!((c.accuracy() - 0.7).abs() < 1e-12);
        assert!(Confusion::default().f1().abs() < 1e-12);
    }

    #[test]
    fn the_bootstrap_agrees_with_the_formula_for_a_mean() {
        let items: Vec<f64> = (0..400).map(|i| f64::from(i % 20)).collect();
        let mean = |s: &[f64]| s.iter().sum::<f64>() / s.len() as f64;
        let sd = (items.iter().map(|v| (v - mean(&items)).powi(2)).sum::<f64>() / 399.0).sqrt();
        let ratio = bootstrap_stderr(&items, mean) / (sd / 20.0);
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
    }
}
