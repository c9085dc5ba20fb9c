//! Gc: mark what is needed, take the rest away, look once more, then remove it.
//!
//! # What is kept
//!
//! | a record is kept                                   | a blob is kept                               |
//! |----------------------------------------------------|----------------------------------------------|
//! | that a pin names                                   | that a kept record refers to                 |
//! | that [`GcOptions::keep`] names (recent runs)       | that a living process announced              |
//! | that a living process looked up or committed       | younger than [`GcOptions::grace`]            |
//! | younger than [`GcOptions::grace`]                  | of an owner's file (it is not the store's)   |
//!
//! Of the other records, [`GcOptions::older_than`] removes those not used for so long, and [`GcOptions::max_bytes`]
//! removes the cheapest to make again per byte and idle time, until the store is small enough; with neither limit no
//! sound record is removed, only what no record reaches. A record that cannot be parsed is a miss already and is
//! removed as damaged. One that cannot be *read*, or is of a newer version, stops gc: nobody knows what it needs.
//!
//! # Why a run in progress loses nothing
//!
//! Per batch: (1) rename to the trash, (2) read the leases and pins, (3) read the records that are new since, (4) put
//! back what 2 and 3 need, (5) unlink the rest. A process announces `x` in its lease, *then* looks for `x`, and
//! removes its lease only after its commit. If its look came after 1, it found `x` gone and knows. If it came before 1,
//! the announcement came before 1 as well: either the lease still lives at 2, or the process ended before 2, so that
//! its record, if it made one, was there before 3. This is why 3 follows 2.
//!
//! # Crash windows
//!
//! 1. **Killed before 5.** Things lie in the trash, whole; the next opening puts them back ([`crate::trash`]).
//! 2. **Killed in 5.** Some are gone. Records are removed, and the removal is synced, before any blob is touched: so
//!    also after a power cut no record is left whose blobs gc removed.
//! 3. **A step fails** (read-only, an I/O error). Gc answers the error; what is in the trash is put back as in 1.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::catalog::{Catalog, Identity, identify};
use crate::digest::Digest;
use crate::digests::{DigestMap, DigestSet};
use crate::error::{BlobFault, RecordFault, StoreError};
use crate::evict::{self, Victim, Why};
use crate::index::Index;
use crate::key::ActionKey;
use crate::layout::{self, bucket_files, name_digest};
use crate::lease::Protected;
use crate::store::Store;
use crate::trash::Item;
use crate::usage::Tally;
use crate::uses::LastUses;

/// So many things are taken away before the leases are read again. Few in tests, so that they meet several batches.
const BATCH: usize = if cfg!(test) { 3 } else { 4096 };

/// Grace where nobody says otherwise: longer than a pause between two commands of one person.
pub const DEFAULT_GRACE: Duration = Duration::from_mins(10);

/// What gc may remove.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// Removes records that were not used for so long.
    pub older_than: Option<Duration>,
    /// Removes records until blobs and records take no more than so many bytes.
    pub max_bytes: Option<u64>,
    /// Nothing younger is removed, be it record or blob.
    pub grace: Duration,
    /// Keys to keep, besides pins and leases: those of recent runs.
    pub keep: BTreeSet<ActionKey>,
    /// Whether to remove anything.
    pub mode: GcMode,
}

/// Whether gc changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GcMode {
    /// Remove.
    Remove,
    /// Only say what would be removed.
    DryRun,
}

impl Default for GcOptions {
    /// Only what no record reaches, with the default grace.
    fn default() -> Self {
        Self {
            older_than: None,
            max_bytes: None,
            grace: DEFAULT_GRACE,
            keep: BTreeSet::new(),
            mode: GcMode::Remove,
        }
    }
}

/// What gc removed, or would.
#[derive(Clone, Debug, Serialize)]
pub struct GcReport {
    /// Whether it was removed.
    pub mode: GcMode,
    /// Action records.
    pub records: Tally,
    /// Blobs the store owned.
    pub blobs: Tally,
    /// Notes of links that nothing refers to and whose file is gone or changed.
    pub links: Tally,
    /// What checks had set aside.
    pub damaged: Tally,
    /// Among `blobs`: those whose bytes live on under another name outside the store (hard links), and free nothing.
    pub still_linked: Tally,
    /// Each removed record, and why.
    pub evicted: Vec<Evicted>,
    /// What remains.
    pub kept: Kept,
    /// Things taken away and put back, since a process began to rely on them meanwhile.
    pub put_back: u64,
    /// Bytes above [`GcOptions::max_bytes`] that pins, leases, the keys to keep and the grace hold.
    pub over_bytes: u64,
    /// A process whose lease protects everything; then nothing (more) was removed.
    pub held_by: Option<PathBuf>,
}

