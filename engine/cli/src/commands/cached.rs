//! `qpipe run` of a study whose every result is cached, by its ticket.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use qpipe_cache::Store;
use qpipe_engine::record::RecordError;
use qpipe_engine::report::HumanReporter;
use qpipe_engine::run::{Counts, EVENTS_SCHEMA, RunEvent, RunEventKind, RunObserver, RunOutcome};
use qpipe_engine::ticket::{self, Ask, Cached, CachedRun, Watched};
use qpipe_sdk::StageRegistry;

use super::run::tell_record;
use super::study::Text;
use super::summary;
use crate::args::{Format, RunArgs};
use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

/// The tickets of one command line.
pub(super) struct Tickets<'a> {
    args: &'a RunArgs,
    text: &'a Text,
    here: &'a Path,
    tool: String,
}

impl<'a> Tickets<'a> {
    /// `None` where a ticket does not say enough: a part of the study is asked for, something is to run in any case, stages
    /// run elsewhere, or names must be checked against the study.
    pub(super) fn new(args: &'a RunArgs, text: &'a Text) -> Option<Self> {
        let names_stages = args.timeout.iter().any(|(stage, _)| stage.is_some());
        let whole = args.asked.is_usual();
        (whole && args.isolate.is_empty() && !names_stages).then_some(())?;
        Some(Self { args, text, here: text.here.as_deref()?, tool: tool()? })
    }

    pub(super) fn run_cached(&self, store: &Store, registry: &StageRegistry) -> Option<CachedRun> {
        self.text.with_options(&self.args.study, &Watched::default(), |options| {
            ticket::run_cached(store, &self.ask(), options, registry)
        })
    }

    pub(super) fn keep(
        &self,
        store: &Store,
        watched: &Watched,
        registry: &StageRegistry,
        cached: Cached<'_>,
    ) {
        ticket::keep(store, &self.ask(), watched, registry, cached);
    }

    fn ask(&self) -> Ask<'_> {
        Ask {
            tool: &self.tool,
            folder: self.here,
            manifest: &self.args.study.manifest,
            text: &self.text.text,
            sets: &self.args.study.sets,
        }
    }
}

/// The program's file: what another build says may differ.
fn tool() -> Option<String> {
    let meta = fs::metadata(std::env::current_exe().ok()?).ok()?;
    let numbers = [
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime() as u64,
        meta.mtime_nsec() as u64,
        meta.ctime() as u64,
    ];
    Some(format!("{} {numbers:?}", env!("CARGO_PKG_VERSION")))
}

/// Tells of the run what any other would tell.
pub(super) fn tell(run: CachedRun, format: Format, printer: &mut Printer) -> Result<Exit, CliError> {
    let counts = Counts { cached: run.nodes, ..Counts::default() };
    match format {
        Format::Human => {
            tell_events(&run, counts, printer);
            printer.data_block(&run.overview.text(printer.width));
        }
        Format::Jsonl => {
            let log = fs::read(&run.events).map_err(|source| {
                CliError::Record(RecordError::Io { op: "read", path: run.events.clone(), source })
            })?;
            let out = printer.data_writer();
            // as with every line of data, a closed pipe is no error
            let _closed = out.write_all(&log).and_then(|()| out.flush());
        }
    }
    summary::tell_counts(&counts, run.elapsed_ms, run.saved_ms, printer);
    tell_record(&run.dir, printer);
    // the program ends here
    std::mem::forget(run);
    Ok(Exit::Ok)
}

fn tell_events(run: &CachedRun, counts: Counts, printer: &mut Printer) {
    let style = printer.style;
    let mut reporter = HumanReporter::new(printer.progress(), style);
    let CachedRun { study, cells, nodes, elapsed_ms, .. } = run;
    let (schema, study, cells, nodes) = (EVENTS_SCHEMA, study.clone(), *cells, *nodes);
    reporter.event(&RunEvent::now(RunEventKind::RunStarted { schema, study, cells, nodes }));
    reporter.cached(nodes);
    let (outcome, elapsed_ms) = (RunOutcome::Done, *elapsed_ms);
    reporter.event(&RunEvent::now(RunEventKind::RunFinished { outcome, counts, elapsed_ms }));
}
