//! The dispatcher: the loop, and what a node's end means for the others. Which node starts is in `admit`, what time
//! does to those that run in `watch`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Instant;

use qpipe_cache::{ActionRecord, KeyDoc, Store};
use qpipe_sdk::{Artifact, Cancel, ErrorClass, StageError, StageRegistry, stage::unix_ms};

use super::admit::Candidate;
use super::event::{EVENTS_SCHEMA, RunEvent, RunEventKind, RunObserver};
use super::execute::{Finished, Message};
use super::options::{FailureMode, RunOptions};
use super::residents::Residents;
use super::result::{How, NodeResult, RunOutcome, RunResult};
use super::retry::Tries;
use super::select::needed;
use super::slots::Pool;
use super::watch::{Running, Stop};
use crate::graph::{CellId, Node, NodeId, Study};
use crate::plan::{Assessor, NodeState, Plan, memory_names};

/// Runs a plan to its end. Failures are part of the result, never of this function's.
pub fn run(
    study: &Study,
    plan: &Plan,
    registry: &StageRegistry,
    store: &Store,
    options: &RunOptions,
    observer: &mut dyn RunObserver,
) -> RunResult {
    let assessor = Assessor { study, registry, store, force: &plan.options.force };
    let (sender, receiver) = mpsc::channel();
    let mut dispatcher = Dispatcher::new(assessor, plan, options, sender, observer);
    dispatcher.announce();
    dispatcher.work(&receiver);
    dispatcher.finish()
}

