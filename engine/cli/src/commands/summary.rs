//! The last lines of a run: what happened, what the store saved, how to go on.

use qpipe_engine::report;
use qpipe_engine::run::{Counts, RunOutcome, RunResult};

use crate::printer::Printer;

/// Tells how a run ended. `line`: the command that continues it.
pub(super) fn tell(result: &RunResult, line: &str, printer: &mut Printer) {
    tell_counts(&result.counts(), result.elapsed_ms, result.saved_ms(), printer);
    if result.outcome != RunOutcome::Done {
        printer.human(&format!("hint: the same command continues, finished work is kept: `{line}`"));
    }
}

pub(super) fn tell_counts(counts: &Counts, elapsed_ms: u64, saved_ms: u64, printer: &mut Printer) {
    let always = [("ran", counts.ran), ("cached", counts.cached), ("failed", counts.failed)];
    let some =
        [("skipped", counts.skipped), ("stopped", counts.stopped), ("not selected", counts.unselected)];
    let told = always.into_iter().chain(some.into_iter().filter(|(_, count)| *count > 0));
    let mut parts: Vec<String> = told.map(|(what, count)| format!("{what} {count}")).collect();
    parts.push(report::duration(elapsed_ms));
    printer.human(&parts.join(" · "));
    if counts.cached > 0 {
        printer.human(&format!("saved   {}", report::duration(saved_ms)));
    }
}
