//! Running a plan. One dispatcher thread decides everything and is the only one that reports; stages run in
//! worker threads, by default one at a time, since every stage uses all cores (`slots` raises that).
//!
//! - Hits are settled first, so that a failure later hides no finished result.
//! - Of the ready nodes, the one of the earliest cell starts first: cells finish early rather than all at once.
//! - A node whose key was unknown is assessed again once its inputs are known; equal bytes stop the re-run there.
//! - The commit of one action record is what makes a node done. Nothing else is kept in memory that a killed
//!   process would lose, so the same command continues where it stopped.

mod dispatch;
mod event;
mod execute;
pub mod metrics;
mod options;
mod result;

pub use dispatch::run;
pub use event::{EVENTS_SCHEMA, RunEvent, RunEventKind, RunObserver};
pub use options::{FailureMode, RunOptions};
pub use result::{Counts, How, NodeResult, RunOutcome, RunResult};