/// What gc left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// Action records.
    pub records: Tally,
    /// Blobs the store owns.
    pub blobs: Tally,
}

/// A record that gc removed, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evicted {
    /// The action.
    pub key: ActionKey,
    /// Its stage type; empty for a damaged record.
    pub stage: String,
    /// Why.
    pub why: Why,
}

impl Victim {
    fn evicted(&self) -> Evicted {
        Evicted { key: self.key, stage: self.stage.clone(), why: self.why }
    }
}

impl GcReport {
    /// Bytes given back to the disk.
    pub fn freed_bytes(&self) -> u64 {
        let removed =
            [self.records, self.blobs, self.links, self.damaged].iter().map(|t| t.bytes).sum::<u64>();
        removed - self.still_linked.bytes
    }

    fn new(mode: GcMode) -> Self {
        let none = Tally::default();
        Self {
            mode,
            records: none,
            blobs: none,
            links: none,
            damaged: none,
            still_linked: none,
            evicted: Vec::new(),
            kept: Kept::default(),
            put_back: 0,
            over_bytes: 0,
            held_by: None,
        }
    }

    fn count(&mut self, item: &Item, size: &Size) {
        let one = Tally { count: 1, bytes: size.bytes };
        let tally = match item {
            Item::Record(_) => &mut self.records,
            Item::Blob(_) => &mut self.blobs,
            Item::Link(_) => &mut self.links,
        };
        *tally = tally.plus(one);
        if size.is_shared {
            self.still_linked = self.still_linked.plus(one);
        }
    }
}

impl Store {
    /// Removes what is not needed; safe beside running processes and against death at any moment.
    ///
    /// # Errors
    /// [`StoreError::GcRunning`], [`StoreError::UnknownReach`], [`StoreError::DamagedPin`], and the errors of reading
    /// and writing. Whatever it answers, nothing that is needed was removed.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport, StoreError> {
        let lock = self.lock_gc()?;
        self.put_all_back(&lock)?;
        let mut collector = Collector::survey(self, options)?;
        let done = collector.collect();
        // after a failure too, so that a living process misses nothing for longer than it must
        let put_back = self.put_all_back(&lock);
        done?;
        put_back?;
        Ok(collector.report)
    }
}

/// A blob of the store's own, as listed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnBlob {
    pub(crate) bytes: u64,
    pub(crate) age: Duration,
}

/// The roots, read anew before each decision.
#[derive(Debug)]
pub(crate) struct Roots {
    pub(crate) keys: DigestSet,
    pub(crate) blobs: DigestSet,
    whole: Option<PathBuf>,
}

/// One gc at work.
struct Collector<'a> {
    store: &'a Store,
    options: &'a GcOptions,
    catalog: Catalog,
    blobs: DigestMap<OwnBlob>,
    uses: LastUses,
    roots: Roots,
    /// What records need that came while content was being removed.
    needed: DigestSet,
    report: GcReport,
}

impl<'a> Collector<'a> {
    fn survey(store: &'a Store, options: &'a GcOptions) -> Result<Self, StoreError> {
        let blobs = own_blobs(store)?;
        let mut catalog = Catalog::new();
        catalog.refresh(store)?;
        let roots = Self::roots(store, options)?;
        let uses = store.last_uses();
        let (needed, report) = (DigestSet::default(), GcReport::new(options.mode));
        Ok(Self { store, options, catalog, blobs, uses, roots, needed, report })
    }

    fn roots(store: &Store, options: &GcOptions) -> Result<Roots, StoreError> {
        let Protected { mut keys, blobs, whole } = store.protected()?;
        keys.extend(options.keep.iter().map(|key| *key.digest()));
        for pin in store.pins()? {
            keys.extend(pin.keys.iter().map(|key| *key.digest()));
        }
        Ok(Roots { keys, blobs, whole })
    }

    fn collect(&mut self) -> Result<(), StoreError> {
        self.every_record_must_be_known()?;
        let choice = evict::choose(&self.catalog, &self.blobs, &self.uses, &self.roots, self.options);
        self.report.over_bytes = choice.over_bytes;
        if self.is_held() {
            return self.finish(&BTreeSet::new());
        }
        if self.options.mode == GcMode::DryRun {
            return self.foretell(&choice.victims);
        }
        self.remove_records(&choice.victims)?;
        self.remove_content()?;
        self.remove_damaged()?;
        self.tidy()?;
        self.finish(&BTreeSet::new())
    }

