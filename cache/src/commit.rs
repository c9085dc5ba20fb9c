//! The commit protocol, and what every crash leaves behind.
//!
//! An action becomes a hit by the creation of one file, its record. Everything before it only adds content that
//! nobody refers to yet.
//!
//! ```text
//! for each blob:    W  write to staging/, hashing on the way
//!                   S  fsync the file
//!                   R  rename it to blobs/ab/<digest>
//! for the record:   A  announce the refs in the lease, so that gc leaves them alone
//!                   C  check that every ref is there, note its size
//!                   D  fsync each blob bucket that got names since it was last synced
//!                   w  write the record to staging/, sealed
//!                   s  fsync it
//!                   r  rename it to actions/ab/<key>.json        ← the commit
//!                   d  fsync that directory
//! ```
//!
//! # Crash windows
//!
//! "Killed" means the process ends and the file system lives on; "power cut" means that, besides, whatever was not
//! synced may be lost, each piece on its own. What is assumed of the disk stands in `fs.rs`.
//!
//! 1. **Killed in W or S.** A staged file is left, under a name nobody looks for and with no living lock: the next
//!    opening sweeps it. The action is absent.
//! 2. **Power cut in W or S.** As 1, with any bytes in the staged file; it is never renamed, so they do not matter.
//! 3. **Killed after R.** A whole blob nobody refers to. A second attempt finds it and saves the write. Absent.
//! 4. **Power cut after R, before D.** The name may be lost (then as 1) or kept; if kept, its data is whole, since S
//!    came before R. Absent either way.
//! 5. **Killed or power cut in D, w or s.** As 3, plus a staged record as in 1. Absent.
//! 6. **Killed after r.** The record is there, and its blobs are: a hit.
//! 7. **Power cut after r, before d.** The name of the record may be lost: absent, the blobs remain as in 3. If it is
//!    kept, its text is whole (s before r) and its blobs' names are durable (D before r): a hit.
//! 8. **A blob that another process renamed but has not synced** is marked here too when this process put the same
//!    content, so D covers it. When this process only refers to it (an input handed on), a power cut may keep this
//!    record and lose that name: the record is damaged (blob missing), and the action is done again.
//!    Gc cannot cause this: A comes before C, and gc looks again after it took a blob away ([`crate::gc`]).
//! 9. **Two processes commit one key at once** (a lock was not taken). Each rename is whole; the later record stands,
//!    and the blobs of both are there.
//! 10. **The disk fills, or turns read-only, at any step.** The step fails with its typed error, the staged file is
//!     removed or swept, and the state is that of a kill at this step.
//! 11. **The disk lies** (a sync that was none, a flipped bit, a file cut short by hand). A record is sealed: any
//!     altered one is damaged. A ref of another size is noticed at lookup, altered bytes by [`Store::read`] and
//!     [`Store::verify`], which set the blob aside, so that it is made anew. [`Store::map`] does not re-hash.
//!
//! In no case does a lookup answer a hit whose blobs are missing or have other sizes, and in cases 1 to 10 never one
//! with other bytes. The tests fail each step in turn, and replay every subset of what a power cut may lose.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use crate::catalog::Identity;
use crate::error::{BlobFault, RecordFault, RecordFlaw, StoreError};
use crate::index::Found;
use crate::key::ActionKey;
use crate::record::{self, ActionRecord, Stored};
use crate::store::Store;
use crate::trash::Item;

/// The answer to a lookup.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup {
    /// The action was done, and everything it made is there.
    Hit(Box<ActionRecord>),
    /// The action was never committed here.
    Absent,
    /// There is a record, but it is of no use, and why. A miss; a new commit replaces it.
    Damaged(RecordFault),
}

impl Store {
    /// Looks an action up. Everything its outputs reach is checked by `stat`; nothing is hashed.
    pub fn lookup(&self, key: &ActionKey) -> Lookup {
        self.lookup_found(key).0
    }

    /// As [`Self::lookup`], and what the index will say of a hit.
    pub(crate) fn lookup_found(&self, key: &ActionKey) -> (Lookup, Option<Found>) {
        self.protect_reading(&[*key], []);
        match self.lookup_now(key) {
            // a gc that has it in hand may put it back, or has since the look; another may have committed it anew
            (Lookup::Absent | Lookup::Damaged(RecordFault::BlobMissing { .. }), _) => {
                self.await_verdict(&Item::Record(*key));
                self.lookup_now(key)
            }
            answer => answer,
        }
    }

