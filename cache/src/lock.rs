//! Single flight: of all threads and processes that want one key, one computes and the others wait.
//!
//! The lock is the operating system's (`flock`): it belongs to an open file and ends with it, so a killed process
//! frees its locks and there is nothing to unlock by hand. There is one file per key and no global lock.
//!
//! A lock's file is removed by its holder, so that they do not pile up. Whoever waited on the removed file then
//! holds a lock that nobody else will ever meet; therefore a lock counts only if the file still has its name, and
//! otherwise the wait starts over.
//!
//! A lock saves work, it does not guard truth: two that compute the same action commit the same bytes. After a wait,
//! look the key up again.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::StoreError;
use crate::fs::Fs;
use crate::key::ActionKey;
use crate::store::Store;

/// The right to compute one key; given back when dropped, and by death.
#[derive(Debug)]
pub struct KeyLock {
    fs: Fs,
    path: PathBuf,
    /// Closing it ends the lock.
    _file: File,
}

impl Store {
    /// Waits until nobody else computes `key`.
    pub fn lock(&self, key: &ActionKey) -> Result<KeyLock, StoreError> {
        let path = self.layout().lock(key);
        loop {
            let file = self.fs().open_lock(&path)?;
            match file.lock() {
                Ok(()) if has_name(&file, &path) => return Ok(self.held(path, file)),
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(StoreError::reading("lock", &path)(e)),
            }
        }
    }

    /// The lock, or `None` while somebody else holds it.
    pub fn try_lock(&self, key: &ActionKey) -> Result<Option<KeyLock>, StoreError> {
        let path = self.layout().lock(key);
        loop {
            let file = self.fs().open_lock(&path)?;
            match file.try_lock() {
                Ok(()) if has_name(&file, &path) => return Ok(Some(self.held(path, file))),
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(StoreError::reading("lock", &path)(e)),
            }
        }
    }

    fn held(&self, path: PathBuf, file: File) -> KeyLock {
        KeyLock { fs: self.fs().clone(), path, _file: file }
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // a file that cannot be removed is only clutter: the next holder uses it
        let _left_behind = self.fs.remove(&self.path);
    }
}

/// Whether `path` still names this very file.
pub(crate) fn has_name(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyDoc;

    #[test]
    fn a_lock_excludes_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (key, other) = (KeyDoc::new("a", 1).key(), KeyDoc::new("b", 1).key());
        let held = store.lock(&key).unwrap();
        assert!(store.try_lock(&key).unwrap().is_none());
        assert!(store.try_lock(&other).unwrap().is_some());
        drop(held);
        assert!(store.try_lock(&key).unwrap().is_some());
        assert_eq!(fs::read_dir(dir.path().join("v1/locks")).unwrap().count(), 0);
    }

    #[test]
    fn at_most_one_thread_holds_a_key_under_contention() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let key = KeyDoc::new("a", 1).key();
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _held = store.lock(&key).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
    }
}
