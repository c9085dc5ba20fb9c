//! Every way the store can fail, one typed reason each, naming the path and the operation.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::key::ActionKey;

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused an operation.
    #[error("failed to {op} `{}`: {source}", path.display())]
    Io {
        /// What was attempted.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// No space or quota is left for the store.
    #[error("no space left to {op} `{}`", path.display())]
    DiskFull {
        /// What was attempted.
        op: &'static str,
        /// What could not be written.
        path: PathBuf,
    },
    /// The store may be read but not written.
    #[error("store is read-only: may not {op} `{}`", path.display())]
    ReadOnly {
        /// What was attempted.
        op: &'static str,
        /// What could not be written.
        path: PathBuf,
    },
    /// The store was made by a newer version of this program.
    #[error("store has version {found}, newer than the supported {supported}: `{}`", path.display())]
    NewerVersion {
        /// Version found.
        found: u32,
        /// Newest version this program reads.
        supported: u32,
        /// The file that states it.
        path: PathBuf,
    },
    /// The file that marks a store says something else.
    #[error("`{}` does not mark a store: {reason}", path.display())]
    BadMarker {
        /// The marker.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The store does not have a blob.
    #[error("blob `{digest}` is not in the store")]
    MissingBlob {
        /// The blob.
        digest: Digest,
    },
    /// A blob's bytes do not have its digest.
    #[error("blob `{digest}` is damaged: `{}`", path.display())]
    DamagedBlob {
        /// The blob.
        digest: Digest,
        /// Where its bytes were found.
        path: PathBuf,
    },
    /// A linked file is no longer the one that was hashed.
    #[error("linked file `{}` changed since it was hashed as `{}`", path.display(), digest.short())]
    ChangedLink {
        /// The linked file.
        path: PathBuf,
        /// What it held.
        digest: Digest,
    },
    /// A file kept changing while it was being hashed.
    #[error("file `{}` changes while it is read", path.display())]
    UnstableFile {
        /// The file.
        path: PathBuf,
    },
    /// A path cannot be written into a link.
    #[error("path `{}` is not UTF-8 and cannot be linked", path.display())]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// Another gc works on the store.
    #[error("another gc is running: `{}` is locked", path.display())]
    GcRunning {
        /// Its lock.
        path: PathBuf,
    },
    /// Gc cannot tell which blobs a record needs, so it removes nothing.
    #[error("gc cannot tell what the record of `{}` needs: {fault}", key.short())]
    UnknownReach {
        /// The record's key.
        key: ActionKey,
        /// Why it cannot be read.
        fault: RecordFault,
    },
    /// A name that cannot be a pin's.
    #[error("`{name}` is no name for a pin: 1 to 100 of `a-z A-Z 0-9 . _ -`, not starting with `.`")]
    BadPinName {
        /// The name.
        name: String,
    },
    /// A pin cannot be read, so nobody knows what it protects.
    #[error("pin `{}` is damaged: {reason}", path.display())]
    DamagedPin {
        /// The pin's file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The action has no record.
    #[error("no record of action `{}`", key.short())]
    MissingRecord {
        /// The action.
        key: ActionKey,
    },
    /// A place where a blob should be materialised is taken.
    #[error("`{}` exists already", path.display())]
    TargetExists {
        /// The place.
        path: PathBuf,
    },
    /// An action record contradicts itself, so committing it would create a record that never hits.
    #[error("action record `{}` is not consistent: {flaw}", key.short())]
    InconsistentRecord {
        /// The record's key.
        key: ActionKey,
        /// The contradiction.
        flaw: RecordFlaw,
    },
}

/// The contradiction in a record that was offered for commit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFlaw {
    /// Its schema is not the one this program writes.
    #[error("schema {found} instead of {expected}")]
    Schema {
        /// The record's.
        found: u32,
        /// This program's.
        expected: u32,
    },
    /// Its key is not the key of its document.
    #[error("its document has the key `{}`", of_doc.short())]
    Key {
        /// The document's key.
        of_doc: ActionKey,
    },
    /// An output is not among its refs.
    #[error("output `{output}` is not among its refs")]
    UnreachedOutput {
        /// The output's name.
        output: String,
    },
    /// An output states another size than its blob has.
    #[error("output `{output}` states {stated} bytes, its blob has {found}")]
    OutputSize {
        /// The output's name.
        output: String,
        /// The record's size, bytes.
        stated: u64,
        /// The blob's size, bytes.
        found: u64,
    },
    /// It cannot be read back from its own JSON.
    #[error("it does not survive its JSON form: {reason}")]
    Unreadable {
        /// What the reader says.
        reason: String,
    },
}

/// Why a blob cannot be had; what a cheap check (stat) finds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobFault {
    /// Neither stored nor linked.
    #[error("blob `{}` is missing", digest.short())]
    Missing {
        /// The blob.
        digest: Digest,
    },
    /// Stored with another size than its record states.
    #[error("blob `{}` has {found} bytes instead of {expected}: `{}`", digest.short(), path.display())]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// Where it is.
        path: PathBuf,
        /// Size when it was recorded, bytes.
        expected: u64,
        /// Size now, bytes.
        found: u64,
    },
    /// A linked file changed, moved or vanished.
    #[error("linked file `{}` changed since it was hashed as `{}`", path.display(), digest.short())]
    Changed {
        /// What it held.
        digest: Digest,
        /// The file.
        path: PathBuf,
    },
    /// Its bytes do not have its digest (found by re-hashing only).
    #[error("blob `{}` is damaged: `{}`", digest.short(), path.display())]
    Damaged {
        /// The blob.
        digest: Digest,
        /// Where it is.
        path: PathBuf,
    },
    /// The file system does not say.
    #[error("blob `{}` cannot be examined at `{}`: {reason}", digest.short(), path.display())]
    Unreadable {
        /// The blob.
        digest: Digest,
        /// Where it should be.
        path: PathBuf,
        /// The answer.
        reason: String,
    },
}

