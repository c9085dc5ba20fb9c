//! The plan as data: what `qpipe plan --json` prints and a run record keeps as `plan.json`.

use serde::Serialize;

use super::assess::NodeState;
use super::reason::MissReason;
use super::walk::{Plan, PlannedNode};
use crate::graph::Study;

/// Version of [`PlanDoc`]'s layout.
pub const PLAN_SCHEMA: u32 = 1;

/// A plan, serializable.
#[derive(Clone, Debug, Serialize)]
pub struct PlanDoc {
    pub schema: u32,
    pub study: String,
    pub cells: Vec<String>,
    pub nodes: Vec<PlanNodeDoc>,
}

/// One node of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct PlanNodeDoc {
    pub node: usize,
    pub label: String,
    pub stage: String,
    pub kind: String,
    /// Names of the cells that use it.
    pub cells: Vec<String>,
    /// The action key in hex, where it is known.
    pub key: Option<String>,
    #[serde(flatten)]
    pub state: PlanStateDoc,
}

/// A node's state.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum PlanStateDoc {
    /// `elapsed_ms`: how long it took when it ran.
    Hit { elapsed_ms: u64 },
    /// `why`: the reasons in words, with their places in the manifest.
    Miss { reasons: Vec<MissReason>, why: Vec<String> },
    /// Labels of the nodes that must run first.
    Pending { on: Vec<String> },
}

impl PlanDoc {
    pub fn new(study: &Study, plan: &Plan) -> Self {
        Self {
            schema: PLAN_SCHEMA,
            study: study.name.clone(),
            cells: study.cells.iter().map(|c| c.name.to_string()).collect(),
            nodes: plan.nodes.iter().map(|planned| node_doc(study, planned)).collect(),
        }
    }
}

fn node_doc(study: &Study, planned: &PlannedNode) -> PlanNodeDoc {
    let node = &study.nodes[planned.id.0];
    let state = match &planned.state {
        NodeState::Hit(record) => PlanStateDoc::Hit { elapsed_ms: record.elapsed_ms },
        NodeState::Miss { reasons, .. } => PlanStateDoc::Miss {
            why: reasons.iter().map(|r| r.explain(study, node)).collect(),
            reasons: reasons.clone(),
        },
        NodeState::Pending { on } => {
            PlanStateDoc::Pending { on: on.iter().map(|id| study.nodes[id.0].label.clone()).collect() }
        }
    };
    PlanNodeDoc {
        node: node.id.0,
        label: node.label.clone(),
        stage: node.stage.to_string(),
        kind: node.kind.to_string(),
        cells: node.cells.iter().map(|c| study.cells[c.0].name.to_string()).collect(),
        key: planned.state.key().map(|key| key.to_string()),
        state,
    }
}