pub(super) struct Dispatcher<'a> {
    pub(super) assessor: Assessor<'a>,
    pub(super) plan: &'a Plan,
    pub(super) options: &'a RunOptions,
    pub(super) messages: Sender<Message>,
    pub(super) observer: &'a mut dyn RunObserver,
    clock: Instant,
    /// Requested by the first failure of a fail-fast run, and heard by every node of it.
    pub(super) stop: Cancel,
    pub(super) pool: Pool,
    pub(super) residents: Residents,
    /// Per node: its result, once there is one.
    pub(super) results: Vec<Option<NodeResult>>,
    /// Per node: whether the run may have to run it.
    pub(super) needed: Vec<bool>,
    /// Per node: how many of its distinct inputs have no result yet.
    waiting: Vec<usize>,
    /// Per node: who uses its output.
    users: Vec<Vec<NodeId>>,
    /// Nodes whose inputs are all there, by earliest cell.
    pub(super) ready: BTreeSet<(CellId, NodeId)>,
    /// Those of them that were looked at and did not fit.
    pub(super) candidates: BTreeMap<NodeId, Candidate>,
    pub(super) running: BTreeMap<NodeId, Running>,
    pub(super) tries: BTreeMap<NodeId, Tries>,
    /// Nodes that are tried again at a time.
    pub(super) delayed: BTreeSet<(Instant, NodeId)>,
    failed: bool,
    pub(super) abandoned: usize,
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
            needed: needed(assessor.study, plan, options.goals.as_ref()),
            assessor,
            plan,
            options,
            messages,
            observer,
            clock: Instant::now(),
            stop: options.cancel.child(),
            pool: Pool::new(options),
            residents: Residents::default(),
            results: vec![None; count],
            waiting,
            users,
            ready: BTreeSet::new(),
            candidates: BTreeMap::new(),
            running: BTreeMap::new(),
            tries: BTreeMap::new(),
            delayed: BTreeSet::new(),
            failed: false,
            abandoned: 0,
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

    fn work(&mut self, receiver: &Receiver<Message>) {
        loop {
            self.start_ready();
            if self.running.is_empty() && self.delayed.is_empty() {
                return;
            }
            match receiver.recv_timeout(self.until_next_deadline()) {
                Ok(message) => self.hear(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    unreachable!("the dispatcher holds a sender itself")
                }
            }
            self.watch_clock();
            self.observer.tick(unix_ms());
        }
    }

    /// Messages of a node that was given up are not heard any more.
    fn hear(&mut self, message: Message) {
        match message {
            Message::Stage(id, stage) if self.running.contains_key(&id) => {
                let (node, label) = self.name(id);
                self.emit(RunEventKind::Stage { node, label, stage });
            }
            Message::Stage(..) => {}
            Message::Finished(id, result) => {
                if let Some(running) = self.running.remove(&id) {
                    self.pool.give_back(&running.lease);
                    self.finished(id, &running, result);
                }
            }
        }
    }

    pub(super) fn stopping(&self) -> bool {
        self.stop.requested()
    }

    fn finished(&mut self, id: NodeId, running: &Running, result: Result<Finished, StageError>) {
        let elapsed_ms = running.started.elapsed().as_millis() as u64;
        let error = match result {
            Ok(Finished { record, how }) => return self.done(id, how, record),
            Err(error) => error,
        };
        let stays = matches!(error.class(), ErrorClass::Config | ErrorClass::Store);
        if let Some(gpu) = running.lease.gpu.filter(|_| !stays) {
            self.residents.forget(gpu);
        }
        // a worker that was killed for not stopping is lost, but that is not why the node ended
        let told_to = matches!(error.class(), ErrorClass::Cancelled | ErrorClass::Transient);
        match running.stop {
            Some(Stop { timeout: Some(limit), .. }) if told_to => {
                self.fail(id, &StageError::Timeout(limit), elapsed_ms);
            }
            _ if told_to && self.stopping() => self.stopped(id),
            _ => {
                if !self.try_again(id, &error) {
                    self.fail(id, &error, elapsed_ms);
                }
            }
        }
    }

    pub(super) fn done(&mut self, id: NodeId, how: How, record: Box<ActionRecord>) {
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

    pub(super) fn fail(&mut self, id: NodeId, error: &StageError, elapsed_ms: u64) {
        let ((node, label), class, message) = (self.name(id), error.class(), error.to_string());
        self.emit(RunEventKind::NodeFailed { node, label, class, message: message.clone(), elapsed_ms });
        self.results[id.0] = Some(NodeResult::Failed { class, message, elapsed_ms });
        self.failed = true;
        self.skip_users(id);
        if self.options.failure == FailureMode::FailFast {
            self.stop_running();
        }
    }

    /// Everything downstream of a failed node can have no input, in every failure mode.
    fn skip_users(&mut self, failed: NodeId) {
        let mut queue = self.users[failed.0].clone();
        while let Some(id) = queue.pop() {
            if self.results[id.0].is_some() || !self.needed[id.0] {
                continue;
            }
            self.results[id.0] = Some(NodeResult::Skipped { because: failed });
            let ((node, label), (_, because)) = (self.name(id), self.name(failed));
            self.emit(RunEventKind::NodeSkipped { node, label, because });
            queue.extend_from_slice(&self.users[id.0]);
        }
    }

    pub(super) fn stopped(&mut self, id: NodeId) {
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
            match self.results[id.0] {
                None if self.needed[id.0] => self.stopped(id),
                None => self.results[id.0] = Some(NodeResult::Unselected),
                Some(_) => {}
            }
        }
        let nodes: Vec<NodeResult> = self.results.iter_mut().filter_map(Option::take).collect();
        let outcome = self.outcome(&nodes);
        // only slower lookups are lost when it cannot be written, as on a read-only disk
        let _unwritten = self.assessor.store.flush();
        let elapsed_ms = self.clock.elapsed().as_millis() as u64;
        let result = RunResult { outcome, nodes, elapsed_ms, abandoned: self.abandoned };
        self.emit(RunEventKind::RunFinished { outcome, counts: result.counts(), elapsed_ms });
        result
    }

    /// A run that was asked to stop was interrupted, whatever failed before, unless there was nothing left to stop.
    fn outcome(&self, nodes: &[NodeResult]) -> RunOutcome {
        let cut = nodes.iter().any(|node| matches!(node, NodeResult::Stopped));
        match (self.failed, cut) {
            (_, true) if self.options.cancel.requested() => RunOutcome::Interrupted,
            (true, _) => RunOutcome::Failed,
            (false, true) => RunOutcome::Interrupted,
            (false, false) => RunOutcome::Done,
        }
    }

    pub(super) fn make_ready(&mut self, id: NodeId) {
        if self.needed[id.0] {
            self.ready.insert(self.priority(id));
        }
    }

    pub(super) fn priority(&self, id: NodeId) -> (CellId, NodeId) {
        let first = self.assessor.node(id).cells.iter().min();
        (first.copied().unwrap_or(CellId(usize::MAX)), id)
    }

    pub(super) fn inputs(&self, id: NodeId) -> BTreeMap<String, Artifact> {
        let node = self.assessor.node(id);
        let input = |(port, record): (&str, &ActionRecord)| {
            (port.to_owned(), self.assessor.input(node, port, record))
        };
        self.given(node).map(input).collect()
    }

    /// Documents among a node's inputs that are stored when it runs.
    pub(super) fn documents(&self, id: NodeId) -> Vec<Vec<u8>> {
        let node = self.assessor.node(id);
        self.given(node).filter_map(|(port, record)| self.assessor.document(node, port, record)).collect()
    }

    /// The records that a node's ports are given, as far as there are any.
    fn given<'n>(&self, node: &'n Node) -> impl Iterator<Item = (&'n str, &ActionRecord)> {
        let record = |input: NodeId| self.results[input.0].as_ref().and_then(NodeResult::record);
        node.inputs.iter().filter_map(move |(port, input)| Some((port, record(input)?)))
    }

    pub(super) fn name(&self, id: NodeId) -> (usize, String) {
        (id.0, self.assessor.node(id).label.clone())
    }

    pub(super) fn emit(&mut self, kind: RunEventKind) {
        self.observer.event(&RunEvent::now(kind));
    }
}
