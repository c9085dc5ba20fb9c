//! What a run has before it.

use qpipe_engine::graph::{Node, Study};
use qpipe_engine::plan::{NodeState, Plan};
use qpipe_engine::run::{self, RunOptions};
use qpipe_sdk::{GpuNeed, Stage, StageRegistry};

/// The nodes that are to run, with their stages. Those that wait for others may still turn out to be done.
pub(super) struct Ahead<'a>(Vec<(&'a Node, &'a dyn Stage)>);

impl<'a> Ahead<'a> {
    pub(super) fn of(
        study: &'a Study,
        plan: &Plan,
        registry: &'a StageRegistry,
        options: &RunOptions,
    ) -> Self {
        let needed = run::needed(study, plan, options.goals.as_ref());
        let runs =
            |node: &&Node| needed[node.id.0] && !matches!(plan.nodes[node.id.0].state, NodeState::Hit(_));
        let nodes = study.nodes.iter().filter(runs);
        Self(nodes.filter_map(|node| Some((node, registry.get(&node.kind)?))).collect())
    }

    /// Whether a program of others runs, behind a wall.
    pub(super) fn has_walled(&self) -> bool {
        self.0.iter().any(|(_, stage)| stage.is_walled())
    }

    /// Whether a node takes any GPU.
    pub(super) fn takes_any_gpu(&self) -> bool {
        self.0.iter().any(|(node, stage)| need(node, *stage) == GpuNeed::Any)
    }

    /// Which GPUs the program's own stages ask for; a plugin is its own worker.
    pub(super) fn own_needs(&self) -> Vec<GpuNeed> {
        // a plugin would be started to be asked
        let own = self.0.iter().filter(|(_, stage)| !stage.is_external());
        own.map(|(node, stage)| need(node, *stage)).collect()
    }
}

/// How much memory a node needs is another question, so its inputs need not be weighed.
fn need(node: &Node, stage: &dyn Stage) -> GpuNeed {
    stage.resources(&node.params, 0).gpu
}
