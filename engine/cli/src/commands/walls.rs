//! Where plugins are not walled in as they should be, a run of theirs says so once.

use qpipe_engine::worker::Machine;

use super::ahead::Ahead;
use crate::machine;
use crate::printer::Printer;

/// Tells what this kernel's walls lack, if something is to run behind one.
pub(super) fn tell(ahead: &Ahead<'_>, printer: &mut Printer) {
    if ahead.has_walled() {
        tell_of(&machine::machine(), printer);
    }
}

/// Tells what this machine's walls lack.
pub(super) fn tell_of(machine: &Machine, printer: &mut Printer) {
    if let Some(note) = machine.walls().note() {
        printer.human(&format!("note: {note}"));
    }
}
