//! The trait that every stage type implements, built in or not, and what it is given to run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use qpipe_cache::{ActionKey, ActionRecord, Digest, KeyDoc, KeyValue, Lookup, OutputRecord, Store};
use serde::{Deserialize, Serialize};

use crate::error::StageError;
use crate::event::{Cancel, EventSink, StageEvent};
use crate::metric::Metric;
use crate::metrics::Measured;
use crate::protocol::{KeyedBy, OutputFile};
use crate::resources::Resources;
use crate::spec::{ArtifactKind, StageSpec};
use crate::value::Params;

/// A stage's result as other stages receive it: a root blob, and every blob the root reaches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    pub kind: ArtifactKind,
    /// Content digest of the root blob; what downstream keys contain.
    pub digest: Digest,
    /// Every blob the root refers to, the root included.
    pub refs: BTreeSet<Digest>,
}

impl Artifact {
    /// An artifact of one blob.
    pub fn single(kind: &str, digest: Digest) -> Self {
        Self { kind: ArtifactKind::new(kind), digest, refs: BTreeSet::from([digest]) }
    }
}

/// What a stage returns: its artifact and its metrics. Metrics that time something do not belong in the
/// artifact's bytes: they would make equal work unequal.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub artifact: Artifact,
    pub metrics: Vec<Metric>,
}

impl Outcome {
    /// That of a stage whose artifact is of the kind [`ArtifactKind::METRICS`]: what it has told.
    pub fn of_metrics(store: &Store, stage: &str, metrics: Vec<Metric>) -> Result<Self, StageError> {
        Ok(Self { artifact: crate::metrics::keep(store, stage, &metrics)?, metrics })
    }
}

/// Something outside the study that a stage reads: the engine hashes it (its digest enters the key), stores or
/// links it, and hands the stage its digest.
#[derive(Clone, Debug)]
pub struct Source {
    /// Name within the stage's key: `model.safetensors`, `task.boolq.data`.
    pub name: String,
    pub data: SourceData,
}

#[derive(Clone, Debug)]
pub enum SourceData {
    /// A file: linked, not copied.
    File(PathBuf),
    /// Bytes compiled into the program.
    Embedded(&'static [u8]),
}

/// A stage type.
pub trait Stage: Send + Sync {
    fn spec(&self) -> &StageSpec;

    /// The named outputs, of a stage whose artifact is of the kind [`ArtifactKind::FILES`].
    fn files(&self) -> Vec<OutputFile> {
        Vec::new()
    }

    /// Rules that one parameter alone cannot state (`exactly one of path, embedded`). Each message names the
    /// dotted path it is about.
    fn check(&self, _params: &Params) -> Vec<(String, String)> {
        Vec::new()
    }

    /// What the stage will read from outside. The default: every file among the parameters.
    fn sources(&self, params: &Params) -> Result<Vec<Source>, StageError> {
        Ok(params
            .files()
            .map(|(name, path)| Source { name: name.to_owned(), data: SourceData::File(path.to_owned()) })
            .collect())
    }

    /// Brings what [`sources`](Self::sources) will name to this machine: a download. A run does so before it plans;
    /// planning alone never does. Called again, it finds its work done.
    fn fetch(&self, _params: &Params, _events: &dyn EventSink, _cancel: &Cancel) -> Result<(), StageError> {
        Ok(())
    }

    /// The numerics class or machine fingerprint, where the output's bytes depend on one; part of the key.
    fn numerics(&self, _params: &Params) -> Option<String> {
        None
    }

    /// What [`check`](Self::check), [`sources`](Self::sources) and [`numerics`](Self::numerics) look at, where the stage
    /// is a plugin's. The engine asks it less often for a promise:
    ///
    /// - [`KeyedBy::Params`]: the parameters and the content of the files among them, nothing else of the machine. The
    ///   engine keeps the answers.
    /// - [`KeyedBy::Nothing`]: all three are the trait's own. The engine never calls them.
    fn keyed_by(&self) -> KeyedBy {
        KeyedBy::Machine
    }

    /// What else enters the key, under names that no parameter can have (`plugin:semantics`).
    fn key_entries(&self, _params: &Params) -> BTreeMap<String, KeyValue> {
        BTreeMap::new()
    }

    /// What the stage needs while it runs. `input_bytes`: the size of all blobs that its inputs refer to. An
    /// estimate: too low overcommits the machine, too high only makes it wait.
    fn resources(&self, _params: &Params, _input_bytes: u64) -> Resources {
        Resources::default()
    }

    /// Whether its runs happen in processes of their own.
    fn is_external(&self) -> bool {
        false
    }

    /// Whether these are to reach nothing but what they are given, as far as the machine can hold that.
    fn is_walled(&self) -> bool {
        false
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError>;
}

/// The stage types a program knows. A copy shares them, so that a study can add its plugins to the program's.
#[derive(Clone, Default)]
pub struct StageRegistry {
    stages: BTreeMap<&'static str, Arc<dyn Stage>>,
}

impl StageRegistry {
    #[must_use]
    pub fn with(mut self, stage: Box<dyn Stage>) -> Self {
        self.stages.insert(stage.spec().kind, stage.into());
        self
    }

