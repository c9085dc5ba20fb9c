//! A run told to a person, line by line, into anything that can be written to.

use std::collections::BTreeMap;
use std::io::Write;

use qpipe_sdk::StageEvent;

use super::format::duration;
use super::progress::Progress;
use crate::run::{How, RunEvent, RunEventKind, RunObserver};

/// How the writer may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A log: lines are only ever appended, progress at most every ten seconds per node.
    Plain,
    /// A terminal of this many columns: below the log, one updating line per running node.
    Live { width: usize },
}

/// In a log, how often a node's progress is worth a line.
const PLAIN_INTERVAL_MS: u64 = 10_000;

/// Writes a run's events as text. A writer that fails is ignored: losing a line must not lose a run.
pub struct HumanReporter<W> {
    out: W,
    style: Style,
    progress: Progress,
    nodes: usize,
    /// Results found in the cache and not told yet; they are told by number.
    cached: usize,
    /// Updating lines now on the terminal.
    drawn: usize,
    /// Per node: when its progress was last told in a log.
    told_ms: BTreeMap<usize, u64>,
}

impl<W: Write> HumanReporter<W> {
    pub fn new(out: W, style: Style) -> Self {
        let (progress, told_ms) = (Progress::default(), BTreeMap::new());
        Self { out, style, progress, nodes: 0, cached: 0, drawn: 0, told_ms }
    }

    fn log(&mut self, line: &str) {
        let _ = writeln!(self.out, "{line}");
    }

    fn erase(&mut self) {
        for _ in 0..std::mem::take(&mut self.drawn) {
            let _ = write!(self.out, "\x1b[1A\x1b[2K");
        }
    }

    fn draw(&mut self) {
        let Style::Live { width } = self.style else { return };
        for line in self.progress.lines() {
            let line: String = line.chars().take(width.saturating_sub(1)).collect();
            let _ = writeln!(self.out, "{line}");
            self.drawn += 1;
        }
        let _ = self.out.flush();
    }

    fn tell(&mut self, event: &RunEvent) {
        if let RunEventKind::NodeDone { how: How::Cached, .. } = event.kind {
            self.cached += 1;
            return;
        }
        if !matches!(event.kind, RunEventKind::Stage { .. }) {
            self.tell_cached();
        }
        match &event.kind {
            RunEventKind::RunStarted { study, cells, nodes, .. } => {
                self.nodes = *nodes;
                self.log(&format!("study `{study}`: {cells} cells, {nodes} nodes"));
            }
            RunEventKind::NodeStarted { label, why, .. } => {
                self.log(&format!("start   {label}: {}", why.join("; ")));
            }
            RunEventKind::NodeDone { label, elapsed_ms, .. } => {
                self.log(&format!("done    {label} in {}", duration(*elapsed_ms)));
            }
            RunEventKind::NodeFailed { label, message, .. } => {
                self.log(&format!("failed  {label}: {message}"));
            }
            RunEventKind::NodeRetried { label, message, attempt, wait_ms, .. } => {
                let wait = duration(*wait_ms);
                self.log(&format!("retry   {label} in {wait} (try {}): {message}", attempt + 1));
            }
            RunEventKind::NodeSkipped { label, because, .. } => {
                self.log(&format!("skipped {label}: needs `{because}`"));
            }
            RunEventKind::NodeStopped { label, .. } => self.log(&format!("stopped {label}")),
            RunEventKind::Warning { message } => self.log(&format!("warning: {message}")),
            RunEventKind::Stage { node, label, stage } => {
                self.tell_stage(*node, label, stage, event.at_unix_ms);
            }
            RunEventKind::RunFinished { .. } => {}
        }
    }

    fn tell_cached(&mut self) {
        let cached = std::mem::take(&mut self.cached);
        if cached > 0 {
            self.log(&format!("cached  {cached} of {} nodes", self.nodes));
        }
    }

    fn tell_stage(&mut self, node: usize, label: &str, stage: &StageEvent, at_ms: u64) {
        match stage {
            StageEvent::Log { message } => self.log(&format!("        {label}: {message}")),
            StageEvent::Progress { .. } if self.style == Style::Plain => {
                let told = *self.told_ms.entry(node).or_insert(at_ms);
                if at_ms.saturating_sub(told) >= PLAIN_INTERVAL_MS {
                    self.told_ms.insert(node, at_ms);
                    let line = self.progress.line(node).unwrap_or_default();
                    self.log(&format!("        {line}"));
                }
            }
            StageEvent::Progress { .. } | StageEvent::Unit { .. } => {}
        }
    }
}

impl<W: Write> RunObserver for HumanReporter<W> {
    fn event(&mut self, event: &RunEvent) {
        self.erase();
        self.progress.event(event);
        self.tell(event);
        self.draw();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(label: &str) -> RunEventKind {
        let why = vec!["never ran".to_owned()];
        RunEventKind::NodeStarted { node: 0, label: label.into(), key: "k".into(), why }
    }

    fn told(style: Style, kinds: Vec<RunEventKind>) -> String {
        let mut out = Vec::new();
        let mut reporter = HumanReporter::new(&mut out, style);
        for (second, kind) in kinds.into_iter().enumerate() {
            reporter.event(&RunEvent { at_unix_ms: second as u64 * 6000, kind });
        }
        String::from_utf8(out).unwrap()
    }

    fn progress(done: u64) -> RunEventKind {
        let stage = StageEvent::Progress { done, total: 9, what: "items".into() };
        RunEventKind::Stage { node: 0, label: "q".into(), stage }
    }

    #[test]
    fn a_log_tells_progress_now_and_then_and_cached_by_number() {
        let (label, key) = ("b".to_owned(), "k".to_owned());
        let cached = RunEventKind::NodeDone { node: 1, label, key, how: How::Cached, elapsed_ms: 9 };
        let text = told(
            Style::Plain,
            vec![cached.clone(), cached, started("q"), progress(1), progress(2), progress(3), progress(4)],
        );
        assert_eq!(
            text,
            "cached  2 of 0 nodes\nstart   q: never ran\n        q  3/9 items · 0.2/s · 36.0 s left\n"
        );
    }

    #[test]
    fn a_terminal_gets_one_updating_line_per_running_node() {
        let text = told(Style::Live { width: 80 }, vec![started("q"), progress(0)]);
        assert_eq!(text, "start   q: never ran\nq  running\n\u{1b}[1A\u{1b}[2Kq  0/9 items\n");
        let narrow = told(Style::Live { width: 5 }, vec![started("q")]);
        assert!(narrow.ends_with("\nq  r\n"), "{narrow:?}");
    }
}
