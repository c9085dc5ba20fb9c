//! The census: what `stat` said of the files in each bucket, while the bucket stays as it was.
//!
//! Names in a bucket directory come and go by rename and unlink, which set the directory's times. So one `stat` of a
//! directory, compared with its times when the census was taken, answers for all its files: this is what makes a
//! lookup cost less than a `stat` of its own. Only a directory whose times lay a tick in the past when it was looked at
//! is taken in, since a later change then must show ([`crate::link`] tells why).
//!
//! What this cannot see is a file that is written to *in place*. The store never does that: its files have mode 0444
//! and are replaced by name. A record that somebody overwrites is no danger, since the index holds what it was; a blob
//! that somebody cuts short is found by [`crate::Store::lookup`], [`crate::Store::read`] and [`crate::Store::verify`].
//!
//! ```text
//! census = "qpipedir" ++ u32 version ++ u32 zero ++ 512 × bucket (actions, then blobs) ++ rows, digests ascending
//! bucket = u64 bytes ++ u64 inode ++ i64 mtime ns ++ i64 ctime ns      of the directory
//!          ++ u64 place of its first row in the file ++ u64 rows ++ u64 seal
//! row    = digest (32 bytes) ++ u64 bytes ++ u64 inode ++ i64 mtime ns ++ i64 ctime ns ++ u64 seal
//! seal   = first 8 bytes of the BLAKE3 of what precedes it, in a row XOR the seal of its bucket
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::segment::{check, u64_at};
use crate::catalog::Identity;
use crate::digest::Digest;
use crate::error::StoreError;
use crate::layout::Layout;
use crate::mapped::Mapped;
use crate::store::Disk;

const MAGIC: &[u8; 8] = b"qpipedir";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 16;
const BUCKET_BYTES: usize = 56;
const BUCKETS: usize = 512;
const ROW_BYTES: usize = 72;

/// The census is written anew when more than this part of it is new.
const WORTH: usize = 16;

/// One bucket directory of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Area {
    Actions(u8),
    Blobs(u8),
}

impl Area {
    pub(crate) fn path(self, layout: &Layout) -> PathBuf {
        match self {
            Self::Actions(bucket) => layout.action_bucket(bucket),
            Self::Blobs(bucket) => layout.blob_bucket(bucket),
        }
    }

    fn number(self) -> usize {
        match self {
            Self::Actions(bucket) => usize::from(bucket),
            Self::Blobs(bucket) => 256 + usize::from(bucket),
        }
    }
}

/// What one store handle knows of the buckets.
#[derive(Debug, Default)]
pub(crate) struct Census {
    taken: OnceLock<Option<Snapshot>>,
    learned: Mutex<BTreeMap<usize, Learned>>,
}

/// A bucket as it was looked at by this process.
#[derive(Clone, Debug)]
struct Learned {
    stamp: Identity,
    rows: BTreeMap<Digest, Identity>,
}

/// What is known of a bucket that is as it was.
pub(crate) struct View<'a> {
    learned: Option<MutexGuard<'a, BTreeMap<usize, Learned>>>,
    number: usize,
    rows: Option<Rows<'a>>,
}

impl Census {
    /// What is known of a bucket, if it still has this stamp.
    pub(crate) fn view<'a>(&'a self, disk: &Disk, area: Area, stamp: &Identity) -> View<'a> {
        let number = area.number();
        let learned = self.learned();
        let learned = learned.get(&number).is_some_and(|of| of.stamp == *stamp).then_some(learned);
        let rows =
            self.taken(disk).and_then(|taken| taken.bucket(number)).filter(|rows| rows.stamp == *stamp);
        View { learned, number, rows }
    }

    /// Notes what `stat` said of files while their bucket had a settled stamp.
    pub(crate) fn learn(&self, area: Area, stamp: Identity, rows: Vec<(Digest, Identity)>) {
        let mut learned = self.learned();
        let of = learned.entry(area.number()).or_insert(Learned { stamp, rows: BTreeMap::new() });
        if of.stamp != stamp {
            *of = Learned { stamp, rows: BTreeMap::new() };
        }
        of.rows.extend(rows);
    }

    /// Writes the census when enough of it is new.
    pub(crate) fn flush(&self, disk: &Disk) -> Result<(), StoreError> {
        let learned = std::mem::take(&mut *self.learned());
        let news: usize = learned.values().map(|of| of.rows.len()).sum();
        let known = self.taken(disk).map_or(0, Snapshot::rows);
        if news == 0 || news * WORTH < known {
            return Ok(());
        }
        let mut all = learned;
        if let Some(taken) = self.taken(disk) {
            (0..BUCKETS)
                .filter_map(|n| Some((n, taken.bucket(n)?)))
                .for_each(|(n, rows)| rows.join(n, &mut all));
        }
        disk.publish_advisory(&encode(&all), &disk.layout.census())
    }

    fn taken(&self, disk: &Disk) -> Option<&Snapshot> {
        self.taken.get_or_init(|| Snapshot::open(&disk.layout.census())).as_ref()
    }

    fn learned(&self) -> MutexGuard<'_, BTreeMap<usize, Learned>> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl View<'_> {
    /// What `stat` would say of a file; `None` when that is not known.
    pub(crate) fn find(&self, digest: &Digest) -> Option<Identity> {
        let learned = self.learned.as_ref().and_then(|all| all.get(&self.number));
        let found = learned.and_then(|of| of.rows.get(digest).copied());
        found.or_else(|| self.rows.as_ref()?.find(digest))
    }
}

