//! Folders for one job each, in the store's root and so on its file system; and folders for one worker each. A scratch folder is removed when its job ends; one whose process died is removed by the next job's: its
//! owner held a lock on it that death gave back.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use qpipe_cache::{Store, StoreError};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A folder that is there while this lives.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    lock: PathBuf,
    /// Closing it ends the lock.
    _held: File,
}

impl Scratch {
    /// A new, empty folder on the store's file system.
    pub fn new(store: &Store) -> Result<Self, StoreError> {
        Self::within(&store.root().join("scratch"))
    }

    /// A new, empty folder in `root`, which belongs to such folders alone.
    pub fn within(root: &Path) -> Result<Self, StoreError> {
        make(root)?;
        sweep(root);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (path, lock) = (root.join(&name), root.join(format!("{name}.lock")));
        let io = |op| move |source, path: &Path| StoreError::Io { op, path: path.to_owned(), source };
        let held = File::create(&lock).map_err(|e| io("create")(e, &lock))?;
        held.lock().map_err(|e| io("lock")(e, &lock))?;
        // a process of the same number may have left one behind
        remove(&path).map_err(|e| io("remove")(e, &path))?;
        make(&path)?;
        Ok(Self { path, lock, _held: held })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new folder within it.
    pub fn folder(&self, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.path.join(name);
        make(&path)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // what cannot be removed now is swept later
        if remove(&self.path).is_ok() {
            let _left_behind = fs::remove_file(&self.lock);
        }
    }
}

fn make(path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(path).map_err(|source| StoreError::Io { op: "create", path: path.to_owned(), source })
}

/// Removes the folders of dead processes.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let lock = entry.path();
        if lock.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        let Ok(file) = File::open(&lock) else { continue };
        let abandoned = !matches!(file.try_lock(), Err(TryLockError::WouldBlock | TryLockError::Error(_)));
        if abandoned && is_settled(&file) && remove(&lock.with_extension("")).is_ok() {
            let _left_behind = fs::remove_file(&lock);
        }
    }
}

/// A lock's file exists for an instant before it is locked.
fn is_settled(file: &File) -> bool {
    let age = file.metadata().and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
    age.is_some_and(|age| age.as_secs() >= 10)
}

/// Removes a folder, also where a command took away the right to: its folders are made writable first.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            unlock(path)?;
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

fn unlock(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_scratch_folder_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (first, second) = (Scratch::new(&store).unwrap(), Scratch::new(&store).unwrap());
        assert_ne!(first.path(), second.path());
        let inner = first.folder("work").unwrap();
        fs::write(inner.join("a"), "").unwrap();
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists() && second.path().exists());
        drop(second);
        assert_eq!(fs::read_dir(dir.path().join("scratch")).unwrap().count(), 0);
    }

    #[test]
    fn what_the_dead_left_behind_is_swept_and_the_living_keep_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let living = Scratch::new(&store).unwrap();
        let dead = dir.path().join("scratch/1-0");
        fs::create_dir(&dead).unwrap();
        let lock = File::create(dir.path().join("scratch/1-0.lock")).unwrap();
        lock.set_modified(SystemTime::now() - Duration::from_mins(1)).unwrap();
        drop(lock);
        let _next = Scratch::new(&store).unwrap();
        assert!(!dead.exists() && living.path().exists());
    }
}
