//! Perplexity over disjoint windows, as GPTQ and its followers report it: the whole text tokenized once, cut into
//! windows of `window` tokens (the last may be shorter), the first token of each window unscored. Not comparable
//! with a harness's word perplexity or with llama.cpp's second-half windows.

use qpipe_sdk::{ParamSpec, ParamType, StageError, Value};

use super::choice;
use super::divergence;
use super::ratio::{self, Ratio};
use super::rows::Row;
use super::scoring::{Scored, Scoring, Subject};
use super::shard::ItemScore;
use super::task::{self, Task, TaskResult};
use crate::embedded;
use crate::model::score::Continuation;

pub(super) const TASK: Task = Task {
    embedded: Some(&embedded::TINY_STORIES),
    params,
    run,
    ..choice::task(
        "perplexity",
        "Perplexity per token over disjoint windows of any text.",
        "Rows with `text`, or a plain text file. `tiny`: the embedded small world's stories.",
        |row| Err(row.error("the rows of this task are texts")),
    )
};

fn params() -> Vec<ParamSpec> {
    vec![
        ParamSpec::new("window", ParamType::at_least(2), "Tokens of a window, at most the model's context.")
            .default(Value::Int(2048)),
        ParamSpec::new(
            "join",
            ParamType::Bool,
            "#true: rows are joined by an empty line into one text, cut into windows. #false: every row is a text of its \
             own, cut into windows by itself.",
        )
        .default(Value::Bool(true)),
        task::limit("Score only the first windows. Raising it scores only the new ones."),
        task::kl(
            "With `against`: windows over whose tokens the two models' distributions are compared (KL divergence, top-1 \
             agreement); all if not given, 0 for none.",
        ),
    ]
}

fn run(scoring: &Scoring<'_>, _: &Task) -> Result<TaskResult, StageError> {
    let window = scoring.int("window").unwrap_or(2048);
    let longest = scoring.model.context_len();
    if window > longest {
        return Err(scoring.error(format!("window {window} is longer than the model's context of {longest}")));
    }
    if scoring.against.is_some_and(|other| !other.has_tokenizer_of(scoring.model)) {
        return Err(
            scoring.error("the two models have different tokenizers: their windows are not the same texts")
        );
    }
    let joined = scoring.ctx.params.bool(&scoring.param("join")).unwrap_or(true);
    let windows = windows(scoring, scoring.model, window, joined)?;
    let ids: Vec<usize> = (0..windows.len()).collect();
    let scored = scoring.scored(&ids, &|_| Ok(windows.clone()))?;
    let (items, against) = scoring.log(&ids, &vec![None; ids.len()], &scored)?;
    let mut metrics = metrics(&scored);
    metrics.extend(divergence::metrics(scoring, &windows)?);
    let of = if joined { "the joined text" } else { "each row" };
    let protocol = format!(
        "perplexity per token, disjoint windows of {window} of {of}, first unscored, {}",
        scoring.suffix(&scored)
    );
    Ok(TaskResult { protocol, items, against, metrics })
}

/// Every window as one item: its first token, and the others after it.
fn windows(
    scoring: &Scoring<'_>,
    subject: &Subject<'_>,
    window: usize,
    joined: bool,
) -> Result<Vec<Vec<Continuation>>, StageError> {
    let (encoder, most) = (subject.encoder(scoring.bos), scoring.int("limit").unwrap_or(usize::MAX));
    let mut all = Vec::new();
    for text in texts(scoring, joined)? {
        if all.len() >= most {
            break;
        }
        let ids = encoder.text(&text)?;
        let cut = ids.chunks(window).filter(|w| w.len() > 1);
        all.extend(
            cut.map(|w| vec![Continuation { context: w[..1].to_vec(), continuation: w[1..].to_vec() }]),
        );
    }
    all.truncate(most);
    if all.is_empty() {
        return Err(scoring.error("the text has fewer than two tokens"));
    }
    Ok(all)
}

/// The texts to score: rows, joined by an empty line or each by itself, or a plain text as it is.
fn texts(scoring: &Scoring<'_>, joined: bool) -> Result<Vec<String>, StageError> {
    Ok(match data_texts(scoring, &["text"])? {
        Texts::Plain(text) => vec![text],
        Texts::Rows(_, rows) if joined => vec![rows.join("\n\n")],
        Texts::Rows(_, rows) => rows,
    })
}

/// Texts of a data file.
pub(super) enum Texts {
    /// The file is one text.
    Plain(String),
    /// The first of the wanted fields that its rows have, and its values.
    Rows(&'static str, Vec<String>),
}

/// The texts of the task's data: a plain file, or the first of `fields` that its first row has.
pub(super) fn data_texts(scoring: &Scoring<'_>, fields: &[&'static str]) -> Result<Texts, StageError> {
    let (file, bytes) = scoring.data("data")?;
    if is_plain(&file, &bytes) {
        let text = std::str::from_utf8(&bytes).map_err(|e| scoring.error(format!("`{file}`: {e}")))?;
        return Ok(Texts::Plain(text.to_owned()));
    }
    let (mut field, mut texts) = (None, Vec::new());
    for (number, fields_of_row) in
        qpipe_formats::rows::rows(&file, &bytes).map_err(|e| scoring.error(e))?.enumerate()
    {
        let fields_of_row = fields_of_row.map_err(|e| scoring.error(e))?;
        let row = Row { file: &file, number, fields: &fields_of_row };
        let first = || fields.iter().copied().find(|name| row.has(name)).unwrap_or(fields[0]);
        let name = *field.get_or_insert_with(first);
        texts.push(row.text(name).map_err(|e| scoring.error(e))?.to_owned());
    }
    Ok(Texts::Rows(field.unwrap_or(fields[0]), texts))
}

/// Whether a file is a text itself: by its name, or because it begins neither like JSON nor like parquet.
fn is_plain(file: &str, bytes: &[u8]) -> bool {
    let named = |end: &str| file.rsplit_once('.').is_some_and(|(_, e)| e.eq_ignore_ascii_case(end));
    let looks = bytes.trim_ascii_start().starts_with(b"{") || bytes.starts_with(b"PAR1");
    named("txt") || !(looks || named("jsonl") || named("json") || named("parquet"))
}

fn metrics(scored: &Scored) -> Vec<qpipe_sdk::Metric> {
    let weights: Vec<f64> = scored.model.iter().map(|item| item.token_count() as f64).collect();
    let tokens = scored.model.iter().map(ItemScore::token_count).sum::<usize>() as u64;
    let nll = Ratio { name: "nll", unit: "nat", transform: |nll| nll, headline: true };
    let ppl = Ratio { name: "ppl", unit: "", transform: f64::exp, headline: true };
    [nll, ppl].map(|ratio| ratio::metric(&ratio, scored, &weights, tokens)).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_told_from_rows() {
        assert!(is_plain("a.txt", b"{ not json"));
        assert!(is_plain("corpus", b" = Title = "));
        assert!(!is_plain("a.jsonl", b"") && !is_plain("x", b" {\"text\"") && !is_plain("x", b"PAR1"));
    }
}
