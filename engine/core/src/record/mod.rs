//! The record of a run: `runs/<id>/`, enough for another person to reproduce it.
//!
//! ```text
//! runs/20261122T203015.042Z-3f9ac1/
//!   manifest.kdl    the manifest's text
//!   include-1-base.kdl …   what it includes, in order; `run.json` says which file each was
//!   plan.json       every node: hit, miss with reasons, pending
//!   started.json    written first; its file is locked as long as the run lives
//!   events.jsonl    what happened, as it happened
//!   table.md  table.csv  table.json
//!   samples.json    the first texts of stages that generate; only where there are some
//!   run.json        the summary; written last, so a run without it was interrupted
//! ```
//!
//! Keeping a record must never fail the run it is about: what cannot be written becomes a warning.

mod diff;
mod environment;
mod error;
mod id;
mod list;
mod read;
mod recorder;
mod replay;
mod samples;
mod summary;
mod text;

pub use diff::{Change, DIFF_SCHEMA, InputChange, InputDiff, ResultDiff, RunDiff};
pub use environment::Environment;
pub use error::{ReadError, RecordError};
pub use id::RunId;
pub use list::{RunEntry, RunStatus, runs};
pub use read::{RunRecord, TableCell, TableMetric, TableRecord, read_run};
pub use recorder::{Recorded, Recorder};
pub use samples::{NodeSamples, samples, samples_of};
pub use summary::{CellSummary, IncludeSummary, NodeStatus, NodeSummary, RUN_SCHEMA, RunSummary, Started};

pub(crate) use replay::{Model, Replay};
pub(crate) use text::RunHead;
