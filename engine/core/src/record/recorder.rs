//! Writes a run's record while it runs.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::Serialize;

use super::error::RecordError;
use super::id::RunId;
use super::replay::{EVENTS, Model, RUN, SAMPLES};
use super::samples::{self, NodeSamples};
use super::summary::{RUN_SCHEMA, Started, include_name};
use super::text::{RunHead, run_text, write_middle};
use crate::graph::Study;
use crate::plan::{Plan, PlanDoc};
use crate::report::{self, StudyTable};
use crate::run::{Counts, How, RunEvent, RunEventKind, RunObserver, RunOutcome, RunResult};

/// A record that is written as far as it could be.
#[derive(Debug)]
pub struct Recorded {
    pub dir: PathBuf,
    /// Everything that could not be written, from the first event on.
    pub faults: Vec<RecordError>,
    pub(crate) head: RunHead,
    /// What other records can repeat, if everything was cached.
    pub(crate) model: Option<Model>,
}

/// The beginning of a record.
pub(super) struct Begun {
    pub(super) dir: PathBuf,
    pub(super) started: Started,
    /// `started.json`, locked.
    pub(super) alive: File,
}

/// Version of the layout of `samples.json`.
const SAMPLES_SCHEMA: u32 = 1;

/// The open record of a running run.
#[derive(Debug)]
pub struct Recorder {
    dir: PathBuf,
    started: Started,
    /// `None` once a line could not be written: a log with a hole would mislead.
    events: Option<BufWriter<File>>,
    samples: Vec<NodeSamples>,
    /// What could not be written.
    faults: Vec<RecordError>,
    /// Whether nothing was told but that the run began and ended, and nodes that were cached.
    only_cached: bool,
    /// `started.json`, locked: how others see that the run lives.
    _alive: File,
}

impl Recorder {
    /// Makes `runs/<id>/` under `runs` with everything known before the run.
    pub fn create(runs: &Path, study: &Study, plan: &Plan) -> Result<Self, RecordError> {
        let Begun { dir, started, alive } = begin(runs, &study.name, study.path())?;
        write(&dir.join("manifest.kdl"), study.text().as_bytes())?;
        for (index, file) in study.sources.includes().iter().enumerate() {
            write(&dir.join(include_name(index, &file.path)), file.text.as_bytes())?;
        }
        write_json(&dir.join("plan.json"), &PlanDoc::new(study, plan))?;
        let log = dir.join(EVENTS);
        let events = BufWriter::new(File::create(&log).map_err(RecordError::io("make", &log))?);
        let (events, faults) = (Some(events), Vec::new());
        Ok(Self { dir, started, events, samples: Vec::new(), faults, only_cached: true, _alive: alive })
    }

