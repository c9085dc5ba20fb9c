//! Outputs that lie in a folder, taken into the store. Whoever made them may still have them in hand: what is stored was found
//! beneath the folder and is a file ([`beneath`]), and did not change while it was read.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use qpipe_cache::{Digest, Store, StoreError};
use rustix::io::Errno;

use crate::beneath::{self, Folder, Found, Lost};
use crate::files::{FileEntry, FilesError, Output, is_inside};

/// Most files of one artifact.
pub(crate) const MAX_FILES: usize = 100_000;
/// A file is copied in pieces of this many bytes.
const COPIED_AT_ONCE: usize = 256 * 1024;
/// Deepest folder within an output.
pub(crate) const MAX_DEPTH: usize = 64;

/// Stores the content of the file at a path relative to `folder`, which somebody else may still have in hand: only if it stays as
/// it is. `go_on` is asked from time to time.
///
/// # Errors
/// [`FilesError::NoFile`] where a folder is, and those of what is no output.
pub fn keep_file(
    store: &Store,
    folder: &Path,
    name: &str,
    path: &str,
    go_on: &dyn Fn() -> bool,
) -> Result<(Digest, u64), FilesError> {
    match find(folder, name, path)? {
        Found::File(file) => keep(store, name, Path::new(path), file, go_on),
        Found::Folder(_) => Err(FilesError::NoFile { name: name.to_owned(), path: path.to_owned() }),
        Found::Special => Err(FilesError::Special { name: name.to_owned(), path: path.into() }),
    }
}

/// Stores what a file holds. `path`: what it is called in errors.
fn keep(
    store: &Store,
    name: &str,
    path: &Path,
    mut file: File,
    go_on: &dyn Fn() -> bool,
) -> Result<(Digest, u64), FilesError> {
    let read = |source| FilesError::Read { name: name.to_owned(), path: path.to_owned(), source };
    let before = file.metadata().map_err(read)?;
    let io = |source| StoreError::Io { op: "store", path: path.to_owned(), source };
    let (mut writer, mut buffer) = (store.writer()?, vec![0; COPIED_AT_ONCE]);
    loop {
        if !go_on() {
            return Err(FilesError::Stopped { name: name.to_owned() });
        }
        let part = file.read(&mut buffer).map_err(read)?;
        if part == 0 {
            break;
        }
        writer.write_all(buffer.get(..part).unwrap_or_default()).map_err(io)?;
    }
    let after = file.metadata().map_err(read)?;
    let (digest, bytes) = writer.commit()?;
    let is_same =
        bytes == before.len() && bytes == after.len() && before.modified().ok() == after.modified().ok();
    if is_same { Ok((digest, bytes)) } else { Err(FilesError::Changed { name: name.to_owned() }) }
}

/// What lies where an output is to be. A link on the way may only lead to somewhere else within the folder.
fn find(folder: &Path, name: &str, path: &str) -> Result<Found, FilesError> {
    let outside = || FilesError::Outside { name: name.to_owned(), path: path.to_owned() };
    let relative: PathBuf = Path::new(path).components().filter(|part| *part != Component::CurDir).collect();
    if !is_inside(&relative) {
        return Err(outside());
    }
    let lost = |source: io::Error| match Errno::from_io_error(&source) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::IO) => {
            FilesError::Read { name: name.to_owned(), path: path.into(), source }
        }
        _ => FilesError::Missing { name: name.to_owned(), path: path.to_owned() },
    };
    Folder::open(folder).map_err(lost)?.find(&relative).map_err(|error| match error {
        Lost::Outside => outside(),
        Lost::Io(source) => lost(source),
    })
}

/// Stores the outputs of one artifact.
pub(crate) struct Collector<'a> {
    store: &'a Store,
    count: usize,
}

impl<'a> Collector<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self { store, count: 0 }
    }

    /// The output at a path relative to `folder`.
    pub(crate) fn output(&mut self, folder: &Path, name: &str, path: &str) -> Result<Output, FilesError> {
        let (found, path) = (find(folder, name, path)?, Path::new(path));
        match found {
            Found::File(file) => Ok(Output::File(self.file(name, path, file)?)),
            Found::Folder(folder) => {
                let mut entries = BTreeMap::new();
                self.folder(name, path, &folder, "", 0, &mut entries)?;
                Ok(Output::Folder(entries))
            }
            Found::Special => Err(FilesError::Special { name: name.to_owned(), path: path.to_owned() }),
        }
    }

    fn folder(
        &mut self,
        name: &str,
        path: &Path,
        folder: &OwnedFd,
        prefix: &str,
        depth: usize,
        entries: &mut BTreeMap<String, FileEntry>,
    ) -> Result<(), FilesError> {
        if depth == MAX_DEPTH {
            return Err(FilesError::TooDeep { name: name.to_owned() });
        }
        let read = |path: &Path, source: Errno| {
            let source = source.into();
            FilesError::Read { name: name.to_owned(), path: path.to_owned(), source }
        };
        for entry in beneath::names(folder).map_err(|error| read(path, error))? {
            let entry = entry.map_err(|error| read(path, error))?;
            let place = path.join(OsStr::from_bytes(entry.as_bytes()));
            let Ok(text) = entry.to_str() else {
                return Err(FilesError::NotUtf8 { name: name.to_owned(), path: place });
            };
            let within = format!("{prefix}{text}");
            match beneath::entry(folder.as_fd(), &entry).map_err(|error| read(&place, error))? {
                Found::Folder(inner) => {
                    self.folder(name, &place, &inner, &format!("{within}/"), depth + 1, entries)?;
                }
                Found::File(file) => drop(entries.insert(within, self.file(name, &place, file)?)),
                Found::Special => return Err(FilesError::Special { name: name.to_owned(), path: place }),
            }
        }
        Ok(())
    }

    fn file(&mut self, name: &str, path: &Path, file: File) -> Result<FileEntry, FilesError> {
        self.count += 1;
        if self.count > MAX_FILES {
            return Err(FilesError::TooMany);
        }
        let read = |source| FilesError::Read { name: name.to_owned(), path: path.to_owned(), source };
        let executable = file.metadata().map_err(read)?.permissions().mode() & 0o111 != 0;
        let (digest, bytes) = keep(self.store, name, path, file, &|| true)?;
        Ok(FileEntry { digest, bytes, executable })
    }
}
