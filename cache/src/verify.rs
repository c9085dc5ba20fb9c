//! The thorough check: every blob is re-hashed, every record is read and its refs are looked for.
//!
//! Lookups trust what `stat` says; this is the check of that trust. With [`Repair::SetAside`], what proved wrong is
//! moved to `damaged/` (a wrong link is forgotten), so that the next run makes it anew. A record whose blob is gone
//! stays: it is a miss that says why, and the next commit replaces it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::blob::Located;
use crate::digest::Digest;
use crate::error::{BlobFault, RecordFault, StoreError};
use crate::key::ActionKey;
use crate::layout::{bucket_files, name_digest};
use crate::record;
use crate::store::Store;

/// Whether a check changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Only report.
    Nothing,
    /// Move what proved wrong out of the way.
    SetAside,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// Blobs the store owns that were hashed.
    pub blobs: u64,
    /// Linked files that were hashed.
    pub links: u64,
    /// Records that were read.
    pub records: u64,
    /// Bytes that were hashed.
    pub bytes: u64,
    /// Everything that is wrong.
    pub faults: Vec<VerifyFault>,
}

/// One thing that is wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum VerifyFault {
    /// A blob or a linked file.
    #[error(transparent)]
    Blob(BlobFault),
    /// An action record.
    #[error("action `{}`: {fault}", key.short())]
    Record {
        /// The key the record is named by.
        key: ActionKey,
        /// What is wrong.
        fault: RecordFault,
    },
    /// A file that no name of the layout explains.
    #[error("file `{}` does not belong here", path.display())]
    Stray {
        /// The file.
        path: PathBuf,
    },
    /// The check or the repair itself failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.faults.is_empty()
    }
}

impl Store {
    /// Checks everything; takes as long as reading every blob.
    pub fn verify(&self, repair: Repair) -> Report {
        let mut report = Report::default();
        let layout = self.layout();
        for_each_named(&layout.blobs, "", &mut report, |report, digest, path| {
            report.blobs += 1;
            self.verify_blob(&digest, path, repair, report);
        });
        for_each_named(&layout.links, ".json", &mut report, |report, digest, _| {
            report.links += 1;
            self.verify_link(&digest, repair, report);
        });
        for_each_named(&layout.actions, ".json", &mut report, |report, key, path| {
            report.records += 1;
            self.verify_record(ActionKey::from_digest(key), path, repair, report);
        });
        report
    }

    fn verify_blob(&self, digest: &Digest, path: &Path, repair: Repair, report: &mut Report) {
        let bytes = fs::metadata(path).map_or(0, |meta| meta.len());
        self.verify_bytes(digest, &Located { path: path.to_owned(), bytes, place: None }, repair, report);
    }

    fn verify_link(&self, digest: &Digest, repair: Repair, report: &mut Report) {
        match self.locate_link(digest) {
            Ok(found) => self.verify_bytes(digest, &found, repair, report),
            Err(fault) => report.faults.push(VerifyFault::Blob(fault)),
        }
    }

    fn verify_bytes(&self, digest: &Digest, found: &Located, repair: Repair, report: &mut Report) {
        let fault = match Digest::of_file(&found.path) {
            Ok(now) if now == *digest => None,
            Ok(_) => Some(BlobFault::Damaged { digest: *digest, path: found.path.clone() }),
            // removed since it was listed: by its owner, or by a writer that replaces it
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                let (path, reason) = (found.path.clone(), e.to_string());
                report.faults.push(VerifyFault::Blob(BlobFault::Unreadable {
                    digest: *digest,
                    path,
                    reason,
                }));
                return;
            }
        };
        report.bytes += found.bytes;
        let Some(fault) = fault else { return };
        report.faults.push(VerifyFault::Blob(fault));
        if repair == Repair::SetAside {
            report.faults.extend(self.disown(digest, found).err().map(VerifyFault::Store));
        }
    }

    fn verify_record(&self, key: ActionKey, path: &Path, repair: Repair, report: &mut Report) {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return,
            Err(e) => {
                let fault = RecordFault::Unreadable { path: path.to_owned(), reason: e.to_string() };
                report.faults.push(VerifyFault::Record { key, fault });
                return;
            }
        };
        let checked = record::decode(path, &key, &text).and_then(|stored| Ok(self.check_refs(&stored)?));
        let Err(fault) = checked else { return };
        let is_garbage = matches!(fault, RecordFault::Unparsable { .. } | RecordFault::KeyMismatch { .. });
        report.faults.push(VerifyFault::Record { key, fault });
        if is_garbage && repair == Repair::SetAside {
            report.faults.extend(self.set_aside(path).err().map(VerifyFault::Store));
        }
    }
}

/// Shows `check` every file under `dir` that is named by a digest and `suffix`, and reports the others.
fn for_each_named(
    dir: &Path,
    suffix: &str,
    report: &mut Report,
    mut check: impl FnMut(&mut Report, Digest, &Path),
) {
    let files = bucket_files(dir).unwrap_or_else(|error| {
        report.faults.push(error.into());
        Vec::new()
    });
    for path in files {
        match name_digest(&path, suffix) {
            Some(digest) => check(report, digest, &path),
            None => report.faults.push(VerifyFault::Stray { path }),
        }
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
