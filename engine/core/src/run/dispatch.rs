//! The dispatcher: which node next, and what its end means for the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::Scope;
use std::time::Instant;

use qpipe_cache::{ActionRecord, KeyDoc, Store};
use qpipe_sdk::{Artifact, ArtifactKind, StageError, StageRegistry};

use super::event::{EVENTS_SCHEMA, RunEvent, RunEventKind, RunObserver};
use super::execute::{Finished, Job, Message, execute};
use super::options::{FailureMode, RunOptions};
use super::result::{How, NodeResult, RunOutcome, RunResult};
use crate::graph::{CellId, NodeId, Study};
use crate::plan::{Assessor, MissReason, NodeState, OUTPUT, Plan, memory_names};

/// Runs a plan to its end. Failures are part of the result, never of this function's.
pub fn run(
    study: &Study,
    plan: &Plan,
    registry: &StageRegistry,
    store: &Store,
    options: &RunOptions,
    observer: &mut dyn RunObserver,
) -> RunResult {
    let assessor = Assessor { study, registry, store, force: plan.options.force };
    let (sender, receiver) = mpsc::channel();
    let mut dispatcher = Dispatcher::new(assessor, plan, options, sender, observer);
    dispatcher.announce();
    std::thread::scope(|scope| dispatcher.work(scope, &receiver));
    dispatcher.finish()
}

struct Dispatcher<'a> {
    assessor: Assessor<'a>,
    plan: &'a Plan,
    options: &'a RunOptions,
    messages: Sender<Message>,
    observer: &'a mut dyn RunObserver,
    clock: Instant,
    /// Per node: its result, once there is one.
    results: Vec<Option<NodeResult>>,
    /// Per node: how many of its distinct inputs have no result yet.
    waiting: Vec<usize>,
    /// Per node: who uses its output.
    users: Vec<Vec<NodeId>>,
    /// Nodes whose inputs are all there, by earliest cell.
    ready: BTreeSet<(CellId, NodeId)>,
    running: BTreeMap<NodeId, Instant>,
    failed: bool,
}

impl<'a> Dispatcher<'a> {
    fn new(
        assessor: Assessor<'a>,
        plan: &'a Plan,
        options: &'a RunOptions,
        messages: Sender<Message>,
        observer: &'a mut dyn RunObserver,
    ) -> Self {
        let count = assessor.study.nodes.len();
        let (mut waiting, mut users) = (vec![0; count], vec![Vec::new(); count]);
        for node in &assessor.study.nodes {
            let inputs: BTreeSet<NodeId> = node.inputs.ids().collect();
            waiting[node.id.0] = inputs.len();
            for input in inputs {
                users[input.0].push(node.id);
            }
        }
        Self {
            assessor,
            plan,
            options,
            messages,
            observer,
            clock: Instant::now(),
            results: vec![None; count],
            waiting,
            users,
            ready: BTreeSet::new(),
            running: BTreeMap::new(),
            failed: false,
        }
    }

    fn announce(&mut self) {
        let study = self.assessor.study;
        let (cells, nodes) = (study.cells.len(), study.nodes.len());
        let kind =
            RunEventKind::RunStarted { schema: EVENTS_SCHEMA, study: study.name.clone(), cells, nodes };
        self.emit(kind);
        for node in &study.nodes {
            if self.waiting[node.id.0] == 0 {
                self.make_ready(node.id);
            }
        }
        self.settle_hits();
    }

    /// What the plan already found in the cache is done before anything runs. A hit's inputs are hits.
    fn settle_hits(&mut self) {
        for planned in &self.plan.nodes {
            if let NodeState::Hit(record) = &planned.state {
                self.ready.remove(&self.priority(planned.id));
                self.done(planned.id, How::Cached, record.clone());
            }
        }
    }

