//! Linked blobs: content that stays in its owner's file. Loading a 16 GB checkpoint copies nothing.
//!
//! A link says: *the file at this path, of this size, these times and this inode, had this digest.* Using it costs
//! one `stat`; whatever differs makes it [`BlobFault::Changed`], and linking the file again re-hashes it. Several
//! files of equal content are several places of one link, and one intact place is enough.
//!
//! The stat cache turns this around: from path, size, times and inode to the digest, so that an unchanged file is
//! hashed once, not once per run. Within a process, a path that was linked before costs two `stat`s.
//!
//! Why `stat` can be trusted that far: a change of content sets the modification time, and the change time (`ctime`)
//! as well, which nobody can set back. What is left is a change within the same clock tick as the hashing (git's
//! "racy" entries): so a file is hashed only once its times lie 40 ms in the past. On file systems with coarser
//! times (FAT: two seconds) a rewrite of equal size within one tick goes unseen until [`Store::verify`].

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::blob::Located;
use crate::catalog::{Identity, identify};
use crate::digest::Digest;
use crate::error::{BlobFault, StoreError};
use crate::sealed::{self, Format};
use crate::store::Store;

const LINK: Format = Format { name: "qpipe-link", version: 1 };
const STAT: Format = Format { name: "qpipe-stat", version: 1 };

/// Longer than one tick of a file system's clock (10 ms at most on Linux's own file systems).
pub(crate) const TICK: Duration = Duration::from_millis(40);

/// How often a file that changes under the hasher is hashed again before giving up.
const ATTEMPTS: u32 = 3;

/// A file as `stat` describes it. Times are nanoseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    path: String,
    bytes: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    inode: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Link {
    digest: Digest,
    places: Vec<Place>,
}

#[derive(Serialize, Deserialize)]
struct Seen {
    place: Place,
    digest: Digest,
}

impl Place {
    pub(crate) fn matches(&self, meta: &Metadata) -> bool {
        *self == Self::of(&self.path, meta)
    }

    fn of(path: &str, meta: &Metadata) -> Self {
        Self {
            path: path.to_owned(),
            bytes: meta.len(),
            mtime_ns: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: nanos(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        }
    }

    fn stat(path: &str) -> Result<Self, StoreError> {
        let examine = || StoreError::reading("examine", Path::new(path));
        let meta = fs::metadata(path).map_err(examine())?;
        if meta.is_file() {
            return Ok(Self::of(path, &meta));
        }
        Err(examine()(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")))
    }

    fn is_intact(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|meta| meta.is_file() && self.matches(&meta))
    }

    /// Waits until a change from now on would show in the file's times. A time in the future is not waited for.
    fn wait_until_settled(&self) {
        let latest = Duration::from_nanos(u64::try_from(self.mtime_ns.max(self.ctime_ns)).unwrap_or(0));
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().checked_sub(latest);
        if let Some(rest) = age.and_then(|age| TICK.checked_sub(age)) {
            std::thread::sleep(rest);
        }
    }
}

/// Files this process has linked, by the path it was given: a study of a thousand nodes names one checkpoint a thousand
/// times.
#[derive(Debug, Default)]
pub(crate) struct Linked {
    known: Mutex<HashMap<PathBuf, Known>>,
    /// Files that this process took somebody's word for.
    adopted: Mutex<HashMap<Digest, Place>>,
}

#[derive(Clone, Debug)]
struct Known {
    digest: Digest,
    /// The file that was hashed, and its device.
    file: Identity,
    device: u64,
    /// The link's own file, as it was written.
    link: Identity,
}

impl Store {
    /// Makes a file's content a blob without copying it; answers its digest.
    ///
    /// Symbolic links are resolved first. A file that has not changed since it was last linked is not read.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file cannot be read, [`StoreError::UnstableFile`] when it keeps changing,
    /// [`StoreError::NotUtf8`] for a path that JSON cannot hold, and the errors of writing to the store.
    pub fn link_file(&self, path: &Path) -> Result<Digest, StoreError> {
        if let Some(digest) = self.linked_before(path) {
            return Ok(digest);
        }
        let (digest, place) = self.link_now(path)?;
        self.note_linked(path, digest, &place);
        Ok(digest)
    }

    /// As [`Self::link_file`] on the word of whoever hashed the file, which is not read, and for this process alone: nothing
    /// is written. For content that somebody else answers for.
    ///
    /// # Errors
    /// Those of [`Self::link_file`].
    pub fn adopt_file(&self, digest: &Digest, path: &Path) -> Result<(), StoreError> {
        let real = fs::canonicalize(path).map_err(StoreError::reading("resolve", path))?;
        let real = real.to_str().ok_or_else(|| StoreError::NotUtf8 { path: path.to_owned() })?;
        self.adopted().insert(*digest, Place::stat(real)?);
        Ok(())
    }

    fn adopted(&self) -> MutexGuard<'_, HashMap<Digest, Place>> {
        self.linked().adopted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest of a file that this process linked, if both the file and the link are as they were.
    fn linked_before(&self, path: &Path) -> Option<Digest> {
        let known = self.linked().known.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()?;
        let meta = fs::metadata(path).ok().filter(Metadata::is_file)?;
        let link = identify(&self.layout().link(&known.digest)).ok()??;
        let is_same = (meta.dev(), Identity::of(&meta), link) == (known.device, known.file, known.link);
        is_same.then_some(known.digest)
    }

    fn note_linked(&self, path: &Path, digest: Digest, place: &Place) {
        let (Ok(meta), Ok(Some(link))) = (fs::metadata(path), identify(&self.layout().link(&digest))) else {
            return;
        };
        // of the file that was hashed, not of one that has taken its place since
        if place.matches(&meta) {
            let known = Known { digest, file: Identity::of(&meta), device: meta.dev(), link };
            self.linked().known.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), known);
        }
    }

