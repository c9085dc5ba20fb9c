//! Where plugins are not walled in as they should be, a run of theirs says so once.

use qpipe_engine::graph::Study;
use qpipe_engine::plan::Plan;
use qpipe_engine::run::RunOptions;
use qpipe_engine::worker::Machine;
use qpipe_sdk::StageRegistry;

use super::fallback::any_runs;
use crate::printer::Printer;

/// Tells what this kernel's walls lack, if something is to run behind one.
pub(super) fn tell(
    study: (&Study, &Plan),
    registry: &StageRegistry,
    options: &RunOptions,
    printer: &mut Printer,
) {
    let machine = crate::machine::machine();
    if machine.walls().note().is_some() && any_runs(study, registry, options, |stage, _| stage.is_walled()) {
        tell_of(&machine, printer);
    }
}

/// Tells what this machine's walls lack.
pub(super) fn tell_of(machine: &Machine, printer: &mut Printer) {
    if let Some(note) = machine.walls().note() {
        printer.human(&format!("note: {note}"));
    }
}
