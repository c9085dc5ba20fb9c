//! WikiText (Merity et al. 2016, arXiv 1609.07843) as lm-evaluation-harness scores it: each page is detokenized and its
//! likelihood summed over rolling windows; words and bytes are those of the page before detokenization.
//!
//! The harness reads pages from rows with `page`. Rows with `text`, and the raw text, are cut into pages where a line is
//! a first-level heading, as the harness's own data set was made.

use qpipe_sdk::{ParamSpec, ParamType, StageError};
use rayon::prelude::*;

use super::choice;
use super::divergence;
use super::encode::{Encoder, prefix_token, rolling};
use super::perplexity::{Texts, data_texts};
use super::ratio::{self, Ratio};
use super::scoring::{Scored, Scoring, Subject};
use super::task::{self, Task, TaskResult};
use crate::model::score::Continuation;

pub(super) const TASK: Task = Task {
    params,
    run,
    ..choice::task(
        "wikitext",
        "WikiText as lm-evaluation-harness scores it: word and byte perplexity of whole pages.",
        "Rows with `page`, or the raw split as rows with `text` or as a plain text file, which is cut into pages at its \
         headings.",
        |row| Err(row.error("the rows of this task are pages")),
    )
};

/// The field of rows that are whole pages.
const PAGE: &str = "page";

fn params() -> Vec<ParamSpec> {
    vec![
        ParamSpec::new(
            "compat",
            ParamType::Choice(&["lm-eval"]),
            "`lm-eval`: a tokenizer that adds a beginning-of-sequence token adds it to the scored text too, so that it \
             is predicted from itself, as the harness does. Without it, it is only what the first token is predicted from.",
        ),
        task::limit("Score only the first pages. Raising it scores only the new ones."),
        task::kl(
            "With `against`: pages over whose tokens the two models' distributions are compared (KL divergence, top-1 \
             agreement); all if not given, 0 for none.",
        ),
    ]
}

fn run(scoring: &Scoring<'_>, _: &Task) -> Result<TaskResult, StageError> {
    let mut pages = pages(scoring)?;
    pages.truncate(scoring.int("limit").unwrap_or(usize::MAX));
    if pages.is_empty() {
        return Err(scoring.error("the data holds no pages"));
    }
    let harness = scoring.text("compat") == Some("lm-eval");
    let requests = |subject: &Subject<'_>| encoded(&pages, subject, scoring, harness);
    let ids: Vec<usize> = (0..pages.len()).collect();
    let scored = scoring.scored(&ids, &requests)?;
    let (items, against) = scoring.log(&ids, &vec![None; ids.len()], &scored)?;
    let mut metrics = metrics(&pages, &scored);
    metrics.extend(divergence::metrics(scoring, &requests(scoring.model)?)?);
    let compat = if harness { ", compat lm-eval" } else { "" };
    let protocol =
        format!("wikitext, rolling windows of whole pages, detokenized{compat}, {}", scoring.suffix(&scored));
    Ok(TaskResult { protocol, items, against, metrics })
}

/// The pages of the data, in its order.
fn pages(scoring: &Scoring<'_>) -> Result<Vec<String>, StageError> {
    Ok(match data_texts(scoring, &[PAGE, "text"])? {
        Texts::Plain(text) => cut_pages(&text),
        Texts::Rows(PAGE, pages) => pages,
        Texts::Rows(_, lines) => cut_pages(&raw(&lines)),
    })
}

/// The raw split of published rows: its lines that hold nothing but a space are published as empty rows.
fn raw(rows: &[String]) -> String {
    rows.iter().map(|row| if row.is_empty() { " \n" } else { row.as_str() }).collect()
}

/// Cuts a raw split before every line of the form `= Title =`.
fn cut_pages(text: &str) -> Vec<String> {
    let (mut pages, mut page): (Vec<String>, Vec<&str>) = (Vec::new(), Vec::new());
    for line in text.split('\n') {
        let flat = line.replace("= = =", "===").replace("= =", "==");
        let flat = flat.trim();
        if flat.starts_with("= ") && flat.ends_with(" =") {
            pages.push(std::mem::take(&mut page).join("\n"));
        }
        page.push(line);
    }
    pages.push(page.join("\n"));
    pages.retain(|page| !page.trim().is_empty());
    pages
}

fn encoded(
    pages: &[String],
    subject: &Subject<'_>,
    scoring: &Scoring<'_>,
    harness: bool,
) -> Result<Vec<Vec<Continuation>>, StageError> {
    let (encoder, longest) = (subject.encoder(scoring.bos), subject.context_len());
    pages.par_iter().map(|page| windows(&detokenized(page), encoder, harness, longest)).collect()
}

