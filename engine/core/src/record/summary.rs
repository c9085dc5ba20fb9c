//! What `run.json` and `started.json` hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qpipe_sdk::ErrorClass;
use serde::{Deserialize, Serialize};

use super::environment::Environment;
use super::id::RunId;
use crate::graph::Study;
use crate::run::{Counts, How, NodeResult, RunOutcome};

/// Version of the layout of `run.json` and `started.json`.
pub const RUN_SCHEMA: u32 = 1;

/// `started.json`: what is known before anything ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    pub schema: u32,
    pub run: RunId,
    pub study: String,
    pub manifest: PathBuf,
    /// RFC 3339, UTC.
    pub started: String,
    pub pid: u32,
}

/// `run.json`: the whole run, frozen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunSummary {
    pub schema: u32,
    pub run: RunId,
    pub study: String,
    pub manifest: PathBuf,
    /// Digest of the manifest and all it includes, in hex; absent from records of version 0.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sources_digest: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub includes: Vec<IncludeSummary>,
    /// `--set` overrides, as given.
    pub overrides: Vec<(String, String)>,
    /// RFC 3339, UTC.
    pub started: String,
    pub elapsed_ms: u64,
    pub outcome: RunOutcome,
    pub counts: Counts,
    /// What cached results took when they ran.
    pub saved_ms: u64,
    pub cells: Vec<CellSummary>,
    pub nodes: Vec<NodeSummary>,
    pub environment: Environment,
}

/// One text that the manifest includes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncludeSummary {
    pub path: PathBuf,
    /// Its copy in the record.
    pub file: String,
}

/// The name of the copy of an included text: `include-1-base.kdl`.
pub(super) fn include_name(index: usize, path: &Path) -> String {
    let name = path.file_name().map_or_else(|| "text".into(), |name| name.to_string_lossy());
    format!("include-{}-{name}", index + 1)
}

/// One cell of `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CellSummary {
    pub cell: String,
    pub group: String,
    pub baseline: Option<String>,
    /// `STAGE.PARAM…` → value, as texts.
    pub overrides: BTreeMap<String, String>,
    /// Stage → index in [`RunSummary::nodes`].
    pub nodes: BTreeMap<String, usize>,
}

/// One node of `run.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeSummary {
    pub label: String,
    pub stage: String,
    pub kind: String,
    /// The action key in hex; absent where it never became known.
    pub key: Option<String>,
    #[serde(flatten)]
    pub status: NodeStatus,
}

/// How a node ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum NodeStatus {
    Ran {
        elapsed_ms: u64,
    },
    /// `elapsed_ms`: how long it took when it ran.
    Cached {
        elapsed_ms: u64,
    },
    Failed {
        class: ErrorClass,
        error: String,
        elapsed_ms: u64,
    },
    /// `because`: label of the failed node it depends on.
    Skipped {
        because: String,
    },
    Stopped,
    /// Not asked for, and not in the store.
    Unselected,
}

pub(super) fn status(study: &Study, ended: &NodeResult) -> NodeStatus {
    match ended {
        NodeResult::Done { how: How::Ran, elapsed_ms, .. } => NodeStatus::Ran { elapsed_ms: *elapsed_ms },
        NodeResult::Done { how: How::Cached, elapsed_ms, .. } => {
            NodeStatus::Cached { elapsed_ms: *elapsed_ms }
        }
        NodeResult::Failed { class, message, elapsed_ms } => {
            NodeStatus::Failed { class: *class, error: message.clone(), elapsed_ms: *elapsed_ms }
        }
        NodeResult::Skipped { because } => {
            NodeStatus::Skipped { because: study.nodes[because.0].label.clone() }
        }
        NodeResult::Stopped => NodeStatus::Stopped,
        NodeResult::Unselected => NodeStatus::Unselected,
    }
}
