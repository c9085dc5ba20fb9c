//! Statistics of item logs: counts, standard errors, and comparisons of two models on the same items ([`paired`]). All
//! random draws have a fixed seed: the same log gives the same figures.

pub mod paired;

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
    pub fn of(pairs: impl IntoIterator<Item = (bool, bool)>) -> Self {
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

    /// The same labels with every prediction positive.
    #[must_use]
    pub fn always_positive(self) -> Self {
        Self { tp: self.tp + self.fn_, fp: self.fp + self.tn, tn: 0, fn_: 0 }
    }

    pub fn accuracy(&self) -> f64 {
        (self.tp + self.tn) as f64 / (self.tp + self.fp + self.tn + self.fn_).max(1) as f64
    }

    /// `2·tp / (2·tp + fp + fn)`; 0 where nothing is positive.
    pub fn f1(&self) -> f64 {
        2.0 * self.tp as f64 / (2 * self.tp + self.fp + self.fn_).max(1) as f64
    }

    /// F1 of the negative class.
    fn f1_negative(&self) -> f64 {
        Self { tp: self.tn, fp: self.fn_, tn: self.tp, fn_: self.fp }.f1()
    }

    /// Mean of both classes' F1.
    pub fn f1_macro(&self) -> f64 {
        f64::midpoint(self.f1(), self.f1_negative())
    }

    /// Mean of both classes' F1, weighted by how many labels each has.
    pub fn f1_weighted(&self) -> f64 {
        let (positive, negative) = ((self.tp + self.fn_) as f64, (self.tn + self.fp) as f64);
        (positive * self.f1() + negative * self.f1_negative()) / (positive + negative).max(1.0)
    }

    /// Binary, macro and weighted F1.
    pub fn f1s(&self) -> [f64; 3] {
        [self.f1(), self.f1_macro(), self.f1_weighted()]
    }
}

/// Standard error of a share of `n` items: sample standard deviation over √n. `None` for fewer than two.
pub fn share_stderr(share: f64, n: usize) -> Option<f64> {
    (n > 1).then(|| (share * (1.0 - share) / (n - 1) as f64).sqrt())
}

/// Samples that a standard error is computed from.
const RESAMPLES: usize = 1000;

/// Standard errors of several statistics of `n` items by the bootstrap (Efron 1979). `None` for fewer than two items.
pub fn bootstrap_stderr<const K: usize>(
    n: usize,
    statistic: impl FnMut(&[usize]) -> [f64; K],
) -> Option<[f64; K]> {
    (n > 1).then(|| resampled(n, RESAMPLES, statistic).map(|values| deviation(&values)))
}

/// A statistic of `n` items, given by their indices, over samples drawn with replacement.
fn resampled<const K: usize>(
    n: usize,
    resamples: usize,
    mut statistic: impl FnMut(&[usize]) -> [f64; K],
) -> [Vec<f64>; K] {
    let mut state = 0x9E37_79B9_7F4A_7C15;
    let mut sample = vec![0; n];
    let mut values = [(); K].map(|()| Vec::with_capacity(resamples));
    for _ in 0..resamples {
        for at in &mut sample {
            *at = (splitmix64(&mut state) % n as u64) as usize;
        }
        for (values, value) in values.iter_mut().zip(statistic(&sample)) {
            values.push(value);
        }
    }
    values
}

fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

/// The value below which a share of sorted values lies, between neighbours by their distance.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len().max(1) - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(a), Some(b)) if low < high => a + (b - a) * at.fract(),
        (Some(a), _) => *a,
        _ => f64::NAN,
    }
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
        // scikit-learn's f1_score of these counts: macro 0.6969…, weighted 0.6969… (both classes have 50 labels)
        let negative = 80.0 / 110.0;
        assert!((c.f1_macro() - f64::midpoint(60.0 / 90.0, negative)).abs() < 1e-12);
        let uneven = Confusion { tp: 30, fp: 10, tn: 10, fn_: 20 };
        let weighted = (50.0 * (60.0 / 90.0) + 20.0 * (20.0 / 50.0)) / 70.0;
        assert!((uneven.f1_weighted() - weighted).abs() < 1e-12);
        assert_eq!(c.always_positive(), Confusion { tp: 50, fp: 50, tn: 0, fn_: 0 });
        assert!(Confusion::default().f1().abs() < 1e-12);
    }

    #[test]
    fn the_bootstrap_agrees_with_the_formula_for_a_mean() {
        let items: Vec<f64> = (0..400).map(|i| f64::from(i % 20)).collect();
        let mean = |s: &[usize]| [s.iter().map(|i| items[*i]).sum::<f64>() / s.len() as f64];
        let ratio = bootstrap_stderr(items.len(), mean).unwrap()[0] / (deviation(&items) / 20.0);
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
        assert_eq!(bootstrap_stderr(1, |_| [0.0]), None);
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let sorted = [1.0, 2.0, 3.0, 5.0];
        assert!((quantile(&sorted, 0.5) - 2.5).abs() < 1e-12);
        assert!((quantile(&sorted, 1.0) - 5.0).abs() < 1e-12);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
