//! One job as the engine hears it: what the worker says is counted, bounded and taken in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use qpipe_sdk::protocol::Reply;
use qpipe_sdk::{Artifact, Metric, StageEvent};

use super::document::BLOB;
use super::error::{WorkerError, clipped};
use super::session::{Peer, Watch};
use super::units::{Keeper, Kept, is_unit_name};

/// Most metrics of one job.
const MAX_METRICS: usize = 10_000;
/// Most units that are kept of one job: the next try is told of all of them in one message.
const MAX_UNITS: usize = 2000;
/// Most checkpoints of one job, and most outputs.
const MAX_TOLD: usize = 100_000;
/// Longest name of anything, bytes.
const MAX_NAME: usize = 1024;
/// What is kept of a job's `log` messages: lines, and bytes.
const MAX_LOG: (usize, usize) = (10_000, 4 << 20);
/// Progress is told no more often.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);

/// Where an output is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// At a path relative to the scratch folder, as the worker states it.
    Path(String),
    /// In the store, as the file of a unit.
    Unit(Kept),
}

/// What a job has brought.
#[derive(Debug, Default)]
pub struct Finished {
    /// Outputs by name.
    pub outputs: BTreeMap<String, Made>,
    pub metrics: Vec<Metric>,
    /// From a worker that commits by itself.
    pub artifact: Option<Artifact>,
}

#[derive(Clone, Copy)]
pub(super) enum Stopping {
    Asked,
    Terminated,
}

/// A job that runs.
pub(super) struct Job<'a> {
    pub(super) id: u64,
    pub(super) finished: Finished,
    pub(super) started: Instant,
    pub(super) last_heard: Instant,
    pub(super) looked: Instant,
    pub(super) weighed: Option<Instant>,
    pub(super) stopping: Option<(Instant, Stopping)>,
    /// Since when its process is.
    pub(super) gone: Option<Instant>,
    /// Whether the worker has said a word of it.
    pub(super) has_spoken: bool,
    /// Where units go; `None`: the worker keeps none.
    keeper: Option<&'a Keeper>,
    /// Every unit that an output may be.
    units: BTreeMap<String, Option<Kept>>,
    /// Those of them that were announced in this job, and how many are not stored yet.
    announced: BTreeSet<String>,
    pending: usize,
    /// Outputs that are units.
    linked: BTreeMap<String, String>,
    checkpoints: usize,
    logged: (usize, usize),
    progress: Option<StageEvent>,
    told: Option<Instant>,
}

impl<'a> Job<'a> {
    pub(super) fn new(id: u64, keeper: Option<&'a Keeper>) -> Self {
        let now = Instant::now();
        let found = keeper.into_iter().flat_map(Keeper::found);
        Self {
            id,
            finished: Finished::default(),
            started: now,
            last_heard: now,
            looked: now,
            weighed: None,
            stopping: None,
            gone: None,
            has_spoken: false,
            keeper,
            units: found.map(|(name, kept)| (name.clone(), Some(*kept))).collect(),
            announced: BTreeSet::new(),
            pending: 0,
            linked: BTreeMap::new(),
            checkpoints: 0,
            logged: (0, 0),
            progress: None,
            told: None,
        }
    }

    pub(super) fn terminate(&mut self, peer: &mut dyn Peer) {
        peer.terminate();
        self.stopping = Some((Instant::now(), Stopping::Terminated));
    }

    /// Takes a reply in; `true` where it ends the job well.
    pub(super) fn take(&mut self, reply: Reply, watch: &Watch<'_>) -> Result<bool, WorkerError> {
        if let Some(found) = reply.id().filter(|id| *id != self.id) {
            return Err(WorkerError::WrongId { expected: self.id, found });
        }
        self.has_spoken |= !matches!(reply, Reply::Heartbeat);
        match reply {
            Reply::Heartbeat => {}
            Reply::Progress { done, total, what, .. } => {
                named("progress", &what)?;
                self.progress = Some(StageEvent::Progress { done, total, what });
                self.tell_progress(watch, false);
            }
            Reply::Log { message, .. } => self.log(message, watch),
            Reply::Checkpoint { name, cached, path, .. } => self.checkpoint(name, cached, path, watch)?,
            Reply::Metric { .. } if self.finished.metrics.len() == MAX_METRICS => {
                return Err(WorkerError::TooMany { what: "metrics", limit: MAX_METRICS });
            }
            Reply::Metric { metric, .. } => {
                named("metric", &metric.name)?;
                self.finished.metrics.push(metric.into());
            }
            Reply::Artifact { name, path, unit, .. } => self.output(name, path, unit, watch)?,
            Reply::Done { artifact, .. } => {
                self.finished.artifact = artifact;
                return Ok(true);
            }
            Reply::Cancelled { .. } if watch.cancel.requested() => return Err(WorkerError::Cancelled),
            Reply::Error { class, message, .. } => {
                return Err(WorkerError::Failed { class, message: clipped(message) });
            }
            other => return Err(WorkerError::Unexpected { word: other.word(), at: "during a job" }),
        }
        Ok(false)
    }

