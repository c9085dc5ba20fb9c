//! How much space a store takes, by what takes it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::layout::{bucket_files, list, name_digest};
use crate::store::Store;

/// A number of files and the sum of their sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Files.
    pub count: u64,
    /// Sum of their sizes, bytes.
    pub bytes: u64,
}

/// The space a store takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Blobs the store owns.
    pub blobs: Tally,
    /// Content that stays in its owners' files; takes no space of the store's.
    pub linked: Tally,
    /// Action records.
    pub records: Tally,
    /// Links, stat cache and node memory.
    pub notes: Tally,
    /// Pins, leases, the history of uses, the index, and what gc has in hand.
    #[serde(default)]
    pub bookkeeping: Tally,
    /// Files being written, or left by dead writers.
    pub staging: Tally,
    /// What checks set aside.
    pub damaged: Tally,
    /// What could not be examined, so that the sums are too small.
    pub unreadable: Vec<PathBuf>,
}

impl Usage {
    /// What the store itself takes, bytes; linked files are not its own.
    pub fn owned_bytes(&self) -> u64 {
        let parts = [self.blobs, self.records, self.notes, self.bookkeeping, self.staging, self.damaged];
        parts.iter().map(|t| t.bytes).sum()
    }
}

impl Store {
    /// Measures the store by listing it.
    pub fn du(&self) -> Usage {
        let layout = self.layout();
        let mut unreadable = Vec::new();
        let mut buckets = |dir: &Path| tally(dir, bucket_files(dir), &mut unreadable);
        let (blobs, records) = (buckets(&layout.blobs), buckets(&layout.actions));
        let notes = [&layout.links, &layout.stat, &layout.nodes].map(|dir| buckets(dir));
        let mut flat = |dir: &Path| tally(dir, list(dir), &mut unreadable);
        let (staging, damaged) = (flat(&layout.staging), flat(&layout.damaged));
        let kept =
            [&layout.pins, &layout.leases, &layout.uses, &layout.index, &layout.trash].map(|dir| flat(dir));
        let sum = |tallies: &[Tally]| tallies.iter().copied().fold(Tally::default(), Tally::plus);
        let (notes, bookkeeping) = (sum(&notes), sum(&kept));
        Usage {
            blobs,
            linked: self.tally_linked(),
            records,
            notes,
            bookkeeping,
            staging,
            damaged,
            unreadable,
        }
    }

    /// Content that is linked and not owned as well; a changed file counts nothing.
    fn tally_linked(&self) -> Tally {
        let links = bucket_files(&self.layout().links).unwrap_or_default();
        let intact = links.iter().filter_map(|path| {
            let digest = name_digest(path, ".json")?;
            let found = self.locate(&digest).ok()?;
            found.place.map(|_| Tally { count: 1, bytes: found.bytes })
        });
        intact.fold(Tally::default(), Tally::plus)
    }
}

impl Tally {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { count: self.count + other.count, bytes: self.bytes + other.bytes }
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self { count: self.count - other.count, bytes: self.bytes - other.bytes }
    }
}

fn tally<E>(dir: &Path, files: Result<Vec<PathBuf>, E>, unreadable: &mut Vec<PathBuf>) -> Tally {
    let Ok(files) = files else {
        unreadable.push(dir.to_owned());
        return Tally::default();
    };
    let mut sum = Tally::default();
    for path in files {
        match fs::symlink_metadata(&path) {
            Ok(meta) => sum = sum.plus(Tally { count: 1, bytes: meta.len() }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => unreadable.push(path),
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_and_linked_bytes_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        store.put_bytes(b"12345").unwrap();
        store.put_bytes(b"123").unwrap();
        let file = dir.path().join("shard");
        fs::write(&file, [7; 1000]).unwrap();
        store.link_file(&file).unwrap();
        let usage = store.du();
        assert_eq!(usage.blobs, Tally { count: 2, bytes: 8 });
        assert_eq!(usage.linked, Tally { count: 1, bytes: 1000 });
        assert_eq!(usage.records, Tally::default());
        assert_eq!(usage.notes.count, 2);
        assert_eq!(usage.staging, Tally::default());
        assert_eq!(usage.bookkeeping.count, 1, "the lease");
        assert_eq!(usage.owned_bytes(), 8 + usage.notes.bytes + usage.bookkeeping.bytes);
        assert!(usage.unreadable.is_empty());
    }
}
