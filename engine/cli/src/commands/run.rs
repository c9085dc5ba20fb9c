//! `qpipe run`: load, plan, run, record, tell.

use std::io::Write;
use std::path::Path;

use qpipe_cache::Store;
use qpipe_engine::graph::Study;
use qpipe_engine::limits::Gpus;
use qpipe_engine::plan::{self, NodeState, Plan, PlanOptions};
use qpipe_engine::record::{self, Recorded, Recorder};
use qpipe_engine::report::{self, HumanReporter, Overview, StudyTable};
use qpipe_engine::run::{self, RunEvent, RunEventKind, RunObserver, RunOptions, RunOutcome, RunResult};
use qpipe_engine::ticket::{Cached, Watched};
use qpipe_engine::worker::isolate;
use qpipe_sdk::{Cancel, StageRegistry};

use super::ahead::Ahead;
use super::cached::{self, Tickets};
use super::study::{self, Loaded, Text};
use super::{fallback, fetch, summary, walls, workers};
use crate::args::{Args, Format, RunArgs};
use crate::error::CliError;
use crate::exit::Exit;
use crate::machine;
use crate::printer::Printer;

/// The usual number of SIGINT.
const INTERRUPT: u8 = 2;

pub(super) fn run(
    registry: &StageRegistry,
    all: &Args,
    args: &RunArgs,
    printer: &mut Printer,
    cancel: &dyn Fn() -> Cancel,
) -> Result<Exit, CliError> {
    let text = Text::read(&args.study)?;
    let (watched, tickets) = (Watched::default(), Tickets::new(args, &text));
    // where there is none, there is no ticket, and a wrong manifest makes none
    let store = study::store(&all.store);
    if let (Some(store), Some(tickets)) = (&store, &tickets)
        && let Some(run) = tickets.run_cached(store, registry)
    {
        return cached::tell(run, args.format, printer);
    }
    let cancel = cancel();
    let Loaded { study, registry: loaded } = text.load(registry, &args.study, &watched, store.as_ref())?;
    // plugins are programs, which no ticket knows
    let tickets = tickets.filter(|_| loaded.kinds().count() == registry.kinds().count());
    check_isolated(&loaded, &args.isolate)?;
    let workers = workers::workers()?;
    let alone: Vec<&str> = args.isolate.iter().map(String::as_str).collect();
    let registry = isolate(&loaded, &alone, &workers);
    let (options, force) = (options(&study, args, &cancel)?, args.asked.forced(&study)?);
    fetch::fetch(&study, &registry, printer, &cancel)?;
    let store = store.map_or_else(|| Store::open(&all.store), Ok)?;
    let plan = plan::plan(&study, &registry, &store, &PlanOptions { force })?;
    let options = RunOptions { free_gpu: workers::free_gpu(&workers), ..with_machine(options, &plan, args) };
    if let Some(goals) = &options.goals {
        goals.check(&study, &plan)?;
    }
    let ahead = Ahead::of(&study, &plan, &loaded, &options);
    fallback::tell(&ahead, &options, printer);
    walls::tell(&ahead, printer);
    workers::warm(&workers, &ahead.own_needs(), &options);
    let mut recorder = open_record(&store, &study, &plan, printer);
    let result = {
        let mut watching = observers(args.format, printer, recorder.as_mut());
        run::run(&study, &plan, &registry, &store, &options, &mut watching)
    };
    let table = StudyTable::new(&study, &result);
    let overview = Overview::new(&table);
    if args.format == Format::Human {
        // a table that is kept nowhere is shown whole
        let text = match &recorder {
            Some(_) => overview.text(printer.width),
            None => report::terminal(&table, printer.width),
        };
        printer.data_block(&text);
    }
    summary::tell(&result, &all.line, printer);
    if let Some(mut recorder) = recorder {
        recorder.keep_samples(record::samples(&study, &result, &store));
        let recorded = finish_record(recorder, &study, &plan, &result, &table, printer);
        if let Some(tickets) = &tickets {
            let (study, plan, recorded, overview) = (&study, &plan, &recorded, &overview);
            tickets.keep(&store, &watched, &registry, Cached { study, plan, recorded, overview });
        }
    }
    let exit = exit(&result);
    // the program ends here: to give back a hundred thousand nodes one by one would only take time
    std::mem::forget((study, plan, result, table));
    Ok(exit)
}

/// Stage types that are to run alone must exist.
fn check_isolated(registry: &StageRegistry, kinds: &[String]) -> Result<(), CliError> {
    let Some(kind) = kinds.iter().find(|kind| registry.get(kind).is_none()) else { return Ok(()) };
    let help = qpipe_engine::manifest::nearest(kind, registry.kinds());
    let help = help.map(|near| format!("did you mean `{near}`?"));
    Err(CliError::UnknownStageType { name: kind.clone(), help })
}

/// How to run, as far as that is known before the study is planned.
fn options(study: &Study, args: &RunArgs, cancel: &Cancel) -> Result<RunOptions, CliError> {
    let limits = args.limits(&study.limits);
    run::check_stage_names(study, args.timeout.iter().filter_map(|(stage, _)| stage.as_ref()))?;
    Ok(RunOptions {
        failure: args.failure.map(Into::into).or(study.failure).unwrap_or_default(),
        jobs: args.slots.jobs,
        limits,
        grace: args.grace,
        goals: args.asked.goals(study)?,
        cancel: cancel.clone(),
        ..RunOptions::default()
    })
}

/// The machine is asked only if something will run: to ask for GPUs takes longer than to plan.
fn with_machine(options: RunOptions, plan: &Plan, args: &RunArgs) -> RunOptions {
    if plan.nodes.iter().all(|node| matches!(node.state, NodeState::Hit(_))) {
        return options;
    }
    let memory = args.slots.memory.or_else(machine::memory);
    let gpus = options.limits.gpus.as_ref();
    let gpus_are_named = matches!(gpus, Some(Gpus::These(_)));
    RunOptions { gpus: machine::gpus(gpus), gpus_are_named, memory, ..options }
}

/// The record, if it can be had: a run is worth more than its record.
fn open_record(store: &Store, study: &Study, plan: &Plan, printer: &mut Printer) -> Option<Recorder> {
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

fn finish_record(
    recorder: Recorder,
    study: &Study,
    plan: &Plan,
    result: &RunResult,
    table: &StudyTable,
    printer: &mut Printer,
) -> Recorded {
    let recorded = recorder.finish(study, plan, result, table);
    for fault in &recorded.faults {
        printer.human(&format!("warning: the record is not complete: {fault}"));
    }
    tell_record(&recorded.dir, printer);
    recorded
}

/// Where the record is, as short as the user can use it from where they stand.
pub(super) fn tell_record(dir: &Path, printer: &mut Printer) {
    let here = std::env::current_dir().ok();
    let dir = here.and_then(|here| dir.strip_prefix(here).ok()).unwrap_or(dir);
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