    /// Passes the last progress on, unless one was told just now.
    pub(super) fn tell_progress(&mut self, watch: &Watch<'_>, is_last: bool) {
        let is_due = is_last || self.told.is_none_or(|told| told.elapsed() >= PROGRESS_EVERY);
        if let Some(progress) = self.progress.take_if(|_| is_due) {
            watch.events.emit(progress);
            self.told = Some(Instant::now());
        }
    }

    fn log(&mut self, message: String, watch: &Watch<'_>) {
        let (lines, bytes) = self.logged;
        if lines > MAX_LOG.0 {
            return;
        }
        let is_over = lines == MAX_LOG.0 || bytes + message.len() > MAX_LOG.1;
        self.logged = (if is_over { MAX_LOG.0 } else { lines } + 1, bytes + message.len());
        let over = || format!("the worker's log goes on, and is not kept: {lines} lines are enough");
        watch.events.emit(StageEvent::Log { message: if is_over { over() } else { message } });
    }

    fn checkpoint(
        &mut self,
        name: String,
        cached: bool,
        path: Option<String>,
        watch: &Watch<'_>,
    ) -> Result<(), WorkerError> {
        named("checkpoint", &name)?;
        self.checkpoints += 1;
        if self.checkpoints > MAX_TOLD {
            return Err(WorkerError::TooMany { what: "checkpoints", limit: MAX_TOLD });
        }
        let (Some(keeper), Some(path)) = (self.keeper, path) else {
            watch.events.emit(StageEvent::Unit { name, cached });
            return Ok(());
        };
        named("checkpoint", &path)?;
        if !is_unit_name(&name) {
            return Err(WorkerError::UnitName { name });
        }
        if !self.announced.insert(name.clone()) {
            return Err(WorkerError::RepeatedUnit { name });
        }
        if self.announced.len() > MAX_UNITS {
            return Err(WorkerError::TooMany { what: "units to keep", limit: MAX_UNITS });
        }
        self.units.insert(name.clone(), None);
        self.pending += 1;
        keeper.keep(name, path);
        Ok(())
    }

    /// Takes in which units were stored meanwhile.
    pub(super) fn settle(&mut self, watch: &Watch<'_>) -> Result<(), WorkerError> {
        while let Some((name, kept)) = self.keeper.and_then(Keeper::stored) {
            self.pending = self.pending.saturating_sub(1);
            let kept = kept?;
            watch.events.emit(StageEvent::Unit { name: name.clone(), cached: false });
            self.units.insert(name, Some(kept));
        }
        Ok(())
    }

    /// Whether units are still being stored.
    pub(super) fn is_storing(&self) -> bool {
        self.pending > 0
    }

    fn output(
        &mut self,
        name: String,
        path: Option<String>,
        unit: Option<String>,
        watch: &Watch<'_>,
    ) -> Result<(), WorkerError> {
        named("artifact", &name)?;
        let is_blob = watch.has_blobs && name.starts_with(BLOB);
        if !is_blob && watch.outputs.is_none_or(|declared| !declared.contains(&name.as_str())) {
            return Err(WorkerError::Undeclared { name });
        }
        if self.finished.outputs.contains_key(&name) || self.linked.contains_key(&name) {
            return Err(WorkerError::Repeated { name });
        }
        if self.finished.outputs.len() + self.linked.len() >= MAX_TOLD {
            return Err(WorkerError::TooMany { what: "outputs", limit: MAX_TOLD });
        }
        match (path, unit) {
            (Some(path), None) => {
                self.finished.outputs.insert(name, Made::Path(path));
            }
            (None, Some(unit)) if self.units.contains_key(&unit) => {
                self.linked.insert(name, unit);
            }
            (None, Some(unit)) => return Err(WorkerError::UnknownUnit { name, unit: clipped(unit) }),
            _ => return Err(WorkerError::PathOrUnit { name }),
        }
        Ok(())
    }

    /// What the job has brought, once every unit is stored.
    pub(super) fn end(mut self) -> Result<Finished, WorkerError> {
        for (name, unit) in std::mem::take(&mut self.linked) {
            match self.units.get(&unit).copied().flatten() {
                Some(kept) => self.finished.outputs.insert(name, Made::Unit(kept)),
                None => return Err(WorkerError::UnknownUnit { name, unit }),
            };
        }
        Ok(self.finished)
    }
}

fn named(word: &'static str, name: &str) -> Result<(), WorkerError> {
    if name.len() > MAX_NAME {
        return Err(WorkerError::LongName { word, bytes: name.len(), limit: MAX_NAME });
    }
    Ok(())
}
