//! Files beneath a folder that somebody else may still be changing. Every step of a path is opened from the folder that the
//! step before it led to, which is held: what is found lay beneath the folder, whatever is put in its place meanwhile.
//!
//! A link leads on from where it stands, like a path; one that leads out is an error. The kernel's own way to do so
//! (`openat2`) knows no links with absolute targets and is denied in some containers, so each step is taken here.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;

/// Most links of one path, as in the kernel.
const MAX_LINKS: usize = 40;
/// Deepest folder that is looked into: each on the way is held.
const MAX_WAY: usize = 256;

/// A folder that is held.
pub(crate) struct Folder {
    held: OwnedFd,
    /// What it is called, by links that name it.
    names: [PathBuf; 2],
}

/// What lies at a path.
pub(crate) enum Found {
    File(File),
    Folder(OwnedFd),
    /// Neither.
    Special,
}

/// Why nothing is found.
#[derive(Debug)]
pub(crate) enum Lost {
    /// It leads out, or is the folder itself.
    Outside,
    Io(io::Error),
}

impl From<Errno> for Lost {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl Folder {
    /// A folder whose path is not in others' hands.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let names = [path.canonicalize()?, path.to_owned()];
        let held = openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { held, names })
    }

    /// What lies at a path beneath it, after links.
    pub(crate) fn find(&self, path: &Path) -> Result<Found, Lost> {
        if path.is_absolute() {
            return Err(Lost::Outside);
        }
        let mut steps = Steps::default();
        steps.lead(path);
        // the folders on the way, outermost first
        let mut way: Vec<OwnedFd> = Vec::new();
        let mut links = 0;
        while let Some(step) = steps.next() {
            let here = way.last().map_or_else(|| self.held.as_fd(), AsFd::as_fd);
            let Step::Name(name) = step else {
                way.pop().ok_or(Lost::Outside)?;
                continue;
            };
            let place = openat(here, &name, PLACE, Mode::empty())?;
            match FileType::from_raw_mode(fstat(&place)?.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    let target = readlinkat(&place, "", Vec::new())?;
                    let target = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
                    if target.is_absolute() {
                        // one that names this very folder leads into it
                        let within = self.names.iter().find_map(|name| target.strip_prefix(name).ok());
                        steps.lead(within.ok_or(Lost::Outside)?);
                        way.clear();
                    } else {
                        steps.lead(&target);
                    }
                }
                FileType::Directory if way.len() == MAX_WAY => return Err(Errno::NAMETOOLONG.into()),
                FileType::Directory => way.push(place),
                _ if !steps.is_done() => return Err(Errno::NOTDIR.into()),
                FileType::RegularFile => return Ok(entry(here, &name)?),
                _ => return Ok(Found::Special),
            }
        }
        Ok(Found::Folder(way.pop().ok_or(Lost::Outside)?))
    }
}

/// A place, whatever is there; nothing is done to it.
const PLACE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// To be read; of a pipe that nobody writes to, nothing is waited for.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// A file or folder directly within a folder. Links are not followed.
pub(crate) fn entry<P: rustix::path::Arg>(folder: BorrowedFd<'_>, name: P) -> Result<Found, Errno> {
    let file = match openat(folder, name, READ, Mode::empty()) {
        Ok(file) => file,
        // a link; a socket, or a device without one
        Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Ok(Found::Special),
        Err(error) => return Err(error),
    };
    Ok(match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Found::File(file.into()),
        FileType::Directory => Found::Folder(file),
        _ => Found::Special,
    })
}

/// The names in a folder.
pub(crate) fn names(folder: &OwnedFd) -> Result<impl Iterator<Item = Result<CString, Errno>>, Errno> {
    let readable = openat(folder, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let names = Dir::new(readable)?.map(|entry| Ok(entry?.file_name().to_owned()));
    Ok(names.filter(|name| !matches!(name, Ok(name) if name.as_c_str() == c"." || name.as_c_str() == c"..")))
}

enum Step {
    Name(OsString),
    Up,
}

/// What is left of a path, the next step last.
#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    /// Goes along a path first.
    fn lead(&mut self, path: &Path) {
        let steps = path.components().rev().filter_map(|part| match part {
            Component::Normal(name) => Some(Step::Name(name.to_owned())),
            Component::ParentDir => Some(Step::Up),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        });
        self.0.extend(steps);
    }

    fn next(&mut self) -> Option<Step> {
        self.0.pop()
    }

    fn is_done(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
#[path = "beneath_tests.rs"]
mod tests;
