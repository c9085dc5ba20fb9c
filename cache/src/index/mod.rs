//! The index: what is known of records, in a form that is looked up in a microsecond.
//!
//! Reading, parsing and checking a record costs tens of microseconds; a study of 100,000 nodes has 100,000 of them. So
//! what was once read and found sound is written down again: which file it was (size, inode, times), what the record
//! refers to, and the little that a plan and a report need ([`Found`]).
//!
//! **Never the truth.** An entry counts only if its checksum is right *and* the record file still is the very file it
//! was made from, which `stat` tells, or the census of its bucket. Anything else (no entry, a damaged one, another file) sends the reader to
//! the record. So a lost, torn, stale or forged-by-accident index makes lookups slower and nothing else; the whole
//! directory can be deleted at any time.
//!
//! **No lock, no append.** A segment is written whole, renamed into place and never changed. Each process writes what
//! it learned as one new segment when it ends, and merges the smaller ones into it, so there are at most
//! logarithmically many. Two that merge at once leave the same entries twice, until the next merge. Nothing is synced:
//! after a power cut a segment may be torn, and its checksums say so.

mod census;
mod entry;
mod segment;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

pub(crate) use census::{Area, Census, View};
pub use entry::{Found, FoundOutput};
pub(crate) use segment::Segment;

use crate::catalog::Identity;
use crate::digest::Digest;
use crate::digests::DigestMap;
use crate::error::StoreError;
use crate::fs::fresh_name;
use crate::key::ActionKey;
use crate::layout::{self, Layout};
use crate::store::Disk;

/// So many new entries are written down even while the process goes on.
const FLUSH_ABOVE: usize = 8192;

/// What one store handle knows of the index.
#[derive(Debug, Default)]
pub(crate) struct Index {
    segments: OnceLock<RwLock<Vec<Segment>>>,
    /// Learned by this process and not written down yet.
    fresh: Mutex<DigestMap<Found>>,
}

impl Index {
    /// What is known of the record of `key` in the file `identity`.
    pub(crate) fn find(&self, disk: &Disk, key: &ActionKey, identity: &Identity) -> Option<Found> {
        let same = |found: &Found| found.identity() == *identity;
        if let Some(found) = self.fresh().get(key.digest()).filter(|found| same(found)) {
            return Some(found.clone());
        }
        let segments = self.segments(disk).read().unwrap_or_else(PoisonError::into_inner);
        segments.iter().find_map(|segment| segment.find(key.digest(), same))
    }

    /// Notes what was just read and found sound.
    pub(crate) fn note(&self, disk: &Disk, found: Found) {
        let mut fresh = self.fresh();
        fresh.insert(*found.key().digest(), found);
        if fresh.len() > FLUSH_ABOVE {
            let entries = std::mem::take(&mut *fresh);
            drop(fresh);
            // only slower lookups are lost
            let _unwritten = self.write(disk, entries);
        }
    }

    /// Writes down what was learned.
    pub(crate) fn flush(&self, disk: &Disk) -> Result<(), StoreError> {
        let entries = std::mem::take(&mut *self.fresh());
        if entries.is_empty() { Ok(()) } else { self.write(disk, entries) }
    }

    /// Merges all segments and forgets entries that are not wanted.
    pub(crate) fn rebuild(disk: &Disk, wanted: impl Fn(&Digest) -> bool) -> Result<(), StoreError> {
        let paths = segment_paths(&disk.layout)?;
        if paths.is_empty() {
            return Ok(());
        }
        let mut all = BTreeMap::new();
        for segment in paths.iter().filter_map(|path| Segment::open(path)) {
            segment.for_each(|found| drop(all.insert(*found.key().digest(), found)));
        }
        all.retain(|key, _| wanted(key));
        if !all.is_empty() {
            disk.publish_advisory(&Segment::encode(&all), &new_path(disk))?;
        }
        paths.iter().try_for_each(|path| disk.fs.remove(path))
    }

    /// Writes entries as a new segment, with those of every segment that is not much larger than what it joins.
    fn write(&self, disk: &Disk, entries: DigestMap<Found>) -> Result<(), StoreError> {
        let mut all: BTreeMap<Digest, Found> = BTreeMap::new();
        let mut bytes: u64 = entries.values().map(|found| found.bytes().len() as u64).sum();
        let mut absorbed = Vec::new();
        for (size, path) in by_size(disk)? {
            if size > 2 * bytes {
                break;
            }
            if let Some(segment) = Segment::open(&path) {
                segment.for_each(|found| drop(all.insert(*found.key().digest(), found)));
            }
            bytes += size;
            absorbed.push(path);
        }
        all.extend(entries);
        let path = new_path(disk);
        disk.publish_advisory(&Segment::encode(&all), &path)?;
        self.segments(disk).write().unwrap_or_else(PoisonError::into_inner).extend(Segment::open(&path));
        absorbed.iter().try_for_each(|path| disk.fs.remove(path))
    }

    fn segments(&self, disk: &Disk) -> &RwLock<Vec<Segment>> {
        self.segments.get_or_init(|| {
            let paths = segment_paths(&disk.layout).unwrap_or_default();
            RwLock::new(paths.iter().filter_map(|path| Segment::open(path)).collect())
        })
    }

    fn fresh(&self) -> MutexGuard<'_, DigestMap<Found>> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new_path(disk: &Disk) -> PathBuf {
    disk.layout.index.join(format!("{}.idx", fresh_name()))
}

fn segment_paths(layout: &Layout) -> Result<Vec<PathBuf>, StoreError> {
    let mut paths = layout::list(&layout.index)?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "idx"));
    Ok(paths)
}

/// The segments, the smallest first.
fn by_size(disk: &Disk) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let mut all = Vec::new();
    for path in segment_paths(&disk.layout)? {
        if let Some(identity) = crate::catalog::identify(&path)? {
            all.push((identity.bytes, path));
        }
    }
    all.sort_unstable();
    Ok(all)
}

#[cfg(test)]
#[path = "../index_tests.rs"]
mod tests;
