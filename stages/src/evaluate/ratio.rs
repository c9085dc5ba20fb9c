//! Metrics that are a function of total negative log-likelihood over a total of something else: tokens, words, bytes,
//! items. Standard errors and comparisons resample the items (windows, pages, questions).

use qpipe_sdk::{Better, Metric};

use super::scoring::{Against, Scored};
use super::shard::ItemScore;
use super::statistics::{bootstrap_stderr, paired};

/// How the ratio is shown.
pub(super) struct Ratio {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    /// From nats per unit to the metric.
    pub(super) transform: fn(f64) -> f64,
    pub(super) headline: bool,
}

/// The metric over scored items of these weights; `n`: how many of the units it rests on.
pub(super) fn metric(ratio: &Ratio, scored: &Scored, weights: &[f64], n: u64) -> Metric {
    let totals = |items: &[ItemScore]| items.iter().map(ItemScore::nll).collect::<Vec<_>>();
    let ours = totals(&scored.model);
    let value = |totals: &[f64], s: &[usize]| {
        let sum = |values: &[f64]| s.iter().map(|i| values[*i]).sum::<f64>();
        (ratio.transform)(sum(totals) / sum(weights))
    };
    let all: Vec<usize> = (0..ours.len()).collect();
    let compared = match &scored.against {
        Against::Nothing => None,
        Against::Itself => Some(paired::itself()),
        Against::Model(theirs) => {
            let theirs = totals(theirs);
            paired::bootstrap(all.len(), |s| [value(&ours, s) - value(&theirs, s)]).map(|[paired]| paired)
        }
    };
    let stderr = bootstrap_stderr(all.len(), |s| [value(&ours, s)]).map(|[error]| error);
    let metric = Metric::new(ratio.name, value(&ours, &all), ratio.unit, Better::Lower).n(n).paired(compared);
    Metric { stderr, headline: ratio.headline, ..metric }
}