    /// Whether some process protects everything.
    fn is_held(&mut self) -> bool {
        self.report.held_by.clone_from(&self.roots.whole);
        self.roots.whole.is_some()
    }

    fn every_record_must_be_known(&self) -> Result<(), StoreError> {
        let unknown = self.catalog.iter().find_map(|(key, entry)| match &entry.brief {
            Err(fault @ (RecordFault::Unreadable { .. } | RecordFault::NewerVersion { .. })) => {
                Some((*key, fault.clone()))
            }
            _ => None,
        });
        unknown.map_or(Ok(()), |(key, fault)| Err(StoreError::UnknownReach { key, fault }))
    }

    /// Removes records in batches; their blobs stay until all of this is durable.
    fn remove_records(&mut self, victims: &[Victim]) -> Result<(), StoreError> {
        let mut touched = BTreeSet::new();
        for batch in victims.chunks(BATCH) {
            let mut taken = Vec::new();
            for victim in batch {
                let item = Item::Record(victim.key);
                if self.store.trash(&item)? {
                    taken.push((victim, item));
                }
            }
            self.roots = Self::roots(self.store, self.options)?;
            for (victim, item) in taken {
                // another file than was judged: committed anew meanwhile
                let same = identify(&item.trashed(self.store))?.is_some_and(|now| victim.is(&now));
                if self.roots.whole.is_some() || self.roots.keys.contains(victim.key.digest()) || !same {
                    self.put_back(&item)?;
                } else if self.unlink(&item)? {
                    touched.insert(victim.key.digest().as_bytes()[0]);
                    self.report.evicted.push(victim.evicted());
                }
            }
            if self.is_held() {
                break;
            }
        }
        touched
            .iter()
            .try_for_each(|bucket| self.store.fs().sync_dir(&self.store.layout().action_bucket(*bucket)))?;
        if touched.is_empty() { Ok(()) } else { self.store.fs().sync_dir(&self.store.layout().trash) }
    }

    /// Removes blobs and links that nothing reaches.
    fn remove_content(&mut self) -> Result<(), StoreError> {
        self.catalog.refresh(self.store)?;
        self.every_record_must_be_known()?;
        let victims = self.unreached(&self.reached(&BTreeSet::new()))?;
        for batch in victims.chunks(BATCH) {
            if self.is_held() {
                return Ok(());
            }
            self.remove_batch(batch)?;
        }
        Ok(())
    }

    fn remove_batch(&mut self, batch: &[(Item, Digest)]) -> Result<(), StoreError> {
        let mut taken = Vec::new();
        for (item, digest) in batch {
            if !self.is_needed(digest) && self.store.trash(item)? {
                taken.push((item, digest));
            }
        }
        self.roots = Self::roots(self.store, self.options)?;
        let news = self.catalog.refresh(self.store)?;
        self.every_record_must_be_known()?;
        let of_news: Vec<Digest> =
            news.iter().flat_map(|key| self.refs(key)).map(|(digest, _)| *digest).collect();
        self.needed.extend(of_news);
        for (item, digest) in taken {
            if self.roots.whole.is_some() || self.is_needed(digest) {
                self.put_back(item)?;
            } else {
                self.unlink(item)?;
            }
        }
        Ok(())
    }

    /// Whether anything came to need a blob since it was found not to be reached.
    fn is_needed(&self, digest: &Digest) -> bool {
        self.roots.blobs.contains(digest) || self.needed.contains(digest)
    }

    fn remove_damaged(&mut self) -> Result<(), StoreError> {
        for path in layout::list(&self.store.layout().damaged)? {
            let Some(identity) = identify(&path)? else { continue };
            if identity.age() >= self.options.grace && !path.is_dir() {
                self.store.fs().remove(&path)?;
                self.report.damaged = self.report.damaged.plus(Tally { count: 1, bytes: identity.bytes });
            }
        }
        Ok(())
    }

    /// Forgets what is only kept for records that are gone.
    fn tidy(&self) -> Result<(), StoreError> {
        let known = |key: &Digest| self.catalog.get(&ActionKey::from_digest(*key)).is_some();
        Index::rebuild(self.store.disk(), known)?;
        self.store.remove_tickets()?;
        self.store.fold_all_uses(known)
    }

