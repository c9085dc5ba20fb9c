//! Blobs: content under the name of its digest.
//!
//! A blob is written to staging and hashed on the way, synced, and renamed into place; from then on it is mode 0444
//! and nobody writes to it again. Two writers of the same content meet in the same name, and the later one drops
//! what it wrote.
//!
//! **What is synced, and when.** A study commits hundreds of blobs, and a sync costs milliseconds, so each sync must
//! earn its place. A blob's *data* is synced before its name exists (one `fsync` per new blob): otherwise a power
//! cut could leave a name on bytes that never arrived. Its *name* need not be durable until a record speaks of it:
//! [`Store::commit`] syncs each bucket directory that got a name since it was last synced, once, however many blobs
//! it got. A blob that is there already costs one `stat`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::digest::{self, Digest};
use crate::error::{BlobFault, StoreError};
use crate::fs::Staged;
use crate::link::Place;
use crate::mapped::Mapped;
use crate::store::Store;
use crate::trash::Item;

/// Small writes are gathered to this many bytes before they are hashed and written.
const BUFFER_BYTES: usize = 256 * 1024;

/// How often a blob that gc had in hand is looked for again.
const LOOKS: u32 = 3;

/// Where a blob was found by a cheap check.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    /// The linked file it is; `None` for a blob the store owns.
    pub(crate) place: Option<Place>,
}

impl Store {
    /// Stores `bytes`, unless they are there.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of_bytes(bytes);
        self.protect_blob(&digest)?;
        if self.owns(&digest, bytes.len() as u64) {
            self.unsynced().mark(digest);
            return Ok(digest);
        }
        let mut staged = self.fs().stage(&self.layout().staging)?;
        staged.write_all(bytes)?;
        self.settle_blob(staged, &digest, bytes.len() as u64)?;
        Ok(digest)
    }

    /// A writer whose content becomes a blob when it is committed.
    pub fn writer(&self) -> Result<BlobWriter, StoreError> {
        let staged = self.fs().stage(&self.layout().staging)?;
        let hashed = HashedFile { staged, hasher: blake3::Hasher::new(), bytes: 0 };
        Ok(BlobWriter { store: self.clone(), out: BufWriter::with_capacity(BUFFER_BYTES, hashed) })
    }

    /// A cheap check (`stat`, no reading) that a blob can be had.
    ///
    /// # Errors
    /// [`BlobFault::Missing`], or [`BlobFault::Changed`] for a linked file that is not what was hashed. The size of
    /// an owned blob is known to the records that refer to it, so [`Store::lookup`] checks that one.
    pub fn contains(&self, digest: &Digest) -> Result<(), BlobFault> {
        self.protect_reading(&[], [digest]);
        self.locate(digest).map(drop)
    }

    /// Where a blob's bytes are: in the store, or, for a linked blob, the owner's file after a check by `stat`. A gc that
    /// began before this process announced the blob may take it from its place for some milliseconds, so open it by
    /// [`Store::map`] where the bytes are all that matters.
    pub fn blob_path(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        self.protect_reading(&[], [digest]);
        Ok(self.locate(digest)?.path)
    }

    /// A small blob's bytes, checked against its digest. A damaged blob is set aside, so that the next run makes it
    /// anew instead of meeting it again.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let (mut file, found) = self.open_blob(digest)?;
        let mut bytes = Vec::with_capacity(found.bytes as usize);
        file.read_to_end(&mut bytes).map_err(StoreError::reading("read", &found.path))?;
        if Digest::of_bytes(&bytes) == *digest {
            return Ok(bytes);
        }
        // the damage is the news; a store that cannot be written keeps it where it is
        let _still_there = self.disown(digest, &found);
        Err(StoreError::DamagedBlob { digest: *digest, path: found.path })
    }

    /// A blob's bytes as a memory map. They are not re-hashed ([`Store::verify`] does that); a linked file is
    /// checked by `stat` after it was opened.
    pub fn map(&self, digest: &Digest) -> Result<Mapped, StoreError> {
        let (file, found) = self.open_blob(digest)?;
        if let Some(place) = &found.place {
            let now = file.metadata().map_err(StoreError::reading("examine", &found.path))?;
            if !place.matches(&now) {
                return Err(StoreError::ChangedLink { path: found.path, digest: *digest });
            }
        }
        Mapped::of(&file).map_err(StoreError::reading("map", &found.path))
    }

    /// Opens a blob; from then on its bytes stay, whatever happens to its name.
    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<(fs::File, Located), StoreError> {
        self.protect_reading(&[], [digest]);
        for _ in 0..LOOKS {
            let found = self.locate(digest)?;
            match fs::File::open(&found.path) {
                Ok(file) => return Ok((file, found)),
                // gc took it between the look and the opening, and will give it back
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(StoreError::reading("open", &found.path)(e)),
            }
        }
        Err(StoreError::MissingBlob { digest: *digest })
    }

    /// Finds a blob by `stat`: owned first, then linked. One that gc has in hand is waited for.
    pub(crate) fn locate(&self, digest: &Digest) -> Result<Located, BlobFault> {
        for _ in 0..LOOKS {
            match self.locate_now(digest) {
                Err(BlobFault::Missing { .. }) if self.is_judged(digest) => {}
                Err(BlobFault::Missing { .. }) => break,
                found => return found,
            }
        }
        // it may have been put back between the look at its place and the look into the trash
        self.locate_now(digest)
    }

    /// Waits for the verdict of a gc that has this blob in hand; `false` when none has.
    fn is_judged(&self, digest: &Digest) -> bool {
        self.await_verdict(&Item::Blob(*digest)) || self.await_verdict(&Item::Link(*digest))
    }

    fn locate_now(&self, digest: &Digest) -> Result<Located, BlobFault> {
        let path = self.layout().blob(digest);
        match fs::metadata(&path) {
            Ok(meta) if meta.is_file() => Ok(Located { path, bytes: meta.len(), place: None }),
            Ok(_) => Err(BlobFault::Unreadable { digest: *digest, path, reason: "not a file".into() }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.locate_link(digest),
            Err(e) => Err(BlobFault::Unreadable { digest: *digest, path, reason: e.to_string() }),
        }
    }

    /// As [`Self::locate`], and the size must be the recorded one.
    pub(crate) fn locate_sized(&self, digest: &Digest, expected: u64) -> Result<Located, BlobFault> {
        let found = self.locate(digest)?;
        if found.bytes == expected {
            return Ok(found);
        }
        let Located { path, bytes: found, .. } = found;
        Err(BlobFault::WrongSize { digest: *digest, path, expected, found })
    }

    /// Stops offering a blob whose bytes proved wrong.
    pub(crate) fn disown(&self, digest: &Digest, found: &Located) -> Result<(), StoreError> {
        match &found.place {
            None => self.set_aside(&found.path),
            Some(_) => self.forget_link(digest),
        }
    }

    /// Whether an owned blob of this size is there. One of another size is damaged and gets replaced.
    fn owns(&self, digest: &Digest, bytes: u64) -> bool {
        fs::metadata(self.layout().blob(digest)).is_ok_and(|meta| meta.is_file() && meta.len() == bytes)
    }

    /// Gives a staged file its place among the blobs, or drops it when the same content is there.
    fn settle_blob(&self, staged: Staged, digest: &Digest, bytes: u64) -> Result<(), StoreError> {
        if !self.owns(digest, bytes) {
            staged.sync()?;
            staged.publish(&self.layout().blob(digest))?;
        }
        self.unsynced().mark(*digest);
        Ok(())
    }
}

