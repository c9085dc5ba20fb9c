//! The planner: every node in topological order.

use std::collections::{BTreeMap, BTreeSet};

use qpipe_cache::{Digest, Store};
use qpipe_sdk::StageRegistry;

use super::OUTPUT;
use super::assess::{Assessor, Force, NodeState};
use super::error::{NodeError, PlanError};
use crate::graph::{Node, NodeId, Study};

/// How to plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanOptions {
    pub force: Force,
}

/// A planned study: one entry per node of [`Study::nodes`], in the same order.
#[derive(Clone, Debug)]
pub struct Plan {
    pub nodes: Vec<PlannedNode>,
    pub options: PlanOptions,
}

/// A node with what is known of it.
#[derive(Clone, Debug)]
pub struct PlannedNode {
    pub id: NodeId,
    /// Digests of what the node reads from outside the study, by source name.
    pub sources: BTreeMap<String, Digest>,
    pub state: NodeState,
}

/// Plans every node. Nothing runs; files that stages read are linked and hashed, so a missing one is an error
/// here. All such errors are returned together.
pub fn plan(
    study: &Study,
    registry: &StageRegistry,
    store: &Store,
    options: &PlanOptions,
) -> Result<Plan, PlanError> {
    let assessor = Assessor { study, registry, store, force: options.force };
    let (mut nodes, mut errors) = (Vec::with_capacity(study.nodes.len()), Vec::new());
    for node in &study.nodes {
        let planned = planned(&assessor, node, &nodes).unwrap_or_else(|error| {
            errors.push(error);
            PlannedNode {
                id: node.id,
                sources: BTreeMap::new(),
                state: NodeState::Pending { on: Vec::new() },
            }
        });
        nodes.push(planned);
    }
    if errors.is_empty() { Ok(Plan { nodes, options: *options }) } else { Err(PlanError { errors }) }
}

fn planned(assessor: &Assessor<'_>, node: &Node, before: &[PlannedNode]) -> Result<PlannedNode, NodeError> {
    let sources = assessor.sources(node)?;
    let (mut inputs, mut on) = (BTreeMap::new(), BTreeSet::new());
    for (port, id) in node.inputs.iter() {
        match &before[id.0].state {
            NodeState::Hit(record) => {
                inputs.insert(port.to_owned(), record.outputs[OUTPUT].digest);
            }
            NodeState::Miss { .. } | NodeState::Pending { .. } => {
                on.insert(id);
            }
        }
    }
    let state = if on.is_empty() {
        let assessed = assessor.assess(node, &sources, &inputs);
        assessed.map_err(|error| NodeError::new(assessor.study, node, None, error))?
    } else {
        NodeState::Pending { on: on.into_iter().collect() }
    };
    Ok(PlannedNode { id: node.id, sources, state })
}