    /// Counts what a real run would remove.
    fn foretell(&mut self, victims: &[Victim]) -> Result<(), StoreError> {
        let gone: BTreeSet<ActionKey> = victims.iter().map(|victim| victim.key).collect();
        for victim in victims {
            let size = Size { bytes: victim.identity.bytes, is_shared: false };
            self.report.count(&Item::Record(victim.key), &size);
            self.report.evicted.push(victim.evicted());
        }
        for (item, _) in self.unreached(&self.reached(&gone))? {
            if let Some(size) = Size::of(&item.home(self.store))? {
                self.report.count(&item, &size);
            }
        }
        for path in layout::list(&self.store.layout().damaged)? {
            if let Some(identity) = identify(&path)?.filter(|i| i.age() >= self.options.grace) {
                self.report.damaged = self.report.damaged.plus(Tally { count: 1, bytes: identity.bytes });
            }
        }
        self.finish(&gone)
    }

    /// Counts what remains; `gone` are records that a real run would have removed.
    fn finish(&mut self, gone: &BTreeSet<ActionKey>) -> Result<(), StoreError> {
        self.catalog.refresh(self.store)?;
        let records =
            self.catalog.iter().filter(|(key, _)| !gone.contains(key)).map(|(_, e)| e.identity.bytes);
        let records = records.fold(Tally::default(), |t, bytes| t.plus(Tally { count: 1, bytes }));
        let listed = own_blobs(self.store)?;
        let blobs = listed.values().fold(Tally::default(), |t, b| t.plus(Tally { count: 1, bytes: b.bytes }));
        let foretold = if self.options.mode == GcMode::DryRun { self.report.blobs } else { Tally::default() };
        self.report.kept = Kept { records, blobs: blobs.minus(foretold) };
        Ok(())
    }

    /// Every digest that a record refers to, or a process announced.
    fn reached(&self, without: &BTreeSet<ActionKey>) -> DigestSet {
        let kept = self.catalog.iter().filter(|(key, _)| !without.contains(key));
        let refs = kept.filter_map(|(_, entry)| entry.brief.as_ref().ok()).flat_map(|brief| &brief.refs);
        refs.map(|(digest, _)| *digest).chain(self.roots.blobs.iter().copied()).collect()
    }

    /// Blobs and links that are not reached, old enough, and of no use.
    fn unreached(&self, reached: &DigestSet) -> Result<Vec<(Item, Digest)>, StoreError> {
        let idle = |(digest, blob): &(&Digest, &OwnBlob)| {
            !reached.contains(*digest) && blob.age >= self.options.grace
        };
        let blobs = self.blobs.iter().filter(idle).map(|(digest, _)| (Item::Blob(*digest), *digest));
        let mut all: Vec<(Item, Digest)> = blobs.collect();
        for path in bucket_files(&self.store.layout().links)? {
            let Some(digest) = name_digest(&path, ".json").filter(|d| !reached.contains(d)) else { continue };
            let is_useless =
                !matches!(self.store.locate_link(&digest), Ok(_) | Err(BlobFault::Unreadable { .. }));
            if is_useless && identify(&path)?.is_some_and(|i| i.age() >= self.options.grace) {
                all.push((Item::Link(digest), digest));
            }
        }
        Ok(all)
    }

    fn refs(&self, key: &ActionKey) -> &[(Digest, u64)] {
        let brief = self.catalog.get(key).and_then(|entry| entry.brief.as_ref().ok());
        brief.map_or(&[], |brief| &brief.refs)
    }

    fn put_back(&mut self, item: &Item) -> Result<(), StoreError> {
        self.report.put_back += 1;
        self.store.put_back(item)
    }

    /// Removes a thing from the trash for good; tells whether it was there.
    fn unlink(&mut self, item: &Item) -> Result<bool, StoreError> {
        let path = item.trashed(self.store);
        let Some(size) = Size::of(&path)? else { return Ok(false) };
        self.store.fs().remove(&path)?;
        self.report.count(item, &size);
        Ok(true)
    }
}

/// What removing a name frees.
struct Size {
    bytes: u64,
    /// Another name, outside the store, keeps the bytes.
    is_shared: bool,
}

impl Size {
    fn of(path: &Path) -> Result<Option<Self>, StoreError> {
        match fs::symlink_metadata(path) {
            Ok(meta) => Ok(Some(Self { bytes: meta.len(), is_shared: meta.nlink() > 1 })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::reading("examine", path)(e)),
        }
    }
}

/// Every blob the store owns.
fn own_blobs(store: &Store) -> Result<DigestMap<OwnBlob>, StoreError> {
    let mut all = DigestMap::default();
    for path in bucket_files(&store.layout().blobs)? {
        let Some(digest) = name_digest(&path, "") else { continue };
        if let Some(identity) = identify(&path)? {
            all.insert(digest, OwnBlob { bytes: identity.bytes, age: Identity::age(&identity) });
        }
    }
    Ok(all)
}

#[cfg(test)]
#[path = "gc_tests.rs"]
mod tests;
