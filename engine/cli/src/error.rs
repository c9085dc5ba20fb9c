//! Everything that ends a command early, as one diagnostic with one exit code.

use std::io;
use std::path::PathBuf;

use miette::Diagnostic;
use qpipe_cache::StoreError;
use qpipe_engine::manifest::ManifestErrors;
use qpipe_engine::plan::PlanError;
use qpipe_engine::record::{ReadError, RecordError};
use qpipe_engine::run::SelectError;
use qpipe_engine::worker::TempError;
use qpipe_engine::worker::launch::LaunchError;
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
    #[error(transparent)]
    #[diagnostic(transparent)]
    Select(#[from] SelectError),
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
    #[diagnostic(code(qpipe::cli::temp))]
    Temp(#[from] TempError),
    #[error(transparent)]
    #[diagnostic(code(qpipe::cli::record))]
    Record(#[from] RecordError),
    #[error("failed to find this program's own file: {source}")]
    #[diagnostic(code(qpipe::cli::program))]
    Program { source: io::Error },
    #[error("the engine does not keep to the protocol: {0}")]
    #[diagnostic(code(qpipe::cli::serve))]
    Serve(#[from] qpipe_sdk::protocol::ServeError),
    #[error("standard output cannot be kept for messages: {source}")]
    #[diagnostic(code(qpipe::cli::streams))]
    Streams { source: io::Error },
    #[error("the record of run `{run}` has `{text}` for a key")]
    #[diagnostic(code(qpipe::cli::no_key), help("nothing was removed or pinned"))]
    NoKey { run: String, text: String },
    #[error("no pin `{name}`")]
    #[diagnostic(code(qpipe::cli::no_pin), help("`qpipe cache pins` lists them"))]
    NoPin { name: String },
    #[error("not formatted: {}", names(paths))]
    #[diagnostic(code(qpipe::cli::not_formatted), help("`qpipe fmt` without `--check` formats them"))]
    NotFormatted { paths: Vec<PathBuf> },
    #[error("failed to write `{}`: {source}", path.display())]
    #[diagnostic(code(qpipe::cli::write_file))]
    WriteFile { path: PathBuf, source: io::Error },
    #[error("`{}` is there already", path.display())]
    #[diagnostic(code(qpipe::cli::file_exists), help("nothing was written; name another folder"))]
    FileExists { path: PathBuf },
    #[error("there is no template `{name}`")]
    #[diagnostic(code(qpipe::cli::unknown_template))]
    UnknownTemplate {
        name: String,
        #[help]
        help: String,
    },
    #[error("there is no diagnostic `{code}`")]
    #[diagnostic(code(qpipe::cli::unknown_code))]
    UnknownCode {
        code: String,
        #[help]
        help: Option<String>,
    },
    #[error("there is no stage type `{name}`")]
    #[diagnostic(code(qpipe::cli::unknown_stage_type))]
    UnknownStageType {
        name: String,
        #[help]
        help: Option<String>,
    },
    #[error("{error}")]
    #[diagnostic(code(qpipe::cli::unknown_run), help("`qpipe runs ls` lists the runs"))]
    UnknownRun { error: ReadError },
    #[error(transparent)]
    #[diagnostic(code(qpipe::cli::unreadable_run))]
    UnreadableRun(ReadError),
    #[error(transparent)]
    #[diagnostic(
        code(qpipe::cli::no_program),
        help("a program on the search path, or the path of one, with a `/` in it")
    )]
    NoProgram(#[from] LaunchError),
    #[error("no plugin can be called `{name}`: {reason}")]
    #[diagnostic(code(qpipe::cli::name_taken), help("choose another name; nothing was written"))]
    NameTaken { name: String, reason: &'static str },
    #[error("there is no crate `qpipe-sdk` {}", .looked.as_ref().map_or_else(|| "around here".to_owned(), |p| format!("in `{}`", p.display())))]
    #[diagnostic(code(qpipe::cli::no_sdk), help("say where `engine/sdk` of qpipe's sources is: `--sdk DIR`"))]
    NoSdk { looked: Option<PathBuf> },
    #[error("failed to encode JSON: {0}")]
    #[diagnostic(code(qpipe::cli::json))]
    Json(#[from] serde_json::Error),
}

fn names(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| format!("`{}`", path.display())).collect::<Vec<_>>().join(", ")
}

impl From<ReadError> for CliError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unknown { .. } | ReadError::Ambiguous { .. } => Self::UnknownRun { error },
            other => Self::UnreadableRun(other),
        }
    }
}

impl CliError {
    pub fn exit(&self) -> Exit {
        match self {
            Self::ManifestFile { .. }
            | Self::Manifest(_)
            | Self::NotFormatted { .. }
            | Self::WriteFile { .. } => Exit::Manifest,
            Self::Select(SelectError::Nothing) => Exit::Nothing,
            Self::UnknownCode { .. }
            | Self::FileExists { .. }
            | Self::UnknownTemplate { .. }
            | Self::UnknownStageType { .. }
            | Self::UnknownRun { .. }
            | Self::NoPin { .. }
            | Self::NoProgram(_)
            | Self::NameTaken { .. }
            | Self::NoSdk { .. }
            | Self::Select(_) => Exit::Usage,
            Self::Plan(error) => match error.class() {
                ErrorClass::Config => Exit::Manifest,
                // a download that was stopped; which signal did it, the caller knows better
                ErrorClass::Cancelled => Exit::Signal(2),
                class => Exit::of_failures(&[class]),
            },
            Self::NoStore { .. }
            | Self::Store(_)
            | Self::Record(_)
            | Self::UnreadableRun(_)
            | Self::NoKey { .. } => Exit::Store,
            Self::Program { .. } | Self::Streams { .. } | Self::Temp(_) | Self::Serve(_) | Self::Json(_) => {
                Exit::StageFailed
            }
        }
    }
}
