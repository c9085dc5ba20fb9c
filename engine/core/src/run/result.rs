//! How a run ended, node by node.

use qpipe_cache::ActionRecord;
use qpipe_sdk::{ErrorClass, Metric};
use serde::{Deserialize, Serialize};

use super::metrics;
use crate::graph::NodeId;

/// How a node's result came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    Ran,
    Cached,
}

/// How the whole run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOutcome {
    /// Every node has a result.
    Done,
    /// At least one node failed.
    Failed,
    /// Stopped from outside, with whatever was finished kept.
    #[serde(alias = "cancelled")]
    Interrupted,
}

/// How one node ended.
#[derive(Clone, Debug)]
pub enum NodeResult {
    /// `elapsed_ms`: how long it ran; of a cached one, how long it ran then.
    Done {
        how: How,
        record: Box<ActionRecord>,
        elapsed_ms: u64,
    },
    Failed {
        class: ErrorClass,
        message: String,
        elapsed_ms: u64,
    },
    /// It depends on this failed node.
    Skipped {
        because: NodeId,
    },
    /// Not started or not finished, because the run stopped.
    Stopped,
    /// Not asked for, and not in the store.
    Unselected,
}

impl NodeResult {
    pub fn record(&self) -> Option<&ActionRecord> {
        match self {
            Self::Done { record, .. } => Some(record),
            _ => None,
        }
    }

    /// The node's metrics; `None` where it has no result.
    pub fn metrics(&self) -> Option<Vec<Metric>> {
        // `Done` is only made of records whose metrics were decoded once already.
        self.record().and_then(|record| metrics::decode(&record.metrics).ok())
    }
}

/// How many nodes ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub ran: usize,
    pub cached: usize,
    pub failed: usize,
    pub skipped: usize,
    pub stopped: usize,
    #[serde(default)]
    pub unselected: usize,
}

/// The result of a run: one entry per node of the study, in its order.
#[derive(Clone, Debug)]
pub struct RunResult {
    pub outcome: RunOutcome,
    pub nodes: Vec<NodeResult>,
    pub elapsed_ms: u64,
    /// How many nodes did not stop when they were asked to. Their threads still run and end with the process.
    pub abandoned: usize,
}

impl RunResult {
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for node in &self.nodes {
            *match node {
                NodeResult::Done { how: How::Ran, .. } => &mut counts.ran,
                NodeResult::Done { how: How::Cached, .. } => &mut counts.cached,
                NodeResult::Failed { .. } => &mut counts.failed,
                NodeResult::Skipped { .. } => &mut counts.skipped,
                NodeResult::Stopped => &mut counts.stopped,
                NodeResult::Unselected => &mut counts.unselected,
            } += 1;
        }
        counts
    }

    /// Time that cached results took when they ran: what the cache saved, in milliseconds.
    pub fn saved_ms(&self) -> u64 {
        let saved = |node: &NodeResult| match node {
            NodeResult::Done { how: How::Cached, elapsed_ms, .. } => *elapsed_ms,
            _ => 0,
        };
        self.nodes.iter().map(saved).sum()
    }

    /// The failed nodes with class and message.
    pub fn failures(&self) -> impl Iterator<Item = (NodeId, ErrorClass, &str)> {
        self.nodes.iter().enumerate().filter_map(|(id, node)| match node {
            NodeResult::Failed { class, message, .. } => Some((NodeId(id), *class, message.as_str())),
            _ => None,
        })
    }
}
