//! Leases: what a living process relies on, so that gc leaves it alone.
//!
//! A process that uses the store keeps one file per handle in `leases/`, locked by the operating system for as long as
//! the process lives; death frees the lock, and a lease without one is no lease. The file is a list that only grows:
//! every key that was looked up and every digest that was stored, read or referred to.
//!
//! **Announce, then check.** A name is written to the lease *before* the file system is asked whether the thing is
//! there; gc moves a thing away *before* it reads the leases a last time. So either the process finds it gone (a miss),
//! or gc finds the announcement and puts it back. No lock is shared, and neither waits for the other.
//!
//! **An empty lease protects everything.** A newborn one is empty for an instant, and one whose list could not be
//! written (the disk is full) is emptied: emptying a file needs no space. On a store that cannot be written there are
//! no leases, and lookups go on without.
//!
//! When a process ends in order, its lease becomes a line in the history of uses ([`crate::uses`]), at no cost but a
//! rename.
//!
//! ```text
//! lease = "qpipe-lease 1\n" ++ rows      row = 4b key (32 bytes) | 42 digest (32 bytes)
//! ```

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::digest::Digest;
use crate::digests::DigestSet;
use crate::error::StoreError;
use crate::fs::{Fs, fresh_name};
use crate::key::ActionKey;
use crate::layout::{self, Layout};
use crate::lock::has_name;
use crate::store::Store;

pub(crate) const HEADER: &[u8] = b"qpipe-lease 1\n";
pub(crate) const ROW_BYTES: usize = 33;
pub(crate) const KEY_TAG: u8 = b'K';
const BLOB_TAG: u8 = b'B';

/// How long gc waits for a newborn lease to be written.
const NEWBORN: Duration = Duration::from_millis(1);
const NEWBORN_WAITS: u32 = 50;
/// Where the file system has no locks, a lease that was not written to for so long is taken for dead.
const UNLOCKABLE_LIFE: Duration = Duration::from_hours(48);

/// The lease of one store handle; its file is made when there is something to announce.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    list: Option<List>,
    /// The list could not be written: the empty file protects everything.
    whole: bool,
    keys: DigestSet,
    blobs: DigestSet,
}

#[derive(Debug)]
struct List {
    /// Holds the lock.
    file: File,
    path: PathBuf,
}

/// What all living leases together protect.
#[derive(Debug, Default)]
pub(crate) struct Protected {
    pub(crate) keys: DigestSet,
    pub(crate) blobs: DigestSet,
    /// A living lease that protects everything.
    pub(crate) whole: Option<PathBuf>,
}

impl Lease {
    /// Announces what is about to be relied on.
    pub(crate) fn protect(
        &self,
        layout: &Layout,
        fs: &Fs,
        keys: &[ActionKey],
        blobs: &mut dyn Iterator<Item = &Digest>,
    ) -> Result<(), StoreError> {
        let mut state = self.lock();
        // nobody else collects what is in a store that goes away with this process
        if state.whole || fs.is_fleeting() {
            return Ok(());
        }
        let keys: Vec<Digest> =
            keys.iter().map(|k| *k.digest()).filter(|k| !state.keys.contains(k)).collect();
        let blobs: Vec<Digest> = blobs.filter(|b| !state.blobs.contains(*b)).copied().collect();
        if keys.is_empty() && blobs.is_empty() {
            return Ok(());
        }
        state.write(layout, fs, &keys, &blobs)?;
        state.keys.extend(keys);
        state.blobs.extend(blobs);
        Ok(())
    }

