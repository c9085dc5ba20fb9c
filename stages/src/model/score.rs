//! Log-likelihoods of given tokens. Logits exist only for scored positions, a block of rows at a time; the
//! log-softmax is summed in f64.
//!
//! How continuations become forward passes is the plan's business ([`plan`]): equal inputs run once, batches are made
//! of inputs of nearly one length, and the choices of one question share the pass over its beginning.

mod divergence;
mod plan;

use burn::tensor::{Int, Tensor, TensorData};
use rayon::prelude::*;

use super::cache::KvCache;
use super::host;
use super::llama::Llama;
use super::ops::host_values;
pub use divergence::{Divergence, divergences};
use plan::{Batch, Input};
pub use plan::{PLAN, Plan, padding};

/// A context and a continuation whose likelihood is asked for, as token ids.
#[derive(Clone, Debug)]
pub struct Continuation {
    pub context: Vec<u32>,
    pub continuation: Vec<u32>,
}

/// The score of a continuation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Sum over the continuation's tokens, nats.
    pub log_likelihood: f64,
    pub tokens: usize,
    /// Whether greedy decoding would have produced the continuation.
    pub greedy: bool,
}

/// One token's score.
#[derive(Clone, Copy, Debug)]
pub struct TokenScore {
    /// Nats, ≤ 0.
    pub log_likelihood: f64,
    pub greedy: bool,
}

/// Logits held at once, in values: 32 MiB of f32.
const LOGIT_BUDGET: usize = 8 << 20;
/// The same on a GPU, which is waited for once per block: 512 MiB of f32.
#[cfg(feature = "cuda")]
const LOGIT_BUDGET_ON_CUDA: usize = 128 << 20;

/// Scores continuations; an input longer than the model's context loses its beginning, as in lm-evaluation-harness.
/// Batches depend on the list and the plan alone. `after_batch(done, total)` counts inputs and may stop the work by an
/// error.
pub fn score<E>(
    model: &Llama,
    asked: &[Continuation],
    plan: Plan,
    after_batch: &mut dyn FnMut(usize, usize) -> Result<(), E>,
) -> Result<Vec<Score>, E> {
    let inputs = plan::distinct_inputs(asked, model.config.max_position_embeddings);
    let mut scores = vec![Score { log_likelihood: 0.0, tokens: 0, greedy: true }; asked.len()];
    let mut done = 0;
    let mut finish = |Coming { owners, tokens, inputs: some }: Coming<'_>| {
        for (owner, token) in owners.into_iter().zip(tokens.wait()) {
            let score = &mut scores[owner];
            score.log_likelihood += token.log_likelihood;
            score.tokens += 1;
            score.greedy &= token.greedy;
        }
        done += some;
        after_batch(done, inputs.len())
    };
    let mut coming = None;
    for batch in plan.batches(&inputs) {
        let scored = scored_rows(&batch);
        let hidden = hidden_rows(model, &batch, &scored);
        let tokens = coming_scores(model, &hidden, &scored.targets);
        let next = Coming { owners: scored.owners, tokens, inputs: batch.inputs.len() };
        if next.tokens.are_here() {
            finish(next)?;
        } else if let Some(before) = coming.replace(next) {
            finish(before)?;
        }
    }
    coming.map_or(Ok(()), finish)?;
    Ok(scores)
}

/// A batch's scores. A GPU works on the next batch while those of the one before are waited for.
struct Coming<'a> {
    /// Of each token, whose score it adds to.
    owners: Vec<usize>,
    tokens: Tokens<'a>,
    /// How many inputs the batch has.
    inputs: usize,
}

/// Scores of tokens.
enum Tokens<'a> {
    Here(Vec<TokenScore>),
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "on the CPU nothing is waited for"))]
    Coming(Box<dyn FnOnce() -> Vec<TokenScore> + 'a>),
}

impl Tokens<'_> {
    fn are_here(&self) -> bool {
        matches!(self, Self::Here(_))
    }

    fn wait(self) -> Vec<TokenScore> {
        match self {
            Self::Here(scores) => scores,
            Self::Coming(wait) => wait(),
        }
    }
}

/// The scored rows of a batch: where they stand in its last forward pass, what is asked of them, and for whom.
struct ScoredRows {
    rows: Vec<i64>,
    targets: Vec<u32>,
    owners: Vec<usize>,
}

fn scored_rows(batch: &Batch<'_>) -> ScoredRows {
    let mut scored = ScoredRows { rows: Vec::new(), targets: Vec::new(), owners: Vec::new() };
    let width = batch.width();
    for (r, input) in batch.inputs.iter().enumerate() {
        for asked in &input.asked {
            for (k, target) in asked.targets.iter().enumerate() {
                scored.rows.push((r * width + asked.first_row + k - batch.prefix) as i64);
                scored.targets.push(*target);
                scored.owners.push(asked.owner);
            }
        }
    }
    scored
}

