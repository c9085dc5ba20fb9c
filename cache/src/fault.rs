//! A test hook: makes the N-th change to the file system fail, or the process "die" there.
//!
//! It is compiled always, since the tests of other rooms fail store operations too, and costs one branch per
//! change when it is not used. It also keeps a journal of the changes, from which a test can replay what a power
//! cut may lose: file data and renames that were not yet synced.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// One kind of change to the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A directory is made.
    MakeDir,
    /// A file is created, empty.
    Create,
    /// Bytes are appended to a file.
    Write,
    /// A file's data is made durable.
    SyncFile,
    /// A file is given its final name.
    Rename,
    /// A directory's names are made durable.
    SyncDir,
    /// A file is removed.
    Remove,
}

impl Op {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::MakeDir => "create directory",
            Self::Create => "create",
            Self::Write => "write",
            Self::SyncFile => "sync",
            Self::Rename => "rename to",
            Self::SyncDir => "sync directory",
            Self::Remove => "remove",
        }
    }
}

/// What happens at the chosen step.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The step answers this error; later steps work.
    Error(io::ErrorKind),
    /// As `Error`, but a write leaves the first half of its bytes.
    TornError(io::ErrorKind),
    /// The process dies before the step: neither it nor anything later happens.
    Crash,
    /// As `Crash`, but a write leaves the first half of its bytes.
    TornCrash,
}

/// One change that did happen.
#[derive(Clone, Debug)]
pub struct Step {
    /// What was done.
    pub op: Op,
    /// To which file or directory; for a rename, the old name.
    pub path: PathBuf,
    /// The new name, for a rename.
    pub to: Option<PathBuf>,
}

/// A plan of faults and the journal of what happened.
#[derive(Debug, Default)]
pub struct Faults {
    plan: Option<(When, Fault)>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum When {
    At(u64),
    Every(u64),
    From(u64),
}

impl When {
    fn is(self, step: u64) -> bool {
        match self {
            Self::At(at) => step == at,
            Self::Every(n) => step.is_multiple_of(n),
            Self::From(first) => step >= first,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    steps: u64,
    dead: bool,
    journal: Vec<Step>,
}

/// What a change must do.
pub(crate) enum Verdict {
    Go,
    /// Leave the first half and answer this.
    Tear(io::Error),
}

impl Faults {
    /// No fault: only counts and keeps the journal.
    pub fn none() -> Arc<Self> {
        Arc::default()
    }

    /// The `step`-th change (from 1) meets `fault`.
    pub fn at(step: u64, fault: Fault) -> Arc<Self> {
        Self::planned(When::At(step), fault)
    }

    /// Every `n`-th change meets `fault`.
    pub fn every(n: u64, fault: Fault) -> Arc<Self> {
        Self::planned(When::Every(n), fault)
    }

    /// The `step`-th change (from 1) and all later ones meet `fault`: a disk that stays full, a store that stays
    /// read-only.
    pub fn from(step: u64, fault: Fault) -> Arc<Self> {
        Self::planned(When::From(step), fault)
    }

    /// How many changes were attempted.
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// The changes that happened, in order.
    pub fn journal(&self) -> Vec<Step> {
        self.lock().journal.clone()
    }

    fn planned(when: When, fault: Fault) -> Arc<Self> {
        Arc::new(Self { plan: Some((when, fault)), state: Mutex::default() })
    }

    pub(crate) fn meet(&self, op: Op, path: &Path, to: Option<&Path>) -> io::Result<Verdict> {
        let mut state = self.lock();
        state.steps += 1;
        if state.dead {
            return Err(io::Error::other("the process is dead (injected)"));
        }
        let verdict = match self.plan {
            Some((when, fault)) if when.is(state.steps) => Self::strike(&mut state, op, fault)?,
            _ => Verdict::Go,
        };
        state.journal.push(Step { op, path: path.to_owned(), to: to.map(Path::to_owned) });
        Ok(verdict)
    }

    fn strike(state: &mut State, op: Op, fault: Fault) -> io::Result<Verdict> {
        match fault {
            Fault::TornError(kind) if op == Op::Write => Ok(Verdict::Tear(io::Error::from(kind))),
            Fault::Error(kind) | Fault::TornError(kind) => Err(io::Error::from(kind)),
            Fault::TornCrash if op == Op::Write => {
                state.dead = true;
                Ok(Verdict::Tear(io::Error::other("the process dies within a write (injected)")))
            }
            Fault::Crash | Fault::TornCrash => {
                state.dead = true;
                Err(io::Error::other("the process dies here (injected)"))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
