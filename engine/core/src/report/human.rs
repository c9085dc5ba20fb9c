//! A run told to a person, line by line, into anything that can be written to.

use std::collections::BTreeMap;
use std::io::Write;

use qpipe_sdk::StageEvent;

use super::format::{counted, duration};
use super::progress::Progress;
use crate::run::{How, RunEvent, RunEventKind, RunObserver};

/// How the writer may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A log: lines are only ever appended, progress at most every ten seconds per node.
    Plain,
    /// A terminal of this many columns: below the log, one updating line per running node, and one for the whole.
    Live { width: usize, color: bool },
}

/// In a log, how often a node's progress is worth a line.
const PLAIN_INTERVAL_MS: u64 = 10_000;
/// How often a terminal is drawn again while nothing but progress happens.
const FRAME_MS: u64 = 100;
/// Running nodes with a line of their own.
const MOST_LINES: usize = 12;

const GREEN: &str = "32";
const RED: &str = "31";
const YELLOW: &str = "33";

/// Writes a run's events as text. A writer that fails is ignored: losing a line must not lose a run.
///
/// A terminal gets whole frames, each in one write that overwrites the lines of the last one: erasing them first, or
/// writing line by line, would flicker.
pub struct HumanReporter<W> {
    out: W,
    style: Style,
    progress: Progress,
    nodes: usize,
    /// Nodes that have ended, and those of them that failed.
    ended: usize,
    failed: usize,
    /// Results found in the cache and not told yet; they are told by number.
    cached: usize,
    /// Log lines of the coming frame.
    pending: String,
    /// Updating lines now on the terminal.
    drawn: usize,
    started_ms: u64,
    frame_ms: u64,
    /// Per node: when its progress was last told in a log.
    told_ms: BTreeMap<usize, u64>,
    /// Of each running node, how many units earlier tries had kept, and how many there were.
    units: BTreeMap<usize, (usize, usize)>,
}

impl<W: Write> HumanReporter<W> {
    pub fn new(out: W, style: Style) -> Self {
        Self {
            out,
            style,
            progress: Progress::default(),
            nodes: 0,
            ended: 0,
            failed: 0,
            cached: 0,
            pending: String::new(),
            drawn: 0,
            started_ms: 0,
            frame_ms: 0,
            told_ms: BTreeMap::new(),
            units: BTreeMap::new(),
        }
    }

    /// Counts results found in the cache that have no events of their own.
    pub fn cached(&mut self, count: usize) {
        self.cached += count;
        self.ended += count;
    }

    fn log(&mut self, line: &str) {
        self.pending.push_str(line);
        self.pending.push('\n');
    }

    /// A line whose first word has a colour, where there are any.
    fn log_in(&mut self, color: &str, word: &str, rest: &str) {
        match self.style {
            Style::Live { color: true, .. } => self.log(&format!("\x1b[{color}m{word}\x1b[0m{rest}")),
            _ => self.log(&format!("{word}{rest}")),
        }
    }

    /// Writes what is pending; on a terminal, as a frame with the running nodes below.
    fn show(&mut self, now_ms: u64) {
        let text = match self.style {
            Style::Plain => std::mem::take(&mut self.pending),
            Style::Live { width, .. } => self.frame(width, now_ms),
        };
        if !text.is_empty() {
            let _ = self.out.write_all(text.as_bytes());
            let _ = self.out.flush();
        }
    }

    fn frame(&mut self, width: usize, now_ms: u64) -> String {
        self.frame_ms = now_ms;
        let mut frame = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        let live = self.live_lines(now_ms);
        self.drawn = live.len();
        let fitting = live.iter().map(|line| line.chars().take(width.saturating_sub(1)).collect::<String>());
        let log = std::mem::take(&mut self.pending);
        for line in log.lines().map(str::to_owned).chain(fitting) {
            frame.push_str(&line);
            frame.push_str("\x1b[K\n");
        }
        // what is left of a longer frame
        frame.push_str("\x1b[J");
        frame
    }

