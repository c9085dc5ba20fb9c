//! `smallworld`: writes the corpus, the evaluation set, the held-out text or the tokenizer to a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use qpipe_smallworld::{
    Corpus, Difficulty, Item, Kind, TokenizerError, evaluation_items, heldout_text, train_tokenizer,
};
use serde::Serialize;

/// Writes stories of a small world, with questions, for training and measuring a tiny model.
#[derive(Parser)]
#[command(name = "smallworld", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Evaluation questions: one JSON object a line, in BoolQ's shape
    Eval {
        /// Questions to write
        #[arg(long, default_value_t = 1_000)]
        items: usize,
        /// Add the fields `kind` and `difficulty`
        #[arg(long)]
        tagged: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Held-out stories for perplexity: one `{"text": …}` a line
    Text {
        /// Stories to write
        #[arg(long, default_value_t = 1_100)]
        stories: usize,
        #[command(flatten)]
        common: Common,
    },
    /// Training documents, one after the other, each ended by `<|endoftext|>` and a newline
    Corpus {
        /// Documents to write
        #[arg(long)]
        documents: usize,
        #[command(flatten)]
        common: Common,
    },
    /// The tokenizer, as `tokenizer.json`
    Tokenizer {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
struct Common {
    /// Seed of every draw
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// File to write; replaced where it exists
    #[arg(long)]
    out: PathBuf,
}

/// Why nothing, or not all, was written.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error("write `{path}`: {source}")]
    Write { path: String, source: std::io::Error },
    #[error("write a line as json: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

fn write_lines(path: &Path, lines: impl Iterator<Item = String>) -> Result<(), CliError> {
    let fail = |source| CliError::Write { path: path.display().to_string(), source };
    let mut file = BufWriter::new(File::create(path).map_err(fail)?);
    for line in lines {
        writeln!(file, "{line}").map_err(fail)?;
    }
    file.flush().map_err(fail)
}

/// One line of the evaluation file: BoolQ's three fields, and the tags where they are asked for. A struct, not a
/// map, so that the order of fields is this one in every build.
#[derive(Serialize)]
struct EvalLine {
    question: String,
    answer: bool,
    passage: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    difficulty: Option<Difficulty>,
}

/// One line of the held-out file.
#[derive(Serialize)]
struct TextLine {
    text: String,
}

fn eval_line(item: Item, tagged: bool) -> EvalLine {
    let kind = tagged.then_some(item.kind);
    EvalLine {
        question: item.question,
        answer: item.answer,
        passage: item.passage,
        kind,
        difficulty: kind.map(Kind::difficulty),
    }
}

fn json_lines<T: Serialize>(lines: impl Iterator<Item = T>) -> Result<Vec<String>, CliError> {
    lines.map(|line| Ok(serde_json::to_string(&line)?)).collect()
}

fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Eval { items, tagged, common } => {
            let items = evaluation_items(common.seed, items).into_iter();
            write_lines(&common.out, json_lines(items.map(|item| eval_line(item, tagged)))?.into_iter())
        }
        Command::Text { stories, common } => {
            let texts = heldout_text(common.seed, stories).into_iter();
            write_lines(&common.out, json_lines(texts.map(|text| TextLine { text }))?.into_iter())
        }
        Command::Corpus { documents, common } => {
            write_lines(&common.out, Corpus::new(common.seed).take(documents).map(|document| document.text))
        }
        Command::Tokenizer { common } => {
            let text = String::from_utf8_lossy(&train_tokenizer(common.seed)?).into_owned();
            write_lines(&common.out, std::iter::once(text))
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // nothing is left to do where standard error is closed
            let _closed = writeln!(std::io::stderr(), "error: failed to {error}");
            ExitCode::FAILURE
        }
    }
}
