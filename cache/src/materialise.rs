//! Giving a blob a name outside the store.
//!
//! | means     | costs                  | shares with the store                              |
//! |-----------|------------------------|----------------------------------------------------|
//! | reflink   | nothing                | bytes, until either side changes (btrfs, XFS, …)   |
//! | hard link | nothing                | the file itself: mode 0444, never to be written to |
//! | copy      | reading and writing    | nothing; the bytes are hashed on the way           |
//!
//! The first that works is taken, and the answer says which. A hard link hands out the store's own file: who makes it
//! writable and writes to it damages the store, so it is made only where the caller says that nobody will.

use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::Serialize;

use crate::blob::Located;
use crate::digest::{self, Digest};
use crate::error::StoreError;
use crate::store::Store;

/// Mode of a file that shares no file with the store.
const MODE: u32 = 0o644;
const BUFFER_BYTES: usize = 1024 * 1024;

/// Whether the store's own file may be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HardLinks {
    /// The file will only be read.
    Allowed,
    /// Somebody may write to the file.
    Never,
}

/// How a blob came to its new place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// The file system shares the bytes until one side changes.
    Reflink,
    /// It is the store's own file, under another name.
    HardLink,
    /// The bytes were copied and checked against the digest.
    Copy,
}

/// A blob that was given a place outside the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Materialised {
    /// How.
    pub means: Means,
    /// Its size, bytes.
    pub bytes: u64,
}

impl Store {
    /// Puts a blob's content at `to`, whole or not at all. Its directory must exist, and nothing may be at `to`.
    ///
    /// # Errors
    /// [`StoreError::TargetExists`], [`StoreError::MissingBlob`], [`StoreError::ChangedLink`],
    /// [`StoreError::DamagedBlob`] when a copy shows other bytes than the digest's, and the errors of writing.
    pub fn materialise(
        &self,
        digest: &Digest,
        to: &Path,
        hard_links: HardLinks,
    ) -> Result<Materialised, StoreError> {
        if fs::symlink_metadata(to).is_ok() {
            return Err(StoreError::TargetExists { path: to.to_owned() });
        }
        let (file, found) = self.open_blob(digest)?;
        let is_own = found.place.is_none();
        let means = if self.reflink(&file, to)? {
            Means::Reflink
        } else if is_own && hard_links == HardLinks::Allowed && hard_link(&found, to)? {
            Means::HardLink
        } else {
            self.copy(file, digest, &found, to)?;
            Means::Copy
        };
        Ok(Materialised { means, bytes: found.bytes })
    }

    /// Shares the bytes, where the file system can; tells whether it could.
    fn reflink(&self, from: &File, to: &Path) -> Result<bool, StoreError> {
        let staged = self.fs().stage(parent(to))?;
        if rustix::fs::ioctl_ficlone(staged.file(), from).is_err() {
            return Ok(false);
        }
        staged
            .file()
            .set_permissions(Permissions::from_mode(MODE))
            .map_err(StoreError::reading("make writable", to))?;
        staged.publish_new(to).map(|()| true)
    }

    fn copy(&self, mut from: File, digest: &Digest, found: &Located, to: &Path) -> Result<(), StoreError> {
        let mut staged = self.fs().stage(parent(to))?;
        let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; BUFFER_BYTES]);
        loop {
            let read = from.read(&mut buffer).map_err(StoreError::reading("read", &found.path))?;
            if read == 0 {
                break;
            }
            digest::update(&mut hasher, &buffer[..read]);
            staged.write_all(&buffer[..read])?;
        }
        if Digest::finish(&hasher) != *digest {
            return Err(StoreError::DamagedBlob { digest: *digest, path: found.path.clone() });
        }
        staged
            .file()
            .set_permissions(Permissions::from_mode(MODE))
            .map_err(StoreError::reading("make writable", to))?;
        staged.publish_new(to)
    }
}

/// Names the store's own file; `false` where the file system cannot (another disk, too many links).
fn hard_link(found: &Located, to: &Path) -> Result<bool, StoreError> {
    match fs::hard_link(&found.path, to) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(StoreError::TargetExists { path: to.to_owned() })
        }
        Err(_) => Ok(false),
    }
}

