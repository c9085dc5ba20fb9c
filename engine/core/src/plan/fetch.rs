//! Downloads, before a run is planned: a key holds the content of what a stage reads, so it must be here first.

use qpipe_sdk::{Cancel, EventSink, StageError, StageEvent, StageRegistry};

use super::error::{NodeError, PlanError};
use crate::graph::Study;

/// Has every node bring its sources to this machine, one after the other; the first that fails ends it. `tell` hears
/// the events, with the label of the node.
pub fn fetch(
    study: &Study,
    registry: &StageRegistry,
    tell: &(dyn Fn(&str, StageEvent) + Sync),
    cancel: &Cancel,
) -> Result<(), PlanError> {
    for node in &study.nodes {
        let unknown = || StageError::Config(format!("no stage type is called `{}`", node.kind));
        let stage = registry.get(&node.kind).ok_or_else(unknown);
        let events = Labelled { label: &node.label, tell };
        if let Err(error) = stage.and_then(|stage| stage.fetch(&node.params, &events, cancel)) {
            return Err(PlanError { errors: vec![NodeError::new(study, node, None, error)] });
        }
    }
    Ok(())
}

struct Labelled<'a> {
    label: &'a str,
    tell: &'a (dyn Fn(&str, StageEvent) + Sync),
}

impl EventSink for Labelled<'_> {
    fn emit(&self, event: StageEvent) {
        (self.tell)(self.label, event);
    }
}
