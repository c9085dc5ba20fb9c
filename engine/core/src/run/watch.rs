//! What time does to running nodes: timeouts, the grace period, and pauses before the next try.
//!
//! A node that must stop is asked first, and has the grace period to finish or keep its current unit. Then it is killed,
//! which ends a worker process. A stage in a thread of this process cannot be killed: it is given up, and its thread
//! ends with the program.

use std::time::{Duration, Instant};

use qpipe_sdk::{Cancel, StageError};

use super::dispatch::Dispatcher;
use super::event::RunEventKind;
use super::slots::Lease;
use crate::graph::NodeId;

/// How long the dispatcher waits for news at most, so that those who watch see the clock move.
const TICK: Duration = Duration::from_millis(200);
/// How long a killed node may take to end.
const KILL_WAIT: Duration = Duration::from_secs(2);

/// A running node.
pub(super) struct Running {
    pub(super) started: Instant,
    pub(super) cancel: Cancel,
    pub(super) lease: Lease,
    pub(super) timeout: Option<Duration>,
    /// Set when it was asked to stop, other than from outside: who presses Ctrl-C decides how long to wait.
    pub(super) stop: Option<Stop>,
}

/// A node's being asked to stop.
#[derive(Clone, Copy)]
pub(super) struct Stop {
    since: Instant,
    /// The limit that it met, if that was why.
    pub(super) timeout: Option<Duration>,
}

impl Running {
    /// When something must be done about it next.
    fn deadline(&self, grace: Duration) -> Option<Instant> {
        match self.stop {
            Some(stop) if self.cancel.killed() => Some(stop.since + grace + KILL_WAIT),
            Some(stop) => Some(stop.since + grace),
            None => self.timeout.and_then(|timeout| self.started.checked_add(timeout)),
        }
    }
}

impl Dispatcher<'_> {
    pub(super) fn until_next_deadline(&self) -> Duration {
        let grace = self.options.grace;
        let deadlines = self.running.values().filter_map(|running| running.deadline(grace));
        let delayed = self.delayed.first().map(|(at, _)| *at);
        let next = deadlines.chain(delayed).min();
        next.map_or(TICK, |at| at.saturating_duration_since(Instant::now()).min(TICK))
    }

    /// Does what is due.
    pub(super) fn watch_clock(&mut self) {
        let (now, grace) = (Instant::now(), self.options.grace);
        let is_due = |running: &Running| running.deadline(grace).is_some_and(|at| at <= now);
        let due: Vec<NodeId> =
            self.running.iter().filter(|(_, running)| is_due(running)).map(|(id, _)| *id).collect();
        for id in due {
            self.press(id, now);
        }
        self.release_delayed(now);
    }

    /// Asks a node to stop, then kills it, then gives it up.
    fn press(&mut self, id: NodeId, now: Instant) {
        let Some(running) = self.running.get_mut(&id) else { return };
        match running.stop {
            None => {
                running.stop = Some(Stop { since: now, timeout: running.timeout });
                running.cancel.request();
            }
            Some(_) if !running.cancel.killed() => running.cancel.kill(),
            Some(stop) => self.give_up(id, stop),
        }
    }

    fn give_up(&mut self, id: NodeId, stop: Stop) {
        let Some(running) = self.running.remove(&id) else { return };
        self.pool.give_back(&running.lease);
        self.abandoned += 1;
        let (_, label) = self.name(id);
        let message = format!("`{label}` did not stop when it was asked to; it ends with the program");
        self.emit(RunEventKind::Warning { message });
        match stop.timeout {
            Some(limit) => {
                self.fail(id, &StageError::Timeout(limit), running.started.elapsed().as_millis() as u64);
            }
            None => self.stopped(id),
        }
    }

    /// Asks everything that runs to stop, and lets nothing start.
    pub(super) fn stop_running(&mut self) {
        self.stop.request();
        let since = Instant::now();
        for running in self.running.values_mut() {
            running.stop.get_or_insert(Stop { since, timeout: None });
        }
    }

    /// Whether a failed node is to be tried again; if so, it will be.
    pub(super) fn try_again(&mut self, id: NodeId, error: &StageError) -> bool {
        if self.stopping() {
            return false;
        }
        let policy = self.options.limits.retry.unwrap_or_default();
        let tries = self.tries.entry(id).or_default();
        let Some(wait) = tries.after(error.class(), policy) else { return false };
        let (attempt, (node, label)) = (tries.again, self.name(id));
        self.emit(RunEventKind::NodeRetried {
            node,
            label,
            class: error.class(),
            message: error.to_string(),
            attempt,
            wait_ms: wait.as_millis() as u64,
        });
        self.delayed.insert((Instant::now() + wait, id));
        true
    }

    fn release_delayed(&mut self, now: Instant) {
        let stopping = self.stopping();
        while let Some((_, id)) = self.delayed.first().filter(|(at, _)| stopping || *at <= now).copied() {
            self.delayed.pop_first();
            self.make_ready(id);
        }
    }
}
