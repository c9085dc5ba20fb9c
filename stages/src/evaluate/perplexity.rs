//! Perplexity over disjoint windows, as GPTQ and its followers report it: the whole text tokenized once, cut into
//! windows of `window` tokens (the last may be shorter), the first token of each window unscored. Not comparable
//! with a harness's word perplexity or with llama.cpp's second-half windows.

use qpipe_sdk::{Better, KeyedChoice, Metric, ParamSpec, ParamType, StageError, Value};
use serde::{Deserialize, Serialize};

use super::statistics::bootstrap_stderr;
use super::{Scoring, TaskResult, data_param, json_lines, shard};
use crate::model::score::{Continuation, Score, score};

/// Tokens scored as one unit, at least one window.
const SHARD_TOKENS: usize = 4096;

pub(super) fn choice() -> KeyedChoice {
    KeyedChoice {
        name: "perplexity",
        doc: "Perplexity per token over disjoint windows of a text.",
        props: vec![
            data_param(
                "JSON lines with a text each, joined by an empty line, or a .txt file; `tiny`: the embedded stories.",
            ),
            ParamSpec::new("window", ParamType::at_least(2), "Tokens of a window.").default(Value::Int(2048)),
            ParamSpec::new(
                "join",
                ParamType::Bool,
                "#true: rows are joined by an empty line into one text, cut into windows. #false: every row is a text \
                 of its own, cut into windows by itself.",
            )
            .default(Value::Bool(true)),
            ParamSpec::new("limit", ParamType::at_least(1), "Score only the first windows."),
        ],
    }
}

#[derive(Deserialize)]
struct Row {
    text: String,
}

/// One line of the item log.
#[derive(Debug, Serialize, Deserialize)]
struct Window {
    id: usize,
    /// Scored tokens.
    tokens: usize,
    /// Sum of negative log-likelihoods, nats.
    nll: f64,
}

pub(super) fn run(scoring: &Scoring<'_>) -> Result<TaskResult, StageError> {
    let window = scoring.int("window").unwrap_or(2048);
    let limit = scoring.model.artifact.config.max_position_embeddings;
    if window > limit {
        return Err(StageError::config(format!(
            "window {window} is longer than the model's context of {limit}"
        )));
    }
    let joined = scoring.ctx.params.bool(&scoring.param("join")).unwrap_or(true);
    let mut texts = Vec::new();
    for text in texts_of(&scoring.data()?, joined)? {
        texts.push(scoring.encode(&text)?);
    }
    let mut windows: Vec<&[u32]> =
        texts.iter().flat_map(|ids| ids.chunks(window)).filter(|w| w.len() > 1).collect();
    windows.truncate(scoring.int("limit").unwrap_or(usize::MAX));
    if windows.is_empty() {
        return Err(StageError::config("task `perplexity`: the text has fewer than two tokens"));
    }
    let (mut blobs, mut scored) = (Vec::new(), Vec::new());
    for batch in shards(&windows) {
        let first = scored.len();
        let asked = shard::encode_asked(batch.iter().copied().chain([&[first as u32][..]]));
        let (blob, items) =
            shard::run(scoring, "perplexity", &asked, || score_windows(scoring, first, batch))?;
        blobs.push(blob);
        scored.extend(items);
        scoring.ctx.progress(scored.len(), windows.len(), "windows");
    }
    let of = if joined { "the joined text" } else { "each row" };
    let bos = scoring.bos.name();
    let protocol =
        format!("perplexity per token, disjoint windows of {window} of {of}, first unscored, bos {bos}");
    Ok(TaskResult { protocol, items: blobs, metrics: metrics(&scored) })
}

/// The texts to score: JSON lines, joined by an empty line or each by itself, or a plain text as it is.
fn texts_of(data: &str, joined: bool) -> Result<Vec<String>, StageError> {
    if !data.trim_start().starts_with('{') {
        return Ok(vec![data.to_owned()]);
    }
    let rows: Vec<Row> = json_lines("perplexity", data)?;
    let texts: Vec<String> = rows.into_iter().map(|row| row.text).collect();
    Ok(if joined { vec![texts.join("\n\n")] } else { texts })
}

/// Runs of windows that are scored together: about [`SHARD_TOKENS`], at least one window.
fn shards<'a>(windows: &'a [&'a [u32]]) -> Vec<&'a [&'a [u32]]> {
    let mut all = Vec::new();
    let mut rest = windows;
    while !rest.is_empty() {
        let mut tokens = 0;
        let fits = |window: &&&[u32]| {
            tokens += window.len();
            tokens <= SHARD_TOKENS
        };
        let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        all.push(now);
        rest = later;
    }
    all
}

/// Scores each window's tokens but the first.
fn score_windows(scoring: &Scoring<'_>, first: usize, windows: &[&[u32]]) -> Result<Vec<Window>, StageError> {
    let ask = |w: &&[u32]| Continuation { context: w[..1].to_vec(), continuation: w[1..].to_vec() };
    let asked: Vec<Continuation> = windows.iter().map(ask).collect();
    let scores = score(scoring.llama(), &asked, &mut |_, _| scoring.ctx.checkpoint())?;
    let window = |(i, s): (usize, &Score)| Window { id: first + i, tokens: s.tokens, nll: -s.log_likelihood };
    Ok(scores.iter().enumerate().map(window).collect())
}

/// Mean over tokens, nats.
fn mean_nll(windows: &[Window]) -> f64 {
    windows.iter().map(|w| w.nll).sum::<f64>() / windows.iter().map(|w| w.tokens).sum::<usize>() as f64
}

fn metrics(windows: &[Window]) -> Vec<Metric> {
    let tokens = windows.iter().map(|w| w.tokens as u64).sum();
    let pairs: Vec<(f64, f64)> = windows.iter().map(|w| (w.nll, w.tokens as f64)).collect();
    let mean = |sample: &[(f64, f64)]| {
        sample.iter().map(|p| p.0).sum::<f64>() / sample.iter().map(|p| p.1).sum::<f64>()
    };
    let nll = mean_nll(windows);
    vec![
        Metric::new("nll", nll, "nat", Better::Lower)
            .n(tokens)
            .stderr(bootstrap_stderr(&pairs, mean))
            .headline(),
        Metric::new("ppl", nll.exp(), "", Better::Lower)
            .n(tokens)
            .stderr(bootstrap_stderr(&pairs, |sample| mean(sample).exp()))
            .headline(),
    ]
}
