//! Shards: the units of work of an evaluation, and what of them is found in the cache.
//!
//! | enters a shard's key | never enters it |
//! |---|---|
//! | the model | the task's name, `limit` |
//! | the token ids asked for | where the items stand in their data, their labels |
//! | the plan's version and its token budget | |
//! | the numerics class | |
//!
//! Items are cut into shards in their order, by tokens: raising `limit` changes no shard but the last. Of that one, what
//! an earlier run scored is found as a shorter shard with the same beginning, so that only new items are scored. A
//! model whose scores depend on what else is in the batch gets no such pieces: its last shard is scored again.

use qpipe_cache::{Digest, KeyDoc, Lookup, Pieces};
use qpipe_sdk::protocol::wire::Number;
use qpipe_sdk::{StageError, UnitOutput};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::scoring::{Scoring, Subject};
use crate::device::ComputeDevice;
use crate::model::score::{self, Continuation, PLAN, Score};

/// Raised when scoring changes for equal inputs.
const SEMANTICS: u32 = 2;
/// Most of a shard, which has at least one item. A GPU is through a shard of a CPU's before its batches are full.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    tokens: usize,
    items: usize,
}

impl Most {
    /// What takes up to a minute on two cores.
    const ON_CPU: Self = Self { tokens: 8192, items: 128 };
    /// What takes about as long as to record that it is done, for a small model, or a few seconds, for a large one.
    const ON_GPU: Self = Self { tokens: 131_072, items: 2048 };

    pub(super) fn of(subject: &Subject<'_>) -> Self {
        match subject.device {
            ComputeDevice::Cpu => Self::ON_CPU,
            ComputeDevice::Cuda(_) => Self::ON_GPU,
        }
    }
}

/// The one output of a shard.
const LOG: &str = "items";

/// One item's scores as a shard keeps them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ItemScore {
    /// Of every request, nats.
    pub(super) log_likelihoods: Vec<Number>,
    pub(super) tokens: Vec<usize>,
    pub(super) greedy: Vec<bool>,
}

impl ItemScore {
    fn new(scores: &[Score]) -> Self {
        Self {
            log_likelihoods: scores.iter().map(|s| Number(s.log_likelihood)).collect(),
            tokens: scores.iter().map(|s| s.tokens).collect(),
            greedy: scores.iter().map(|s| s.greedy).collect(),
        }
    }

    /// Negative log-likelihood of all requests together.
    pub(super) fn nll(&self) -> f64 {
        -self.log_likelihoods.iter().map(|ll| ll.0).sum::<f64>()
    }

    /// Scored tokens of all requests together.
    pub(super) fn token_count(&self) -> usize {
        self.tokens.iter().sum()
    }

    /// The most likely request; the first of equal ones. What is not a number is never likely.
    pub(super) fn most_likely(&self) -> usize {
        most(self.log_likelihoods.iter().map(|ll| ll.0))
    }

    /// The most likely request per unit of length.
    pub(super) fn most_likely_per(&self, lengths: &[usize]) -> usize {
        most(self.log_likelihoods.iter().zip(lengths).map(|(ll, length)| ll.0 / *length as f64))
    }
}

fn most(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, value) in values.enumerate() {
        if value > best.1 {
            best = (i, value);
        }
    }
    best.0
}

/// Scores of every item, found in the cache or done.
pub(super) fn scores(
    scoring: &Scoring<'_>,
    subject: &Subject<'_>,
    items: &[Vec<Continuation>],
) -> Result<Vec<ItemScore>, StageError> {
    let mut scored = Vec::with_capacity(items.len());
    for shard in cut(items, Most::of(subject)) {
        let mut rest = shard;
        while !rest.is_empty() {
            let (len, key) = known_prefix(scoring, subject, rest);
            let part = &rest[..len];
            let done = scored.len();
            scored.extend(unit(scoring, &key, || {
                score_items(scoring, subject, part, &|part| {
                    scoring.ctx.progress(done + part, items.len(), "items");
                })
            })?);
            rest = &rest[part.len()..];
        }
        scoring.ctx.progress(scored.len(), items.len(), "items");
    }
    Ok(scored)
}

/// Runs of items that are scored together.
pub(super) fn cut(items: &[Vec<Continuation>], most: Most) -> Vec<&[Vec<Continuation>]> {
    let (mut all, mut rest) = (Vec::new(), items);
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |item: &&Vec<Continuation>| {
            tokens += item.iter().map(|r| r.context.len() + r.continuation.len()).sum::<usize>();
            tokens <= most.tokens
        };
        let (now, later) = rest.split_at(rest.iter().take(most.items).take_while(fits).count().max(1));
        all.push(now);
        rest = later;
    }
    all
}