/// Hidden states `[scored, hidden]` of a batch's scored rows.
fn hidden_rows(model: &Llama, batch: &Batch<'_>, scored: &ScoredRows) -> Tensor<2> {
    let mut cache = (batch.prefix > 0).then(|| prefix_cache(model, batch));
    let tokens = tokens(model, &batch.inputs, batch.prefix, batch.width());
    let picked = TensorData::new(scored.rows.clone(), [scored.rows.len()]);
    let picked = Tensor::<1, Int>::from_data(picked, &model.device);
    model.hidden(tokens, cache.as_mut()).select(0, picked)
}

/// The cache of every input's first `prefix` tokens, from one pass over the distinct ones.
fn prefix_cache(model: &Llama, batch: &Batch<'_>) -> KvCache {
    let mut distinct: Vec<&Input> = Vec::new();
    let mut row_of = Vec::with_capacity(batch.inputs.len());
    for input in &batch.inputs {
        let same =
            distinct.last().is_some_and(|last| last.tokens[..batch.prefix] == input.tokens[..batch.prefix]);
        if !same {
            distinct.push(input);
        }
        row_of.push(distinct.len() as i64 - 1);
    }
    let mut cache = model.cache(distinct.len(), batch.prefix);
    let whole: Vec<Input> = distinct.into_iter().map(|input| input.beginning(batch.prefix)).collect();
    let tokens = tokens(model, &whole.iter().collect::<Vec<_>>(), 0, batch.prefix);
    model.hidden(tokens, Some(&mut cache));
    cache.selected(&row_of, batch.width())
}

/// Token ids `[inputs, width]` from position `from` on, filled up with zeros.
fn tokens(model: &Llama, inputs: &[&Input], from: usize, width: usize) -> Tensor<2, Int> {
    let mut ids = vec![0i64; inputs.len() * width];
    for (line, input) in ids.chunks_mut(width).zip(inputs) {
        line.iter_mut().zip(&input.tokens[from..]).for_each(|(to, id)| *to = i64::from(*id));
    }
    Tensor::from_data(TensorData::new(ids, [inputs.len(), width]), &model.device)
}

/// Scores of `targets` under the logits of hidden states `[targets, hidden]`.
pub fn token_scores(model: &Llama, hidden: &Tensor<2>, targets: &[u32]) -> Vec<TokenScore> {
    coming_scores(model, hidden, targets).wait()
}

fn coming_scores<'a>(model: &'a Llama, hidden: &Tensor<2>, targets: &[u32]) -> Tokens<'a> {
    let vocabulary = model.config.vocab_size;
    let rows_of = |i: usize, step: usize, len: usize| hidden.clone().narrow(0, i * step, len);
    #[cfg(feature = "cuda")]
    if let Some(gpu) = model.gpu() {
        let step = (LOGIT_BUDGET_ON_CUDA / vocabulary).max(1);
        let part = |(i, wanted): (usize, &[u32])| {
            super::on_cuda::token_scores(gpu, model.logits(rows_of(i, step, wanted.len())), wanted)
        };
        let parts: Vec<_> = targets.chunks(step).enumerate().map(part).collect();
        return Tokens::Coming(Box::new(|| {
            parts.into_iter().flat_map(super::on_cuda::Scores::wait).collect()
        }));
    }
    let step = (LOGIT_BUDGET / vocabulary).max(1);
    let mut scores = Vec::with_capacity(targets.len());
    for (i, wanted) in targets.chunks(step).enumerate() {
        let logits = host_values(model.logits(rows_of(i, step, wanted.len())));
        scores.par_extend(logits.par_chunks(vocabulary).zip(wanted).map(|(row, id)| token_score(row, *id)));
    }
    Tokens::Here(scores)
}

/// The largest logit and the logarithm of the sum of `exp(logit − largest)`.
fn normalizer(logits: &[f32]) -> (f32, f64) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.chunks(256).map(|chunk| f64::from(host::sum_exp(chunk, max))).sum();
    (max, sum.ln())
}

/// The token that greedy decoding takes: the first of equal logits.
fn greedy_token(logits: &[f32], max: f32) -> Option<usize> {
    logits.iter().position(|l| *l >= max)
}

fn token_score(logits: &[f32], target: u32) -> TokenScore {
    let (max, log_sum) = normalizer(logits);
    TokenScore {
        log_likelihood: f64::from(logits[target as usize] - max) - log_sum,
        greedy: greedy_token(logits, max) == Some(target as usize),
    }
}

/// Negative log-likelihoods, nats, of `targets` under hidden states `[targets, hidden]`.
pub fn negative_log_likelihoods(model: &Llama, hidden: &Tensor<2>, targets: &[u32]) -> Vec<f64> {
    token_scores(model, hidden, targets).into_iter().map(|s| -s.log_likelihood).collect()
}