    fn live_lines(&self, now_ms: u64) -> Vec<String> {
        let running = self.progress.running();
        if running == 0 {
            return Vec::new();
        }
        let mut lines: Vec<String> = self.progress.lines(now_ms).take(MOST_LINES).collect();
        if running > MOST_LINES {
            lines.push(format!("… and {} more", running - MOST_LINES));
        }
        let failed = if self.failed > 0 { format!(" · {} failed", self.failed) } else { String::new() };
        let elapsed = duration(now_ms.saturating_sub(self.started_ms));
        let nodes = counted(self.nodes, "node");
        lines.push(format!("{} of {nodes}{failed} · {running} running · {elapsed}", self.ended));
        lines
    }

    fn count(&mut self, event: &RunEvent) {
        match &event.kind {
            RunEventKind::RunStarted { nodes, .. } => {
                (self.nodes, self.started_ms) = (*nodes, event.at_unix_ms);
            }
            RunEventKind::NodeDone { .. } | RunEventKind::NodeSkipped { .. } => self.ended += 1,
            RunEventKind::NodeFailed { .. } => {
                self.ended += 1;
                self.failed += 1;
            }
            _ => {}
        }
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
                let (cells, nodes) = (counted(*cells, "cell"), counted(*nodes, "node"));
                self.log(&format!("study `{study}`: {cells}, {nodes}"));
            }
            RunEventKind::NodeStarted { node, label, why, .. } => {
                self.units.remove(node);
                self.log(&format!("start   {label}: {}", why.join("; ")));
            }
            RunEventKind::NodeDone { node, label, elapsed_ms, .. } => {
                let units = match self.units.remove(node) {
                    Some((kept, all)) if kept > 0 => format!(" ({kept} of {all} units kept)"),
                    _ => String::new(),
                };
                self.log_in(GREEN, "done", &format!("    {label} in {}{units}", duration(*elapsed_ms)));
            }
            RunEventKind::NodeFailed { label, message, .. } => {
                self.log_in(RED, "failed", &format!("  {label}: {message}"));
            }
            RunEventKind::NodeRetried { label, message, attempt, wait_ms, .. } => {
                let wait = duration(*wait_ms);
                self.log_in(
                    YELLOW,
                    "retry",
                    &format!("   {label} in {wait} (try {}): {message}", attempt + 1),
                );
            }
            RunEventKind::NodeSkipped { label, because, .. } => {
                self.log(&format!("skipped {label}: needs `{because}`"));
            }
            RunEventKind::NodeStopped { label, .. } => self.log(&format!("stopped {label}")),
            RunEventKind::Warning { message } => self.log_in(YELLOW, "warning", &format!(": {message}")),
            RunEventKind::Stage { node, label, stage } => {
                self.tell_stage(*node, label, stage, event.at_unix_ms);
            }
            RunEventKind::RunFinished { .. } => {}
        }
    }

    fn tell_cached(&mut self) {
        let cached = std::mem::take(&mut self.cached);
        if cached > 0 {
            self.log(&format!("cached  {cached} of {}", counted(self.nodes, "node")));
        }
    }

    fn tell_stage(&mut self, node: usize, label: &str, stage: &StageEvent, at_ms: u64) {
        match stage {
            StageEvent::Log { message } => self.log(&format!("        {label}: {message}")),
            StageEvent::Progress { .. } if self.style == Style::Plain => {
                let told = *self.told_ms.entry(node).or_insert(at_ms);
                if at_ms.saturating_sub(told) >= PLAIN_INTERVAL_MS {
                    self.told_ms.insert(node, at_ms);
                    let line = self.progress.line(node, at_ms).unwrap_or_default();
                    self.log(&format!("        {line}"));
                }
            }
            StageEvent::Unit { cached, .. } => {
                let (kept, all) = self.units.entry(node).or_default();
                *kept += usize::from(*cached);
                *all += 1;
            }
            StageEvent::Progress { .. } => {}
        }
    }
}