/// Writes one blob. Dropping it without a commit leaves nothing behind.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    out: BufWriter<HashedFile>,
}

impl BlobWriter {
    /// Ends the blob and gives it its name; answers its digest and its size in bytes.
    pub fn commit(self) -> Result<(Digest, u64), StoreError> {
        let Self { store, out } = self;
        let path = out.get_ref().staged.path().to_owned();
        let file = out.into_inner().map_err(|e| StoreError::unwrap_io(&path, e.into_error()))?;
        let (digest, bytes) = (Digest::finish(&file.hasher), file.bytes);
        store.protect_blob(&digest)?;
        store.settle_blob(file.staged, &digest, bytes)?;
        Ok((digest, bytes))
    }

    /// Where the bytes are being written, for messages.
    pub fn staged_path(&self) -> &Path {
        self.out.get_ref().staged.path()
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[derive(Debug)]
struct HashedFile {
    staged: Staged,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Write for HashedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.staged.write_all(bytes)?;
        digest::update(&mut self.hasher, bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bucket directories that got names since they were last synced, by first byte of the digest.
///
/// A bucket leaves the list only after its sync, and only if no name came meanwhile, so whoever commits a record
/// finds every bucket that still needs a sync, even while another thread is syncing it.
#[derive(Debug, Default)]
pub(crate) struct Unsynced {
    marks: Mutex<BTreeMap<u8, u64>>,
}

impl Unsynced {
    pub(crate) fn mark(&self, digest: Digest) {
        *self.lock().entry(digest.as_bytes()[0]).or_default() += 1;
    }

    /// Syncs the buckets of `digests` that need it.
    pub(crate) fn sync<'a>(
        &self,
        digests: impl Iterator<Item = &'a Digest>,
        sync_bucket: impl Fn(u8) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let wanted: BTreeMap<u8, u64> = {
            let marks = self.lock();
            digests.filter_map(|d| marks.get_key_value(&d.as_bytes()[0])).map(|(b, m)| (*b, *m)).collect()
        };
        for (bucket, mark) in wanted {
            sync_bucket(bucket)?;
            let mut marks = self.lock();
            if marks.get(&bucket) == Some(&mark) {
                marks.remove(&bucket);
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u8, u64>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "blob_tests.rs"]
mod tests;
