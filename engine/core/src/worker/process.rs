//! A worker process: a conversation, the process group it is held with, and a folder for what the process says.

use std::ffi::OsString;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use qpipe_sdk::protocol::{FailureClass, RunRequest};

use super::error::WorkerError;
use super::launch::{Group, Launch, LaunchError, tail};
use super::machine::Machine;
use super::scratch::Scratch;
use super::session::{Finished, Limits, Peer, Session, Watch};

/// How long a process that hung up is given to end by itself, so that its status can be told.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How to start a worker.
#[derive(Clone, Debug)]
pub struct WorkerCommand {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// Variables besides those of the machine.
    pub env: Vec<(OsString, OsString)>,
}

/// A running worker. Dropping it kills its process group.
pub struct Worker {
    /// Dropped first: the group is dead before its folder is removed.
    group: Group,
    session: Session,
    folder: Scratch,
}

impl Worker {
    pub fn start(command: &WorkerCommand, machine: &Machine, limits: Limits) -> Result<Self, WorkerError> {
        let folder = Scratch::within(machine.temp())?;
        let (home, tmp) = (folder.folder("home")?, folder.folder("tmp")?);
        let mut env = machine.environment(home.clone(), tmp);
        env.extend(command.env.iter().cloned());
        let stderr = stderr(&folder);
        let (program, args) = (command.program.clone(), command.args.clone());
        let launch = Launch { program, args, env, folder: home, stderr };
        let failed = |source| LaunchError::Start { program: command.program.clone(), source };
        let (their_input, our_output) = io::pipe().map_err(failed)?;
        let (our_input, their_output) = io::pipe().map_err(failed)?;
        let mut group = Group::start(&launch, Stdio::from(their_input), Stdio::from(their_output))?;
        match Session::begin(BufReader::new(our_input), our_output, limits) {
            Ok(session) => Ok(Self { group, session, folder }),
            Err(error) => Err(explained(error, &mut group, &launch.stderr)),
        }
    }

    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        matches!(self.group.ended(), Ok(None))
    }

    /// Number of its process.
    pub fn id(&self) -> u32 {
        self.group.id()
    }

    /// Asks it something.
    pub fn ask<T>(
        &mut self,
        question: impl FnOnce(&mut Session) -> Result<T, WorkerError>,
    ) -> Result<T, WorkerError> {
        question(&mut self.session).map_err(|error| explained(error, &mut self.group, &stderr(&self.folder)))
    }

    /// Has it do a job.
    pub fn run(&mut self, request: RunRequest, watch: &Watch<'_>) -> Result<Finished, WorkerError> {
        let Self { group, session, folder } = self;
        let result = session.run(request, watch, group);
        result.map_err(|error| match explained(error, group, &stderr(folder)) {
            // it obeyed the signal without a word
            WorkerError::Lost { .. } if watch.cancel.requested() => WorkerError::Cancelled,
            other => other,
        })
    }
}

impl Peer for Group {
    fn terminate(&mut self) {
        Self::terminate(self);
    }

    fn gone(&mut self) -> bool {
        !matches!(self.ended(), Ok(None))
    }
}

fn stderr(folder: &Scratch) -> PathBuf {
    folder.path().join("stderr")
}

/// A worker that hung up has a status and has perhaps said why.
fn explained(error: WorkerError, group: &mut Group, stderr: &Path) -> WorkerError {
    if !matches!(error, WorkerError::HungUp) {
        return error;
    }
    let clock = std::time::Instant::now();
    while clock.elapsed() < LAST_WORDS && matches!(group.ended(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(2));
    }
    match group.kill() {
        Ok(status) => WorkerError::Lost { status, said: tail(stderr) },
        Err(_) => error,
    }
}

/// Workers of one command. A worker that is free and sound is used again: what it has loaded stays loaded.
pub struct Pool {
    command: WorkerCommand,
    machine: Machine,
    limits: Limits,
    free: Mutex<Vec<Worker>>,
}

impl Pool {
    pub fn new(command: WorkerCommand, machine: Machine, limits: Limits) -> Self {
        Self { command, machine, limits, free: Mutex::new(Vec::new()) }
    }

    /// Gives a worker, free or new, a job; it is kept for the next one if it is still sound.
    pub fn with<T>(&self, job: impl FnOnce(&mut Worker) -> Result<T, WorkerError>) -> Result<T, WorkerError> {
        let mut worker = match self.take() {
            Some(worker) => worker,
            None => Worker::start(&self.command, &self.machine, self.limits)?,
        };
        let result = job(&mut worker);
        if is_sound(&result) && worker.lives() {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        }
        result
    }

    /// A free worker that has not died meanwhile.
    fn take(&self) -> Option<Worker> {
        loop {
            let mut worker = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if worker.lives() {
                return Some(worker);
            }
        }
    }
}

/// Whether a worker can be trusted with another job: it kept to the protocol, and did not fail in a way that may have
/// left something broken behind (a sticky device error, memory that is not given back).
fn is_sound<T>(result: &Result<T, WorkerError>) -> bool {
    match result {
        Ok(_) => true,
        Err(WorkerError::Failed { class, .. }) => {
            matches!(class, FailureClass::Config | FailureClass::Transient)
        }
        Err(_) => false,
    }
}