fn windows(
    text: &str,
    encoder: Encoder<'_>,
    harness: bool,
    max_len: usize,
) -> Result<Vec<Continuation>, StageError> {
    let prefix = prefix_token(encoder.tokenizer)?;
    let mut ids = encoder.text(text)?;
    if !harness && ids.first() == Some(&prefix) {
        ids.remove(0);
    }
    Ok(rolling(&ids, prefix, max_len))
}

/// The harness's detokenizer, step by step.
fn detokenized(page: &str) -> String {
    // its pattern for possessives before digits, `/' [0-9]/`, keeps its slashes and so matches nothing of a page
    let mut text = page.replace("s '", "s'");
    for (from, to) in [
        (" @-@ ", "-"),
        (" @,@ ", ","),
        (" @.@ ", "."),
        (" : ", ": "),
        (" ; ", "; "),
        (" . ", ". "),
        (" ! ", "! "),
        (" ? ", "? "),
        (" , ", ", "),
    ] {
        text = text.replace(from, to);
    }
    for (open, close) in [('(', ')'), ('[', ']'), ('{', '}'), ('"', '"'), ('\'', '\'')] {
        text = tightened(&text, open, close);
    }
    for (from, to) in [
        ("= = = =", "===="),
        ("= = =", "==="),
        ("= =", "=="),
        (" \u{b0} ", "\u{b0}"),
        (" \n", "\n"),
        ("\n ", "\n"),
        (" N ", " 1 "),
        (" 's", "'s"),
    ] {
        text = text.replace(from, to);
    }
    text
}

/// Takes white space away inside each pair of brackets or quotes: the pattern `open \s* ([^close]*?) \s* close`.
fn tightened(text: &str, open: char, close: char) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find(open) {
        let inner = &rest[start + open.len_utf8()..];
        let Some(end) = inner.find(close) else { break };
        out.push_str(&rest[..start]);
        out.push(open);
        out.push_str(inner[..end].trim());
        out.push(close);
        rest = &inner[end + close.len_utf8()..];
    }
    out + rest
}

/// Pieces of a page between runs of white space, empty ones included: Python's `len(re.split(r"\s+", page))`.
fn words(page: &str) -> usize {
    let mut pieces = 1;
    let mut in_space = false;
    for c in page.chars() {
        pieces += usize::from(c.is_whitespace() && !in_space);
        in_space = c.is_whitespace();
    }
    pieces
}

fn metrics(pages: &[String], scored: &Scored) -> Vec<qpipe_sdk::Metric> {
    let words: Vec<f64> = pages.iter().map(|page| words(page) as f64).collect();
    let bytes: Vec<f64> = pages.iter().map(|page| page.len() as f64).collect();
    let total = |weights: &[f64]| weights.iter().sum::<f64>() as u64;
    let figure = |name, unit, transform, headline, weights: &[f64]| {
        ratio::metric(&Ratio { name, unit, transform, headline }, scored, weights, total(weights))
    };
    vec![
        figure("word_perplexity", "", f64::exp, true, &words),
        figure("byte_perplexity", "", f64::exp, false, &bytes),
        figure("bits_per_byte", "bits", |nats| nats / std::f64::consts::LN_2, true, &bytes),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn pages_words_and_bytes_are_the_harnesss() {
        let text = include_str!("../../../tests/golden/evaluation/prompts.json");
        let golden: Value = serde_json::from_str(text).unwrap();
        let (rows, items) = (&golden["wikitext"]["rows"], &golden["wikitext"]["items"]);
        let rows = rows.as_array().unwrap();
        assert_eq!(rows.len(), 3);
        for (row, item) in rows.iter().zip(items.as_array().unwrap()) {
            let page = row["page"].as_str().unwrap();
            assert_eq!(detokenized(page), item["requests"][0][0].as_str().unwrap());
            assert_eq!(
                (words(page), page.len()),
                (item["words"].as_u64().unwrap() as usize, item["bytes"].as_u64().unwrap() as usize)
            );
        }
    }

    #[test]
    fn published_rows_are_the_raw_split_again() {
        let rows = ["", " = One = \n", "", " a . \n"].map(str::to_owned);
        assert_eq!(raw(&rows), " \n = One = \n \n a . \n");
        assert_eq!(cut_pages(&raw(&rows)), [" = One = \n \n a . \n"]);
    }

    #[test]
    fn a_split_is_cut_at_first_level_headings() {
        let text = " \n = One = \n \n a . \n = = Part = = \n b \n = Two = \n c \n";
        let pages = cut_pages(text);
        assert_eq!(pages.len(), 2);
        assert!(pages[0].starts_with(" = One = ") && pages[0].contains("= = Part = ="));
        assert_eq!(pages[1], " = Two = \n c \n");
    }
}
