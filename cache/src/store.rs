//! The handle of a store. What it can do is spread over one file per noun: [`crate::blob`] (content), [`crate::link`]
//! (content that stays with its owner), [`crate::commit`] (action records), [`crate::index`] (many lookups),
//! [`crate::lock`], [`crate::lease`], [`crate::pin`], [`crate::gc`], [`crate::list`], [`crate::materialise`],
//! [`crate::verify`], [`crate::usage`], [`crate::memory`], [`crate::ticket`].

use std::fs::{File, Metadata, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::blob::Unsynced;
use crate::error::StoreError;
use crate::fault::Faults;
use crate::fs::Fs;
use crate::index::{Census, Index};
use crate::key::ActionKey;
use crate::layout::{self, Layout};
use crate::lease::Lease;
use crate::link::Linked;
use crate::marks::Marks;

/// A staged file whose writer is dead is removed after this time: a newborn one is not locked for an instant.
const SWEEP_AFTER: Duration = Duration::from_mins(1);
/// The same where the file system has no locks, so that nobody can tell whether the writer lives.
const SWEEP_UNLOCKABLE_AFTER: Duration = Duration::from_hours(48);

/// A content store with action records, shared by any number of threads and processes. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    disk: Disk,
    unsynced: Unsynced,
    lease: Lease,
    index: Index,
    census: Census,
    marks: Marks,
    linked: Linked,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // only slower lookups are lost when it cannot be written
        let _unwritten = self.flush();
        self.lease.release(&self.disk.layout, &self.disk.fs);
    }
}

impl Inner {
    fn flush(&self) -> Result<(), StoreError> {
        if self.disk.fs.is_fleeting() {
            return Ok(());
        }
        let flushed =
            [self.index.flush(&self.disk), self.census.flush(&self.disk), self.marks.flush(&self.disk)];
        flushed.into_iter().collect()
    }
}

/// Where things lie, and the hand that changes them.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) layout: Layout,
    pub(crate) fs: Fs,
}

impl Disk {
    /// Writes a small file whole: readers see the old one or the new one, also after a power cut. Answers what `stat`
    /// says of it.
    pub(crate) fn publish(&self, bytes: &[u8], to: &Path) -> Result<Metadata, StoreError> {
        let mut staged = self.fs.stage(&self.layout.staging)?;
        staged.write_all(bytes)?;
        staged.sync()?;
        let meta = staged.publish(to)?;
        to.parent().map_or(Ok(()), |bucket| self.fs.sync_dir(bucket))?;
        Ok(meta)
    }

    /// As [`Self::publish`] without any sync, for files that may be lost and whose seal betrays a torn one.
    pub(crate) fn publish_advisory(&self, bytes: &[u8], to: &Path) -> Result<(), StoreError> {
        let mut staged = self.fs.stage(&self.layout.staging)?;
        staged.write_all(bytes)?;
        staged.publish(to).map(drop)
    }
}

