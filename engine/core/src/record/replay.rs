//! The record of a run in which everything was cached, made from that of an earlier one with the same results.
//!
//! Such a record says what the earlier one says, but for the run's name and times. So its files are copied: whole, or the
//! part that says nothing of the run. A part is believed only with the digest it had when it was written.

use std::fs::{self, File};
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use qpipe_cache::{Digest, Pieces};
use serde::{Deserialize, Serialize};

use super::error::RecordError;
use super::id::RunId;
use super::recorder::{begin, write, write_with};
use super::summary::include_name;
use super::text::{RunHead, head_text, tail_text};
use crate::run::{EVENTS_SCHEMA, RunEvent, RunEventKind};

/// The files that say nothing of the run, as far as a record has them.
const SAME: [&str; 5] = ["plan.json", "table.md", "table.csv", "table.json", SAMPLES];
/// The texts that stages generated, if any did.
pub(super) const SAMPLES: &str = "samples.json";
pub(super) const EVENTS: &str = "events.jsonl";
pub(super) const RUN: &str = "run.json";

/// Bytes that are copied at a time.
const PIECE: usize = 64 << 10;

/// Every line of the log begins so, and goes on with the milliseconds since the Unix epoch.
const LINE_START: &[u8] = b"{\"at_unix_ms\":";

/// Where the record of a run has what other records can repeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Model {
    run: RunId,
    /// [`SAME`], in order; `None` where the record has no such file.
    same: Vec<Option<Part>>,
    /// The lines between the first and the last: one per node, all cached.
    events: Part,
    /// The middle of `run.json`.
    middle: Part,
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    start: u64,
    bytes: u64,
    digest: Digest,
}

impl Part {
    fn of(file: &[u8], start: usize, end: usize) -> Self {
        let part = &file[start..end];
        Self { start: start as u64, bytes: part.len() as u64, digest: Digest::of_bytes_here(part) }
    }

    /// Hands the part over a piece at a time, and fails after the last if it was not what it was. `take` says how much of
    /// a piece it took; the rest comes again before what follows.
    fn each(
        &self,
        from: &Path,
        piece: &mut [u8],
        mut take: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut file = File::open(from)?;
        file.seek(SeekFrom::Start(self.start))?;
        let (mut file, mut copied, mut seen, mut kept) = (file.take(self.bytes), 0, Pieces::default(), 0);
        loop {
            let read = file.read(&mut piece[kept..])?;
            if read == 0 {
                return self.check(copied, seen.digest());
            }
            copied += read as u64;
            let full = kept + read;
            seen.add(&piece[kept..full]);
            let taken = take(&mut piece[..full])?;
            piece.copy_within(taken..full, 0);
            kept = full - taken;
        }
    }

    /// Copies the part, and fails if it was not what it was.
    fn copy(&self, from: &Path, to: &mut File, piece: &mut [u8]) -> io::Result<()> {
        self.each(from, piece, |piece| to.write_all(piece).map(|()| piece.len()))
    }

    fn check(&self, bytes: u64, digest: Digest) -> io::Result<()> {
        if (bytes, digest) == (self.bytes, self.digest) {
            Ok(())
        } else {
            Err(io::Error::other("it is not what it was"))
        }
    }
}

