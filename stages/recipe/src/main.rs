//! Trains the embedded tiny Llama from scratch, on text that `qpipe-smallworld` writes. See README.md.

mod batches;
mod checkpoint;
mod examine;
mod optimizer;
mod parameters;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Trains the embedded tiny model and writes `model.safetensors`, `config.json`, `tokenizer.json`, the held-out
/// evaluation files and `training.json`.
#[derive(Parser)]
struct Arguments {
    /// Where the files go.
    #[arg(long)]
    out: PathBuf,
    /// Optimizer steps; each sees `batch × 64` tokens.
    #[arg(long, default_value_t = 8500)]
    steps: usize,
    /// Documents per step.
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Peak learning rate.
    #[arg(long, default_value_t = 2e-3)]
    rate: f64,
    /// Seed of the weights and of the corpus.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Hidden size.
    #[arg(long, default_value_t = 128)]
    hidden: usize,
    /// Decoder layers.
    #[arg(long, default_value_t = 6)]
    layers: usize,
    /// Residents of the world: what the model has to know.
    #[arg(long, default_value_t = 8000)]
    residents: usize,
    /// How often to measure held-out loss and accuracy, in steps.
    #[arg(long, default_value_t = 500)]
    every: usize,
    /// Where to train: `auto`, `cpu` or `cuda:N`.
    #[arg(long, default_value = "auto")]
    device: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match train::train(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// One line of progress.
#[expect(clippy::print_stderr, reason = "the recipe's own terminal output, in one place")]
fn say(line: &str) {
    eprintln!("{line}");
}
