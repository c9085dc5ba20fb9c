//! The runs there are, from their records.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::RecordError;
use super::id::RunId;
use super::summary::{RUN_SCHEMA, RunSummary, Started};
use crate::run::{Counts, RunOutcome};

/// One run, as `qpipe runs ls` lists it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunEntry {
    pub run: RunId,
    pub study: Option<String>,
    /// RFC 3339, UTC.
    pub started: Option<String>,
    pub status: RunStatus,
    /// Known of a finished run.
    pub counts: Option<Counts>,
    pub elapsed_ms: Option<u64>,
}

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunStatus {
    Done,
    Failed,
    /// It has no summary, and its process holds the record's lock.
    Running,
    /// It was stopped, or it has no summary and its process is gone. What it finished is in the cache.
    Interrupted,
    /// Its record is damaged or of a newer version.
    Unreadable,
}

/// Every run under `runs`, oldest first. No directory, no runs.
pub fn runs(runs: &Path) -> Result<Vec<RunEntry>, RecordError> {
    let listing = match fs::read_dir(runs) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RecordError::io("list", runs)(error)),
    };
    let mut entries = Vec::new();
    for found in listing {
        let path = found.map_err(RecordError::io("list", runs))?.path();
        if path.is_dir() {
            entries.push(entry(&path));
        }
    }
    entries.sort_by(|a, b| a.run.cmp(&b.run));
    Ok(entries)
}

fn entry(dir: &Path) -> RunEntry {
    let run = RunId(dir.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()));
    match fs::read(dir.join("run.json")) {
        Ok(text) => finished(run, &text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => unfinished(run, dir),
        Err(_) => unreadable(run),
    }
}

fn finished(run: RunId, text: &[u8]) -> RunEntry {
    match serde_json::from_slice::<RunSummary>(text) {
        Ok(summary) if summary.schema <= RUN_SCHEMA => RunEntry {
            run,
            study: Some(summary.study),
            started: Some(summary.started),
            status: match summary.outcome {
                RunOutcome::Done => RunStatus::Done,
                RunOutcome::Failed => RunStatus::Failed,
                RunOutcome::Interrupted => RunStatus::Interrupted,
            },
            counts: Some(summary.counts),
            elapsed_ms: Some(summary.elapsed_ms),
        },
        _ => unreadable(run),
    }
}

fn unfinished(run: RunId, dir: &Path) -> RunEntry {
    let path = dir.join("started.json");
    let locked =
        File::open(&path).is_ok_and(|f| matches!(f.try_lock_shared(), Err(TryLockError::WouldBlock)));
    let status = if locked { RunStatus::Running } else { RunStatus::Interrupted };
    let started = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Started>(&text).ok());
    let (study, started) = started.map(|s| (s.study, s.started)).unzip();
    RunEntry { run, study, started, status, counts: None, elapsed_ms: None }
}

fn unreadable(run: RunId) -> RunEntry {
    RunEntry {
        run,
        study: None,
        started: None,
        status: RunStatus::Unreadable,
        counts: None,
        elapsed_ms: None,
    }
}
