//! Where `auto` is the CPU and a GPU could be expected, a run says so once.

use qpipe_engine::graph::{Node, Study};
use qpipe_engine::plan::{NodeState, Plan};
use qpipe_engine::run::{self, RunOptions};
use qpipe_sdk::{GpuNeed, Stage, StageRegistry};
use qpipe_stages::{cuda, machine};

use crate::args::Gpus;
use crate::printer::Printer;

/// Tells why there is no GPU, if something is to run that would take one.
pub(super) fn tell(
    (study, plan): (&Study, &Plan),
    registry: &StageRegistry,
    options: &RunOptions,
    gpus: &Gpus,
    printer: &mut Printer,
) {
    if *gpus != Gpus::All || !takes_any_gpu(study, plan, registry, options) {
        return;
    }
    let has_gpus = machine::has_nvidia_gpus();
    if let Err(why) = cuda::count()
        && why.is_notable(has_gpus)
    {
        let although = if has_gpus { " although the machine has NVIDIA GPUs" } else { "" };
        printer.human(&format!("note: `device auto` is the CPU{although}: {why}"));
    }
}

/// Whether something is to run that would take any GPU.
fn takes_any_gpu(study: &Study, plan: &Plan, registry: &StageRegistry, options: &RunOptions) -> bool {
    any_runs((study, plan), registry, options, |stage, node| {
        // how much memory it needs is another question, so its inputs need not be weighed
        stage.resources(&node.params, 0).gpu == GpuNeed::Any
    })
}

/// Whether something is to run of which this is so.
pub(super) fn any_runs(
    (study, plan): (&Study, &Plan),
    registry: &StageRegistry,
    options: &RunOptions,
    is_so: impl Fn(&dyn Stage, &Node) -> bool,
) -> bool {
    let needed = run::needed(study, plan, options.goals.as_ref());
    let runs = |id: usize| needed[id] && !matches!(plan.nodes[id].state, NodeState::Hit(_));
    let mut nodes = study.nodes.iter().filter(|node| runs(node.id.0));
    nodes.any(|node| registry.get(&node.kind).is_some_and(|stage| is_so(stage, node)))
}
