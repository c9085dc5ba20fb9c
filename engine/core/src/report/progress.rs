//! How far the running nodes are: counts, rate and time left, from events alone (no clock of its own).

use std::collections::BTreeMap;

use qpipe_sdk::StageEvent;

use super::format::duration;
use crate::run::{RunEvent, RunEventKind};

/// The running nodes.
#[derive(Debug, Default)]
pub struct Progress {
    running: BTreeMap<usize, Node>,
}

#[derive(Debug)]
struct Node {
    label: String,
    started_ms: u64,
    latest: Option<Latest>,
}

#[derive(Debug)]
struct Latest {
    done: u64,
    total: u64,
    what: String,
    at_ms: u64,
    /// When the count first moved, and from where: earlier time is loading, not work.
    since: (u64, u64),
}

impl Progress {
    /// Takes note of an event; events without progress change nothing.
    pub fn event(&mut self, event: &RunEvent) {
        match &event.kind {
            RunEventKind::NodeStarted { node, label, .. } => {
                let started_ms = event.at_unix_ms;
                self.running.insert(*node, Node { label: label.clone(), started_ms, latest: None });
            }
            RunEventKind::Stage { node, stage: StageEvent::Progress { done, total, what }, .. } => {
                if let Some(running) = self.running.get_mut(node) {
                    running.advance(*done, *total, what, event.at_unix_ms);
                }
            }
            RunEventKind::NodeDone { node, .. }
            | RunEventKind::NodeRetried { node, .. }
            | RunEventKind::NodeFailed { node, .. }
            | RunEventKind::NodeSkipped { node, .. }
            | RunEventKind::NodeStopped { node, .. } => {
                self.running.remove(node);
            }
            _ => {}
        }
    }

    /// One line per running node: `weights  120/210 modules · 8.0/s · 11.2 s left`.
    pub fn lines(&self) -> Vec<String> {
        self.running.values().map(Node::line).collect()
    }

    /// The line of one node.
    pub fn line(&self, node: usize) -> Option<String> {
        self.running.get(&node).map(Node::line)
    }
}

impl Node {
    fn advance(&mut self, done: u64, total: u64, what: &str, at_ms: u64) {
        let continues = self.latest.as_ref().filter(|l| l.what == what && l.done <= done);
        let since = continues.map_or((at_ms, done), |latest| latest.since);
        // the first report of a stage that never says 0 is measured from the stage's start
        let since = if continues.is_none() && self.latest.is_none() && done > 0 {
            (self.started_ms, 0)
        } else {
            since
        };
        self.latest = Some(Latest { done, total, what: what.to_owned(), at_ms, since });
    }

    fn line(&self) -> String {
        match &self.latest {
            None => format!("{}  running", self.label),
            Some(latest) => format!("{}  {}", self.label, latest.text()),
        }
    }
}

impl Latest {
    fn text(&self) -> String {
        let counts = format!("{}/{} {}", self.done, self.total, self.what);
        let (since_ms, from) = self.since;
        let elapsed_ms = self.at_ms.saturating_sub(since_ms);
        let moved = self.done.saturating_sub(from);
        if elapsed_ms == 0 || moved == 0 {
            return counts;
        }
        let per_ms = moved as f64 / elapsed_ms as f64;
        let left_ms = self.total.saturating_sub(self.done) as f64 / per_ms;
        format!("{counts} · {} · {} left", rate(per_ms * 1000.0), duration(left_ms as u64))
    }
}

fn rate(per_s: f64) -> String {
    if per_s >= 100.0 { format!("{per_s:.0}/s") } else { format!("{per_s:.1}/s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at_unix_ms: u64, kind: RunEventKind) -> RunEvent {
        RunEvent { at_unix_ms, kind }
    }

    fn progress(done: u64) -> RunEventKind {
        let stage = StageEvent::Progress { done, total: 210, what: "modules".into() };
        RunEventKind::Stage { node: 3, label: "weights".into(), stage }
    }

    #[test]
    fn rate_and_time_left_come_from_the_events() {
        let mut seen = Progress::default();
        let (label, key) = ("weights".to_owned(), "k".to_owned());
        seen.event(&at(1000, RunEventKind::NodeStarted { node: 3, label, key, why: vec![] }));
        assert_eq!(seen.lines(), ["weights  running"]);
        seen.event(&at(5000, progress(0)));
        assert_eq!(seen.lines(), ["weights  0/210 modules"]);
        seen.event(&at(20_000, progress(120)));
        assert_eq!(seen.line(3).unwrap(), "weights  120/210 modules · 8.0/s · 11.2 s left");
        seen.event(&at(21_000, RunEventKind::NodeStopped { node: 3, label: "weights".into() }));
        assert!(seen.lines().is_empty());
    }
}
