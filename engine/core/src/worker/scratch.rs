//! Folders for one job each, in the store's root and so on its file system; and folders for one worker each. A scratch folder
//! is removed when its job ends; one whose process died is removed by the next job's: its owner held a lock on it that death
//! gave back.
//!
//! What is in such a folder others have made, and perhaps still have in hand: no link in it is followed.

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use qpipe_cache::{Store, StoreError};
use rustix::fs::{CWD, Dir, Mode, OFlags, openat};
use rustix::io::Errno;

/// How often a folder is emptied that somebody fills meanwhile.
const TRIES: usize = 5;
/// Deepest folder that is made writable to be removed.
const MAX_DEPTH: usize = 256;

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
        let (path, lock, held) = claim(root)?;
        let io = |op| move |source, path: &Path| StoreError::Io { op, path: path.to_owned(), source };
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

/// A name that nobody has, and the new file that is its lock.
fn claim(root: &Path) -> Result<(PathBuf, PathBuf, File), StoreError> {
    loop {
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let (path, lock) = (root.join(&name), root.join(format!("{name}.lock")));
        match File::create_new(&lock) {
            Ok(held) => return Ok((path, lock, held)),
            // of a dead process that had the same number
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(source) => return Err(StoreError::Io { op: "create", path: lock, source }),
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
        // neither a link nor a pipe that nobody writes to
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(&lock) else { continue };
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

/// Removes what is in a folder, which stays.
pub(super) fn empty(folder: &Path) -> io::Result<()> {
    let mut result = Ok(());
    for _ in 0..TRIES {
        result = empty_once(folder);
        match &result {
            Ok(()) => break,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => unlock(folder)?,
            Err(_) => {}
        }
    }
    result
}

fn empty_once(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
            continue;
        }
        match fs::remove_file(entry.path()) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

/// Makes a folder and the folders in it writable.
fn unlock(folder: &Path) -> io::Result<()> {
    unlock_at(CWD, folder, 0)
}

fn unlock_at<P: rustix::path::Arg>(parent: BorrowedFd<'_>, name: P, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other("its folders are nested too deep"));
    }
    let here = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let held = openat(parent, name, here | OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
    // of the folder that is held, whatever has its name by now
    let place = format!("/proc/self/fd/{}", held.as_raw_fd());
    fs::set_permissions(place, fs::Permissions::from_mode(0o700))?;
    let folder = openat(&held, ".", here | OFlags::RDONLY, Mode::empty())?;
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        match unlock_at(folder.as_fd(), name, depth + 1) {
            // no folder, or none any more
            Err(error) if is_no_folder(&error) => {}
            other => other?,
        }
    }
    Ok(())
}

fn is_no_folder(error: &io::Error) -> bool {
    Errno::from_io_error(error)
        .is_some_and(|error| [Errno::NOTDIR, Errno::LOOP, Errno::NOENT].contains(&error))
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
    fn rights_are_given_to_folders_alone() {
        let dir = tempfile::tempdir().unwrap();
        let [inner, outer] = ["inner", "outer"].map(|name| dir.path().join(name));
        fs::create_dir_all(inner.join("deep")).unwrap();
        fs::create_dir(&outer).unwrap();
        std::os::unix::fs::symlink(&outer, inner.join("link")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let locked = fs::Permissions::from_mode(0o500);
        for path in [&inner.join("deep"), &inner, &outer] {
            fs::set_permissions(path, locked.clone()).unwrap();
        }
        unlock(&inner).unwrap();
        assert_eq!([mode(&inner), mode(&inner.join("deep")), mode(&outer)], [0o700, 0o700, 0o500]);
        assert!(unlock(&inner.join("link")).is_err());
        assert_eq!(mode(&outer), 0o500);
    }

    #[test]
    fn what_stands_where_a_lock_is_to_be_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("other");
        fs::write(&other, "kept").unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        for next in 0..100 {
            let next = NEXT.load(Ordering::Relaxed) + next;
            let lock = root.join(format!("{}-{next}.lock", std::process::id()));
            std::os::unix::fs::symlink(&other, lock).unwrap();
        }
        rustix::fs::mknodat(CWD, root.join("zz.lock"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let scratch = Scratch::within(&root).unwrap();
        assert!(scratch.path().is_dir());
        assert_eq!(fs::read_to_string(&other).unwrap(), "kept");
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