impl Store {
    /// Opens the store at `root`, making it where it is missing, and sweeps what dead writers left behind.
    ///
    /// A complete store on a read-only file system opens; only writing to it fails.
    ///
    /// # Errors
    /// [`StoreError::NewerVersion`] or [`StoreError::BadMarker`] when `root` is not a store of this version,
    /// [`StoreError::ReadOnly`], [`StoreError::DiskFull`] or [`StoreError::Io`] when it cannot be made.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_over(root, Fs::default())
    }

    /// As [`Self::open`], of a store that goes away with the process that opens it, which alone opens it: nothing in it is
    /// synced, announced or kept to be looked up sooner, and its folders are made when something is put into them.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn open_fleeting(root: &Path) -> Result<Self, StoreError> {
        Self::open_over(root, Fs::fleeting())
    }

    /// As [`Self::open`], with a plan of injected faults: for tests.
    pub fn open_with_faults(root: &Path, faults: Arc<Faults>) -> Result<Self, StoreError> {
        Self::open_over(root, Fs::with_faults(faults))
    }

    /// The store's root, absolute.
    pub fn root(&self) -> &Path {
        &self.layout().root
    }

    /// Where run records lie; the cache itself keeps nothing there.
    pub fn runs_dir(&self) -> PathBuf {
        self.layout().runs.clone()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.disk.layout
    }

    pub(crate) fn fs(&self) -> &Fs {
        &self.inner.disk.fs
    }

    pub(crate) fn unsynced(&self) -> &Unsynced {
        &self.inner.unsynced
    }

    pub(crate) fn index(&self) -> &Index {
        &self.inner.index
    }

    pub(crate) fn census(&self) -> &Census {
        &self.inner.census
    }

    pub(crate) fn is_marked(&self, node: &str, key: &ActionKey) -> bool {
        self.inner.marks.has(&self.inner.disk, node, key)
    }

    pub(crate) fn mark(&self, node: &str, key: &ActionKey) {
        self.inner.marks.add(&self.inner.disk, node, key);
    }

    /// Writes what lookups learned and what was remembered, for other processes to see. It is written anyway when the last
    /// clone goes, but a thread that was given up may hold one for as long as the process lives.
    ///
    /// # Errors
    /// Those of writing to the store; slower lookups are all that is lost.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.inner.flush()
    }

    pub(crate) fn flush_marks(&self) -> Result<(), StoreError> {
        self.inner.marks.flush(&self.inner.disk)
    }

    pub(crate) fn linked(&self) -> &Linked {
        &self.inner.linked
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.inner.lease
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.inner.disk
    }

    /// As [`Disk::publish`].
    pub(crate) fn publish(&self, bytes: &[u8], to: &Path) -> Result<Metadata, StoreError> {
        self.disk().publish(bytes, to)
    }

    /// As [`Disk::publish_advisory`].
    pub(crate) fn publish_advisory(&self, bytes: &[u8], to: &Path) -> Result<(), StoreError> {
        self.disk().publish_advisory(bytes, to)
    }

    /// Moves a file that proved wrong out of the way, so that the next writer stores it anew.
    pub(crate) fn set_aside(&self, path: &Path) -> Result<(), StoreError> {
        let name = path.file_name().unwrap_or(path.as_os_str());
        self.fs().rename(path, &self.layout().damaged.join(name))
    }

    fn open_over(root: &Path, fs: Fs) -> Result<Self, StoreError> {
        let layout = Layout::open(root, &fs)?;
        let store = Self {
            inner: Arc::new(Inner {
                disk: Disk { layout, fs },
                unsynced: Unsynced::default(),
                marks: Marks::default(),
                lease: Lease::default(),
                index: Index::default(),
                census: Census::default(),
                linked: Linked::default(),
            }),
        };
        store.recover_trash();
        store.sweep();
        Ok(store)
    }

    /// Removes staged files of dead writers. Only tidying: whatever goes wrong is left for the next opening.
    fn sweep(&self) {
        for path in layout::list(&self.layout().staging).unwrap_or_default() {
            if is_abandoned(&path) {
                let _left_behind = self.fs().remove(&path);
            }
        }
        self.sweep_leases(is_abandoned);
        self.fold_uses_if_many();
    }
}

fn is_abandoned(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let age = file.metadata().and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
    let Some(age) = age else { return false };
    match file.try_lock() {
        Ok(()) => age >= SWEEP_AFTER,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(_)) => age >= SWEEP_UNLOCKABLE_AFTER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_store_has_its_layout_and_opens_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("deep/er");
        let store = Store::open(&root).unwrap();
        assert_eq!(store.root(), root);
        for name in ["v1/blobs", "v1/actions", "v1/links", "v1/stat", "v1/staging", "v1/locks", "runs"] {
            assert!(root.join(name).is_dir(), "{name}");
        }
        assert_eq!(store.runs_dir(), root.join("runs"));
        assert!(layout::list(&root.join("v1/staging")).unwrap().is_empty());
        Store::open(&root).unwrap();
    }

    #[test]
    fn a_newer_store_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("format.json"), r#"{"format":"qpipe-cache","version":2,"x":1}"#)
            .unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::NewerVersion { found: 2, supported: 1, .. }), "{error}");
        assert!(error.to_string().contains("format.json"), "{error}");
        assert!(!dir.path().join("v1").exists());
    }

    #[test]
    fn a_marker_of_something_else_is_refused() {
        for text in ["", "{}", r#"{"format":"other","version":1}"#] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("format.json"), text).unwrap();
            let error = Store::open(dir.path()).unwrap_err();
            assert!(matches!(error, StoreError::BadMarker { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn staged_files_of_dead_writers_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let staging = dir.path().join("v1/staging");
        let old = std::time::SystemTime::now() - 2 * SWEEP_AFTER;
        let plant = |name: &str| {
            let file = File::create(staging.join(name)).unwrap();
            file.set_modified(old).unwrap();
            file
        };
        drop(plant("dead"));
        let living = plant("living");
        living.try_lock().unwrap();
        std::fs::write(staging.join("newborn"), b"").unwrap();
        Store::open(dir.path()).unwrap();
        assert!(!staging.join("dead").exists());
        assert!(staging.join("living").exists());
        assert!(staging.join("newborn").exists());
        drop(store);
    }
}

#[cfg(test)]
#[path = "fleeting_tests.rs"]
mod fleeting_tests;
