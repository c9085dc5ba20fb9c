//! Log-likelihoods of given tokens. Logits exist only for scored positions, a block of rows at a time; the
//! log-softmax is summed in f64.

use std::collections::HashMap;

use burn::tensor::{Int, Tensor, TensorData};
use rayon::prelude::*;

use super::llama::Llama;
use super::ops::host_values;

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

/// Tokens of one forward pass, padding included.
const TOKEN_BUDGET: usize = 4096;

/// Logits held at once, in values: 32 MiB of f32.
const LOGIT_BUDGET: usize = 8 << 20;

/// A distinct model input, and the scored rows in it.
struct Input {
    tokens: Vec<u32>,
    /// Continuation index, first scored row, targets.
    asked: Vec<(usize, usize, Vec<u32>)>,
}

/// Scores continuations. Equal inputs run once (choices of one token share their context's pass); batches are
/// sorted by length and depend on the list alone. `after_batch(done, total)` sees inputs done and may stop the
/// work by an error.
pub fn score<E>(
    model: &Llama,
    asked: &[Continuation],
    after_batch: &mut dyn FnMut(usize, usize) -> Result<(), E>,
) -> Result<Vec<Score>, E> {
    let mut inputs = distinct_inputs(asked, model.config.max_position_embeddings);
    inputs.sort_by(|a, b| b.tokens.len().cmp(&a.tokens.len()).then_with(|| a.asked[0].0.cmp(&b.asked[0].0)));
    let mut scores = vec![Score { log_likelihood: 0.0, tokens: 0, greedy: true }; asked.len()];
    let (mut at, total) = (0, inputs.len());
    while at < total {
        let longest = inputs[at].tokens.len();
        let rows = (TOKEN_BUDGET / longest).clamp(1, total - at);
        score_batch(model, &inputs[at..at + rows], longest, &mut scores);
        at += rows;
        after_batch(at, total)?;
    }
    Ok(scores)
}

/// Model inputs as the harness builds them: `(context + continuation)[-(max + 1):][:-1]`.
fn distinct_inputs(asked: &[Continuation], max_len: usize) -> Vec<Input> {
    let mut index: HashMap<Vec<u32>, usize> = HashMap::new();
    let mut inputs: Vec<Input> = Vec::new();
    for (i, ask) in asked.iter().enumerate() {
        let mut tokens = [&ask.context[..], &ask.continuation[..]].concat();
        tokens.drain(..tokens.len().saturating_sub(max_len + 1));
        tokens.pop();
        let targets = &ask.continuation[ask.continuation.len().saturating_sub(tokens.len())..];
        let first_row = tokens.len() - targets.len();
        let at = *index.entry(tokens.clone()).or_insert_with(|| {
            inputs.push(Input { tokens, asked: Vec::new() });
            inputs.len() - 1
        });
        inputs[at].asked.push((i, first_row, targets.to_vec()));
    }
    inputs
}

fn score_batch(model: &Llama, inputs: &[Input], longest: usize, scores: &mut [Score]) {
    let mut tokens = vec![0i64; inputs.len() * longest];
    let (mut rows, mut targets, mut owners) = (Vec::new(), Vec::new(), Vec::new());
    for (r, input) in inputs.iter().enumerate() {
        let line = &mut tokens[r * longest..][..input.tokens.len()];
        line.iter_mut().zip(&input.tokens).for_each(|(to, id)| *to = i64::from(*id));
        for (owner, first, wanted) in &input.asked {
            for (k, target) in wanted.iter().enumerate() {
                rows.push((r * longest + first + k) as i64);
                targets.push(*target);
                owners.push(*owner);
            }
        }
    }
    let batch = Tensor::<2, Int>::from_data(TensorData::new(tokens, [inputs.len(), longest]), &model.device);
    let picked = Tensor::<1, Int>::from_data(TensorData::new(rows.clone(), [rows.len()]), &model.device);
    let hidden = model.hidden(batch, None).select(0, picked);
    for (owner, token) in owners.into_iter().zip(token_scores(model, &hidden, &targets)) {
        let score = &mut scores[owner];
        score.log_likelihood += token.log_likelihood;
        score.tokens += 1;
        score.greedy &= token.greedy;
    }
}

/// Scores of `targets` under the logits of hidden states `[targets, hidden]`.
pub fn token_scores(model: &Llama, hidden: &Tensor<2>, targets: &[u32]) -> Vec<TokenScore> {
    let vocabulary = model.config.vocab_size;
    let step = (LOGIT_BUDGET / vocabulary).max(1);
    let mut scores = Vec::with_capacity(targets.len());
    for (i, wanted) in targets.chunks(step).enumerate() {
        let rows = hidden.clone().narrow(0, i * step, wanted.len());
        let logits = host_values(model.logits(rows));
        scores.par_extend(logits.par_chunks(vocabulary).zip(wanted).map(|(row, id)| token_score(row, *id)));
    }
    scores
}

fn token_score(logits: &[f32], target: u32) -> TokenScore {
    let wanted = logits[target as usize];
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 =
        logits.chunks(256).map(|c| f64::from(c.iter().map(|l| (l - max).exp()).sum::<f32>())).sum();
    // greedy decoding takes the first of equal logits
    let first_max = logits.iter().position(|l| *l >= max);
    TokenScore {
        log_likelihood: f64::from(wanted - max) - sum.ln(),
        greedy: first_max == Some(target as usize),
    }
}

/// Negative log-likelihoods, nats, of `targets` under hidden states `[targets, hidden]`.
pub fn negative_log_likelihoods(model: &Llama, hidden: &Tensor<2>, targets: &[u32]) -> Vec<f64> {
    token_scores(model, hidden, targets).into_iter().map(|s| -s.log_likelihood).collect()
}
