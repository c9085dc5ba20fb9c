//! The trash: what gc took away and has not judged yet.
//!
//! Gc removes in three moves: rename to `trash/`, read the leases and the records again, then unlink or put back. A
//! living process may meet the moment in between. It does not matter for a look that comes after its announcement was
//! too late (the thing is gone), but a process that checked before must not lose what it relies on, so whoever misses
//! a blob asks the trash and waits for the verdict, which takes milliseconds.
//!
//! When gc dies here, everything in the trash is put back by the next opening or the next gc: it is whole, since it
//! was only renamed, and what is garbage will be garbage again.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::key::ActionKey;
use crate::layout;
use crate::store::Store;

/// Longer than any verdict takes.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);

/// One thing gc can take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// An action record.
    Record(ActionKey),
    /// A blob of the store's own.
    Blob(Digest),
    /// The note where a linked blob lies.
    Link(Digest),
}

/// The right to be the one gc; given back when dropped, and by death.
#[derive(Debug)]
pub(crate) struct GcLock {
    _file: File,
}

impl Item {
    /// Its place in the store.
    pub(crate) fn home(&self, store: &Store) -> PathBuf {
        match self {
            Self::Record(key) => store.layout().action(key),
            Self::Blob(digest) => store.layout().blob(digest),
            Self::Link(digest) => store.layout().link(digest),
        }
    }

    /// Its place in the trash.
    pub(crate) fn trashed(&self, store: &Store) -> PathBuf {
        let name = match self {
            Self::Record(key) => format!("a-{key}"),
            Self::Blob(digest) => format!("b-{digest}"),
            Self::Link(digest) => format!("l-{digest}"),
        };
        store.layout().trash.join(name)
    }

    fn of_trashed(path: &Path) -> Option<Self> {
        let (kind, hex) = path.file_name()?.to_str()?.split_once('-')?;
        let digest: Digest = hex.parse().ok()?;
        match kind {
            "a" => Some(Self::Record(ActionKey::from_digest(digest))),
            "b" => Some(Self::Blob(digest)),
            "l" => Some(Self::Link(digest)),
            _ => None,
        }
    }
}

impl Store {
    /// Becomes the one gc.
    ///
    /// # Errors
    /// [`StoreError::GcRunning`] while another is.
    pub(crate) fn lock_gc(&self) -> Result<GcLock, StoreError> {
        let path = self.layout().gc_lock();
        let file = self.fs().open_lock(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(GcLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::GcRunning { path }),
            Err(TryLockError::Error(e)) => Err(StoreError::reading("lock", &path)(e)),
        }
    }

    /// Moves a thing to the trash; tells whether it was there.
    pub(crate) fn trash(&self, item: &Item) -> Result<bool, StoreError> {
        match self.fs().rename(&item.home(self), &item.trashed(self)) {
            Ok(()) => Ok(true),
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts a thing back; where a new one has come meanwhile, the old one goes.
    pub(crate) fn put_back(&self, item: &Item) -> Result<(), StoreError> {
        let trashed = item.trashed(self);
        if self.fs().rename_new(&trashed, &item.home(self))? { Ok(()) } else { self.fs().remove(&trashed) }
    }

    /// Puts back what a dead gc left. The caller is the one gc.
    pub(crate) fn put_all_back(&self, _lock: &GcLock) -> Result<(), StoreError> {
        for path in layout::list(&self.layout().trash)? {
            if let Some(item) = Item::of_trashed(&path) {
                self.put_back(&item)?;
            }
        }
        Ok(())
    }

    /// Puts back what a dead gc left, unless a living one works on it. Only tidying: what fails is met again.
    pub(crate) fn recover_trash(&self) {
        if layout::list(&self.layout().trash).is_ok_and(|left| !left.is_empty())
            && let Some(lock) = self.lock_of_dead_gc()
        {
            let _met_again = self.put_all_back(&lock);
        }
    }

    /// Waits until gc has judged a thing that is in the trash; tells whether it was there, so that a second look is
    /// worth it.
    pub(crate) fn await_verdict(&self, item: &Item) -> bool {
        let trashed = item.trashed(self);
        if !trashed.exists() {
            return false;
        }
        let started = Instant::now();
        while trashed.exists() && started.elapsed() < PATIENCE {
            self.recover_trash();
            std::thread::sleep(PAUSE);
        }
        true
    }

    /// The lock, if nobody holds it; never made anew, so that looking changes nothing.
    fn lock_of_dead_gc(&self) -> Option<GcLock> {
        let file = OpenOptions::new().read(true).open(self.layout().gc_lock()).ok()?;
        file.try_lock().is_ok().then_some(GcLock { _file: file })
    }
}