    fn lookup_now(&self, key: &ActionKey) -> (Lookup, Option<Found>) {
        let path = self.layout().action(key);
        let (text, identity) = match read_identified(&path) {
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return (Lookup::Absent, None),
            Err(e) => {
                return (Lookup::Damaged(RecordFault::Unreadable { path, reason: e.to_string() }), None);
            }
        };
        let looked_up = record::decode(&path, key, &text).and_then(|stored| {
            // another may replace the record, and then it no longer keeps these blobs
            self.protect_reading(&[], stored.record.refs.iter());
            self.check_refs(&stored)?;
            Ok(stored)
        });
        match looked_up {
            Err(fault) => (Lookup::Damaged(fault), None),
            Ok(stored) => {
                let found = self.learn(&stored, &identity);
                (Lookup::Hit(Box::new(stored.record)), found)
            }
        }
    }

    /// Tells the index of a sound record, unless it knows.
    fn learn(&self, stored: &Stored, identity: &Identity) -> Option<Found> {
        if let Some(known) = self.index().find(self.disk(), &stored.record.key, identity) {
            return Some(known);
        }
        let found = Found::of(stored, identity)?;
        self.index().note(self.disk(), found.clone());
        Some(found)
    }

    /// Commits an action: from the moment this returns, also a power cut leaves it a hit.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`], [`StoreError::ChangedLink`] when a ref is not there,
    /// [`StoreError::InconsistentRecord`] for a record that could never be a hit, and the errors of writing.
    pub fn commit(&self, record: &ActionRecord) -> Result<(), StoreError> {
        let flawed = |flaw| StoreError::InconsistentRecord { key: record.key, flaw };
        record.check().map_err(flawed)?;
        self.lease().protect(self.layout(), self.fs(), &[record.key], &mut record.refs.iter())?;
        let sizes = self.sizes_of_refs(record)?;
        check_output_sizes(record, &sizes).map_err(flawed)?;
        let text = record.encode(&sizes).map_err(flawed)?;
        let sync_bucket = |bucket| self.fs().sync_dir(&self.layout().blob_bucket(bucket));
        self.unsynced().sync(record.refs.iter(), sync_bucket)?;
        let meta = self.publish(&text, &self.layout().action(&record.key))?;
        self.learn(&Stored { record: record.clone(), sizes }, &Identity::of(&meta));
        Ok(())
    }

    /// Whether every blob of a record is there, with the size it had.
    pub(crate) fn check_refs(&self, stored: &Stored) -> Result<(), BlobFault> {
        for (digest, bytes) in stored.record.refs.iter().zip(&stored.sizes) {
            self.locate_sized(digest, *bytes)?;
        }
        Ok(())
    }

    fn sizes_of_refs(&self, record: &ActionRecord) -> Result<Vec<u64>, StoreError> {
        record.refs.iter().map(|digest| Ok(self.locate(digest)?.bytes)).collect()
    }
}

/// A file's content, and which file it was.
fn read_identified(path: &Path) -> io::Result<(Vec<u8>, Identity)> {
    let mut file = fs::File::open(path)?;
    let identity = Identity::of(&file.metadata()?);
    let mut text = Vec::with_capacity(identity.bytes as usize + 1);
    file.read_to_end(&mut text)?;
    Ok((text, identity))
}

/// Each output must state the size of its blob. `sizes` are in the order of the record's refs.
fn check_output_sizes(record: &ActionRecord, sizes: &[u64]) -> Result<(), RecordFlaw> {
    for (digest, found) in record.refs.iter().zip(sizes) {
        let wrong = |(_, output): &(_, &crate::record::OutputRecord)| {
            output.digest == *digest && output.bytes != *found
        };
        if let Some((name, output)) = record.outputs.iter().find(wrong) {
            let (output, stated, found) = (name.clone(), output.bytes, *found);
            return Err(RecordFlaw::OutputSize { output, stated, found });
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "crash_tests.rs"]
mod crash_tests;
