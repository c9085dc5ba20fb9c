//! One node in a thread of its own: lock, look again, run, commit. Nothing here is borrowed from the run, since a
//! stage that does not heed a request to stop outlives it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use qpipe_cache::{ActionRecord, Digest, KeyDoc, KeyLock, Lookup, OutputRecord, Store};
use qpipe_sdk::protocol::panic_text;
use qpipe_sdk::{
    Artifact, ArtifactKind, Cancel, Context, EventSink, Outcome, Params, Stage, StageError, StageEvent,
    metrics, stage::unix_ms,
};

use super::result::How;
use crate::graph::NodeId;
use crate::plan::{OUTPUT, unusable};

/// How often a lock that another process holds is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// What the nodes' threads tell the dispatcher.
pub(super) enum Message {
    Stage(NodeId, StageEvent),
    Finished(NodeId, Result<Finished, StageError>),
}

/// A node's result, and whether another process made it while this one waited for the lock.
pub(super) struct Finished {
    pub(super) record: Box<ActionRecord>,
    pub(super) how: How,
}

/// A node with everything it needs to run.
pub(super) struct Job {
    pub(super) id: NodeId,
    pub(super) stage: Arc<dyn Stage>,
    pub(super) params: Arc<Params>,
    pub(super) doc: KeyDoc,
    pub(super) inputs: BTreeMap<String, Artifact>,
    /// Those of the inputs that nobody has stored.
    pub(super) documents: Vec<Vec<u8>>,
    pub(super) sources: BTreeMap<String, Digest>,
    pub(super) store: Store,
    /// `cpu`, `cuda:N`, or `auto`.
    pub(super) device: String,
    pub(super) cancel: Cancel,
    /// Run it even if its result is there.
    pub(super) force: bool,
}

/// Runs a job to its committed record. The lock is per key and freed by the death of its holder, so that of many
/// processes one works and the others find its record.
pub(super) fn execute(job: &Job, messages: &Sender<Message>) -> Result<Finished, StageError> {
    let (store, key) = (&job.store, job.doc.key());
    let _single_flight = wait_for_lock(job)?;
    if !job.force
        && let Lookup::Hit(record) = store.lookup(&key)
        && unusable(&record).is_none()
    {
        return Ok(Finished { record, how: How::Cached });
    }
    let (started_unix_ms, clock) = (unix_ms(), Instant::now());
    let outcome = run_stage(job, messages)?;
    let elapsed_ms = clock.elapsed().as_millis() as u64;
    let record = action_record(job, &outcome, started_unix_ms, elapsed_ms)?;
    store.commit(&record)?;
    Ok(Finished { record: Box::new(record), how: How::Ran })
}

/// Waits while another process computes the same key, but not past a request to stop.
fn wait_for_lock(job: &Job) -> Result<KeyLock, StageError> {
    loop {
        if let Some(lock) = job.store.try_lock(&job.doc.key())? {
            return Ok(lock);
        }
        if job.cancel.requested() {
            return Err(StageError::Cancelled);
        }
        std::thread::sleep(LOCK_INTERVAL);
    }
}

/// Runs the stage; a panic of it is a typed failure of this node alone.
fn run_stage(job: &Job, messages: &Sender<Message>) -> Result<Outcome, StageError> {
    for document in &job.documents {
        job.store.put_bytes(document)?;
    }
    let sink = NodeSink { id: job.id, messages: messages.clone(), last_progress: Mutex::new(None) };
    let ctx = Context {
        params: &job.params,
        inputs: &job.inputs,
        sources: &job.sources,
        store: &job.store,
        events: &sink,
        cancel: &job.cancel,
        device: &job.device,
        doc: Some(&job.doc),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| job.stage.run(&ctx)))
        .unwrap_or_else(|payload| Err(StageError::Bug(format!("panicked: {}", panic_text(&*payload)))))?;
    check(job, &outcome)?;
    Ok(outcome)
}

/// What the engine does not take on a stage's word.
fn check(job: &Job, outcome: &Outcome) -> Result<(), StageError> {
    let (spec, artifact) = (job.stage.spec(), &outcome.artifact);
    let (kind, declared, got) = (spec.kind, &spec.output.0, &artifact.kind.0);
    if got != declared {
        return Err(StageError::Bug(format!("`{kind}` declares output `{declared}` but returned `{got}`")));
    }
    if !artifact.refs.contains(&artifact.digest) {
        return Err(StageError::Bug(format!(
            "`{kind}` returned an artifact that does not refer to its root"
        )));
    }
    let document = || metrics::document(kind, &metrics::encode(&outcome.metrics));
    if declared == ArtifactKind::METRICS && artifact.digest != Digest::of_bytes(&document()) {
        return Err(StageError::Bug(format!("`{kind}` returned other metrics as its artifact than it told")));
    }
    Ok(())
}

fn action_record(
    job: &Job,
    outcome: &Outcome,
    started_unix_ms: u64,
    elapsed_ms: u64,
) -> Result<ActionRecord, StageError> {
    let Artifact { kind, digest, refs } = &outcome.artifact;
    let bytes = job.store.map(digest)?.len() as u64;
    let output = OutputRecord { kind: kind.0.clone(), digest: *digest, bytes };
    Ok(ActionRecord {
        schema: qpipe_cache::RECORD_SCHEMA,
        key: job.doc.key(),
        doc: job.doc.clone(),
        outputs: BTreeMap::from([(OUTPUT.to_owned(), output)]),
        refs: refs.clone(),
        metrics: metrics::encode(&outcome.metrics),
        started_unix_ms,
        elapsed_ms,
        tool: concat!("qpipe ", env!("CARGO_PKG_VERSION")).into(),
    })
}

/// Passes a stage's events to the dispatcher. Progress is thinned to ten a second, the last one always passes:
/// a stage may report every tensor without flooding the log.
struct NodeSink {
    id: NodeId,
    messages: Sender<Message>,
    last_progress: Mutex<Option<Instant>>,
}

const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

impl NodeSink {
    fn passes(&self, event: &StageEvent) -> bool {
        let StageEvent::Progress { done, total, .. } = event else { return true };
        let Ok(mut last) = self.last_progress.lock() else { return true };
        if done < total && last.is_some_and(|at| at.elapsed() < PROGRESS_INTERVAL) {
            return false;
        }
        *last = Some(Instant::now());
        true
    }
}

impl EventSink for NodeSink {
    fn emit(&self, event: StageEvent) {
        if self.passes(&event) {
            // The dispatcher outlives its workers; were it gone, there would be nobody to tell.
            let _ = self.messages.send(Message::Stage(self.id, event));
        }
    }
}
