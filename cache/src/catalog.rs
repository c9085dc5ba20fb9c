//! All records of a store, read once and kept up to date.
//!
//! A record changes only by rename, and a rename changes the times of its bucket directory. So a second reading looks
//! at 256 directories, and lists only those whose times changed, or lie so close to the first look that a change
//! might hide in the same tick of the clock.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::digest::Digest;
use crate::error::{RecordFault, StoreError};
use crate::key::ActionKey;
use crate::layout::{self, name_digest};
use crate::link::TICK;
use crate::record;
use crate::store::Store;

/// Which file it is, as `stat` tells: another file of the same name differs somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) bytes: u64,
    pub(crate) inode: u64,
    pub(crate) mtime_ns: i64,
    pub(crate) ctime_ns: i64,
}

/// What gc and `ls` need of a record.
#[derive(Clone, Debug)]
pub(crate) struct Brief {
    pub(crate) kind: String,
    /// Each blob it needs, with its size.
    pub(crate) refs: Vec<(Digest, u64)>,
    pub(crate) elapsed_ms: u64,
}

/// One record file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) identity: Identity,
    pub(crate) brief: Result<Brief, RecordFault>,
}

/// Every record of a store, as last read.
#[derive(Debug)]
pub(crate) struct Catalog {
    buckets: Vec<Bucket>,
}

#[derive(Debug, Default)]
struct Bucket {
    /// The directory, when it was read long enough after its last change.
    stamp: Option<Identity>,
    records: BTreeMap<ActionKey, Entry>,
}

impl Identity {
    pub(crate) fn of(meta: &Metadata) -> Self {
        let nanos = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
        Self {
            bytes: meta.len(),
            inode: meta.ino(),
            mtime_ns: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: nanos(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// As [`Self::of`], of a regular file.
    pub(crate) fn of_stat(stat: &rustix::fs::Stat) -> io::Result<Self> {
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        let nanos = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
        Ok(Self {
            bytes: stat.st_size as u64,
            inode: stat.st_ino,
            mtime_ns: nanos(stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime_ns: nanos(stat.st_ctime, stat.st_ctime_nsec as i64),
        })
    }

    /// How long ago the file was written; zero for the future.
    pub(crate) fn age(&self) -> Duration {
        since(self.mtime_ns)
    }

    /// Whether a change from now on must show in its times.
    pub(crate) fn is_settled(&self) -> bool {
        since(self.mtime_ns.max(self.ctime_ns)) > TICK
    }
}

/// The time since a moment in nanoseconds since the Unix epoch; zero for the future.
fn since(unix_ns: i64) -> Duration {
    let then = Duration::from_nanos(u64::try_from(unix_ns).unwrap_or(0));
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(then)
}

impl Catalog {
    pub(crate) fn new() -> Self {
        Self { buckets: std::iter::repeat_with(Bucket::default).take(256).collect() }
    }

    pub(crate) fn get(&self, key: &ActionKey) -> Option<&Entry> {
        self.buckets[usize::from(key.digest().as_bytes()[0])].records.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ActionKey, &Entry)> {
        self.buckets.iter().flat_map(|bucket| &bucket.records)
    }

    pub(crate) fn into_entries(self) -> impl Iterator<Item = (ActionKey, Entry)> {
        self.buckets.into_iter().flat_map(|bucket| bucket.records)
    }

    /// Reads what is new, and forgets what is gone; answers the keys that are new or were replaced.
    pub(crate) fn refresh(&mut self, store: &Store) -> Result<Vec<ActionKey>, StoreError> {
        let mut news = Vec::new();
        for (number, bucket) in (0..=u8::MAX).zip(&mut self.buckets) {
            let dir = store.layout().action_bucket(number);
            let Some(stamp) = identify(&dir)? else { continue };
            if bucket.stamp != Some(stamp) {
                // judged now: a change while the bucket is read must get another time
                bucket.stamp = stamp.is_settled().then_some(stamp);
                bucket.refresh(&dir, store, &mut news)?;
            }
        }
        Ok(news)
    }
}

impl Bucket {
    fn refresh(&mut self, dir: &Path, store: &Store, news: &mut Vec<ActionKey>) -> Result<(), StoreError> {
        let mut known = std::mem::take(&mut self.records);
        for path in layout::list(dir)? {
            let Some(key) = name_digest(&path, ".json").map(ActionKey::from_digest) else { continue };
            let Some(identity) = identify(&path)? else { continue };
            if let Some(entry) = known.remove(&key).filter(|entry| entry.identity == identity) {
                self.records.insert(key, entry);
            } else if let Some(brief) = read(store, &path, &key, &identity) {
                self.records.insert(key, Entry { identity, brief });
                news.push(key);
            }
        }
        Ok(())
    }
}

/// What `stat` says of a file; `None` when it is gone.
pub(crate) fn identify(path: &Path) -> Result<Option<Identity>, StoreError> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(Identity::of(&meta))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(StoreError::reading("examine", path)(e)),
    }
}

/// Reads a record; `None` when it is gone.
fn read(
    store: &Store,
    path: &Path,
    key: &ActionKey,
    identity: &Identity,
) -> Option<Result<Brief, RecordFault>> {
    if let Some(found) = store.index().find(store.disk(), key, identity) {
        let (kind, refs) = (found.stage().to_owned(), found.refs().collect());
        return Some(Ok(Brief { kind, refs, elapsed_ms: found.elapsed_ms() }));
    }
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => return Some(Err(RecordFault::Unreadable { path: path.to_owned(), reason: e.to_string() })),
    };
    Some(record::decode(path, key, &text).map(|stored| Brief {
        refs: stored.record.refs.iter().copied().zip(stored.sizes).collect(),
        kind: stored.record.doc.kind,
        elapsed_ms: stored.record.elapsed_ms,
    }))
}