    fn link_now(&self, path: &Path) -> Result<(Digest, Place), StoreError> {
        let real = fs::canonicalize(path).map_err(StoreError::reading("resolve", path))?;
        let real = real.to_str().ok_or_else(|| StoreError::NotUtf8 { path: path.to_owned() })?;
        let now = Place::stat(real)?;
        if let Some(digest) = self.seen(&now) {
            self.protect_blob(&digest)?;
            self.add_place(digest, now.clone())?;
            return Ok((digest, now));
        }
        let (digest, place) = hash_at_rest(now)?;
        self.protect_blob(&digest)?;
        self.note_seen(&place, digest)?;
        self.add_place(digest, place.clone())?;
        Ok((digest, place))
    }

    /// Finds a linked blob: the first place that still is what it was.
    pub(crate) fn locate_link(&self, digest: &Digest) -> Result<Located, BlobFault> {
        let adopted = self.adopted().get(digest).cloned();
        let link = if adopted.is_some() { None } else { self.load_link(digest)? };
        let places: Vec<Place> =
            adopted.into_iter().chain(link.into_iter().flat_map(|link| link.places)).collect();
        let Some(first) = places.first() else { return Err(BlobFault::Missing { digest: *digest }) };
        let changed = || BlobFault::Changed { digest: *digest, path: PathBuf::from(&first.path) };
        let place = places.iter().find(|place| place.is_intact()).ok_or_else(changed)?;
        Ok(Located { path: PathBuf::from(&place.path), bytes: place.bytes, place: Some(place.clone()) })
    }

    /// Stops offering the files that are linked as a blob.
    pub(crate) fn forget_link(&self, digest: &Digest) -> Result<(), StoreError> {
        self.adopted().remove(digest);
        self.fs().remove(&self.layout().link(digest))
    }

    /// The link of a digest, if there is one.
    pub(crate) fn load_link(&self, digest: &Digest) -> Result<Option<Link>, BlobFault> {
        let path = self.layout().link(digest);
        let unreadable =
            |reason: String| BlobFault::Unreadable { digest: *digest, path: path.clone(), reason };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(unreadable(e.to_string())),
        };
        let link: Link = sealed::open(LINK, &text).map_err(|fault| unreadable(fault.to_string()))?;
        if link.digest == *digest {
            return Ok(Some(link));
        }
        Err(unreadable(format!("it is the link of `{}`", link.digest.short())))
    }

    /// The digest of an unchanged file. A damaged or foreign entry is no entry: the file is hashed.
    fn seen(&self, now: &Place) -> Option<Digest> {
        let text = fs::read(self.layout().stat_of(&now.path)).ok()?;
        let seen: Seen = sealed::open(STAT, &text).ok()?;
        (seen.place == *now).then_some(seen.digest)
    }

    fn note_seen(&self, place: &Place, digest: Digest) -> Result<(), StoreError> {
        let to = self.layout().stat_of(&place.path);
        self.publish_advisory(&sealed::seal_for(STAT, &Seen { place: place.clone(), digest }, &to)?, &to)
    }

    /// Adds a place to a digest's link and drops places that are no longer intact. Two that add at once may lose
    /// one place; linking that file again brings it back.
    fn add_place(&self, digest: Digest, place: Place) -> Result<(), StoreError> {
        let known = self.load_link(&digest).ok().flatten().map(|link| link.places).unwrap_or_default();
        if known.contains(&place) {
            return Ok(());
        }
        let mut places = vec![place];
        places.extend(known.into_iter().filter(Place::is_intact));
        let to = self.layout().link(&digest);
        self.publish(&sealed::seal_for(LINK, &Link { digest, places }, &to)?, &to).map(drop)
    }
}

/// Hashes a file that does not change meanwhile.
fn hash_at_rest(mut before: Place) -> Result<(Digest, Place), StoreError> {
    for _ in 0..ATTEMPTS {
        before.wait_until_settled();
        let path = Path::new(&before.path);
        let digest = Digest::of_file(path).map_err(StoreError::reading("hash", path))?;
        let after = Place::stat(&before.path)?;
        if after == before {
            return Ok((digest, before));
        }
        before = after;
    }
    Err(StoreError::UnstableFile { path: before.path.into() })
}

fn nanos(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
