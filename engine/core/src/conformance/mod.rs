//! `qpipe plugin test`: whether a program keeps to `docs/protocol.md`, rule by rule, and where it does not, how.
//!
//! | module | holds |
//! |---|---|
//! | [`report`] | the rules, and what came of each |
//! | `driver`, `listen` | a process of the program, and its lines, raw |
//! | `strays` | processes that outlive it |
//! | [`samples`] | parameters and inputs for a job |
//! | `bench` | what the checks share: the process at hand, the store, folders |
//! | `program` | rules of the program as a whole |
//! | `stage` | rules of each stage type |
//! | `keys` | what they tell of a key |
//! | `job` | a job of one, with everything around it watched |
//! | `work` | what a process says of a job, and how it ends |
//! | `made` | what a job has made, and whether two have made the same |
//! | `watched` | files that nobody may change |
//!
//! Lines are written and read here without the engine's own session, so that what that refuses can be sent and told apart.

mod bench;
mod driver;
mod job;
mod keys;
mod listen;
mod made;
mod program;
pub mod report;
pub mod samples;
mod stage;
mod strays;
mod watched;
mod work;

use std::path::{Path, PathBuf};

use qpipe_cache::Store;

pub use report::{Check, Outcome, Report, Rule};
pub use samples::{Provider, Samples};

use crate::worker::launch::{LaunchError, find_program};
use crate::worker::{Limits, Machine, Sandbox};
use bench::Bench;

/// The program that is tested.
#[derive(Clone, Debug)]
pub struct Subject {
    pub program: PathBuf,
    pub args: Vec<String>,
}

/// What it is tested with.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    pub machine: &'a Machine,
    /// Where samples, and what jobs make, are kept: one that nothing else needs.
    pub store: &'a Store,
    /// `grace` is also how long a program may take to end with its input.
    pub limits: Limits,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: &'a str,
    pub opened: &'a Opened,
}

/// What the words of a `plugin` node would open to it.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    pub sandbox: Sandbox,
    /// Absolute paths.
    pub reads: Vec<PathBuf>,
    pub network: bool,
}

impl Subject {
    /// A program by its path, relative to `folder`, or its name on the search path; a file of Python is run by `python3`.
    pub fn find(
        program: &str,
        args: &[String],
        folder: &Path,
        machine: &Machine,
    ) -> Result<Self, LaunchError> {
        let search = machine.search();
        let mut args = args.to_vec();
        let is_python = Path::new(program).extension().is_some_and(|extension| extension == "py");
        if !is_python {
            return Ok(Self { program: find_program(program, folder, search)?, args });
        }
        let script = folder.join(program);
        if !script.is_file() {
            return Err(LaunchError::NotFound { program: program.to_owned(), on_path: false });
        }
        args.insert(0, script.display().to_string());
        Ok(Self { program: find_program("python3", folder, search)?, args })
    }

    /// The file of its own that the program reads, and the arguments that follow it.
    fn file(&self) -> (Option<PathBuf>, &[String]) {
        match self.args.split_first().filter(|(first, _)| is_named_file(first)) {
            Some((first, rest)) => (Some(first.into()), rest),
            None => (None, &self.args),
        }
    }

    /// What is opened to it, with the files that its arguments name.
    fn reads(&self, opened: &Opened) -> Vec<PathBuf> {
        let named = self.args.iter().filter(|arg| is_named_file(arg)).map(PathBuf::from);
        named.chain(opened.reads.iter().cloned()).collect()
    }
}

fn is_named_file(arg: &str) -> bool {
    let path = Path::new(arg);
    path.is_absolute() && path.is_file()
}

/// Tests a program against every rule.
pub fn check(subject: &Subject, setup: &Setup<'_>, samples: &mut Samples<'_>) -> Report {
    let mut bench = Bench::new(subject, *setup);
    if let Some(stages) = program::begin(&mut bench) {
        if let Err(unknown) = samples.all_known(&stages) {
            bench.note(None, Rule::Sample, Err(unknown));
        }
        for one in &stages {
            stage::check(&mut bench, one, samples);
        }
        program::end(&mut bench);
    }
    bench.report()
}
