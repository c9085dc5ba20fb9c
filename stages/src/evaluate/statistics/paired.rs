//! Two models on the same items. Pairing removes what makes items hard for both, so far smaller differences show than by
//! comparing two scores with their standard errors.
//!
//! | of | test | interval |
//! |---|---|---|
//! | right and wrong answers | McNemar's, exact: binomial over the items on which the models differ | Wald's with half an item added to each kind of flip (Agresti and Min 2005) |
//! | F1, likelihoods, perplexities | bootstrap over items, documents or windows | its percentiles |

use qpipe_sdk::Paired;

use super::{deviation, quantile, resampled};

/// The input port of the model that is compared with.
pub const PORT: &str = "against";

/// Samples that a comparison is made from: the smallest p-value is about 2 / 10,000.
const RESAMPLES: usize = 10_000;
/// Quantile of the normal distribution at 97.5 %.
const Z_INTERVAL: f64 = 1.959_963_984_540_054;
/// Quantile of the normal distribution at 80 %: the power of a detectable difference.
const Z_POWER: f64 = 0.841_621_233_572_914;

/// A model compared with itself.
pub fn itself() -> Paired {
    Paired { port: PORT.into(), ..Paired::default() }
}

/// The difference in accuracy between two models' `(theirs, ours)` answers to the same items, `true` for right ones.
pub fn accuracy(answers: &[(bool, bool)]) -> Paired {
    let count = |pair: (bool, bool)| answers.iter().filter(|answer| **answer == pair).count() as u64;
    let (lost, won) = (count((true, false)), count((false, true)));
    let n = answers.len() as f64;
    let (b, c, m) = (lost as f64 + 0.5, won as f64 + 0.5, n + 2.0);
    let center = (c - b) / m;
    let half = Z_INTERVAL * ((b + c) - (c - b).powi(2) / m).sqrt() / m;
    // with no flip at all, one is what could have been seen
    let discordant = (lost + won).max(1) as f64;
    Paired {
        port: PORT.into(),
        difference: (won as f64 - lost as f64) / n,
        low: center - half,
        high: center + half,
        p: Some(mcnemar(lost, won)),
        detectable: Some((Z_INTERVAL + Z_POWER) * discordant.sqrt() / n),
        right_to_wrong: Some(lost),
        wrong_to_right: Some(won),
    }
}

/// Two-sided exact p-value of McNemar's test: each of the discordant items flips either way with probability ½.
fn mcnemar(lost: u64, won: u64) -> f64 {
    let n = lost + won;
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for k in 0..=lost.min(won) {
        tail += log_term.exp();
        log_term += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

/// Differences of several statistics between two models, resampling what they share: `differences` are those of the
/// items at the given indices. `None` for fewer than two items.
pub fn bootstrap<const K: usize>(
    n: usize,
    mut differences: impl FnMut(&[usize]) -> [f64; K],
) -> Option<[Paired; K]> {
    if n < 2 {
        return None;
    }
    let all: Vec<usize> = (0..n).collect();
    let observed = differences(&all);
    let mut observed = observed.into_iter();
    Some(resampled(n, RESAMPLES, differences).map(|mut values| {
        let difference = observed.next().unwrap_or(f64::NAN);
        let spread = deviation(&values);
        values.sort_by(f64::total_cmp);
        Paired {
            port: PORT.into(),
            difference,
            low: quantile(&values, 0.025),
            high: quantile(&values, 0.975),
            p: Some(two_sided(&values)),
            detectable: Some((Z_INTERVAL + Z_POWER) * spread),
            right_to_wrong: None,
            wrong_to_right: None,
        }
    }))
}

/// Twice the smaller share of resampled differences on either side of nothing, one sample added to each; 1 where they
/// are not numbers.
fn two_sided(values: &[f64]) -> f64 {
    let share = |count: usize| (count + 1) as f64 / (values.len() + 1) as f64;
    let (below, above) =
        (values.iter().filter(|v| **v <= 0.0).count(), values.iter().filter(|v| **v >= 0.0).count());
    if below + above < values.len() { 1.0 } else { (2.0 * share(below.min(above))).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemars_test_is_the_binomial_test() {
        // R: binom.test(2, 12)$p.value, binom.test(5, 10), binom.test(300, 700)
        assert!((mcnemar(2, 10) - 0.038_574_218_75).abs() < 1e-12);
        assert!((mcnemar(5, 5) - 1.0).abs() < 1e-12);
        assert!((mcnemar(0, 0) - 1.0).abs() < 1e-12);
        let p = mcnemar(300, 400);
        assert!((1e-4..3e-4).contains(&p), "{p}");
        assert!((mcnemar(10, 2) - mcnemar(2, 10)).abs() < 1e-15);
    }

    #[test]
    fn flips_make_the_difference_in_accuracy() {
        let mut answers = vec![(true, true); 60];
        answers.extend(vec![(false, false); 28]);
        answers.extend(vec![(true, false); 10]);
        answers.extend(vec![(false, true); 2]);
        let paired = accuracy(&answers);
        assert!((paired.difference + 0.08).abs() < 1e-12);
        assert_eq!((paired.right_to_wrong, paired.wrong_to_right), (Some(10), Some(2)));
        // Agresti and Min 2005: (−8 ± 1.96·√(13 − 64/102)) / 102
        let half = 1.959_964 * (13.0_f64 - 64.0 / 102.0).sqrt() / 102.0;
        assert!((paired.low - (-8.0 / 102.0 - half)).abs() < 1e-6, "{paired:?}");
        assert!((paired.detectable.unwrap() - 2.801_585 * 12.0_f64.sqrt() / 100.0).abs() < 1e-6);
    }

    #[test]
    fn the_bootstrap_finds_a_shift_that_standard_errors_hide() {
        // items differ far more among each other than the models do
        let theirs: Vec<f64> = (0..200).map(|i| f64::from(i % 50)).collect();
        let ours: Vec<f64> =
            theirs.iter().enumerate().map(|(i, v)| v + 0.1 + 0.2 * f64::from(i as u32 % 3)).collect();
        let mean = |values: &[f64], s: &[usize]| s.iter().map(|i| values[*i]).sum::<f64>() / s.len() as f64;
        let [paired] = bootstrap(200, |s| [mean(&ours, s) - mean(&theirs, s)]).unwrap();
        assert!((paired.difference - 0.299).abs() < 0.002, "{paired:?}");
        assert!(paired.low > 0.25 && paired.high < 0.35 && paired.p.unwrap() < 0.001, "{paired:?}");
        let [same] = bootstrap(200, |_| [0.0]).unwrap();
        assert_eq!((same.low, same.high, same.p), (0.0, 0.0, Some(1.0)));
        assert!(bootstrap(1, |_| [0.0]).is_none());
        let [broken] = bootstrap(5, |_| [f64::NAN]).unwrap();
        assert_eq!(broken.p, Some(1.0));
    }
}
