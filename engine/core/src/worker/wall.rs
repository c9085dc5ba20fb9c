//! What a process can reach of the machine, held by the kernel: Landlock, without `unsafe` and without rights of its own.
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
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath,
    PathFd, PathFdError, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::procfs::{self, PROC};

/// The interface whose rights a wall is made of; of an older one, as many as there are.
const KNOWN: ABI = ABI::V7;

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
    fn is(&self, meta: &Metadata) -> bool {
        self.id == (meta.dev(), meta.ino())
    }
}

/// What a process may reach. Paths are real ones: links lead nowhere else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wall {
    entries: BTreeMap<PathBuf, Entry>,
    tcp: bool,
    /// Whether threads can be given names.
    names: bool,
}

impl Wall {
    /// Lets a path be reached, after its links. What is not there cannot be reached, and the root of everything would be no
    /// wall.
    pub fn open(&mut self, path: &Path, access: Access) {
        let Ok(path) = path.canonicalize() else { return };
        let Ok(meta) = path.metadata() else { return };
        if path.parent().is_none() {
            return;
        }
        let access = self.entries.get(&path).map_or(access, |entry| entry.access.max(access));
        self.entries.insert(path, Entry { access, is_folder: meta.is_dir(), id: (meta.dev(), meta.ino()) });
    }

    /// Lets other machines, and ports of this one, be reached.
    pub fn open_tcp(&mut self) {
        self.tcp = true;
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
        self.tcp |= other.tcp;
        self.names |= other.names;
    }

    /// Whether who is behind this wall reaches what `other` has: also not where a file was put in another's place since.
    pub fn covers(&self, other: &Self) -> bool {
        other.entries.iter().all(|(path, wanted)| self.reaches(path, wanted))
            && (self.tcp || !other.tcp)
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
        if !self.tcp {
            rules = rules.handle_access(AccessNet::from_all(KNOWN))?;
        }
        let mut rules = rules.scope(Scope::from_all(KNOWN))?.create()?;
        for (path, entry) in &self.entries {
            let rights = entry.access.rights(entry.is_folder);
            // a file has no names to list
            if let Some(file) = opened(path)?.filter(|_| !rights.is_empty()) {
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
        match rules.restrict_self()?.ruleset {
            RulesetStatus::NotEnforced => Err(WallError::NotHeld),
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
        }
    }
}

/// Gives the rights of root up for good, but those over files and its own limits: with the others it could look into
/// processes outside. Who has none loses none.
fn lay_down() -> Result<(), Errno> {
    let kept = CapabilitySet::CHOWN
        | CapabilitySet::DAC_OVERRIDE
        | CapabilitySet::DAC_READ_SEARCH
        | CapabilitySet::FOWNER
        | CapabilitySet::FSETID
        | CapabilitySet::IPC_LOCK
        | CapabilitySet::SYS_NICE
        | CapabilitySet::SYS_RESOURCE;
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
    /// The thread that starts a process behind it cannot be had.
    #[error("there is no thread for it: {0}")]
    Thread(io::Error),
}

/// What the kernel can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    Whole,
    /// All but these.
    Part {
        missing: Vec<&'static str>,
    },
    None {
        why: &'static str,
    },
}

impl Support {
    /// What is to be said to whoever runs plugins here; `None` where the wall is whole.
    pub fn note(&self) -> Option<String> {
        match self {
            Self::Whole => None,
            Self::Part { missing } => Some(format!(
                "plugins are walled in but in part: this kernel cannot hold {}",
                listed(missing)
            )),
            Self::None { why } => Some(format!("plugins are not walled in: {why}")),
        }
    }
}

fn listed(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// What this kernel can hold.
pub fn support() -> Support {
    if !handles(AccessFs::from_all(ABI::V1)) {
        return Support::None { why: why_none() };
    }
    let features = [
        (handles(AccessFs::Truncate.into()), "that files are emptied"),
        (Ruleset::default().set_compatibility(HARD).handle_access(AccessNet::from_all(KNOWN)).is_ok(), "TCP"),
        (handles(AccessFs::IoctlDev.into()), "that devices are controlled"),
        (Ruleset::default().set_compatibility(HARD).scope(Scope::from_all(KNOWN)).is_ok(), "signals"),
    ];
    let missing: Vec<&str> = features.iter().filter(|(has, _)| !has).map(|(_, what)| *what).collect();
    if missing.is_empty() { Support::Whole } else { Support::Part { missing } }
}

/// An error where something is not to be had, in place of less than was asked for.
const HARD: CompatLevel = CompatLevel::HardRequirement;

fn handles(rights: BitFlags<AccessFs>) -> bool {
    let rules = Ruleset::default().set_compatibility(HARD).handle_access(rights);
    rules.and_then(Ruleset::create).is_ok()
}

/// Why there is nothing: only who puts a wall around itself is told.
fn why_none() -> &'static str {
    const UNTOLD: &str = "this kernel does not let a program have a Landlock wall";
    let tried = || Ruleset::default().handle_access(AccessFs::Execute)?.create()?.restrict_self();
    let status = std::thread::Builder::new().spawn(tried).map(std::thread::JoinHandle::join);
    match status {
        Ok(Ok(Ok(status))) => match status.landlock {
            LandlockStatus::NotEnabled => "Landlock is switched off in this kernel (its parameter `lsm`)",
            LandlockStatus::NotImplemented => "this kernel has no Landlock: Linux has it since 5.13",
            LandlockStatus::Available { .. } => UNTOLD,
        },
        _ => UNTOLD,
    }
}

#[cfg(test)]
#[path = "wall_tests.rs"]
mod tests;
