//! What a running stage tells the engine, as data. Stages never print: reporters do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use qpipe_cache::ActionRecord;
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

    /// A unit's work was committed; its [`StageEvent::Unit`] follows.
    fn kept(&self, _name: &str, _record: &ActionRecord) {}

    /// A unit's work was found in the cache; its [`StageEvent::Unit`] follows.
    fn found(&self, _name: &str, _record: &ActionRecord) {}
}

/// A sink for tests and tools that have no reader.
impl EventSink for () {
    fn emit(&self, _event: StageEvent) {}
}

/// A request to stop, shared by everything that runs. Stages look at it between units of work.
///
/// Requests come from above: whoever asks a run to stop asks all its nodes, while a [`child`](Self::child) can be
/// asked alone. They only grow: to stop, then to be killed. What can be killed (a worker process) is, then; a thread
/// cannot, and is abandoned by whoever waits for it.
#[derive(Clone, Debug, Default)]
pub struct Cancel {
    level: Arc<AtomicU8>,
    parent: Option<Arc<Cancel>>,
}

const STOP: u8 = 1;
const KILL: u8 = 2;

impl Cancel {
    /// One that hears its parent's requests as well as its own.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { level: Arc::default(), parent: Some(Arc::new(self.clone())) }
    }

    /// Asks to stop at the next chance, with what is finished kept.
    pub fn request(&self) {
        self.level.fetch_max(STOP, Ordering::SeqCst);
    }

    /// Asks to stop at once.
    pub fn kill(&self) {
        self.level.fetch_max(KILL, Ordering::SeqCst);
    }

    pub fn requested(&self) -> bool {
        self.level() >= STOP
    }

    pub fn killed(&self) -> bool {
        self.level() >= KILL
    }

    fn level(&self) -> u8 {
        let own = self.level.load(Ordering::SeqCst);
        self.parent.as_ref().map_or(own, |parent| own.max(parent.level()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_down_and_never_up_or_back() {
        let run = Cancel::default();
        let (one, other) = (run.child(), run.child());
        one.kill();
        assert!(one.requested() && one.killed());
        assert!(!run.requested() && !other.requested());
        run.request();
        assert!(other.requested() && !other.killed());
        one.request();
        assert!(one.killed(), "a weaker request takes nothing back");
    }
}
