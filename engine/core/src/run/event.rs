//! What happens in a run, as data: `events.jsonl` and every reporter are made of these.

use qpipe_sdk::{ErrorClass, StageEvent, stage::unix_ms};
use serde::{Deserialize, Serialize};

use super::result::{Counts, How, RunOutcome};

/// Version of the event log's layout, stated in its first line. It is raised when a known event changes its meaning;
/// new kinds of events may come without that, so readers pass over what they do not know.
pub const EVENTS_SCHEMA: u32 = 1;

/// One event: one line of `events.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunEvent {
    /// Milliseconds since the Unix epoch.
    pub at_unix_ms: u64,
    #[serde(flatten)]
    pub kind: RunEventKind,
}

impl RunEvent {
    /// An event of this moment.
    pub fn now(kind: RunEventKind) -> Self {
        Self { at_unix_ms: unix_ms(), kind }
    }
}

/// What happened. `node` is the node's index in the study, `label` its readable name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum RunEventKind {
    /// Always first.
    RunStarted {
        schema: u32,
        study: String,
        cells: usize,
        nodes: usize,
    },
    /// A node starts running; `why` are the reasons in words.
    NodeStarted {
        node: usize,
        label: String,
        key: String,
        why: Vec<String>,
    },
    /// A running stage says something.
    Stage {
        node: usize,
        label: String,
        stage: StageEvent,
    },
    /// A node's result is there. `elapsed_ms`: how long it ran, now or when it did.
    NodeDone {
        node: usize,
        label: String,
        key: String,
        how: How,
        elapsed_ms: u64,
    },
    /// It failed for a passing reason and is tried again after a pause. `attempt`: how many tries there were besides
    /// the first, with the coming one.
    NodeRetried {
        node: usize,
        label: String,
        class: ErrorClass,
        message: String,
        attempt: u32,
        wait_ms: u64,
    },
    NodeFailed {
        node: usize,
        label: String,
        class: ErrorClass,
        message: String,
        elapsed_ms: u64,
    },
    /// `because`: label of the failed node it depends on.
    NodeSkipped {
        node: usize,
        label: String,
        because: String,
    },
    /// Not started, or stopped on request, because the run stopped.
    NodeStopped {
        node: usize,
        label: String,
    },
    /// Something that should be seen but fails nothing.
    Warning {
        message: String,
    },
    /// Always last, unless the process was killed.
    RunFinished {
        outcome: RunOutcome,
        counts: Counts,
        elapsed_ms: u64,
    },
}

/// Who watches a run. Called on one thread, in order; cannot fail and cannot reach back.
pub trait RunObserver {
    fn event(&mut self, event: &RunEvent);

    /// Time passes while nodes run; a few times a second.
    fn tick(&mut self, _now_unix_ms: u64) {}
}

/// Nobody watches.
impl RunObserver for () {
    fn event(&mut self, _event: &RunEvent) {}
}

/// For tests and tools: keeps everything.
impl RunObserver for Vec<RunEvent> {
    fn event(&mut self, event: &RunEvent) {
        self.push(event.clone());
    }
}

/// Several watch, in order.
impl RunObserver for Vec<Box<dyn RunObserver + '_>> {
    fn event(&mut self, event: &RunEvent) {
        for observer in self {
            observer.event(event);
        }
    }

    fn tick(&mut self, now_unix_ms: u64) {
        for observer in self {
            observer.tick(now_unix_ms);
        }
    }
}
