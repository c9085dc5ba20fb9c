//! How far the model's next-token distributions are from those of the model it is compared with, at every scored token:
//! KL(base ‖ variant) and how often both hold the same token most likely. A shard's unit is keyed by both models; no
//! logits are kept.

use std::fmt;

use qpipe_sdk::protocol::wire::Number;
use qpipe_sdk::{Better, Metric, StageError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::scoring::{Scoring, Subject};
use super::shard::{self, Most};
use super::statistics::{bootstrap_stderr, quantile};
use crate::model::score::{self, Continuation, Divergence};

/// One item's comparison as a shard keeps it.
#[derive(Debug, Serialize, Deserialize)]
struct Compared {
    /// Of every scored token.
    kl: Vec<Nats>,
    agreed: usize,
}

/// A divergence in JSON: a string where it is not finite.
#[derive(Clone, Copy, Debug)]
struct Nats(f32);

impl Serialize for Nats {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() { to.serialize_f32(self.0) } else { to.collect_str(&self.0) }
    }
}

impl<'de> Deserialize<'de> for Nats {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Number::deserialize(from).map(|number| Self(number.0 as f32))
    }
}

impl fmt::Display for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The comparison over the first items; no metrics without a model to compare with or with `kl=0`.
pub(super) fn metrics(scoring: &Scoring<'_>, items: &[Vec<Continuation>]) -> Result<Vec<Metric>, StageError> {
    let most = scoring.int("kl").unwrap_or(usize::MAX).min(items.len());
    let Some(base) = scoring.against.filter(|_| most > 0) else { return Ok(Vec::new()) };
    if !base.has_tokenizer_of(scoring.model) {
        return Err(scoring.error(
            "the two models have different tokenizers, so their distributions cannot be compared; say `kl=0`",
        ));
    }
    let items = &items[..most];
    if base.is(scoring.model) {
        let tokens = items.iter().flatten().map(|request| request.continuation.len() as u64).sum();
        return Ok(figures(tokens, [Some(0.0); 2], 0.0, 0.0, 1.0));
    }
    let mut all = Vec::with_capacity(most);
    for part in shard::cut(items, Most::of(scoring.model)) {
        all.extend(compared(scoring, base, part)?);
        scoring.ctx.progress(all.len(), most, "items compared");
    }
    Ok(summary(&all))
}

fn compared(
    scoring: &Scoring<'_>,
    base: &Subject<'_>,
    items: &[Vec<Continuation>],
) -> Result<Vec<Compared>, StageError> {
    let key = shard::key(scoring, scoring.model, "evaluate/divergence", shard::digest(items))
        .input("base", base.artifact.digest);
    shard::unit(scoring, &key, || {
        let plan = scoring.plan(scoring.model);
        let asked = items.concat();
        let (base, variant) = (base.llama()?, scoring.model.llama()?);
        let found = score::divergences(base, variant, &asked, plan, &mut |_, _| scoring.ctx.checkpoint())?;
        let mut rest = found.into_iter();
        Ok(items.iter().map(|item| merged(rest.by_ref().take(item.len()))).collect())
    })
}

/// The requests of one item together.
fn merged(requests: impl Iterator<Item = Divergence>) -> Compared {
    let mut all = Compared { kl: Vec::new(), agreed: 0 };
    for request in requests {
        all.kl.extend(request.kl.into_iter().map(Nats));
        all.agreed += request.agreed;
    }
    all
}

fn summary(items: &[Compared]) -> Vec<Metric> {
    let totals: Vec<[f64; 3]> = items
        .iter()
        .map(|item| {
            [item.kl.iter().map(|kl| f64::from(kl.0)).sum(), item.agreed as f64, item.kl.len() as f64]
        })
        .collect();
    let means = |s: &[usize]| {
        let sum = |at: usize| s.iter().map(|i| totals[*i][at]).sum::<f64>();
        [sum(0) / sum(2), sum(1) / sum(2)]
    };
    let all: Vec<usize> = (0..items.len()).collect();
    let [kl, agreement] = means(&all);
    let errors = bootstrap_stderr(items.len(), means);
    let mut sorted: Vec<f64> = items.iter().flat_map(|item| &item.kl).map(|kl| f64::from(kl.0)).collect();
    sorted.sort_by(f64::total_cmp);
    let errors = [errors.map(|e| e[0]), errors.map(|e| e[1])];
    figures(sorted.len() as u64, errors, kl, quantile(&sorted, 0.99), agreement)
}

fn figures(tokens: u64, errors: [Option<f64>; 2], kl: f64, p99: f64, agreement: f64) -> Vec<Metric> {
    let mean = Metric::new("kl", kl, "nat", Better::Lower).n(tokens).headline();
    let top = Metric::new("top1-agreement", agreement, "", Better::Higher).n(tokens);
    vec![
        Metric { stderr: errors[0], ..mean },
        Metric::new("kl.p99", p99, "nat", Better::Lower).n(tokens),
        Metric { stderr: errors[1], ..top },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divergences_survive_json_even_if_they_are_not_finite() {
        let item = Compared { kl: vec![Nats(0.1), Nats(f32::INFINITY), Nats(f32::NAN)], agreed: 1 };
        let text = serde_json::to_string(&item).unwrap();
        assert_eq!(text, r#"{"kl":[0.1,"inf","NaN"],"agreed":1}"#);
        let back: Compared = serde_json::from_str(&text).unwrap();
        assert_eq!((back.kl[0].0, back.kl[1].0), (0.1, f32::INFINITY));
        assert!(back.kl[2].0.is_nan());
    }

    #[test]
    fn the_mean_is_over_tokens_and_the_tail_over_all_of_them() {
        let items =
            [Compared { kl: vec![Nats(1.0); 3], agreed: 3 }, Compared { kl: vec![Nats(3.0)], agreed: 0 }];
        let metrics = summary(&items);
        assert!((metrics[0].value - 1.5).abs() < 1e-9 && (metrics[2].value - 0.75).abs() < 1e-9);
        assert!((metrics[1].value - 2.94).abs() < 1e-6, "{}", metrics[1].value);
        assert_eq!(metrics[0].n, Some(4));
    }
}