    pub fn get(&self, kind: &str) -> Option<&dyn Stage> {
        self.stages.get(kind).map(Arc::as_ref)
    }

    /// The stage type as its own owner, for work that may outlive the registry.
    pub fn shared(&self, kind: &str) -> Option<Arc<dyn Stage>> {
        self.stages.get(kind).map(Arc::clone)
    }

    pub fn kinds(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.stages.keys().copied()
    }
}

/// Everything a running stage may read or use.
pub struct Context<'a> {
    pub params: &'a Params,
    /// Input artifacts by port name.
    pub inputs: &'a BTreeMap<String, Artifact>,
    /// Digests of the stage's sources, by name; their bytes are in the store.
    pub sources: &'a BTreeMap<String, Digest>,
    pub store: &'a Store,
    pub events: &'a dyn EventSink,
    pub cancel: &'a Cancel,
    /// `cpu` or `cuda:N`.
    pub device: &'a str,
    /// What the job's key was made of; `None` where the engine is not this process.
    pub doc: Option<&'a KeyDoc>,
}

/// What one unit of work produced: named blobs (of kind `blob`), and numbers worth keeping with them.
#[derive(Debug, Default)]
pub struct UnitOutput {
    pub blobs: BTreeMap<String, Digest>,
    pub metrics: serde_json::Value,
}

impl Context<'_> {
    /// The artifact at a required port.
    pub fn input(&self, port: &str) -> Result<&Artifact, StageError> {
        self.inputs.get(port).ok_or_else(|| StageError::Bug(format!("port `{port}` is not connected")))
    }

    /// What the stage at a required port of the kind [`ArtifactKind::METRICS`] has told.
    pub fn measured(&self, port: &str) -> Result<Measured, StageError> {
        let bytes = self.store.read(&self.input(port)?.digest)?;
        Measured::read(&bytes).map_err(|error| StageError::Config(format!("input `{port}`: {error}")))
    }

    /// The digest of a source.
    pub fn source(&self, name: &str) -> Result<Digest, StageError> {
        let missing = || StageError::Bug(format!("source `{name}` was not declared"));
        self.sources.get(name).copied().ok_or_else(missing)
    }

    pub fn log(&self, message: impl Into<String>) {
        self.events.emit(StageEvent::Log { message: message.into() });
    }

    pub fn progress(&self, done: usize, total: usize, what: &str) {
        self.events.emit(StageEvent::Progress { done: done as u64, total: total as u64, what: what.into() });
    }

    /// An error as soon as the run was asked to stop; call it between units of work.
    pub fn checkpoint(&self) -> Result<(), StageError> {
        if self.cancel.requested() { Err(StageError::Cancelled) } else { Ok(()) }
    }

    /// One unit of work as an action of its own: found in the cache, or done by `work` and committed. This is
    /// how a killed stage resumes within itself and how stages share work.
    pub fn unit(
        &self,
        name: &str,
        doc: &KeyDoc,
        work: impl FnOnce() -> Result<UnitOutput, StageError>,
    ) -> Result<ActionRecord, StageError> {
        self.checkpoint()?;
        let key = doc.key();
        if let Some(record) = self.found(name, &key) {
            return Ok(record);
        }
        let _single_flight = self.store.lock(&key)?;
        if let Some(record) = self.found(name, &key) {
            return Ok(record);
        }
        let (started_unix_ms, clock) = (unix_ms(), Instant::now());
        let output = work()?;
        let record = self.unit_record(doc, output, started_unix_ms, clock.elapsed().as_millis() as u64)?;
        self.store.commit(&record)?;
        self.events.kept(name, &record);
        self.unit_done(name, false);
        Ok(record)
    }

    fn found(&self, name: &str, key: &ActionKey) -> Option<ActionRecord> {
        let Lookup::Hit(record) = self.store.lookup(key) else { return None };
        self.events.found(name, &record);
        self.unit_done(name, true);
        Some(*record)
    }

    fn unit_done(&self, name: &str, cached: bool) {
        self.events.emit(StageEvent::Unit { name: name.to_owned(), cached });
    }

    fn unit_record(
        &self,
        doc: &KeyDoc,
        output: UnitOutput,
        started_unix_ms: u64,
        elapsed_ms: u64,
    ) -> Result<ActionRecord, StageError> {
        let mut outputs = BTreeMap::new();
        for (name, digest) in &output.blobs {
            let bytes = self.store.map(digest)?.len() as u64;
            outputs.insert(name.clone(), OutputRecord { kind: "blob".into(), digest: *digest, bytes });
        }
        Ok(ActionRecord {
            schema: qpipe_cache::RECORD_SCHEMA,
            key: doc.key(),
            doc: doc.clone(),
            refs: output.blobs.values().copied().collect(),
            outputs,
            metrics: output.metrics,
            started_unix_ms,
            elapsed_ms,
            tool: concat!("qpipe ", env!("CARGO_PKG_VERSION")).into(),
        })
    }
}

/// Milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
