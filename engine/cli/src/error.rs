//! Everything that ends a command early, as one diagnostic with one exit code.

use std::io;
use std::path::PathBuf;

use miette::Diagnostic;
use qpipe_cache::StoreError;
use qpipe_engine::manifest::ManifestErrors;
use qpipe_engine::plan::PlanError;
use qpipe_engine::record::RecordError;
use qpipe_sdk::ErrorClass;

use crate::exit::Exit;

/// Why a command could not do what it was asked.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum CliError {
    #[error("failed to read `{}`: {source}", path.display())]
    #[diagnostic(code(qpipe::cli::manifest_file))]
    ManifestFile { path: PathBuf, source: io::Error },
    #[error(transparent)]
    #[diagnostic(transparent)]
    Manifest(#[from] ManifestErrors),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Plan(#[from] PlanError),
    #[error("no store at `{}`", path.display())]
    #[diagnostic(
        code(qpipe::cli::no_store),
        help("`qpipe run` makes one; `--store` or `QPIPE_STORE` says where it is")
    )]
    NoStore { path: PathBuf },
    #[error(transparent)]
    #[diagnostic(code(qpipe::cli::store))]
    Store(#[from] StoreError),
    #[error(transparent)]
    #[diagnostic(code(qpipe::cli::record))]
    Record(#[from] RecordError),
    #[error("failed to read the record `{}`: {reason}", path.display())]
    #[diagnostic(code(qpipe::cli::run_record), help("nothing was removed: what that run needs is unknown"))]
    RunRecord { path: PathBuf, reason: String },
    #[error("no finished run `{run}`")]
    #[diagnostic(code(qpipe::cli::no_run), help("`qpipe runs ls` lists them"))]
    NoRun { run: String },
    #[error("no pin `{name}`")]
    #[diagnostic(code(qpipe::cli::no_pin), help("`qpipe cache pins` lists them"))]
    NoPin { name: String },
    #[error("failed to encode JSON: {0}")]
    #[diagnostic(code(qpipe::cli::json))]
    Json(#[from] serde_json::Error),
}

impl CliError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::ManifestFile { .. } | Self::Manifest(_) => Exit::Manifest,
            Self::Plan(error) => match error.class() {
                ErrorClass::Config => Exit::Manifest,
                class => Exit::of_failures(&[class]),
            },
            Self::NoStore { .. } | Self::Store(_) | Self::Record(_) | Self::RunRecord { .. } => Exit::Store,
            Self::NoRun { .. } | Self::NoPin { .. } => Exit::Usage,
            Self::Json(_) => Exit::StageFailed,
        }
    }
}
