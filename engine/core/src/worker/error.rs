//! What can go wrong with a worker.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use qpipe_cache::{Digest, StoreError};
use qpipe_sdk::StageError;
use qpipe_sdk::protocol::{DescribeError, FailureClass, LineError, WireError};

use super::content::PluginDigest;
use super::files::FilesError;
use super::launch::{LaunchError, ending};
use super::search::{NoPlugin, SearchError};
use super::temp::TempError;

/// Why a worker did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Temp(#[from] TempError),
    #[error(transparent)]
    NoPlugin(#[from] NoPlugin),
    /// A file of a plugin.
    #[error("cannot read the plugin's `{name}` at `{}`: {source}", path.display())]
    Unreadable { name: String, path: PathBuf, source: io::Error },
    /// Which content a worker has read cannot be known, or is not what a job's key says.
    #[error("the plugin's `{name}` was changed meanwhile: run it again")]
    Changing { name: String },
    #[error("its content is {found}, the manifest says {expected}")]
    Content { expected: PluginDigest, found: PluginDigest },
    /// It is to run behind a whole wall only.
    #[error("its `sandbox` is required, and {why}")]
    Unwalled { why: String },
    #[error("the worker did not answer `{question}` within {} s", after.as_secs_f64())]
    NoAnswer { question: &'static str, after: Duration },
    #[error("the worker speaks qstage {found}, this program speaks {}", qpipe_sdk::protocol::PROTOCOL)]
    Version { found: u32 },
    /// It wrote something that is no message.
    #[error("the worker broke the protocol: {0}")]
    Line(LineError),
    #[error("the worker broke the protocol: it said `{word}` {at}")]
    Unexpected { word: &'static str, at: &'static str },
    #[error("the worker broke the protocol: it spoke of job {found} during job {expected}")]
    WrongId { expected: u64, found: u64 },
    #[error("the worker refused to talk: {message}")]
    Refused { message: String },
    #[error("a request does not fit into a message: {0}")]
    Request(LineError),
    /// Its output ended within the conversation; the process is not looked at yet.
    #[error("the worker hung up")]
    HungUp,
    #[error("the worker was lost: {}{}", ending(*status), quoted(said))]
    Lost { status: ExitStatus, said: String },
    #[error("the worker was lost: no sign of life for {} s", after.as_secs_f64())]
    Silent { after: Duration },
    #[error("the worker was stopped after its timeout of {} s", after.as_secs_f64())]
    TimedOut { after: Duration },
    #[error("{message}")]
    Failed { class: FailureClass, message: String },
    #[error("stopped on request")]
    Cancelled,
    #[error("the worker has no stage type `{kind}`{}", listed(known))]
    NoStage { kind: String, known: Vec<String> },
    #[error("the stage type it describes cannot be used: {0}")]
    Describe(#[from] DescribeError),
    #[error("a stage that measures must say what it measured on: its worker needs the capability `key`")]
    Unfingerprinted,
    #[error(transparent)]
    Params(#[from] WireError),
    #[error("the worker made the output `{name}`, which it never declared")]
    Undeclared { name: String },
    #[error("the worker made the output `{name}` twice")]
    Repeated { name: String },
    #[error("the worker told of more than {limit} {what}")]
    TooMany { what: &'static str, limit: usize },
    #[error("the worker said `{word}` with a name of {bytes} bytes, more than {limit}")]
    LongName { word: &'static str, bytes: usize, limit: usize },
    #[error("the worker's unit `{name}` has a name that cannot be: it is no path below a folder")]
    UnitName { name: String },
    #[error("the worker announced the unit `{name}` twice")]
    RepeatedUnit { name: String },
    #[error("the worker's output `{name}` is to be the unit `{unit}`, which was never kept")]
    UnknownUnit { name: String, unit: String },
    #[error("the worker's output `{name}` is to be at a `path` or a `unit`: one of the two")]
    PathOrUnit { name: String },
    #[error("the worker was stopped: its processes took {} of memory, of {} allowed", size(*seen), size(*limit))]
    Memory { limit: u64, seen: u64 },
    #[error("it changed its input `{name}`, or somebody else did meanwhile: {}", path.display())]
    ChangedInput { name: String, path: PathBuf },
    #[error("the worker ended its job without the output `{name}`")]
    MissingOutput { name: String },
    #[error("the worker's artifact cannot be used: {reason}")]
    Artifact { reason: String },
    /// `at`: a JSON pointer.
    #[error("its document names {digest} at `{at}`, which the job neither made nor was given")]
    StrayDigest { digest: Digest, at: String },
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<SearchError> for WorkerError {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::NoPlugin(error) => Self::NoPlugin(error),
            SearchError::Launch(error) => Self::Launch(error),
        }
    }
}

impl From<WorkerError> for StageError {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Cancelled => Self::Cancelled,
            WorkerError::Store(error) => Self::Store(error),
            WorkerError::Files(error) => error.into(),
            WorkerError::Failed { class, message } => class.error(message),
            WorkerError::Launch(LaunchError::Start { .. })
            | WorkerError::NoAnswer { .. }
            | WorkerError::HungUp
            | WorkerError::Changing { .. }
            | WorkerError::Lost { .. }
            | WorkerError::Silent { .. } => Self::Transient(error.to_string()),
            WorkerError::TimedOut { after } => Self::Timeout(after),
            WorkerError::Memory { .. } => Self::OomHost(error.to_string()),
            WorkerError::Launch(_)
            | WorkerError::Temp(_)
            | WorkerError::NoPlugin(_)
            | WorkerError::Unreadable { .. }
            | WorkerError::Content { .. }
            | WorkerError::Unwalled { .. }
            | WorkerError::Params(_) => Self::Config(error.to_string()),
            _ => Self::Bug(clipped(error.to_string())),
        }
    }
}

/// Words of a worker, of a length that can be shown.
pub(super) fn clipped(mut text: String) -> String {
    const SHOWN: usize = 16 << 10;
    if let Some((end, _)) = text.char_indices().find(|(at, _)| *at >= SHOWN) {
        text.truncate(end);
        text.push('…');
    }
    text
}

fn size(bytes: u64) -> String {
    if bytes < 1 << 20 {
        return format!("{bytes} bytes");
    }
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn quoted(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!("\n{said}") }
}

fn listed(known: &[String]) -> String {
    const SHOWN: usize = 64;
    let shown = |kind: &String| format!("`{}`", kind.chars().take(SHOWN).collect::<String>());
    let known: Vec<String> = known.iter().take(SHOWN).map(shown).collect();
    if known.is_empty() { String::new() } else { format!(", only {}", known.join(", ")) }
}
