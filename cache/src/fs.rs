//! Every change the store makes to the file system goes through here: one place to inject faults, to name the
//! operation in an error, and to state what is assumed of the disk.
//!
//! Assumed: `rename` within one file system is atomic; data is durable after `fsync` of the file; a name is durable
//! after `fsync` of its directory; two renames in different directories may become durable in either order; a
//! directory that refuses `fsync` (some network file systems) keeps its names by itself.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::RenameFlags;

use crate::error::StoreError;
use crate::fault::{Faults, Op, Verdict};

/// Mode of a published file: nobody writes to it again.
const PUBLISHED_MODE: u32 = 0o444;

/// The only hand that changes the file system.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fs {
    faults: Option<Arc<Faults>>,
    /// Nothing is synced, and folders are made when something is put into them.
    is_fleeting: bool,
}

impl Fs {
    pub(crate) fn with_faults(faults: Arc<Faults>) -> Self {
        Self { faults: Some(faults), ..Self::default() }
    }

    /// One whose files need not survive a power cut.
    pub(crate) fn fleeting() -> Self {
        Self { is_fleeting: true, ..Self::default() }
    }

    /// Whether the store goes away with its process.
    pub(crate) fn is_fleeting(&self) -> bool {
        self.is_fleeting
    }

    /// Makes `dir` unless it is there; its parent must be.
    pub(crate) fn ensure_dir(&self, dir: &Path) -> Result<(), StoreError> {
        if dir.is_dir() {
            return Ok(());
        }
        self.run(Op::MakeDir, dir, || match fs::create_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        })?;
        dir.parent().map_or(Ok(()), |parent| self.sync_dir(parent))
    }

    /// Makes `dir` and every missing parent.
    pub(crate) fn ensure_dir_all(&self, dir: &Path) -> Result<(), StoreError> {
        match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
                self.ensure_dir_all(parent)?;
            }
            _ => {}
        }
        self.ensure_dir(dir)
    }

    /// Makes the names within `dir` durable.
    pub(crate) fn sync_dir(&self, dir: &Path) -> Result<(), StoreError> {
        if self.is_fleeting {
            return Ok(());
        }
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        self.run(Op::SyncDir, dir, || match File::open(dir)?.sync_all() {
            Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
            other => other,
        })
    }

    /// Removes a file; one that is gone already is removed.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), StoreError> {
        self.run(Op::Remove, path, || match fs::remove_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        })
    }

    /// Gives the file `from` the name `to`, replacing what was there; makes the folder of `to` when it is missing.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        match self.rename_once(from, to) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                to.parent().map_or(Ok(()), |folder| self.ensure_dir_all(folder))?;
                self.rename_once(from, to)
            }
            other => other,
        }
    }

    /// Opens, or makes, a file that is only there to be locked; makes its folder when it is missing.
    pub(crate) fn open_lock(&self, path: &Path) -> Result<File, StoreError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let open = || self.run(Op::Create, path, || options.open(path));
        match open() {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), |folder| self.ensure_dir_all(folder))?;
                open()
            }
            other => other,
        }
    }

    /// Gives `from` the name `to` unless something has it; tells whether it did. Makes the folder of `to`.
    pub(crate) fn rename_new(&self, from: &Path, to: &Path) -> Result<bool, StoreError> {
        let once = || {
            self.meet(Op::Rename, from, Some(to))?;
            rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE)
                .map_err(io::Error::from)
        };
        let moved = match once() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                to.parent().map_or(Ok(()), |folder| self.ensure_dir_all(folder))?;
                once()
            }
            other => other,
        };
        match moved {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(source) => Err(StoreError::writing(Op::Rename.name(), to, source)),
        }
    }

    /// Appends to a file that this process alone writes.
    pub(crate) fn append(&self, mut file: &File, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let written = match self.meet(Op::Write, path, None) {
            Ok(Verdict::Go) => file.write_all(bytes),
            Ok(Verdict::Tear(error)) => file.write_all(&bytes[..bytes.len() / 2]).and(Err(error)),
            Err(error) => Err(error),
        };
        written.map_err(|source| StoreError::writing(Op::Write.name(), path, source))
    }

    /// Empties a file.
    pub(crate) fn truncate(&self, file: &File, path: &Path) -> Result<(), StoreError> {
        self.run(Op::Write, path, || file.set_len(0))
    }

    /// Creates an empty file of a fresh name in `dir`, locked for as long as this process writes it.
    pub(crate) fn stage(&self, dir: &Path) -> Result<Staged, StoreError> {
        loop {
            let path = dir.join(fresh_name());
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(PUBLISHED_MODE);
            match self.run(Op::Create, &path, || options.open(&path)) {
                Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(file) => {
                    // without a lock the sweep goes by age alone, so a file system without locks is no error here
                    let _unsupported = file.try_lock();
                    return Ok(Staged { fs: self.clone(), file, path, published: false });
                }
            }
        }
    }

    fn rename_once(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.meet(Op::Rename, from, Some(to))
            .and_then(|_| fs::rename(from, to))
            .map_err(|source| StoreError::writing(Op::Rename.name(), to, source))
    }

    fn run<T>(&self, op: Op, path: &Path, act: impl FnOnce() -> io::Result<T>) -> Result<T, StoreError> {
        self.meet(op, path, None)
            .and_then(|_| act())
            .map_err(|source| StoreError::writing(op.name(), path, source))
    }

    fn meet(&self, op: Op, path: &Path, to: Option<&Path>) -> io::Result<Verdict> {
        self.faults.as_ref().map_or(Ok(Verdict::Go), |faults| faults.meet(op, path, to))
    }
}

/// A file being written, under a name nobody looks for; removed unless it is published.
#[derive(Debug)]
pub(crate) struct Staged {
    fs: Fs,
    file: File,
    path: PathBuf,
    published: bool,
}

impl Staged {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.fs.append(&self.file, &self.path, bytes)
    }

    /// Makes the file's data durable.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        if self.fs.is_fleeting {
            return Ok(());
        }
        self.fs.run(Op::SyncFile, &self.path, || self.file.sync_all())
    }

    /// Gives the file its final name; the name is durable once its directory is synced.
    /// Answers what `stat` says of it then, be the name taken over by somebody else meanwhile or not.
    pub(crate) fn publish(mut self, to: &Path) -> Result<Metadata, StoreError> {
        self.fs.rename(&self.path, to)?;
        self.published = true;
        self.file.metadata().map_err(StoreError::reading("examine", to))
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// As [`Self::publish`], where nothing has that name.
    pub(crate) fn publish_new(mut self, to: &Path) -> Result<(), StoreError> {
        if !self.fs.rename_new(&self.path, to)? {
            return Err(StoreError::TargetExists { path: to.to_owned() });
        }
        self.published = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            // what cannot be removed now is swept when the store is opened next
            let _left_behind = self.fs.remove(&self.path);
        }
    }
}

/// A name no other writer has: process, time, counter.
pub(crate) fn fresh_name() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    format!("{}-{nanos:x}-{count}", std::process::id())
}