impl Model {
    /// The model that a finished record is; `None` if it cannot be read back as one.
    pub(super) fn of(dir: &Path, run: &RunId, run_json: &[u8], middle: Range<usize>) -> Option<Self> {
        let whole = |name: &&str| match fs::read(dir.join(name)) {
            Ok(text) => Some(Some(Part::of(&text, 0, text.len()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(None),
            Err(_) => None,
        };
        let events = fs::read(dir.join(EVENTS)).ok()?;
        let first = events.as_slice().skip_until(b'\n').ok()?;
        let last = events.strip_suffix(b"\n")?.iter().rposition(|byte| *byte == b'\n')? + 1;
        Some(Self {
            run: run.clone(),
            same: SAME.iter().map(whole).collect::<Option<_>>()?,
            events: (first <= last).then(|| Part::of(&events, first, last))?,
            middle: Part::of(run_json, middle.start, middle.end),
        })
    }
}

/// Everything a record is made of.
pub(crate) struct Replay<'a> {
    pub(crate) model: &'a Model,
    pub(crate) head: &'a RunHead,
    pub(crate) cells: usize,
    pub(crate) manifest: &'a str,
    /// In the order of the head's.
    pub(crate) includes: &'a [String],
    /// When the run began.
    pub(crate) clock: Instant,
}

/// A record that was written.
pub(crate) struct Replayed {
    pub(crate) dir: PathBuf,
    /// The log's file.
    pub(crate) events: PathBuf,
    pub(crate) elapsed_ms: u64,
}

impl Replay<'_> {
    /// Writes the record; of one that fails nothing stays.
    pub(crate) fn write(&self, runs: &Path) -> Result<Replayed, RecordError> {
        let begun = begin(runs, &self.head.study, &self.head.manifest)?;
        let written = self.files(runs, &begun.dir, &begun.started.run, &begun.started.started);
        if written.is_err() {
            // what cannot be removed looks like an interrupted run
            let _left_behind = fs::remove_dir_all(&begun.dir);
        }
        written
    }

    fn files(&self, runs: &Path, dir: &Path, run: &RunId, started: &str) -> Result<Replayed, RecordError> {
        let from = runs.join(&self.model.run.0);
        let mut piece = vec![0; PIECE];
        for (name, part) in SAME.iter().zip(&self.model.same) {
            let Some(part) = part else { continue };
            let (path, to) = (from.join(name), dir.join(name));
            write_with(&to, |file| part.copy(&path, file, &mut piece))
                .map_err(RecordError::io("copy", &path))?;
        }
        write(&dir.join("manifest.kdl"), self.manifest.as_bytes())?;
        for (index, (include, text)) in self.head.includes.iter().zip(self.includes).enumerate() {
            write(&dir.join(include_name(index, &include.path)), text.as_bytes())?;
        }
        let elapsed_ms = self.clock.elapsed().as_millis() as u64;
        let (events, path) = (dir.join(EVENTS), from.join(EVENTS));
        write_with(&events, |file| self.events(&path, file, elapsed_ms, &mut piece))
            .map_err(RecordError::io("copy", &path))?;
        let head = RunHead { run: run.clone(), started: started.to_owned(), elapsed_ms, ..self.head.clone() };
        let path = from.join(RUN);
        write_with(&dir.join(RUN), |file| {
            file.write_all(&head_text(&head)?)?;
            self.model.middle.copy(&path, file, &mut piece)?;
            file.write_all(&tail_text()?)
        })
        .map_err(RecordError::io("copy", &path))?;
        Ok(Replayed { dir: dir.to_owned(), events, elapsed_ms })
    }

    /// Writes the log, every event of it at this moment.
    fn events(&self, from: &Path, to: &mut File, elapsed_ms: u64, piece: &mut [u8]) -> io::Result<()> {
        let RunHead { study, outcome, counts, .. } = self.head;
        let (outcome, counts, nodes) = (*outcome, *counts, counts.cached);
        let first = RunEvent::now(RunEventKind::RunStarted {
            schema: EVENTS_SCHEMA,
            study: study.clone(),
            cells: self.cells,
            nodes,
        });
        let at = first.at_unix_ms.to_string();
        let last = RunEvent::now(RunEventKind::RunFinished { outcome, counts, elapsed_ms });
        to.write_all(&line(&first)?)?;
        let mut open = 0;
        self.model.events.each(from, piece, |piece| {
            let whole = piece.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            open = piece.len() - whole;
            if open == PIECE {
                return Err(io::Error::other("a line has no end"));
            }
            set_time(&mut piece[..whole], at.as_bytes())
                .ok_or_else(|| io::Error::other("a line has no time"))?;
            to.write_all(&piece[..whole]).map(|()| whole)
        })?;
        if open > 0 {
            return Err(io::Error::other("the last line has no end"));
        }
        to.write_all(&line(&last)?)
    }
}

fn line(event: &RunEvent) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    Ok(line)
}

/// Sets the time of every line; `None` where one has none of this length.
fn set_time(lines: &mut [u8], at: &[u8]) -> Option<()> {
    let mut rest = lines;
    while !rest.is_empty() {
        let has_time = rest.strip_prefix(LINE_START).is_some_and(|time| time.get(at.len()) == Some(&b','));
        has_time.then_some(())?;
        rest[LINE_START.len()..][..at.len()].copy_from_slice(at);
        let line = (&*rest).skip_until(b'\n').ok()?;
        rest = &mut rest[line..];
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_gets_the_time_and_nothing_else_changes() {
        let mut log = b"{\"at_unix_ms\":111,\"a\":111}\n{\"at_unix_ms\":222,\"b\":1}\n".to_vec();
        set_time(&mut log, b"999").unwrap();
        assert_eq!(log, b"{\"at_unix_ms\":999,\"a\":111}\n{\"at_unix_ms\":999,\"b\":1}\n");
        assert!(set_time(&mut log, b"99").is_none() && set_time(&mut log, b"9999").is_none());
        assert!(set_time(&mut b"{}\n".to_vec(), b"999").is_none());
    }

    #[test]
    fn what_is_not_taken_of_a_piece_comes_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, lines) = (dir.path().join("log"), "a\nbcdefgh\nij\nklmnop\n");
        fs::write(&path, format!("first\n{lines}last\n")).unwrap();
        let file = fs::read(&path).unwrap();
        let part = Part::of(&file, 6, 6 + lines.len());
        let mut seen = String::new();
        let mut take = |piece: &mut [u8]| {
            let whole = piece.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            seen.push_str(std::str::from_utf8(&piece[..whole]).unwrap());
            Ok(whole)
        };
        part.each(&path, &mut [0; 9], &mut take).unwrap();
        fs::write(&path, format!("first\n{}last\n", lines.replace('k', "K"))).unwrap();
        assert!(part.each(&path, &mut [0; 9], &mut take).is_err());
        assert_eq!(seen, [lines, &lines.replace('k', "K")].concat());
    }
}