impl<W: Write> RunObserver for HumanReporter<W> {
    fn event(&mut self, event: &RunEvent) {
        self.count(event);
        self.progress.event(event);
        self.tell(event);
        let only_progress = matches!(event.kind, RunEventKind::Stage { .. }) && self.pending.is_empty();
        if !only_progress || event.at_unix_ms >= self.frame_ms + FRAME_MS {
            self.show(event.at_unix_ms);
        }
    }

    fn tick(&mut self, now_unix_ms: u64) {
        let live = matches!(self.style, Style::Live { .. });
        if live && self.progress.running() > 0 && now_unix_ms >= self.frame_ms + FRAME_MS {
            self.show(now_unix_ms);
        }
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

    const WIDE: Style = Style::Live { width: 80, color: false };

    #[test]
    fn a_terminal_gets_frames_that_overwrite_the_last() {
        let text = told(WIDE, vec![started("q"), progress(0)]);
        let first = "start   q: never ran\x1b[K\nq  running for 0 ms\x1b[K\n0 of 0 nodes · 1 running · 0 ms\x1b[K\n\x1b[J";
        let second = "\x1b[2Aq  0/9 items\x1b[K\n0 of 0 nodes · 1 running · 6.0 s\x1b[K\n\x1b[J";
        assert_eq!(text, [first, second].concat());
        let narrow = told(Style::Live { width: 5, color: false }, vec![started("q")]);
        assert!(narrow.ends_with("\nq  r\x1b[K\n0 of\x1b[K\n\x1b[J"), "{narrow:?}");
    }

    #[test]
    fn nothing_is_left_of_the_running_lines_in_the_end() {
        let done = RunEventKind::NodeStopped { node: 0, label: "q".into() };
        let text = told(WIDE, vec![started("q"), done]);
        assert!(text.ends_with("\x1b[2Astopped q\x1b[K\n\x1b[J"), "{text:?}");
    }

    #[test]
    fn progress_is_drawn_ten_times_a_second_at_most() {
        let mut out = Vec::new();
        let mut reporter = HumanReporter::new(&mut out, WIDE);
        let at = |at_unix_ms, kind| RunEvent { at_unix_ms, kind };
        reporter.event(&at(1000, started("q")));
        (1001..1100).for_each(|ms| reporter.event(&at(ms, progress(1))));
        reporter.tick(1099);
        reporter.tick(1100);
        reporter.tick(1150);
        let frames = String::from_utf8(out).unwrap().matches("\x1b[J").count();
        assert_eq!(frames, 2);
    }

    #[test]
    fn what_is_done_says_how_much_was_kept_before() {
        let unit = |cached| RunEventKind::Stage {
            node: 0,
            label: "q".into(),
            stage: StageEvent::Unit { name: "u".into(), cached },
        };
        let (label, key) = ("q".to_owned(), "k".to_owned());
        let done = RunEventKind::NodeDone { node: 0, label, key, how: How::Ran, elapsed_ms: 9 };
        let kept = vec![started("q"), unit(true), unit(false), unit(true), done.clone()];
        assert_eq!(told(Style::Plain, kept), "start   q: never ran\ndone    q in 9 ms (2 of 3 units kept)\n");
        let fresh = vec![started("q"), unit(false), done];
        assert_eq!(told(Style::Plain, fresh), "start   q: never ran\ndone    q in 9 ms\n");
    }

    #[test]
    fn many_running_nodes_share_a_line() {
        let kinds = (0..20).map(|node| RunEventKind::NodeStarted {
            node,
            label: format!("n{node}"),
            key: "k".into(),
            why: vec![],
        });
        let text = told(WIDE, kinds.collect());
        assert!(text.contains("… and 8 more\x1b[K\n0 of 0 nodes · 20 running"), "{text:?}");
    }

    #[test]
    fn colours_are_there_only_where_they_are_wanted() {
        let warning = || vec![RunEventKind::Warning { message: "w".into() }];
        let colored = told(Style::Live { width: 80, color: true }, warning());
        assert!(colored.contains("\x1b[33mwarning\x1b[0m: w"), "{colored:?}");
        assert_eq!(told(Style::Plain, warning()), "warning: w\n");
        assert_eq!(told(WIDE, warning()), "warning: w\x1b[K\n\x1b[J");
    }
}