/// How many of a shard's items an earlier run has scored as one unit, all of them where there is none; and their key.
fn known_prefix(
    scoring: &Scoring<'_>,
    subject: &Subject<'_>,
    items: &[Vec<Continuation>],
) -> (usize, KeyDoc) {
    let key = |asked| key(scoring, subject, "evaluate/score", asked);
    let whole = || (items.len(), key(digest(items)));
    if subject.is_batch_dependent {
        return whole();
    }
    // every beginning's digest in one pass
    let mut pieces = Pieces::default();
    let beginnings: Vec<Digest> = items
        .iter()
        .map(|item| {
            pieces.add(&encoded(item));
            pieces.digest()
        })
        .collect();
    let known = |(last, asked): (usize, &Digest)| {
        let key = key(*asked);
        matches!(scoring.ctx.store.lookup(&key.key()), Lookup::Hit(_)).then_some((last + 1, key))
    };
    beginnings.iter().enumerate().rev().find_map(known).unwrap_or_else(whole)
}

/// What tells items apart.
pub(super) fn digest(items: &[Vec<Continuation>]) -> Digest {
    let mut pieces = Pieces::default();
    for item in items {
        pieces.add(&encoded(item));
    }
    pieces.digest()
}

/// The key of what is computed of some items, which are told apart by their [`digest`].
pub(super) fn key(scoring: &Scoring<'_>, subject: &Subject<'_>, kind: &str, asked: Digest) -> KeyDoc {
    KeyDoc::new(kind, SEMANTICS)
        .input("model", subject.artifact.digest)
        .input("asked", asked)
        .param("plan", i64::from(PLAN))
        .param("batch-tokens", scoring.batch_tokens as i64)
        .numerics(subject.device.numerics())
}

/// Token ids as bytes, each list with its length in front.
fn encoded(item: &[Continuation]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut list = |ids: &[u32]| {
        bytes.extend((ids.len() as u64).to_le_bytes());
        bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    };
    list(&[item.len() as u32]);
    for request in item {
        list(&request.context);
        list(&request.continuation);
    }
    bytes
}

fn score_items(
    scoring: &Scoring<'_>,
    subject: &Subject<'_>,
    items: &[Vec<Continuation>],
    progress: &dyn Fn(usize),
) -> Result<Vec<ItemScore>, StageError> {
    let asked = items.concat();
    let scores = score::score(subject.llama()?, &asked, scoring.plan(subject), &mut |done, of| {
        progress(items.len() * done / of);
        scoring.ctx.checkpoint()
    })?;
    let mut rest = &scores[..];
    let item = |item: &Vec<Continuation>| {
        let (own, later) = rest.split_at(item.len());
        rest = later;
        ItemScore::new(own)
    };
    Ok(items.iter().map(item).collect())
}

/// One unit, found in the cache or done: its log is JSON lines of `T`, one per item.
pub(super) fn unit<T: Serialize + DeserializeOwned>(
    scoring: &Scoring<'_>,
    key: &KeyDoc,
    work: impl FnOnce() -> Result<Vec<T>, StageError>,
) -> Result<Vec<T>, StageError> {
    let record = scoring.ctx.unit(scoring.task, key, || {
        let mut lines = Vec::new();
        for item in work()? {
            serde_json::to_writer(&mut lines, &item).map_err(StageError::bug)?;
            lines.push(b'\n');
        }
        let digest = scoring.ctx.store.put_bytes(&lines)?;
        Ok(UnitOutput { blobs: [(LOG.to_owned(), digest)].into(), metrics: serde_json::Value::Null })
    })?;
    let missing = || StageError::bug("a shard's record lacks its log");
    let bytes = scoring.ctx.store.read(&record.outputs.get(LOG).ok_or_else(missing)?.digest)?;
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(StageError::bug)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(context: usize) -> Vec<Continuation> {
        vec![Continuation { context: vec![1; context], continuation: vec![2] }]
    }

    #[test]
    fn a_longer_list_has_the_shards_of_a_shorter_one_but_for_the_last() {
        let items: Vec<_> = (0..900).map(|i| item(20 + i * 37 % 300)).collect();
        let ends = |items: &[Vec<Continuation>]| {
            let mut end = 0;
            cut(items, Most::ON_CPU)
                .into_iter()
                .map(|shard| {
                    end += shard.len();
                    end
                })
                .collect::<Vec<_>>()
        };
        let (few, many) = (ends(&items[..500]), ends(&items));
        assert_eq!(few[..few.len() - 1], many[..few.len() - 1]);
        assert_eq!(few.last(), Some(&500));
        assert_eq!(ends(&[item(100_000), item(3)]), [1, 2]);
    }

    #[test]
    fn the_first_of_equal_choices_is_taken_and_nan_never() {
        let item = |values: &[f64]| ItemScore {
            log_likelihoods: values.iter().copied().map(Number).collect(),
            tokens: vec![1; values.len()],
            greedy: vec![false; values.len()],
        };
        assert_eq!(item(&[-2.0, -1.0, -1.0]).most_likely(), 1);
        assert_eq!(item(&[f64::NAN, -1.0]).most_likely(), 1);
        assert_eq!(item(&[-4.0, -3.0]).most_likely_per(&[4, 2]), 0);
    }
}
