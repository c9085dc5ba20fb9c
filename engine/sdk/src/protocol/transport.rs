//! A conversation in two files, for workers whose standard streams do not reach the engine: a scheduler starts them, perhaps
//! on another machine. In one folder, `requests` is written by the engine and read by the worker, `replies` the other way.
//!
//! The messages are those of a pair of streams, one a line. What has no newline yet is no message yet. A line is appended by
//! opening, writing and closing, and a reader that finds nothing new opens anew: so do network file systems show it.
//!
//! No end of such a stream is seen by itself. The engine says that it lives and says `bye`; of the worker it sees the end of
//! the process that it launched.
//!
//! The worker knows the folder by its name. The engine holds on to the files that it made, and opens those anew: what has
//! their names by now, a worker may have put there.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The variable that names the folder to the worker.
pub const FOLDER: &str = "QSTAGE_DIR";
/// After how long without a line from the engine a worker ends.
pub const PATIENCE: Duration = Duration::from_secs(30);

const REQUESTS: &str = "requests";
const REPLIES: &str = "replies";
/// How often a reader looks: at first, and at most.
const POLL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// The two files of a conversation, as the engine made them.
#[derive(Debug)]
pub struct Talk {
    requests: File,
    replies: File,
}

impl Talk {
    /// Makes them in a folder, where nothing has their names.
    pub fn create(folder: &Path) -> io::Result<Self> {
        let new = |name| File::options().read(true).append(true).create_new(true).open(folder.join(name));
        Ok(Self { requests: new(REQUESTS)?, replies: new(REPLIES)? })
    }
}

/// Where the worker reads in the folder.
pub fn requests(folder: &Path) -> PathBuf {
    folder.join(REQUESTS)
}

/// Where it writes.
pub fn replies(folder: &Path) -> PathBuf {
    folder.join(REPLIES)
}

/// The worker's ends: what to read and what to write to. Reading ends when the engine was silent for `patience`.
pub fn worker_ends(folder: &Path, patience: Duration) -> (BufReader<Tail>, Append) {
    let tail = Tail::new(Place::Named(requests(folder)), move |silent| silent > patience);
    (BufReader::new(tail), Append { place: Place::Named(replies(folder)) })
}

/// The engine's ends: what to read and what to write to. Reading ends when the worker is gone and all that it said is read.
pub fn engine_ends(
    talk: Talk,
    mut is_gone: impl FnMut() -> bool + Send + 'static,
) -> (BufReader<Tail>, Append) {
    let tail = Tail::new(Place::Held(talk.replies), move |_| is_gone());
    (BufReader::new(tail), Append { place: Place::Held(talk.requests) })
}

/// A file that is opened again and again.
#[derive(Debug)]
enum Place {
    /// What has this name.
    Named(PathBuf),
    /// This one, whatever has its name.
    Held(File),
}

impl Place {
    fn path(&self) -> PathBuf {
        match self {
            Self::Named(path) => path.clone(),
            // the kernel's own way to it, on which no name is looked up
            Self::Held(file) => format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
        }
    }
}

/// Reads a file that grows, and waits for more at its end.
pub struct Tail {
    place: Place,
    file: Option<File>,
    at: u64,
    /// Whether nothing more will come, after so much time without anything.
    is_over: Box<dyn FnMut(Duration) -> bool + Send>,
}

impl Tail {
    fn new(place: Place, is_over: impl FnMut(Duration) -> bool + Send + 'static) -> Self {
        Self { place, file: None, at: 0, is_over: Box::new(is_over) }
    }

    /// What is there now.
    fn more(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(file) = &mut self.file {
            let read = file.read(buffer)?;
            if read > 0 {
                self.at += read as u64;
                return Ok(read);
            }
        }
        let mut file = File::open(self.place.path())?;
        file.seek(SeekFrom::Start(self.at))?;
        let read = file.read(buffer)?;
        self.at += read as u64;
        self.file = Some(file);
        Ok(read)
    }
}

impl Read for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (clock, mut pause) = (Instant::now(), POLL.0);
        loop {
            // asked before the look: what came before the end is not missed
            let is_over = (self.is_over)(clock.elapsed());
            match self.more(buffer) {
                Ok(0) if !is_over => {}
                // whoever made the folder has removed it
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
                other => return other,
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(POLL.1);
        }
    }
}

/// Appends to a file that another reads.
#[derive(Debug)]
pub struct Append {
    place: Place,
}

impl Write for Append {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        File::options().append(true).open(self.place.path())?.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::line::{LineError, read_line};
    use super::*;

    #[test]
    fn lines_arrive_whole_and_in_order_while_they_are_written_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let talk = Talk::create(dir.path()).unwrap();
        let (mut input, _) = worker_ends(dir.path(), PATIENCE);
        let gone = Arc::new(AtomicBool::new(false));
        let (_, mut output) = engine_ends(talk, move || gone.load(Ordering::SeqCst));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for piece in ["{\"a", "\":1", "}\n{}", "\n"] {
                    output.write_all(piece.as_bytes()).unwrap();
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
            let mut line = Vec::new();
            assert!(read_line(&mut input, &mut line).unwrap());
            assert_eq!(line, b"{\"a\":1}");
            assert!(read_line(&mut input, &mut line).unwrap());
            assert_eq!(line, b"{}");
        });
    }

    #[test]
    fn an_end_is_the_end_of_a_silence_of_a_process_or_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let talk = Talk::create(dir.path()).unwrap();
        let mut line = Vec::new();
        let (mut input, mut output) = worker_ends(dir.path(), Duration::from_millis(30));
        let clock = Instant::now();
        assert!(!read_line(&mut input, &mut line).unwrap());
        assert!(clock.elapsed() >= Duration::from_millis(30));

        output.write_all(b"{}\n{\"ha").unwrap();
        let (mut input, _) = engine_ends(talk, || true);
        assert!(read_line(&mut input, &mut line).unwrap(), "what was said before the end is heard");
        assert!(matches!(read_line(&mut input, &mut line), Err(LineError::Truncated { .. })));

        let (mut input, _) = worker_ends(dir.path(), PATIENCE);
        drop(dir);
        assert!(!read_line(&mut input, &mut line).unwrap());
    }

    #[test]
    fn files_that_are_there_are_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        Talk::create(dir.path()).unwrap();
        assert_eq!(Talk::create(dir.path()).unwrap_err().kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn what_takes_the_files_names_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let talk = Talk::create(dir.path()).unwrap();
        let other = dir.path().join("other");
        std::fs::write(&other, "{\"a\":1}\n").unwrap();
        for path in [requests(dir.path()), replies(dir.path())] {
            std::fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink(&other, &path).unwrap();
        }
        let (mut input, mut output) = engine_ends(talk, || true);
        output.write_all(b"{}\n").unwrap();
        assert!(!read_line(&mut input, &mut Vec::new()).unwrap(), "nothing was replied");
        assert_eq!(std::fs::read(&other).unwrap(), b"{\"a\":1}\n");
    }
}
