//! One node in a worker thread: lock, look again, run, commit.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use qpipe_cache::{ActionKey, ActionRecord, Digest, KeyDoc, KeyLock, Lookup, OutputRecord, Store};
use qpipe_sdk::{Artifact, Context, EventSink, Outcome, StageError, StageEvent, stage::unix_ms};

use super::metrics;
use super::options::RunOptions;
use super::result::How;
use crate::graph::{Node, NodeId};
use crate::plan::{Assessor, Force, OUTPUT, unusable};

/// How often a lock that another process holds is tried.
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// What worker threads tell the dispatcher.
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
    pub(super) doc: KeyDoc,
    pub(super) inputs: BTreeMap<String, Artifact>,
    pub(super) sources: BTreeMap<String, Digest>,
}

/// Runs a job to its committed record. The lock is per key and freed by the death of its holder, so that of many
/// processes one works and the others find its record.
pub(super) fn execute(
    assessor: &Assessor<'_>,
    job: &Job,
    options: &RunOptions,
    messages: &Sender<Message>,
) -> Result<Finished, StageError> {
    let (store, key) = (assessor.store, job.doc.key());
    let _single_flight = wait_for_lock(store, &key, options)?;
    if assessor.force == Force::Nothing
        && let Lookup::Hit(record) = store.lookup(&key)
        && unusable(&record).is_none()
    {
        return Ok(Finished { record, how: How::Cached });
    }
    let (started_unix_ms, clock) = (unix_ms(), Instant::now());
    let outcome = run_stage(assessor, job, options, messages)?;
    let elapsed_ms = clock.elapsed().as_millis() as u64;
    let record = action_record(assessor, job, &outcome, started_unix_ms, elapsed_ms)?;
    store.commit(&record)?;
    Ok(Finished { record: Box::new(record), how: How::Ran })
}

/// Waits while another process computes the same key, but not past a request to stop.
fn wait_for_lock(store: &Store, key: &ActionKey, options: &RunOptions) -> Result<KeyLock, StageError> {
    loop {
        if let Some(lock) = store.try_lock(key)? {
            return Ok(lock);
        }
        if options.cancel.requested() {
            return Err(StageError::Cancelled);
        }
        std::thread::sleep(LOCK_INTERVAL);
    }
}

/// Runs the stage; a panic of it is a typed failure of this node alone.
fn run_stage(
    assessor: &Assessor<'_>,
    job: &Job,
    options: &RunOptions,
    messages: &Sender<Message>,
) -> Result<Outcome, StageError> {
    let node = assessor.node(job.id);
    let stage = assessor.stage(node)?;
    let sink = NodeSink { id: job.id, messages: messages.clone(), last_progress: Mutex::new(None) };
    let ctx = Context {
        params: &node.params,
        inputs: &job.inputs,
        sources: &job.sources,
        store: assessor.store,
        events: &sink,
        cancel: &options.cancel,
        device: &options.device,
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| stage.run(&ctx)))
        .unwrap_or_else(|payload| Err(StageError::Bug(format!("panicked: {}", panic_message(&*payload)))))?;
    check(node, &stage.spec().output.0, &outcome)?;
    Ok(outcome)
}

/// What the engine does not take on a stage's word.
fn check(node: &Node, declared: &str, outcome: &Outcome) -> Result<(), StageError> {
    let artifact = &outcome.artifact;
    let (kind, got) = (&node.kind, &artifact.kind.0);
    if got != declared {
        return Err(StageError::Bug(format!("`{kind}` declares output `{declared}` but returned `{got}`")));
    }
    if !artifact.refs.contains(&artifact.digest) {
        return Err(StageError::Bug(format!(
            "`{kind}` returned an artifact that does not refer to its root"
        )));
    }
    Ok(())
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

fn action_record(
    assessor: &Assessor<'_>,
    job: &Job,
    outcome: &Outcome,
    started_unix_ms: u64,
    elapsed_ms: u64,
) -> Result<ActionRecord, StageError> {
    let Artifact { kind, digest, refs } = &outcome.artifact;
    let bytes = assessor.store.map(digest)?.len() as u64;
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
