//! Which ready node starts: the one of the earliest cell that fits. Cells finish one after the other rather than all
//! at the end, so that a study that is stopped half-way has whole rows.
//!
//! A node that does not fit is overtaken by those behind it that do, with one exception: one that wants the machine for
//! itself holds back all that come after it, or it would wait for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use qpipe_cache::{Digest, KeyDoc, Store};
use qpipe_sdk::{Artifact, Resources, StageError};

use super::dispatch::Dispatcher;
use super::event::RunEventKind;
use super::execute::{Job, Message, execute};
use super::result::How;
use super::slots::{Fit, Lease};
use super::watch::Running;
use crate::graph::{CellId, NodeId};
use crate::plan::{MissReason, NodeState};

/// How many nodes that do not fit are passed over in search of one that does.
const LOOKAHEAD: usize = 64;

/// A node that must run, and what it needs for that.
pub(super) struct Candidate {
    doc: KeyDoc,
    reasons: Vec<MissReason>,
    inputs: BTreeMap<String, Artifact>,
    need: Resources,
}

enum Considered {
    /// It has started, or has a result.
    Settled,
    /// It does not fit now.
    Waits,
    /// It does not fit now, and nothing behind it may start.
    HoldsBack,
}

impl Dispatcher<'_> {
    /// Starts what fits. A run that stops starts nothing, but a ready node that turns out to be a hit is still taken:
    /// it costs nothing and completes the table.
    pub(super) fn start_ready(&mut self) {
        let (mut after, mut passed) = (None, 0);
        while passed < LOOKAHEAD && (self.stopping() || !self.pool.is_full()) {
            let Some(next) = self.ready_after(after) else { return };
            match self.consider(next.1) {
                // what became ready by this may be of an earlier cell
                Considered::Settled => (after, passed) = (None, 0),
                Considered::Waits => (after, passed) = (Some(next), passed + 1),
                Considered::HoldsBack => return,
            }
        }
    }

    fn ready_after(&self, after: Option<(CellId, NodeId)>) -> Option<(CellId, NodeId)> {
        match after {
            None => self.ready.first().copied(),
            Some(last) => self.ready.range(last..).find(|next| **next != last).copied(),
        }
    }

    fn consider(&mut self, id: NodeId) -> Considered {
        self.ready.remove(&self.priority(id));
        let known = self.candidates.remove(&id);
        let Some(candidate) = known.or_else(|| self.assess(id)) else { return Considered::Settled };
        if self.stopping() {
            self.stopped(id);
            return Considered::Settled;
        }
        let reads: Vec<Digest> = candidate.inputs.values().map(|input| input.digest).collect();
        match self.pool.take(&candidate.need, &reads, &self.residents) {
            Fit::Now(lease) => {
                if let Err(error) = self.start(id, candidate, lease) {
                    self.fail(id, &error, 0);
                }
                Considered::Settled
            }
            Fit::Never(why) => {
                self.fail(id, &why.into(), 0);
                Considered::Settled
            }
            Fit::Later => {
                let held = candidate.need.exclusive;
                self.candidates.insert(id, candidate);
                self.ready.insert(self.priority(id));
                if held { Considered::HoldsBack } else { Considered::Waits }
            }
        }
    }

    /// A node that must run; `None` if it has its result now.
    fn assess(&mut self, id: NodeId) -> Option<Candidate> {
        match self.current_state(id) {
            Ok(NodeState::Hit(record)) => self.done(id, How::Cached, record),
            Ok(NodeState::Miss { doc, reasons }) => {
                let inputs = self.inputs(id);
                let need = self.need(id, &inputs);
                return Some(Candidate { doc, reasons, inputs, need });
            }
            Ok(NodeState::Pending { .. }) => self.stopped(id),
            Err(error) => self.fail(id, &error, 0),
        }
        None
    }

    /// The state of a node whose inputs are done: the plan's, or found now if the plan could not know its key.
    fn current_state(&self, id: NodeId) -> Result<NodeState, StageError> {
        let planned = &self.plan.nodes[id.0];
        if !matches!(planned.state, NodeState::Pending { .. }) {
            return Ok(planned.state.clone());
        }
        let inputs = self.inputs(id).into_iter().map(|(port, artifact)| (port, artifact.digest)).collect();
        self.assessor.assess(self.assessor.node(id), &planned.sources, &inputs)
    }

    fn need(&self, id: NodeId, inputs: &BTreeMap<String, Artifact>) -> Resources {
        let node = self.assessor.node(id);
        let stage = self.assessor.stage(node);
        let input_bytes = blob_bytes(self.assessor.store, inputs);
        let mut need = stage.map(|stage| stage.resources(&node.params, input_bytes)).unwrap_or_default();
        if let Some(memory) = self.options.limits.memory.get(&node.stage, &node.kind) {
            need.memory = memory;
        }
        need.exclusive |= self.tries.get(&id).is_some_and(|tries| tries.alone);
        need
    }

    fn start(&mut self, id: NodeId, candidate: Candidate, lease: Lease) -> Result<(), StageError> {
        let (node, label) = self.name(id);
        let study_node = self.assessor.node(id);
        let stage = self.assessor.registry.shared(&study_node.kind);
        let unknown = || StageError::Config(format!("no stage type is called `{}`", study_node.kind));
        let cancel = self.stop.child();
        if let Some(gpu) = lease.gpu {
            if self.tries.get(&id).is_some_and(|tries| tries.alone) {
                self.options.free_gpu.free(gpu);
                self.residents.forget(gpu);
            }
            self.residents.read(gpu, candidate.inputs.values().map(|input| input.digest));
        }
        let device = lease.gpu.map_or_else(|| self.options.device.clone(), |gpu| format!("cuda:{gpu}"));
        let job = Job {
            id,
            stage: stage.ok_or_else(unknown)?,
            params: Arc::clone(&study_node.params),
            sources: self.plan.nodes[id.0].sources.clone(),
            store: self.assessor.store.clone(),
            device,
            cancel: cancel.clone(),
            force: self.assessor.force.applies(id),
            doc: candidate.doc,
            inputs: candidate.inputs,
            documents: self.documents(id),
        };
        let why = candidate.reasons.iter().map(|r| r.explain(self.assessor.study, study_node)).collect();
        self.emit(RunEventKind::NodeStarted { node, label, key: job.doc.key().to_string(), why });
        let timeout = self.options.limits.timeout.get(&study_node.stage, &study_node.kind);
        self.running.insert(id, Running { started: Instant::now(), cancel, lease, timeout, stop: None });
        let messages = self.messages.clone();
        std::thread::spawn(move || {
            let result = execute(&job, &messages);
            // nothing of it outlives the run
            drop(job);
            // unheard only if the node was given up
            let _ = messages.send(Message::Finished(id, result));
        });
        Ok(())
    }
}

/// Size of everything that the inputs refer to; what cannot be examined counts as nothing here and fails the stage.
fn blob_bytes(store: &Store, inputs: &BTreeMap<String, Artifact>) -> u64 {
    let refs: std::collections::BTreeSet<&Digest> = inputs.values().flat_map(|input| &input.refs).collect();
    let size = |digest: &Digest| std::fs::metadata(store.blob_path(digest).ok()?).ok().map(|meta| meta.len());
    refs.into_iter().filter_map(size).sum()
}
