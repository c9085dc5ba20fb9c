//! Running a plan. One dispatcher thread decides everything and is the only one that reports; each stage runs in a
//! thread of its own, by default one at a time, since every stage uses all cores.
//!
//! - Hits are settled first, so that a failure later hides no finished result.
//! - Of the ready nodes, the one of the earliest cell that fits starts first: cells finish early rather than all at once.
//! - A node takes a job slot or a GPU, and its memory, or the whole machine if it measures time.
//! - A node whose key was unknown is assessed again once its inputs are known; equal bytes stop the re-run there.
//! - The commit of one action record is what makes a node done. Nothing else is kept in memory that a killed
//!   process would lose, so the same command continues where it stopped.
//!
//! | module | holds |
//! |---|---|
//! | `dispatch` | the loop, and what a node's end means for the others |
//! | `admit`, `slots`, `residents` | which node starts, what it takes, and on which GPU its model is |
//! | `watch`, `retry` | timeouts, the grace period, further tries |
//! | `execute` | one node in its thread: lock, look again, run, commit |
//! | `select` | what is asked for |
//! | `event`, `result`, `options` | what goes in and what comes out |

mod admit;
mod dispatch;
mod event;
mod execute;
mod options;
mod residents;
mod result;
mod retry;
mod select;
mod slots;
mod watch;

pub use dispatch::run;
pub use event::{EVENTS_SCHEMA, RunEvent, RunEventKind, RunObserver};
pub use options::{FailureMode, FreeGpu, RunOptions};
pub use qpipe_sdk::metrics;
pub use result::{Counts, How, NodeResult, RunOutcome, RunResult};
pub use select::{Goals, SelectError, Selection, check_stage_names, named, needed};
