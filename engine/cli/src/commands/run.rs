//! `qpipe run`: load, plan, run, record, tell.

use std::io::Write;
use std::path::Path;

use qpipe_cache::Store;
use qpipe_engine::graph::Study;
use qpipe_engine::plan::{self, Plan, PlanOptions};
use qpipe_engine::record::Recorder;
use qpipe_engine::report::{self, HumanReporter, StudyTable};
use qpipe_engine::run::{self, RunEvent, RunEventKind, RunObserver, RunOptions, RunOutcome, RunResult};
use qpipe_sdk::{Cancel, StageRegistry};

use super::plan::force;
use super::study;
use crate::args::{Format, RunArgs};
use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

/// The usual number of SIGINT.
const INTERRUPT: u8 = 2;

pub(super) fn run(
    registry: &StageRegistry,
    store: &Path,
    args: &RunArgs,
    printer: &mut Printer,
    cancel: &Cancel,
) -> Result<Exit, CliError> {
    let study = study::load(registry, &args.study)?;
    let store = Store::open(store)?;
    let plan = plan::plan(&study, registry, &store, &PlanOptions { force: force(args.force) })?;
    let mut recorder = record(&store, &study, &plan, printer);
    let options = RunOptions {
        failure: args.failure.map(Into::into).or(study.failure).unwrap_or_default(),
        jobs: args.jobs,
        cancel: cancel.clone(),
        ..RunOptions::default()
    };
    let result = {
        let mut watching = observers(args.format, printer, recorder.as_mut());
        run::run(&study, &plan, registry, &store, &options, &mut watching)
    };
    let table = StudyTable::new(&study, &result);
    if args.format == Format::Human {
        printer.data_block(&report::terminal(&table, printer.width));
    }
    tell(&result, printer);
    if let Some(recorder) = recorder {
        finish_record(recorder, &study, &plan, &result, &table, printer);
    }
    Ok(exit(&result))
}

/// The record, if it can be had: a run is worth more than its record.
fn record(store: &Store, study: &Study, plan: &Plan, printer: &mut Printer) -> Option<Recorder> {
    let made = Recorder::create(&store.runs_dir(), study, plan);
    made.map_err(|error| printer.human(&format!("warning: this run leaves no record: {error}"))).ok()
}

fn observers<'a>(
    format: Format,
    printer: &'a mut Printer,
    recorder: Option<&'a mut Recorder>,
) -> Vec<Box<dyn RunObserver + 'a>> {
    let mut watching: Vec<Box<dyn RunObserver + 'a>> = Vec::new();
    if let Some(recorder) = recorder {
        watching.push(Box::new(Recording(recorder)));
    }
    match format {
        Format::Human => {
            let style = printer.style;
            watching.push(Box::new(HumanReporter::new(printer.progress(), style)));
        }
        Format::Jsonl => watching.push(Box::new(JsonLines(printer.data_writer()))),
    }
    watching
}

/// Lends the recorder to a run.
struct Recording<'a>(&'a mut Recorder);

impl RunObserver for Recording<'_> {
    fn event(&mut self, event: &RunEvent) {
        self.0.event(event);
    }
}

/// Events on stdout, one JSON object a line.
struct JsonLines<'a>(&'a mut dyn Write);

impl RunObserver for JsonLines<'_> {
    fn event(&mut self, event: &RunEvent) {
        if let Ok(line) = serde_json::to_string(event) {
            let _ = writeln!(self.0, "{line}");
        }
        if matches!(event.kind, RunEventKind::RunFinished { .. }) {
            let _ = self.0.flush();
        }
    }
}

/// The closing lines.
fn tell(result: &RunResult, printer: &mut Printer) {
    let counts = result.counts();
    let mut parts = vec![
        format!("ran {}", counts.ran),
        format!("cached {}", counts.cached),
        format!("failed {}", counts.failed),
    ];
    let rest = [("skipped", counts.skipped), ("stopped", counts.stopped)];
    parts.extend(rest.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{what} {n}")));
    parts.push(report::duration(result.elapsed_ms));
    printer.human(&parts.join(" · "));
    if counts.cached > 0 {
        printer.human(&format!("saved   {}", report::duration(result.saved_ms())));
    }
    if result.outcome != RunOutcome::Done {
        printer.human("hint: the same command continues; finished work is kept");
    }
}

fn finish_record(
    recorder: Recorder,
    study: &Study,
    plan: &Plan,
    result: &RunResult,
    table: &StudyTable,
    printer: &mut Printer,
) {
    let (dir, faults) = recorder.finish(study, plan, result, table);
    for fault in faults {
        printer.human(&format!("warning: the record is not complete: {fault}"));
    }
    printer.human(&format!("record  {}", dir.display()));
    printer.human(&format!("tables  {} (.csv, .json)", dir.join("table.md").display()));
}

fn exit(result: &RunResult) -> Exit {
    match result.outcome {
        RunOutcome::Done => Exit::Ok,
        RunOutcome::Interrupted => Exit::Signal(INTERRUPT),
        RunOutcome::Failed => {
            let classes: Vec<_> = result.failures().map(|(_, class, _)| class).collect();
            Exit::of_failures(&classes)
        }
    }
}
