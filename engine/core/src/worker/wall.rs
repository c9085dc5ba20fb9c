//! What a process can reach of the machine, held by the kernel: Landlock, without `unsafe` and without rights of its own; and
//! `calls`, where Landlock holds nothing.
//!
//! A thread that lives only for this puts the wall around itself and starts the process, which is behind the wall from its
//! first instruction, with all that it starts. A wall can never be widened, so who needs more needs another process.
//!
//! | access | of a folder, everything in it |
//! |---|---|
//! | [`List`](Access::List) | names |
//! | [`Read`](Access::Read) | names, content |
//! | [`Execute`](Access::Execute) | the same, and to start it |
//! | [`Device`](Access::Device) | content, to write, to control a device |
//! | [`Write`](Access::Write) | everything but to make devices |
//!
//! What a kernel cannot hold yet, [`Support`] names.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, PathBeneath, PathFd, PathFdError, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::calls::{self, CallsError};
use super::procfs::{self, PROC};
pub use super::support::{Support, support};

/// The interface whose rights a wall is made of; of an older one, as many as there are.
pub(super) const KNOWN: ABI = ABI::V7;

/// What may be done with a path and everything below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    List,
    Read,
    Execute,
    Device,
    Write,
}

impl Access {
    fn rights(self, is_folder: bool) -> BitFlags<AccessFs> {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let rights = match self {
            Self::List => AccessFs::ReadDir.into(),
            Self::Read => read,
            Self::Execute => read | AccessFs::Execute,
            Self::Device => read | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev,
            // with the rights of root, a device that it makes would be the whole disk
            Self::Write => {
                AccessFs::from_all(KNOWN) & !(AccessFs::MakeBlock | AccessFs::MakeChar | AccessFs::IoctlDev)
            }
        };
        if is_folder { rights } else { rights & AccessFs::from_file(KNOWN) }
    }
}

/// A file or folder, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    access: Access,
    is_folder: bool,
    /// Device and inode.
    id: (u64, u64),
}

impl Entry {
    fn new(access: Access, meta: &Metadata) -> Self {
        Self { access, is_folder: meta.is_dir(), id: (meta.dev(), meta.ino()) }
    }

    fn is(&self, meta: &Metadata) -> bool {
        self.id == (meta.dev(), meta.ino())
    }

    /// Whether a path still led to it when it was opened: what was put in its place since may be anything.
    fn is_what(&self, file: &PathFd) -> Result<bool, Errno> {
        let stat = fstat(file)?;
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        Ok(self.id == (stat.st_dev, stat.st_ino) && self.is_folder == is_folder)
    }
}

/// What a process may reach. Paths are real ones: links lead nowhere else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wall {
    entries: BTreeMap<PathBuf, Entry>,
    network: bool,
    /// Whether threads can be given names.
    names: bool,
}

impl Wall {
    /// Lets a path be reached, after its links. What is not there cannot be reached, and the root of everything would be no
    /// wall.
    pub fn open(&mut self, path: &Path, access: Access) {
        self.open_if(path, access, |_| true);
    }

    /// Lets a file be reached, after its links, and nothing that is no file: whoever names it may have put a folder there.
    pub fn open_file(&mut self, path: &Path, access: Access) {
        self.open_if(path, access, Metadata::is_file);
    }

    /// Lets a folder within this one be reached, but not where it is a link.
    pub fn open_folder(&mut self, within: &Path, name: &str, access: Access) {
        let Ok(within) = within.canonicalize() else { return };
        self.open_real(within.join(name), access, Metadata::is_dir);
    }

    fn open_if(&mut self, path: &Path, access: Access, is_meant: impl Fn(&Metadata) -> bool) {
        let Ok(path) = path.canonicalize() else { return };
        self.open_real(path, access, is_meant);
    }

    fn open_real(&mut self, path: PathBuf, access: Access, is_meant: impl Fn(&Metadata) -> bool) {
        // one that is a link only now is not followed again
        let Ok(meta) = path.symlink_metadata() else { return };
        if meta.is_symlink() || path.parent().is_none() || !is_meant(&meta) {
            return;
        }
        let access = self.entries.get(&path).map_or(access, |entry| entry.access.max(access));
        self.entries.insert(path, Entry::new(access, &meta));
    }

    /// Lets other machines, and ports of this one, be reached.
    pub fn open_network(&mut self) {
        self.network = true;
    }

