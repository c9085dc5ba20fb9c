//! What stages are asked again: their sources, and what their results depend on.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use qpipe_cache::{Digest, Store};
use qpipe_sdk::{Params, StageError, StageRegistry};
use serde::{Deserialize, Serialize};

use crate::graph::Study;
use crate::plan::{NodeState, Plan, source_digest};

/// A stage's answers under some parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Probe {
    kind: String,
    params: Params,
    sources: BTreeMap<String, Digest>,
    numerics: Option<String>,
}

impl Probe {
    /// Those of a plan of hits: of every stage type of which any node has sources or depends on the machine, all.
    pub(super) fn all(study: &Study, plan: &Plan) -> Vec<Self> {
        let (mut seen, mut probes) = (HashSet::new(), Vec::new());
        let asks = |(node, planned): (&crate::graph::Node, &crate::plan::PlannedNode)| {
            let NodeState::Hit(record) = &planned.state else { return None };
            let outside = !planned.sources.is_empty() || record.doc.numerics.is_some();
            outside.then(|| node.kind.to_string())
        };
        let kinds: HashSet<String> = study.nodes.iter().zip(&plan.nodes).filter_map(asks).collect();
        for (node, planned) in study.nodes.iter().zip(&plan.nodes) {
            let NodeState::Hit(record) = &planned.state else { continue };
            if kinds.contains(&*node.kind) && seen.insert((node.kind.clone(), Arc::as_ptr(&node.params))) {
                probes.push(Self {
                    kind: node.kind.to_string(),
                    params: Params::clone(&node.params),
                    sources: planned.sources.clone(),
                    numerics: record.doc.numerics.clone(),
                });
            }
        }
        probes
    }

    /// Whether the stage answers the same again.
    pub(super) fn holds(&self, store: &Store, registry: &StageRegistry) -> bool {
        let Some(stage) = registry.get(&self.kind) else { return false };
        let digests = || -> Result<BTreeMap<String, Digest>, StageError> {
            let sources = stage.sources(&self.params)?;
            sources
                .into_iter()
                .map(|source| Ok((source.name.clone(), source_digest(store, &source)?)))
                .collect()
        };
        stage.numerics(&self.params) == self.numerics && digests().is_ok_and(|now| now == self.sources)
    }
}
