//! What a running stage tells the engine, as data. Stages never print: reporters do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

/// An event of one running stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum StageEvent {
    /// `done` of `total` pieces of work (`what`: modules, items, windows, repeats).
    Progress { done: u64, total: u64, what: String },
    /// A unit of work inside the stage was found in the cache or was done and committed.
    Unit { name: String, cached: bool },
    /// A line for the log.
    Log { message: String },
}

/// Where stage events go. Must not fail: losing an event must not fail a stage.
pub trait EventSink: Sync {
    fn emit(&self, event: StageEvent);
}

/// A sink for tests and tools that have no reader.
impl EventSink for () {
    fn emit(&self, _event: StageEvent) {}
}

/// A request to stop, shared by everything that runs. Stages look at it between units of work.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// The flag itself, for a signal handler.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}