/// Why a record that exists is not a hit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// The file cannot be read.
    #[error("record `{}` cannot be read: {reason}", path.display())]
    Unreadable {
        /// The record.
        path: PathBuf,
        /// The answer.
        reason: String,
    },
    /// The file is not a whole record: truncated, altered, or something else.
    #[error("record `{}` is damaged: {reason}", path.display())]
    Unparsable {
        /// The record.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The record was written by a newer version of this program.
    #[error("record `{}` has version {found}, newer than the supported {supported}", path.display())]
    NewerVersion {
        /// The record.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Newest version this program reads.
        supported: u32,
    },
    /// The record is of another action than its name says.
    #[error("record `{}` is of the action `{}`", path.display(), found.short())]
    KeyMismatch {
        /// The record.
        path: PathBuf,
        /// The key of its document.
        found: ActionKey,
    },
    /// A blob it refers to is gone.
    #[error("blob `{}` is missing", digest.short())]
    BlobMissing {
        /// The blob.
        digest: Digest,
    },
    /// A file it refers to by link changed.
    #[error("linked file `{}` changed since it was hashed as `{}`", path.display(), digest.short())]
    LinkChanged {
        /// What the file held.
        digest: Digest,
        /// The file.
        path: PathBuf,
    },
    /// A blob it refers to is of no use for another reason.
    #[error(transparent)]
    Blob(BlobFault),
}

impl From<BlobFault> for RecordFault {
    fn from(fault: BlobFault) -> Self {
        match fault {
            BlobFault::Missing { digest } => Self::BlobMissing { digest },
            BlobFault::Changed { digest, path } => Self::LinkChanged { digest, path },
            other => Self::Blob(other),
        }
    }
}

impl From<BlobFault> for StoreError {
    fn from(fault: BlobFault) -> Self {
        match fault {
            BlobFault::Missing { digest } => Self::MissingBlob { digest },
            BlobFault::Changed { digest, path } => Self::ChangedLink { path, digest },
            BlobFault::WrongSize { digest, path, .. } | BlobFault::Damaged { digest, path } => {
                Self::DamagedBlob { digest, path }
            }
            BlobFault::Unreadable { path, reason, .. } => {
                Self::Io { op: "examine", path, source: io::Error::other(reason) }
            }
        }
    }
}

impl StoreError {
    /// The error of an operation that only reads.
    pub(crate) fn reading(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { op, path, source }
    }

    /// The error of an operation that writes: a full disk and a read-only store have their own reasons.
    pub(crate) fn writing(op: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { op, path },
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                Self::ReadOnly { op, path }
            }
            _ => Self::Io { op, path, source },
        }
    }

    /// What went through an `io::Write` comes back as it was.
    pub(crate) fn unwrap_io(path: &Path, error: io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(source) => Self::writing("write", path, source),
        }
    }

    fn io_kind(&self) -> io::ErrorKind {
        match self {
            Self::Io { source, .. } => source.kind(),
            Self::DiskFull { .. } => io::ErrorKind::StorageFull,
            Self::ReadOnly { .. } => io::ErrorKind::ReadOnlyFilesystem,
            Self::MissingBlob { .. } => io::ErrorKind::NotFound,
            _ => io::ErrorKind::InvalidData,
        }
    }
}

impl From<StoreError> for io::Error {
    fn from(error: StoreError) -> Self {
        Self::new(error.io_kind(), error)
    }
}
