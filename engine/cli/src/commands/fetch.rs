//! Downloads before a run is planned, told in plain lines.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use qpipe_engine::graph::Study;
use qpipe_engine::plan;
use qpipe_sdk::{Cancel, StageEvent, StageRegistry};

use crate::error::CliError;
use crate::printer::Printer;

/// How often one download is told of.
const TELL: Duration = Duration::from_secs(2);

/// Brings what the study's stages read to this machine.
pub(super) fn fetch(
    study: &Study,
    registry: &StageRegistry,
    printer: &mut Printer,
    cancel: &Cancel,
) -> Result<(), CliError> {
    let (sender, events) = mpsc::channel();
    std::thread::scope(|scope| {
        let fetching = scope.spawn(move || {
            let tell = |label: &str, event| _ = sender.send((label.to_owned(), event));
            plan::fetch(study, registry, &tell, cancel)
        });
        let mut lines = Lines::default();
        for (label, event) in events {
            if let Some(line) = lines.line(&label, &event) {
                printer.human(&line);
            }
        }
        let fetched = fetching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        fetched.map_err(CliError::from)
    })
}

/// When each download was last told of.
#[derive(Default)]
struct Lines {
    told: BTreeMap<String, Instant>,
}

impl Lines {
    /// The line of an event, unless its download was told of just now.
    fn line(&mut self, label: &str, event: &StageEvent) -> Option<String> {
        match event {
            StageEvent::Progress { done, total, what } => {
                let recent = self.told.get(what).is_some_and(|at| at.elapsed() < TELL);
                if recent && done < total {
                    return None;
                }
                self.told.insert(what.clone(), Instant::now());
                let (done, total) = (ByteSize(*done), ByteSize(*total));
                Some(format!("fetch   {label}  {done} of {total}: {what}"))
            }
            StageEvent::Log { message } => Some(format!("fetch   {label}  {message}")),
            StageEvent::Unit { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_told_of_at_its_beginning_and_its_end() {
        let mut lines = Lines::default();
        let mut at = |done| {
            let event = StageEvent::Progress { done, total: 4096, what: "bytes of a".into() };
            lines.line("load base", &event)
        };
        assert_eq!(at(1024).as_deref(), Some("fetch   load base  1.0 KiB of 4.0 KiB: bytes of a"));
        assert_eq!(at(2048), None);
        assert!(at(4096).is_some());
    }
}