    fn work<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, receiver: &Receiver<Message>)
    where
        'a: 'scope,
    {
        loop {
            self.start_ready(scope);
            if self.running.is_empty() {
                return;
            }
            match receiver.recv() {
                Ok(Message::Stage(id, stage)) => {
                    let (node, label) = self.name(id);
                    self.emit(RunEventKind::Stage { node, label, stage });
                }
                Ok(Message::Finished(id, result)) => self.finished(id, result),
                Err(_) => unreachable!("the dispatcher holds a sender itself"),
            }
        }
    }

    /// Starts ready nodes while slots are free. A run that stops starts nothing, but a ready node that turns out
    /// to be a hit is still taken: it costs nothing and completes the table.
    fn start_ready<'scope>(&mut self, scope: &'scope Scope<'scope, '_>)
    where
        'a: 'scope,
    {
        while self.running.len() < self.options.slots.get() {
            let Some((_, id)) = self.ready.pop_first() else { return };
            match self.current_state(id) {
                Ok(NodeState::Hit(record)) => self.done(id, How::Cached, record),
                Ok(NodeState::Miss { doc, reasons }) if !self.stopping() => {
                    self.start(scope, id, doc, &reasons);
                }
                Ok(NodeState::Miss { .. } | NodeState::Pending { .. }) => self.stopped(id),
                Err(error) => self.fail(id, &error, 0),
            }
        }
    }

    fn stopping(&self) -> bool {
        self.options.cancel.requested()
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

    fn inputs(&self, id: NodeId) -> BTreeMap<String, Artifact> {
        let artifact =
            |input: NodeId| self.results[input.0].as_ref().and_then(NodeResult::record).map(artifact);
        let ports = self.assessor.node(id).inputs.iter();
        ports.filter_map(|(port, input)| Some((port.to_owned(), artifact(input)?))).collect()
    }

    fn start<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        id: NodeId,
        doc: KeyDoc,
        reasons: &[MissReason],
    ) where
        'a: 'scope,
    {
        let (node, label) = self.name(id);
        let study_node = self.assessor.node(id);
        let why = reasons.iter().map(|r| r.explain(self.assessor.study, study_node)).collect();
        self.emit(RunEventKind::NodeStarted { node, label, key: doc.key().to_string(), why });
        self.running.insert(id, Instant::now());
        let job = Job { id, doc, inputs: self.inputs(id), sources: self.plan.nodes[id.0].sources.clone() };
        let (assessor, options, messages) = (self.assessor, self.options, self.messages.clone());
        scope.spawn(move || {
            let result = execute(&assessor, &job, options, &messages);
            // Received until every running node has sent it.
            let _ = messages.send(Message::Finished(id, result));
        });
    }

    fn finished(&mut self, id: NodeId, result: Result<Finished, StageError>) {
        let started = self.running.remove(&id);
        let elapsed_ms = started.map_or(0, |at| at.elapsed().as_millis() as u64);
        match result {
            Ok(Finished { record, how }) => self.done(id, how, record),
            Err(StageError::Cancelled) if self.stopping() => self.stopped(id),
            Err(error) => self.fail(id, &error, elapsed_ms),
        }
    }

    fn done(&mut self, id: NodeId, how: How, record: Box<ActionRecord>) {
        self.remember(id, &record.doc);
        let ((node, label), elapsed_ms) = (self.name(id), record.elapsed_ms);
        self.emit(RunEventKind::NodeDone { node, label, key: record.key.to_string(), how, elapsed_ms });
        self.results[id.0] = Some(NodeResult::Done { how, record, elapsed_ms });
        for user in self.users[id.0].clone() {
            self.waiting[user.0] -= 1;
            if self.waiting[user.0] == 0 && self.results[user.0].is_none() {
                self.make_ready(user);
            }
        }
    }

    fn fail(&mut self, id: NodeId, error: &StageError, elapsed_ms: u64) {
        let ((node, label), class, message) = (self.name(id), error.class(), error.to_string());
        self.emit(RunEventKind::NodeFailed { node, label, class, message: message.clone(), elapsed_ms });
        self.results[id.0] = Some(NodeResult::Failed { class, message, elapsed_ms });
        self.failed = true;
        self.skip_users(id);
        if self.options.failure == FailureMode::FailFast {
            self.options.cancel.request();
        }
    }

    /// Everything downstream of a failed node can have no input, in every failure mode.
    fn skip_users(&mut self, failed: NodeId) {
        let mut queue = self.users[failed.0].clone();
        while let Some(id) = queue.pop() {
            if self.results[id.0].is_some() {
                continue;
            }
            self.results[id.0] = Some(NodeResult::Skipped { because: failed });
            let ((node, label), (_, because)) = (self.name(id), self.name(failed));
            self.emit(RunEventKind::NodeSkipped { node, label, because });
            queue.extend_from_slice(&self.users[id.0]);
        }
    }

    fn stopped(&mut self, id: NodeId) {
        let (node, label) = self.name(id);
        self.results[id.0] = Some(NodeResult::Stopped);
        self.emit(RunEventKind::NodeStopped { node, label });
    }

    /// Keeps the key document for the next plan's reasons, under every cell's name that uses the node.
    fn remember(&mut self, id: NodeId, doc: &KeyDoc) {
        for name in memory_names(self.assessor.study, self.assessor.node(id)) {
            if let Err(error) = self.assessor.store.remember(&name, doc) {
                let message = format!("cannot remember the key of `{name}`: {error}");
                self.emit(RunEventKind::Warning { message });
            }
        }
    }

    fn finish(mut self) -> RunResult {
        for id in (0..self.results.len()).map(NodeId) {
            if self.results[id.0].is_none() {
                self.stopped(id);
            }
        }
        let nodes: Vec<NodeResult> = self.results.iter_mut().filter_map(Option::take).collect();
        let all_done = nodes.iter().all(|n| matches!(n, NodeResult::Done { .. }));
        let outcome = match (self.failed, all_done) {
            (true, _) => RunOutcome::Failed,
            (false, true) => RunOutcome::Done,
            (false, false) => RunOutcome::Cancelled,
        };
        let elapsed_ms = self.clock.elapsed().as_millis() as u64;
        let result = RunResult { outcome, nodes, elapsed_ms };
        self.emit(RunEventKind::RunFinished { outcome, counts: result.counts(), elapsed_ms });
        result
    }

    fn make_ready(&mut self, id: NodeId) {
        self.ready.insert(self.priority(id));
    }

    fn priority(&self, id: NodeId) -> (CellId, NodeId) {
        let first = self.assessor.node(id).cells.iter().min();
        (first.copied().unwrap_or(CellId(usize::MAX)), id)
    }

    fn name(&self, id: NodeId) -> (usize, String) {
        (id.0, self.assessor.node(id).label.clone())
    }

    fn emit(&mut self, kind: RunEventKind) {
        self.observer.event(&RunEvent::now(kind));
    }
}

/// A committed record as the input of another stage.
fn artifact(record: &ActionRecord) -> Artifact {
    let output = &record.outputs[OUTPUT];
    let refs = record.refs.clone();
    Artifact { kind: ArtifactKind::new(output.kind.clone()), digest: output.digest, refs }
}