    /// Lets threads give each other names, without which NVIDIA's driver does not start. Where the rest of `/proc` cannot be
    /// kept from root, this is not to be had.
    pub fn open_names(&mut self) {
        self.names = true;
    }

    /// Everything that `other` lets be reached, too.
    pub fn extend(&mut self, other: &Self) {
        for (path, entry) in &other.entries {
            let access = self.entries.get(path).map_or(entry.access, |mine| mine.access.max(entry.access));
            self.entries.insert(path.clone(), Entry { access, ..*entry });
        }
        self.network |= other.network;
        self.names |= other.names;
    }

    /// Whether who is behind this wall reaches what `other` has: also not where a file was put in another's place since.
    pub fn covers(&self, other: &Self) -> bool {
        other.entries.iter().all(|(path, wanted)| self.reaches(path, wanted))
            && (self.network || !other.network)
            && (self.names || !other.names)
    }

    fn reaches(&self, path: &Path, wanted: &Entry) -> bool {
        path.ancestors().any(|folder| {
            let Some(mine) = self.entries.get(folder) else { return false };
            mine.access >= wanted.access
                && if folder == path {
                    mine.id == wanted.id
                } else {
                    folder.metadata().is_ok_and(|meta| mine.is(&meta))
                }
        })
    }

    /// Puts the wall around this thread and whatever it starts, for good.
    pub(super) fn enclose(&self) -> Result<(), WallError> {
        let mut rules = Ruleset::default().handle_access(AccessFs::from_all(KNOWN))?;
        if !self.network {
            rules = rules.handle_access(AccessNet::from_all(KNOWN))?;
        }
        let mut rules = rules.scope(Scope::from_all(KNOWN))?.create()?;
        for (path, entry) in &self.entries {
            let rights = entry.access.rights(entry.is_folder);
            // a file has no names to list
            if let Some(file) = opened(path)?
                && !rights.is_empty()
                && entry.is_what(&file).map_err(|source| WallError::Look { path: path.clone(), source })?
            {
                rules = rules.add_rule(PathBeneath::new(file, rights))?;
            }
        }
        if self.names
            && procfs::guard()
            && let Some(proc) = opened(Path::new(PROC))?
        {
            rules = rules.add_rule(PathBeneath::new(proc, AccessFs::WriteFile | AccessFs::Truncate))?;
        }
        lay_down().map_err(WallError::Rights)?;
        if calls::are_held() {
            calls::refuse(self.network)?;
        }
        match rules.restrict_self()?.ruleset {
            RulesetStatus::NotEnforced => Err(WallError::NotHeld),
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        }
    }
}

/// Gives the rights of root up for good, but those to read and write files, which the wall bounds, and to keep memory in
/// place, as drivers of GPUs do. With the others it could look into processes outside, give files away, or take what it likes
/// of the machine. Who has none loses none.
fn lay_down() -> Result<(), Errno> {
    let kept = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::IPC_LOCK;
    let CapabilitySets { effective, permitted, .. } = capabilities(None)?;
    let (effective, permitted) = (effective & kept, permitted & kept);
    set_capabilities(None, CapabilitySets { effective, permitted, inheritable: CapabilitySet::empty() })
}

/// `None`: nobody reaches it, so no rule is needed.
fn opened(path: &Path) -> Result<Option<PathFd>, WallError> {
    match PathFd::new(path) {
        Ok(file) => Ok(Some(file)),
        Err(PathFdError::OpenCall { source, .. })
            if [Errno::NOENT, Errno::ACCESS, Errno::NOTDIR, Errno::LOOP]
                .contains(&Errno::from_io_error(&source).unwrap_or(Errno::IO)) =>
        {
            Ok(None)
        }
        Err(source) => Err(WallError::Path { path: path.to_owned(), source }),
    }
}

/// Why a wall cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum WallError {
    #[error("the kernel does not hold it")]
    NotHeld,
    #[error(transparent)]
    Rules(#[from] RulesetError),
    #[error("root's rights cannot be given up: {0}")]
    Rights(Errno),
    #[error("cannot open `{}`: {source}", path.display())]
    Path { path: PathBuf, source: PathFdError },
    #[error("cannot look at `{}`: {source}", path.display())]
    Look { path: PathBuf, source: Errno },
    #[error(transparent)]
    Calls(#[from] CallsError),
    /// The thread that starts a process behind it cannot be had.
    #[error("there is no thread for it: {0}")]
    Thread(io::Error),
}

#[cfg(test)]
#[path = "wall_tests.rs"]
mod tests;
