//! The log of a worker is a file that the worker writes by itself, so that nothing is lost however either side ends. What
//! keeps it from filling the disk is a look at its size from time to time: of a long one, the beginning and the end are
//! kept. The engine looks at the file that it made, and not at what has its name by now: whoever writes it knows the name.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::fs::{FallocateFlags, OFlags, fallocate};

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
    file: Arc<File>,
    _watching: Sender<()>,
}

impl Log {
    /// A new file, where nothing is.
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        let new = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&path)?;
        let (file, (watching, ended)) = (Arc::new(new), channel::<()>());
        let log = Arc::clone(&file);
        std::thread::spawn(move || {
            while matches!(ended.recv_timeout(EVERY), Err(RecvTimeoutError::Timeout)) {
                // the disk may be full; the next look tries again
                let _as_long = shorten(&log, LONG, KEPT);
            }
        });
        Ok(Self { path, file, _watching: watching })
    }

    /// Where a process that appends to it finds it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// How long it is.
    pub(crate) fn len(&self) -> u64 {
        self.file.metadata().map_or(0, |meta| meta.len())
    }

    /// What was written to it since it had this length, without empty lines: the end of it, where that is much.
    pub(crate) fn since(&self, length: u64) -> Vec<String> {
        let end = self.len();
        // it may have been shortened
        let from = if length > end { 0 } else { length };
        let bytes = part(&self.file, from.max(end.saturating_sub(KEPT)), KEPT).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().map(|line| line.trim_matches('\0').trim_end());
        let lines: Vec<String> = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
        lines.iter().skip(lines.len().saturating_sub(LINES)).cloned().collect()
    }

    /// Its last lines, for an error message.
    pub(crate) fn tail(&self) -> String {
        tail(&self.file)
    }

    /// The log as an output of a process that is not started yet.
    pub(crate) fn output(&self) -> io::Result<File> {
        let no_link = OFlags::NOFOLLOW.bits().cast_signed();
        OpenOptions::new().append(true).custom_flags(no_link).open(&self.path)
    }
}

/// At most `long` bytes of a file from a place on.
fn part(file: &File, mut from: u64, long: u64) -> io::Result<Vec<u8>> {
    const AT_ONCE: u64 = 64 << 10;
    let (mut bytes, end) = (Vec::new(), from + long);
    let mut buffer = vec![0; AT_ONCE.min(long) as usize];
    while from < end {
        let room = (end - from).min(AT_ONCE) as usize;
        let read = file.read_at(buffer.get_mut(..room).unwrap_or_default(), from)?;
        if read == 0 {
            break;
        }
        bytes.extend_from_slice(buffer.get(..read).unwrap_or_default());
        from += read as u64;
    }
    Ok(bytes)
}

/// The last lines of a log, at most `LINES` and `BYTES`, for an error message.
pub(crate) fn tail(log: &File) -> String {
    const LINES: usize = 12;
    const BYTES: u64 = 4096;
    let from = log.metadata().map_or(0, |meta| meta.len()).saturating_sub(BYTES);
    let text = String::from_utf8_lossy(&part(log, from, BYTES).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Gives the disk back what the middle of a file takes, where it takes more than `long` in all. Its bytes become zeros, and
/// whoever appends to it notices nothing.
fn shorten(file: &File, long: u64, kept: u64) -> io::Result<()> {
    let meta = file.metadata()?;
    let end = meta.len().saturating_sub(kept);
    if meta.blocks() * BLOCK <= long || end <= kept {
        return Ok(());
    }
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, hole, kept, end - kept).or_else(|_| cut(file, end, kept))
}

/// The same where the file system has no holes: what is appended at this very instant is lost.
fn cut(mut file: &File, end: u64, kept: u64) -> io::Result<()> {
    let last = part(file, end, kept)?;
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
        let mut writer = OpenOptions::new().read(true).append(true).create(true).open(&path).unwrap();
        let (long, kept) = (4 << 20, 64 << 10);
        let mut expected = Vec::new();
        for byte in b'a'..=b'h' {
            let part = vec![byte; 1 << 20];
            writer.write_all(&part).unwrap();
            expected.extend(part);
            shorten(&writer, long, kept).unwrap();
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
        let log = Log::create(dir.path().join("log")).unwrap();
        assert_eq!((log.len(), log.since(0)), (0, vec![]));
        log.output().unwrap().write_all(b"before\n").unwrap();
        let length = log.len();
        assert_eq!(log.since(length), [""; 0]);
        log.output().unwrap().write_all(b"\0\0a\n\n b\xff\nc").unwrap();
        assert_eq!(log.since(length), ["a", " b\u{fffd}", "c"]);
        assert_eq!(log.since(1000).len(), 4, "it was shortened");
        log.output().unwrap().write_all(&b"line\n".repeat(1 << 20)).unwrap();
        assert_eq!(log.since(length).len(), LINES);
    }

    #[test]
    fn what_takes_its_name_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("log"), dir.path().join("other"));
        std::fs::write(&other, "a secret\n").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(Log::create(path.clone()).is_err(), "a link is in its place");
        std::fs::remove_file(&path).unwrap();
        let log = Log::create(path.clone()).unwrap();
        log.output().unwrap().write_all(b"mine\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert_eq!((log.len(), log.since(0), log.tail()), (5, vec!["mine".to_owned()], "mine".to_owned()));
        assert!(log.output().is_err(), "a link took its place");
    }

    #[test]
    fn without_holes_a_log_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "0123456789").unwrap();
        let file = OpenOptions::new().read(true).append(true).open(&path).unwrap();
        cut(&file, 7, 3).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "012789");
    }
}