    /// Keeps these texts beside the tables.
    pub fn keep_samples(&mut self, samples: Vec<NodeSamples>) {
        self.samples = samples;
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes tables and summary.
    pub fn finish(mut self, study: &Study, plan: &Plan, result: &RunResult, table: &StudyTable) -> Recorded {
        let head = RunHead::new(study, result, &self.started);
        let run = self.dir.join(RUN);
        let text = run_text(&head, |out| write_middle(out, study, plan, result));
        let text = text.map_err(|source| RecordError::Json { path: run.clone(), source });
        let page = report::markdown(table) + &samples::markdown(&self.samples);
        let written = [
            write(&self.dir.join("table.md"), page.as_bytes()),
            self.write_samples(),
            write_csv(&self.dir.join("table.csv"), table),
            write_json(&self.dir.join("table.json"), &report::TableDoc::new(table)),
            text.as_ref().map_or(Ok(()), |(text, _)| write(&run, text)),
        ];
        self.faults.extend(written.into_iter().filter_map(Result::err));
        let model = match text {
            Ok((text, middle)) if self.is_model(&head) => Model::of(&self.dir, &head.run, &text, middle),
            Ok(_) => None,
            Err(fault) => {
                self.faults.push(fault);
                None
            }
        };
        Recorded { dir: self.dir, faults: self.faults, head, model }
    }

    fn is_model(&self, head: &RunHead) -> bool {
        let counts = Counts { cached: head.counts.cached, ..Counts::default() };
        self.faults.is_empty()
            && self.only_cached
            && head.outcome == RunOutcome::Done
            && head.counts == counts
    }
}

impl Recorder {
    fn write_samples(&self) -> Result<(), RecordError> {
        if self.samples.is_empty() {
            return Ok(());
        }
        let document = serde_json::json!({ "schema": SAMPLES_SCHEMA, "nodes": self.samples });
        write_json(&self.dir.join(SAMPLES), &document)
    }
}

impl RunObserver for Recorder {
    fn event(&mut self, event: &RunEvent) {
        self.only_cached &= is_of_a_cached_run(event);
        let Some(log) = &mut self.events else { return };
        let path = self.dir.join(EVENTS);
        let written = match serde_json::to_string(event) {
            Ok(line) => log_line(log, &line, waits(event)).map_err(RecordError::io("write", &path)),
            Err(source) => Err(RecordError::Json { path, source }),
        };
        if let Err(fault) = written {
            self.faults.push(fault);
            self.events = None;
        }
    }
}

fn log_line(log: &mut BufWriter<File>, line: &str, waits: bool) -> std::io::Result<()> {
    log.write_all(line.as_bytes())?;
    log.write_all(b"\n")?;
    if waits { Ok(()) } else { log.flush() }
}

/// What a cached node says needs no write of its own: were it lost with the process, the store would still tell.
fn waits(event: &RunEvent) -> bool {
    matches!(event.kind, RunEventKind::NodeDone { how: How::Cached, .. })
}

fn is_of_a_cached_run(event: &RunEvent) -> bool {
    waits(event) || matches!(event.kind, RunEventKind::RunStarted { .. } | RunEventKind::RunFinished { .. })
}

/// Makes `runs/<id>/` and says in it that the run lives.
pub(super) fn begin(runs: &Path, study: &str, manifest: &Path) -> Result<Begun, RecordError> {
    let now = Timestamp::now();
    let run = RunId::new(now);
    let dir = runs.join(&run.0);
    fs::create_dir_all(runs).map_err(RecordError::io("make", runs))?;
    fs::create_dir(&dir).map_err(RecordError::io("make", &dir))?;
    let started = Started {
        schema: RUN_SCHEMA,
        run,
        study: study.to_owned(),
        manifest: manifest.to_owned(),
        started: now.to_string(),
        pid: std::process::id(),
    };
    let alive = write_started(&dir, &started)?;
    Ok(Begun { dir, started, alive })
}

/// Writes `started.json` and keeps it locked. A file system without locks only loses the distinction between a
/// running and an interrupted run.
fn write_started(dir: &Path, started: &Started) -> Result<File, RecordError> {
    let path = dir.join("started.json");
    let mut file = File::create(&path).map_err(RecordError::io("make", &path))?;
    let _ = file.try_lock();
    let encoded = serde_json::to_vec_pretty(started);
    let text = encoded.map_err(|source| RecordError::Json { path: path.clone(), source })?;
    file.write_all(&text).map_err(RecordError::io("write", &path))?;
    Ok(file)
}

/// Compact: it is for programs, and a sweep's is long.
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), RecordError> {
    let encoded = serde_json::to_vec(value);
    write(path, &encoded.map_err(|source| RecordError::Json { path: path.to_owned(), source })?)
}

fn write_csv(path: &Path, table: &StudyTable) -> Result<(), RecordError> {
    let encoded = report::csv(table);
    write(path, encoded.map_err(|source| RecordError::Csv { path: path.to_owned(), source })?.as_bytes())
}

/// Whole or not at all: a reader never sees half a file.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), RecordError> {
    write_with(path, |file| file.write_all(bytes)).map_err(RecordError::io("write", path))
}

/// Writes a file under another name, then gives it its own.
pub(super) fn write_with(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let staged = path.with_extension("partial");
    fill(&mut File::create(&staged)?)?;
    fs::rename(&staged, path)
}
