//! Which records gc gives up, and in which order.
//!
//! Under a limit of bytes, the record goes first that costs least to have again: the time its action took, per byte
//! that removing it frees, per second since its last use. A blob that several records share is freed by the last of
//! them; until then each is charged its part.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::catalog::{Brief, Catalog, Entry, Identity};
use crate::digest::Digest;
use crate::digests::DigestMap;
use crate::error::RecordFault;
use crate::gc::{GcOptions, OwnBlob, Roots};
use crate::key::ActionKey;
use crate::uses::LastUses;

/// Below so many seconds, being idle says nothing.
const IDLE_FLOOR_SECONDS: f64 = 60.0;

/// Why a record is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// It cannot be parsed, so it is a miss already.
    Damaged,
    /// It was not used for longer than the limit.
    Idle,
    /// The store was larger than the limit.
    Space,
}

/// A record that goes.
#[derive(Debug)]
pub(crate) struct Victim {
    pub(crate) key: ActionKey,
    pub(crate) identity: Identity,
    pub(crate) stage: String,
    pub(crate) why: Why,
}

/// What was decided.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) victims: Vec<Victim>,
    /// Bytes above the limit that could not be given up.
    pub(crate) over_bytes: u64,
}

/// A record that may go for space.
struct Candidate<'a> {
    key: ActionKey,
    entry: &'a Entry,
    brief: &'a Brief,
    idle: Duration,
}

impl Victim {
    /// Whether this is the file that was judged. Its change time is left out: the move to the trash set it.
    pub(crate) fn is(&self, now: &Identity) -> bool {
        let of = |i: &Identity| (i.bytes, i.inode, i.mtime_ns);
        of(&self.identity) == of(now)
    }

    fn new(key: ActionKey, entry: &Entry, why: Why) -> Self {
        let stage = entry.brief.as_ref().map_or_else(|_| String::new(), |brief| brief.kind.clone());
        Self { key, identity: entry.identity, stage, why }
    }
}

pub(crate) fn choose(
    catalog: &Catalog,
    blobs: &DigestMap<OwnBlob>,
    uses: &LastUses,
    roots: &Roots,
    options: &GcOptions,
) -> Choice {
    let (mut victims, mut candidates, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for (key, entry) in catalog.iter() {
        let held = roots.keys.contains(key.digest()) || entry.identity.age() < options.grace;
        let idle = idle_time(&entry.identity, uses.get(key.digest()).copied());
        match &entry.brief {
            _ if held => kept.push(entry),
            Err(RecordFault::Unparsable { .. } | RecordFault::KeyMismatch { .. }) => {
                victims.push(Victim::new(*key, entry, Why::Damaged));
            }
            Ok(_) if options.older_than.is_some_and(|limit| idle >= limit) => {
                victims.push(Victim::new(*key, entry, Why::Idle));
            }
            Ok(brief) => candidates.push(Candidate { key: *key, entry, brief, idle }),
            Err(_) => kept.push(entry),
        }
    }
    let over_bytes = match options.max_bytes {
        None => 0,
        Some(limit) => {
            let mut space = Space::of(&kept, &candidates, blobs, roots, options);
            space.give_up(candidates, limit, &mut victims);
            space.bytes.saturating_sub(limit)
        }
    };
    Choice { victims, over_bytes }
}

fn idle_time(identity: &Identity, last_use_unix_ms: Option<u64>) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let used = last_use_unix_ms.map(|ms| now.saturating_sub(Duration::from_millis(ms)));
    used.map_or(identity.age(), |used| used.min(identity.age()))
}

/// The bytes of the store, and who holds them.
struct Space<'a> {
    bytes: u64,
    blobs: &'a DigestMap<OwnBlob>,
    /// Records that refer to a blob, one more for each other reason to keep it.
    holders: DigestMap<u64>,
}

impl<'a> Space<'a> {
    fn of(
        kept: &[&Entry],
        candidates: &[Candidate<'_>],
        blobs: &'a DigestMap<OwnBlob>,
        roots: &Roots,
        options: &GcOptions,
    ) -> Self {
        let mut holders = DigestMap::<u64>::default();
        let mut hold = |digest: &Digest| *holders.entry(*digest).or_default() += 1;
        let briefs = kept.iter().filter_map(|entry| entry.brief.as_ref().ok());
        for brief in briefs.chain(candidates.iter().map(|c| c.brief)) {
            brief.refs.iter().for_each(|(digest, _)| hold(digest));
        }
        roots.blobs.iter().for_each(&mut hold);
        blobs.iter().filter(|(_, blob)| blob.age < options.grace).for_each(|(digest, _)| hold(digest));
        let records = kept.iter().copied().chain(candidates.iter().map(|c| c.entry));
        let of_records: u64 = records.map(|entry| entry.identity.bytes).sum();
        let of_blobs: u64 =
            holders.keys().filter_map(|digest| blobs.get(digest)).map(|blob| blob.bytes).sum();
        Self { bytes: of_records + of_blobs, blobs, holders }
    }

    /// Gives candidates up, the least valuable first, until the limit is met.
    fn give_up(&mut self, candidates: Vec<Candidate<'_>>, limit: u64, victims: &mut Vec<Victim>) {
        if self.bytes <= limit {
            return;
        }
        let mut ranked: Vec<(f64, Candidate<'_>)> =
            candidates.into_iter().map(|candidate| (self.value(&candidate), candidate)).collect();
        ranked.sort_by(|(a, x), (b, y)| a.total_cmp(b).then(x.key.cmp(&y.key)));
        for (_, candidate) in ranked {
            if self.bytes <= limit {
                return;
            }
            self.release(&candidate);
            victims.push(Victim::new(candidate.key, candidate.entry, Why::Space));
        }
    }

    fn release(&mut self, candidate: &Candidate<'_>) {
        self.bytes -= candidate.entry.identity.bytes;
        for (digest, _) in &candidate.brief.refs {
            let Some(holders) = self.holders.get_mut(digest) else { continue };
            *holders -= 1;
            if *holders == 0 {
                self.bytes -= self.blobs.get(digest).map_or(0, |blob| blob.bytes);
            }
        }
    }

    /// Milliseconds of work kept per byte and second of idleness.
    fn value(&self, candidate: &Candidate<'_>) -> f64 {
        let part = |(digest, _): &(Digest, u64)| {
            let bytes = self.blobs.get(digest).map_or(0, |blob| blob.bytes);
            bytes as f64 / self.holders.get(digest).copied().unwrap_or(1).max(1) as f64
        };
        let bytes =
            candidate.entry.identity.bytes as f64 + candidate.brief.refs.iter().map(part).sum::<f64>();
        let idle = candidate.idle.as_secs_f64().max(IDLE_FLOOR_SECONDS);
        (candidate.brief.elapsed_ms as f64 + 1.0) / (bytes + 1.0) / idle
    }
}