    /// Ends the lease; the keys it lists go to the history of uses.
    pub(crate) fn release(&self, layout: &Layout, fs: &Fs) {
        let mut state = self.lock();
        let Some(list) = state.list.take() else { return };
        // a lease that cannot be put away is found dead by the next opening
        let _left_behind =
            if state.keys.is_empty() { fs.remove(&list.path) } else { retire(layout, fs, &list.path) };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn write(
        &mut self,
        layout: &Layout,
        fs: &Fs,
        keys: &[Digest],
        blobs: &[Digest],
    ) -> Result<(), StoreError> {
        let mut text = Vec::with_capacity(HEADER.len() + ROW_BYTES * (keys.len() + blobs.len()));
        if self.list.is_none() {
            self.list = Some(open(layout, fs)?);
            text.extend(HEADER);
        }
        for (tag, digest) in keys.iter().map(|k| (KEY_TAG, k)).chain(blobs.iter().map(|b| (BLOB_TAG, b))) {
            text.push(tag);
            text.extend(digest.as_bytes());
        }
        let Some(list) = &self.list else { return Ok(()) };
        if let Err(error) = fs.append(&list.file, &list.path, &text) {
            fs.truncate(&list.file, &list.path).map_err(|_| error)?;
            self.whole = true;
        }
        Ok(())
    }
}

impl Store {
    /// Announces a blob that is about to be relied on.
    pub(crate) fn protect_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        self.lease().protect(self.layout(), self.fs(), &[], &mut std::iter::once(digest))
    }

    /// Announces keys and blobs before a look. A store that cannot be written answers all the same.
    pub(crate) fn protect_reading<'a>(
        &self,
        keys: &[ActionKey],
        blobs: impl IntoIterator<Item = &'a Digest>,
    ) {
        let _no_lease = self.lease().protect(self.layout(), self.fs(), keys, &mut blobs.into_iter());
    }

    /// Reads every living lease.
    pub(crate) fn protected(&self) -> Result<Protected, StoreError> {
        let mut all = Protected::default();
        for path in layout::list(&self.layout().leases)? {
            if !read_lease(&path, &mut all)? {
                all.whole = Some(path);
                return Ok(all);
            }
        }
        Ok(all)
    }

    /// Puts the leases of dead processes away. Only tidying.
    pub(crate) fn sweep_leases(&self, is_abandoned: impl Fn(&Path) -> bool) {
        for path in layout::list(&self.layout().leases).unwrap_or_default() {
            if is_abandoned(&path) {
                let _left_behind = retire(self.layout(), self.fs(), &path);
            }
        }
    }
}

/// Makes a lease's file. Whoever sweeps may remove one that is not locked yet; then the next attempt makes another.
fn open(layout: &Layout, fs: &Fs) -> Result<List, StoreError> {
    loop {
        let path = layout.leases.join(fresh_name());
        let file = fs.open_lock(&path)?;
        // without locks, age alone tells whether a lease lives
        let _unsupported = file.lock();
        if has_name(&file, &path) {
            return Ok(List { file, path });
        }
    }
}

fn retire(layout: &Layout, fs: &Fs, path: &Path) -> Result<(), StoreError> {
    let name = path.file_name().unwrap_or(path.as_os_str());
    fs.rename(path, &layout.uses.join(name))
}

/// Adds what a lease lists, if it lives; `false` when it lives and protects everything.
fn read_lease(path: &Path, all: &mut Protected) -> Result<bool, StoreError> {
    for _ in 0..NEWBORN_WAITS {
        if !is_living(path) {
            return Ok(true);
        }
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(StoreError::reading("read", path)(e)),
        };
        if let Some(rows) = text.strip_prefix(HEADER) {
            all.add(rows);
            return Ok(true);
        }
        std::thread::sleep(NEWBORN);
    }
    Ok(false)
}

fn is_living(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    match file.try_lock_shared() {
        Ok(()) => false,
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(_)) => {
            let age = file.metadata().and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
            age.is_none_or(|age| age < UNLOCKABLE_LIFE)
        }
    }
}

impl Protected {
    /// Adds whole rows; a last row that is being written is announced only once it is whole.
    fn add(&mut self, rows: &[u8]) {
        for (tag, digest) in rows.chunks_exact(ROW_BYTES).filter_map(row) {
            if tag == KEY_TAG {
                self.keys.insert(digest)
            } else {
                self.blobs.insert(digest)
            };
        }
    }
}

pub(crate) fn row(row: &[u8]) -> Option<(u8, Digest)> {
    let (tag, digest) = row.split_first()?;
    Some((*tag, Digest::from_bytes(*digest.first_chunk()?)))
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
