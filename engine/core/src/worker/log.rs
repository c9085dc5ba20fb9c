//! The log of a worker is a file that the worker writes by itself, so that nothing is lost however either side ends. What
//! keeps it from filling the disk is a look at its size from time to time: of a long one, the beginning and the end are
//! kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};

/// A log that takes more of the disk than this is shortened.
const LONG: u64 = 16 << 20;
/// So much of its beginning, and so much of its end, is kept.
const KEPT: u64 = 1 << 20;
/// Most lines that are told of one job.
const LINES: usize = 10_000;
/// What the kernel counts a file's blocks in.
const BLOCK: u64 = 512;
/// How often its size is looked at.
const EVERY: Duration = Duration::from_millis(50);

/// Keeps a log short while it lives.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    _watching: Sender<()>,
}

impl Log {
    pub(crate) fn new(path: PathBuf) -> Self {
        let (watching, ended) = channel::<()>();
        let log = path.clone();
        std::thread::spawn(move || {
            while matches!(ended.recv_timeout(EVERY), Err(RecvTimeoutError::Timeout)) {
                // there may be none yet, or none any more
                let _unseen = shorten(&log, LONG, KEPT);
            }
        });
        Self { path, _watching: watching }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How long it is.
    pub(crate) fn len(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |meta| meta.len())
    }

    /// What was written to it since it had this length, without empty lines: the end of it, where that is much.
    pub(crate) fn since(&self, length: u64) -> Vec<String> {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(&self.path)?;
            let end = file.metadata()?.len();
            // it may have been shortened
            let from = if length > end { 0 } else { length };
            file.seek(SeekFrom::Start(from.max(end.saturating_sub(KEPT))))?;
            let mut bytes = Vec::new();
            file.take(KEPT).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().map(|line| line.trim_matches('\0').trim_end());
        let lines: Vec<String> = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
        lines.iter().skip(lines.len().saturating_sub(LINES)).cloned().collect()
    }

    /// The log as an output of a process.
    pub(crate) fn open(&self) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).open(&self.path)
    }
}

/// Gives the disk back what the middle of a file takes, where it takes more than `long` in all. Its bytes become zeros, and
/// whoever appends to it notices nothing.
fn shorten(path: &Path, long: u64, kept: u64) -> io::Result<()> {
    let meta = std::fs::metadata(path)?;
    let end = meta.len().saturating_sub(kept);
    if meta.blocks() * BLOCK <= long || end <= kept {
        return Ok(());
    }
    let file = OpenOptions::new().read(true).append(true).open(path)?;
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, hole, kept, end - kept).or_else(|_| cut(file, end, kept))
}

/// The same where the file system has no holes: what is appended at this very instant is lost.
fn cut(mut file: File, end: u64, kept: u64) -> io::Result<()> {
    let mut last = Vec::new();
    file.seek(SeekFrom::Start(end))?;
    Read::by_ref(&mut file).take(kept).read_to_end(&mut last)?;
    file.set_len(kept)?;
    file.write_all(&last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_log_the_beginning_and_the_end_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = OpenOptions::new().append(true).create(true).open(&path).unwrap();
        let (long, kept) = (4 << 20, 64 << 10);
        let mut expected = Vec::new();
        for byte in b'a'..=b'h' {
            let part = vec![byte; 1 << 20];
            writer.write_all(&part).unwrap();
            expected.extend(part);
            shorten(&path, long, kept).unwrap();
        }
        let meta = std::fs::metadata(&path).unwrap();
        assert!(meta.blocks() * BLOCK <= long, "{} bytes", meta.blocks() * BLOCK);
        let text = std::fs::read(&path).unwrap();
        let kept = kept as usize;
        assert!(text.starts_with(&expected[..kept]) && text.ends_with(&expected[expected.len() - kept..]));
    }

    #[test]
    fn what_was_written_since_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::new(dir.path().join("log"));
        assert_eq!((log.len(), log.since(0)), (0, vec![]));
        std::fs::write(log.path(), "before\n").unwrap();
        let length = log.len();
        assert_eq!(log.since(length), [""; 0]);
        log.open().unwrap().write_all(b"\0\0a\n\n b\xff\nc").unwrap();
        assert_eq!(log.since(length), ["a", " b\u{fffd}", "c"]);
        assert_eq!(log.since(1000).len(), 4, "it was shortened");
        log.open().unwrap().write_all(&b"line\n".repeat(1 << 20)).unwrap();
        assert_eq!(log.since(length).len(), LINES);
    }

    #[test]
    fn without_holes_a_log_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "0123456789").unwrap();
        let file = OpenOptions::new().read(true).append(true).open(&path).unwrap();
        cut(file, 7, 3).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "012789");
    }
}
