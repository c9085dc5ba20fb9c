//! The cache folder, laid out as the hub's own tools do, who share it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{HubError, Repo, repo::is_plain};

/// The part of the cache folder that belongs to one repository.
pub(super) struct CacheFolder {
    root: PathBuf,
    locks: PathBuf,
}

impl CacheFolder {
    pub(super) fn new(cache: &Path, repo: &Repo) -> Self {
        let folder = repo.folder();
        Self { root: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    /// The commit that a revision stands for here; a commit stands for itself.
    pub(super) fn commit(&self, revision: &str) -> Result<Option<String>, HubError> {
        if is_commit(revision) {
            return Ok(Some(revision.to_owned()));
        }
        let path = self.root.join("refs").join(revision);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|commit| is_commit(commit))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(HubError::io(&path)(error)),
        }
    }

    /// Remembers what a branch or tag stands for.
    pub(super) fn refer(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        create_parent(&path)?;
        fs::write(&path, commit).map_err(HubError::io(&path))
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// A file of a snapshot, if its bytes are there.
    pub(super) fn file(&self, commit: &str, name: &str) -> Option<PathBuf> {
        Some(self.snapshot(commit).join(name)).filter(|path| path.is_file())
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// Makes a blob a file of a snapshot. The link is relative, so that the cache folder can be moved.
    pub(super) fn link(&self, commit: &str, name: &str, etag: &str) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(name);
        if path.is_file() {
            return Ok(());
        }
        create_parent(&path)?;
        let up = "../".repeat(name.split('/').count() + 1);
        let target = Path::new(&up).join("blobs").join(etag);
        match std::os::unix::fs::symlink(target, &path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(HubError::io(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Waits until nobody else downloads the blob. Freed when dropped, or by death.
    pub(super) fn lock(&self, etag: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_parent(&path)?;
        create_parent(&self.blob(etag))?;
        let file = File::create(&path).map_err(HubError::io(&path))?;
        file.lock().map_err(HubError::io(&path))?;
        Ok(file)
    }
}

fn create_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(HubError::io(parent))
}

/// Whether a revision is a commit's digest.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit()) && is_plain(revision)
}
