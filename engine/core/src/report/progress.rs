//! How far the running nodes are: counts, rate and time left. It has no clock of its own: events and whoever draws bring
//! the time.

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
    /// Units of work so far, and how many of them were in the store.
    units: u64,
    found: u64,
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
                let node_of = Node { label: label.clone(), started_ms, latest: None, units: 0, found: 0 };
                self.running.insert(*node, node_of);
            }
            RunEventKind::Stage { node, stage: StageEvent::Progress { done, total, what }, .. } => {
                if let Some(running) = self.running.get_mut(node) {
                    running.advance(*done, *total, what, event.at_unix_ms);
                }
            }
            RunEventKind::Stage { node, stage: StageEvent::Unit { cached, .. }, .. } => {
                if let Some(running) = self.running.get_mut(node) {
                    running.units += 1;
                    running.found += u64::from(*cached);
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

    /// One line per running node: `weights  120/210 modules · 8.0/s · 11.2 s left · 30 found`.
    pub fn lines(&self, now_ms: u64) -> impl Iterator<Item = String> {
        self.running.values().map(move |node| node.line(now_ms))
    }

    /// The line of one node.
    pub fn line(&self, node: usize, now_ms: u64) -> Option<String> {
        self.running.get(&node).map(|node| node.line(now_ms))
    }

    /// How many nodes run.
    pub fn running(&self) -> usize {
        self.running.len()
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

    fn line(&self, now_ms: u64) -> String {
        let how_far = match &self.latest {
            None => format!("running for {}", duration(now_ms.saturating_sub(self.started_ms))),
            Some(latest) => latest.text(now_ms),
        };
        let found = if self.found > 0 {
            format!(" · {} of {} units found", self.found, self.units)
        } else {
            String::new()
        };
        format!("{}  {how_far}{found}", self.label)
    }
}

impl Latest {
    /// The rate is that of the work so far; the time left runs down between two reports.
    fn text(&self, now_ms: u64) -> String {
        let counts = format!("{}/{} {}", self.done, self.total, self.what);
        let (since_ms, from) = self.since;
        let elapsed_ms = self.at_ms.saturating_sub(since_ms);
        let moved = self.done.saturating_sub(from);
        if elapsed_ms == 0 || moved == 0 {
            return counts;
        }
        let per_ms = moved as f64 / elapsed_ms as f64;
        let left_ms = (self.total.saturating_sub(self.done) as f64 / per_ms) as u64;
        let left_ms = left_ms.saturating_sub(now_ms.saturating_sub(self.at_ms));
        format!("{counts} · {} · {} left", rate(per_ms * 1000.0), duration(left_ms))
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
        let line = |seen: &Progress, now| seen.line(3, now).unwrap();
        assert_eq!(line(&seen, 3500), "weights  running for 2.5 s");
        seen.event(&at(5000, progress(0)));
        assert_eq!(line(&seen, 5000), "weights  0/210 modules");
        seen.event(&at(20_000, progress(120)));
        assert_eq!(line(&seen, 20_000), "weights  120/210 modules · 8.0/s · 11.2 s left");
        assert_eq!(line(&seen, 22_000), "weights  120/210 modules · 8.0/s · 9.2 s left");
        let unit = |cached| {
            let stage = StageEvent::Unit { name: "m".into(), cached };
            RunEventKind::Stage { node: 3, label: "weights".into(), stage }
        };
        for cached in [false, true, true] {
            seen.event(&at(20_000, unit(cached)));
        }
        assert!(line(&seen, 20_000).ends_with(" left · 2 of 3 units found"));
        seen.event(&at(21_000, RunEventKind::NodeStopped { node: 3, label: "weights".into() }));
        assert_eq!((seen.running(), seen.lines(0).count()), (0, 0));
    }
}
