//! Where the jobs of a worker behind a wall have their folders. They are there before the worker is, as its wall names them,
//! and are the same for each of its jobs: emptied in between.
//!
//! | folder | the worker | the engine |
//! |---|---|---|
//! | the room | reaches nothing of it but these two | makes them |
//! | `work` | writes | collects what was made, and empties it |
//! | `inputs` | reads and starts | lays a job's inputs out |
//!
//! So nothing that the engine opens by name here can be replaced by the worker, but what is in `work`.

use std::path::{Path, PathBuf};

use qpipe_cache::{Store, StoreError};

use super::scratch::{Scratch, empty};
use super::wall::{Access, Wall};

#[derive(Debug)]
pub(super) struct Room {
    scratch: Scratch,
    work: PathBuf,
    inputs: PathBuf,
}

impl Room {
    /// A new one on the store's file system.
    pub(super) fn new(store: &Store) -> Result<Self, StoreError> {
        let scratch = Scratch::new(store)?;
        let (work, inputs) = (scratch.folder("work")?, scratch.folder("inputs")?);
        Ok(Self { scratch, work, inputs })
    }

    pub(super) fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// Lets its folders be reached.
    pub(super) fn open(&self, wall: &mut Wall) {
        wall.open(&self.work, Access::Write);
        wall.open(&self.inputs, Access::Execute);
    }

    /// Takes away what a job has left.
    pub(super) fn empty(&self) -> Result<(), StoreError> {
        [&self.work, &self.inputs].into_iter().try_for_each(|folder| {
            empty(folder).map_err(|source| StoreError::Io { op: "empty", path: folder.clone(), source })
        })
    }
}

/// The folders of one job.
pub(super) struct Folders {
    pub(super) work: PathBuf,
    /// Where its inputs are laid out.
    pub(super) inputs: PathBuf,
    /// Of a worker without a wall, they go with the job.
    _own: Option<Scratch>,
}

impl Folders {
    pub(super) fn new(room: Option<&Room>, store: &Store) -> Result<Self, StoreError> {
        if let Some(room) = room {
            room.empty()?;
            return Ok(Self { work: room.work.clone(), inputs: room.inputs.clone(), _own: None });
        }
        let scratch = Scratch::new(store)?;
        let (work, inputs) = (scratch.folder("work")?, scratch.folder("inputs")?);
        Ok(Self { work, inputs, _own: Some(scratch) })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_room_is_emptied_and_stays_and_nothing_outside_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let other = dir.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("kept"), "kept").unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
        let room = Room::new(&store).unwrap();
        let first = Folders::new(Some(&room), &store).unwrap();
        let id = |folder: &Path| fs::metadata(folder).unwrap().ino();
        let before = [id(&first.work), id(&first.inputs)];
        fs::write(first.work.join("a"), "a").unwrap();
        fs::create_dir_all(first.work.join("deep/er")).unwrap();
        symlink(&other, first.work.join("link")).unwrap();
        symlink(&other, first.work.join("deep/er/link")).unwrap();
        fs::write(first.inputs.join("b"), "b").unwrap();
        // of what root removes, nothing is refused
        fs::set_permissions(first.work.join("deep"), fs::Permissions::from_mode(0o000)).unwrap();
        let second = Folders::new(Some(&room), &store).unwrap();
        for folder in [&second.work, &second.inputs] {
            assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
        }
        assert_eq!([id(&second.work), id(&second.inputs)], before, "its wall names these");
        assert_eq!(fs::read_to_string(other.join("kept")).unwrap(), "kept");
        assert_eq!(fs::metadata(&other).unwrap().mode() & 0o777, 0o755);
    }
}