/// A census file, mapped.
#[derive(Debug)]
struct Snapshot {
    map: Mapped,
}

/// The rows of one bucket.
#[derive(Debug)]
struct Rows<'a> {
    stamp: Identity,
    seal: u64,
    text: &'a [u8],
}

impl Snapshot {
    fn open(path: &Path) -> Option<Self> {
        let map = Mapped::of(&File::open(path).ok()?).ok()?;
        let head = map.get(..HEAD_BYTES + BUCKETS * BUCKET_BYTES)?;
        (&head[..8] == MAGIC && head[8..12] == VERSION.to_le_bytes()).then_some(Self { map })
    }

    fn rows(&self) -> usize {
        (0..BUCKETS).filter_map(|n| self.bucket(n)).map(|of| of.text.len() / ROW_BYTES).sum()
    }

    fn bucket(&self, number: usize) -> Option<Rows<'_>> {
        let at = HEAD_BYTES + BUCKET_BYTES * number;
        let head = self.map.get(at..at + BUCKET_BYTES)?;
        let (stamp, seal) = (identity_at(head, 0)?, u64_at(head, BUCKET_BYTES - 8)?);
        let (place, rows) = (u64_at(head, 32)? as usize, u64_at(head, 40)? as usize);
        let text = self.map.get(place..place.checked_add(rows.checked_mul(ROW_BYTES)?)?)?;
        (check(&head[..BUCKET_BYTES - 8]) == seal && !text.is_empty()).then_some(Rows { stamp, seal, text })
    }
}

impl Rows<'_> {
    fn find(&self, digest: &Digest) -> Option<Identity> {
        let (rows, _) = self.text.as_chunks::<ROW_BYTES>();
        let at = rows.binary_search_by(|row| row[..32].cmp(digest.as_bytes())).ok()?;
        Some(self.open(&rows[at])?.1)
    }

    /// A row, if it is whole.
    fn open(&self, row: &[u8; ROW_BYTES]) -> Option<(Digest, Identity)> {
        let (body, seal) = row.split_at(ROW_BYTES - 8);
        let is_whole = check(body) ^ self.seal == u64_at(seal, 0)?;
        is_whole.then_some((Digest::from_bytes(*body.first_chunk()?), identity_at(body, 32)?))
    }

    /// Adds these rows to what was learned of the bucket, unless it changed since.
    fn join(&self, number: usize, all: &mut BTreeMap<usize, Learned>) {
        let of = all.entry(number).or_insert_with(|| Learned { stamp: self.stamp, rows: BTreeMap::new() });
        if of.stamp == self.stamp {
            let (rows, _) = self.text.as_chunks::<ROW_BYTES>();
            of.rows.extend(rows.iter().filter_map(|row| self.open(row)));
        }
    }
}

fn encode(all: &BTreeMap<usize, Learned>) -> Vec<u8> {
    let mut text = vec![0; HEAD_BYTES + BUCKETS * BUCKET_BYTES];
    text[..8].copy_from_slice(MAGIC);
    text[8..12].copy_from_slice(&VERSION.to_le_bytes());
    for (number, of) in all {
        let mut head = Vec::with_capacity(BUCKET_BYTES);
        put_identity(&mut head, &of.stamp);
        head.extend((text.len() as u64).to_le_bytes());
        head.extend((of.rows.len() as u64).to_le_bytes());
        let seal = check(&head);
        head.extend(seal.to_le_bytes());
        let at = HEAD_BYTES + BUCKET_BYTES * number;
        text[at..at + BUCKET_BYTES].copy_from_slice(&head);
        for (digest, identity) in &of.rows {
            let start = text.len();
            text.extend(digest.as_bytes());
            put_identity(&mut text, identity);
            let row_seal = check(&text[start..]) ^ seal;
            text.extend(row_seal.to_le_bytes());
        }
    }
    text
}

fn put_identity(out: &mut Vec<u8>, identity: &Identity) {
    for number in [identity.bytes, identity.inode, identity.mtime_ns as u64, identity.ctime_ns as u64] {
        out.extend(number.to_le_bytes());
    }
}

fn identity_at(bytes: &[u8], at: usize) -> Option<Identity> {
    Some(Identity {
        bytes: u64_at(bytes, at)?,
        inode: u64_at(bytes, at + 8)?,
        mtime_ns: u64_at(bytes, at + 16)? as i64,
        ctime_ns: u64_at(bytes, at + 24)? as i64,
    })
}
