//! Why a run record cannot be written or read.

use std::io;
use std::path::{Path, PathBuf};

/// Why a run record cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("failed to {op} `{}`: {source}", path.display())]
    Io { op: &'static str, path: PathBuf, source: io::Error },
    #[error("failed to encode `{}`: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("failed to encode `{}`: {source}", path.display())]
    Csv { path: PathBuf, source: csv::Error },
}

impl RecordError {
    pub(super) fn io(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { op, path, source }
    }
}

/// Why a run cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("no run's id begins with `{id}`")]
    Unknown { id: String },
    #[error("several runs' ids begin with `{id}`")]
    Ambiguous { id: String },
    #[error("failed to read `{}`: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("`{}` is damaged: {source}", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("`{}` has version {version}, which a newer program wrote", path.display())]
    Newer { path: PathBuf, version: u64 },
    #[error(transparent)]
    List(#[from] RecordError),
}