fn parent(to: &Path) -> &Path {
    to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::fault::{Fault, Faults};
    use crate::testing::{count, overwrite, store};

    /// A directory beside a store with one blob.
    fn fixture() -> (tempfile::TempDir, Store, Digest) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let digest = store.put_bytes(b"content").unwrap();
        (dir, store, digest)
    }

    #[test]
    fn the_content_is_there_and_may_be_changed_without_harm() {
        let (dir, store, digest) = fixture();
        let to = dir.path().join("out");
        let made = store.materialise(&digest, &to, HardLinks::Never).unwrap();
        assert_eq!(made.bytes, 7);
        assert_ne!(made.means, Means::HardLink);
        assert_eq!(fs::read(&to).unwrap(), b"content");
        fs::write(&to, b"changed").unwrap();
        assert_eq!(store.read(&digest).unwrap(), b"content");
        assert_eq!(count(dir.path()), 2, "no staged file is left");
    }

    #[test]
    fn a_hard_link_is_the_file_itself_and_survives_gc() {
        let (dir, store, digest) = fixture();
        let to = dir.path().join("out");
        let made = store.materialise(&digest, &to, HardLinks::Allowed).unwrap();
        if made.means == Means::HardLink {
            assert_eq!(
                fs::metadata(&to).unwrap().ino(),
                fs::metadata(store.blob_path(&digest).unwrap()).unwrap().ino()
            );
        } else {
            assert_eq!(made.means, Means::Reflink, "every file system of tests can do one of the two");
        }
        drop(store);
        let store = Store::open(&dir.path().join("store")).unwrap();
        store.gc(&crate::GcOptions { grace: std::time::Duration::ZERO, ..Default::default() }).unwrap();
        assert!(store.contains(&digest).is_err());
        assert_eq!(fs::read(&to).unwrap(), b"content");
    }

    #[test]
    fn an_owners_file_is_never_hard_linked() {
        let (dir, store, _) = fixture();
        let file = dir.path().join("owned by a person");
        fs::write(&file, b"tensors").unwrap();
        let digest = store.link_file(&file).unwrap();
        let made = store.materialise(&digest, &dir.path().join("out"), HardLinks::Allowed).unwrap();
        assert_ne!(made.means, Means::HardLink);
        fs::write(&file, b"changed").unwrap();
        let error = store.materialise(&digest, &dir.path().join("out2"), HardLinks::Allowed).unwrap_err();
        assert!(matches!(error, StoreError::ChangedLink { .. }), "{error}");
        assert_eq!(fs::read(dir.path().join("out")).unwrap(), b"tensors");
    }

    #[test]
    fn what_is_there_is_not_replaced() {
        let (dir, store, digest) = fixture();
        let to = dir.path().join("out");
        fs::write(&to, b"mine").unwrap();
        for hard_links in [HardLinks::Allowed, HardLinks::Never] {
            let error = store.materialise(&digest, &to, hard_links).unwrap_err();
            assert!(matches!(&error, StoreError::TargetExists { path } if *path == to), "{error}");
        }
        assert_eq!(fs::read(&to).unwrap(), b"mine");
    }

    #[test]
    fn a_copy_of_damaged_bytes_is_refused() {
        let (dir, store, digest) = fixture();
        overwrite(&store.blob_path(&digest).unwrap(), b"CONTENT");
        let to = dir.path().join("out");
        match store.materialise(&digest, &to, HardLinks::Never) {
            Err(StoreError::DamagedBlob { .. }) => assert!(!to.exists()),
            other => assert!(matches!(other, Ok(made) if made.means == Means::Reflink), "{other:?}"),
        }
    }

    #[test]
    fn a_missing_directory_and_each_failing_step_leave_nothing() {
        let (dir, store, digest) = fixture();
        let nowhere = dir.path().join("none/out");
        let error = store.materialise(&digest, &nowhere, HardLinks::Never).unwrap_err();
        assert!(matches!(&error, StoreError::Io { op: "create", .. }), "{error}");
        drop(store);
        let root = dir.path().join("store");
        for step in 1..=8 {
            let full = Fault::TornError(io::ErrorKind::StorageFull);
            let store = Store::open_with_faults(&root, Faults::at(step, full)).unwrap();
            let to = dir.path().join(format!("out{step}"));
            match store.materialise(&digest, &to, HardLinks::Never) {
                Ok(_) => assert_eq!(fs::read(&to).unwrap(), b"content"),
                Err(error) => {
                    assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
                    assert!(!to.exists());
                }
            }
        }
        assert!(store_is_clean(&root));
    }

    fn store_is_clean(root: &Path) -> bool {
        Store::open(root).unwrap().verify(crate::Repair::Nothing).is_clean()
    }

    #[test]
    fn a_blob_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            store(&dir).materialise(&Digest::of_bytes(b"no"), &dir.path().join("o"), HardLinks::Never);
        assert!(matches!(error, Err(StoreError::MissingBlob { .. })));
    }
}
