//! The planner: layer by layer of the graph, so that the store is asked about many nodes at once.

use std::collections::{BTreeMap, BTreeSet};

use qpipe_cache::{ActionKey, Answer, Digest, Found, KeyDoc, Store};
use qpipe_sdk::StageRegistry;
use rayon::prelude::*;

use super::assess::{Assessor, Force, NodeState};
use super::error::{NodeError, PlanError};
use crate::graph::{NodeId, Study};

/// How to plan.
#[derive(Clone, Debug, Default)]
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
    /// Of a hit: its record.
    pub(crate) found: Option<Found>,
}

/// Plans every node. Nothing runs; files that stages read are linked and hashed, so a missing one is an error
/// here. All such errors are returned together.
pub fn plan(
    study: &Study,
    registry: &StageRegistry,
    store: &Store,
    options: &PlanOptions,
) -> Result<Plan, PlanError> {
    let assessor = Assessor { study, registry, store, force: &options.force };
    let mut planned: Vec<Option<PlannedNode>> = vec![None; study.nodes.len()];
    let mut errors = Vec::new();
    for layer in layers(study) {
        let prepared: Vec<_> = layer.par_iter().map(|id| prepare(&assessor, *id, &planned)).collect();
        let (ready, failed): (Vec<_>, Vec<_>) = prepared.into_iter().partition(Result::is_ok);
        errors.extend(failed.into_iter().filter_map(Result::err));
        for node in look_up(&assessor, ready.into_iter().filter_map(Result::ok).collect()) {
            let at = node.id.0;
            planned[at] = Some(node);
        }
    }
    if errors.is_empty() {
        Ok(Plan { nodes: planned.into_iter().flatten().collect(), options: options.clone() })
    } else {
        errors.sort_by_key(|(id, _)| *id);
        Err(PlanError { errors: errors.into_iter().map(|(_, error)| *error).collect() })
    }
}

/// The nodes by how many others stand before them: what the planner may ask of the store at once.
fn layers(study: &Study) -> Vec<Vec<NodeId>> {
    let mut layers: Vec<Vec<NodeId>> = Vec::new();
    let mut depths: Vec<usize> = Vec::with_capacity(study.nodes.len());
    for node in &study.nodes {
        let depth = node.inputs.iter().map(|(_, id)| depths[id.0] + 1).max().unwrap_or(0);
        depths.push(depth);
        if layers.len() == depth {
            layers.push(Vec::new());
        }
        layers[depth].push(node.id);
    }
    layers
}

/// A node before the store is asked about it.
struct Prepared {
    id: NodeId,
    sources: BTreeMap<String, Digest>,
    /// Its key document, or the nodes that must run before it is known.
    key: Result<(KeyDoc, ActionKey), Vec<NodeId>>,
}

fn prepare(
    assessor: &Assessor<'_>,
    id: NodeId,
    before: &[Option<PlannedNode>],
) -> Result<Prepared, (NodeId, Box<NodeError>)> {
    let node = assessor.node(id);
    let sources = assessor.sources(node).map_err(|error| (id, error))?;
    let (mut inputs, mut on) = (BTreeMap::new(), BTreeSet::new());
    for (port, from) in node.inputs.iter() {
        match before[from.0].as_ref().map(|planned| &planned.state) {
            Some(NodeState::Hit(record)) => {
                inputs.insert(port.to_owned(), assessor.input_digest(node, port, record));
            }
            // a node without a state has an error of its own, which is told in place of the plan
            Some(NodeState::Miss { .. } | NodeState::Pending { .. }) | None => {
                on.insert(from);
            }
        }
    }
    if !on.is_empty() {
        return Ok(Prepared { id, sources, key: Err(on.into_iter().collect()) });
    }
    let doc = assessor.key_doc(node, &sources, &inputs);
    let doc = doc.map_err(|error| (id, Box::new(NodeError::new(assessor.study, node, None, error))))?;
    let key = doc.key();
    Ok(Prepared { id, sources, key: Ok((doc, key)) })
}

/// Asks the store about a whole layer at once.
fn look_up(assessor: &Assessor<'_>, layer: Vec<Prepared>) -> Vec<PlannedNode> {
    let asked = |prepared: &&Prepared| !assessor.force.applies(prepared.id);
    let key = |prepared: &Prepared| prepared.key.as_ref().ok().map(|(_, key)| *key);
    let keys: Vec<ActionKey> = layer.iter().filter(asked).filter_map(key).collect();
    let mut answers = assessor.store.lookup_many(&keys).into_iter();
    let node = |Prepared { id, sources, key }| {
        let mut found = None;
        let state = match key {
            Err(on) => NodeState::Pending { on },
            Ok((doc, _)) => {
                let answer = if assessor.force.applies(id) { None } else { answers.next() };
                if let Some(Answer::Hit(hit)) = &answer {
                    found = Some(hit.clone());
                }
                assessor.state(assessor.node(id), doc, answer)
            }
        };
        PlannedNode { id, sources, state, found }
    };
    layer.into_iter().map(node).collect()
}
