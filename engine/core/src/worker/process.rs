//! A worker process: a conversation, the process group it is held with, and a folder for what the process says.

use std::ffi::OsString;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use qpipe_cache::Store;
use qpipe_sdk::StageEvent;
use qpipe_sdk::protocol::{FailureClass, RunRequest, transport};

use super::content::{Body, Content, Part, differing};
use super::error::{WorkerError, clipped};
use super::job::Finished;
use super::launch::{Group, Launch, LaunchError, tail};
use super::log::Log;
use super::machine::Machine;
use super::memory::resident;
use super::scratch::Scratch;
use super::session::{Limits, Peer, Session, Transport, Watch};

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

/// How long a worker over files may take to start: a scheduler may let it wait.
const QUEUED: Duration = Duration::from_mins(10);
/// How long it is given to end after `bye`.
const FAREWELL: Duration = Duration::from_secs(2);
/// How much of a job's log stands in the error that it ends with.
const LAST_LINES: usize = 12;
/// How often a worker is started anew whose program was changed meanwhile.
pub(super) const TRIES: usize = 5;
/// Where its two files are, in its folder.
const TALK: &str = "talk";

/// A running worker. Dropping it kills its process group.
pub struct Worker {
    /// Dropped first: the group is dead before its folder is removed.
    group: Group,
    session: Session,
    log: Log,
    transport: Transport,
    started: SystemTime,
    /// What its program consisted of when it was started, as far as its pool knew.
    content: Content,
    _folder: Scratch,
}

impl Worker {
    pub fn start(
        command: &WorkerCommand,
        machine: &Machine,
        limits: Limits,
        transport: Transport,
    ) -> Result<Self, WorkerError> {
        let folder = Scratch::within(machine.temp())?;
        let (home, tmp) = (folder.folder("home")?, folder.folder("tmp")?);
        let mut env = machine.environment(home.clone(), tmp);
        env.extend(command.env.iter().cloned());
        let log = Log::new(folder.path().join("stderr"));
        let (program, args) = (command.program.clone(), command.args.clone());
        let (started, content) = (SystemTime::now(), Content::new());
        let mut launch = Launch { program, args, env, folder: home, stderr: log.path().to_owned() };
        let begun = match transport {
            Transport::Stdio => over_pipes(&launch, limits),
            Transport::Files => over_files(&mut launch, &log, &folder.folder(TALK)?, limits),
        };
        let (mut group, session) = begun?;
        match session {
            Ok(session) => Ok(Self { group, session, log, transport, started, content, _folder: folder }),
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

    /// What its program consisted of when it was started.
    pub(super) fn content(&self) -> &Content {
        &self.content
    }

    /// Asks it something.
    pub fn ask<T>(
        &mut self,
        question: impl FnOnce(&mut Session) -> Result<T, WorkerError>,
    ) -> Result<T, WorkerError> {
        question(&mut self.session).map_err(|error| explained(error, &mut self.group, self.log.path()))
    }

    /// Has it do a job.
    pub fn run(&mut self, request: RunRequest, watch: &Watch<'_>) -> Result<Finished, WorkerError> {
        let length = self.log.len();
        let result = self.session.run(request, watch, &mut self.group);
        let said = self.log.since(length);
        for message in &said {
            watch.events.emit(StageEvent::Log { message: message.clone() });
        }
        let last = said.get(said.len().saturating_sub(LAST_LINES)..).unwrap_or_default();
        result.map_err(|error| match explained(error, &mut self.group, self.log.path()) {
            // it obeyed the signal without a word
            WorkerError::Lost { .. } if watch.cancel.requested() => WorkerError::Cancelled,
            // a traceback, say
            WorkerError::Failed { class: FailureClass::Bug, message } if !last.is_empty() => {
                let message = clipped(format!("{message}\n{}", last.join("\n")));
                WorkerError::Failed { class: FailureClass::Bug, message }
            }
            other => other,
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // perhaps what runs elsewhere ends only by itself
        if self.transport == Transport::Files && self.lives() {
            self.session.close();
            let clock = Instant::now();
            while clock.elapsed() < FAREWELL && self.lives() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// A group, and how its conversation began.
type Begun = Result<(Group, Result<Session, WorkerError>), WorkerError>;

fn over_pipes(launch: &Launch, limits: Limits) -> Begun {
    let failed = |source| LaunchError::Start { program: launch.program.clone(), source };
    let (their_input, our_output) = io::pipe().map_err(failed)?;
    let (our_input, their_output) = io::pipe().map_err(failed)?;
    let group = Group::start(launch, Stdio::from(their_input), Stdio::from(their_output))?;
    Ok((group, Session::begin(BufReader::new(our_input), our_output, limits)))
}

fn over_files(launch: &mut Launch, log: &Log, folder: &Path, limits: Limits) -> Begun {
    launch.env.push((transport::FOLDER.into(), folder.into()));
    let failed = |source| LaunchError::Start { program: launch.program.clone(), source };
    transport::create(folder).map_err(failed)?;
    let group = Group::start(launch, Stdio::null(), Stdio::from(log.open().map_err(failed)?))?;
    let (input, output) = transport::engine_ends(folder, group.watch());
    let limits = Limits { hello: limits.hello.max(QUEUED), ..limits };
    Ok((group, Session::over(Transport::Files, input, output, limits)))
}

impl Peer for Group {
    fn terminate(&mut self) {
        Self::terminate(self);
    }

    fn kill(&mut self) {
        // what is gone is as wished
        let _status = Self::kill(self);
    }

    fn gone(&mut self) -> bool {
        !matches!(self.ended(), Ok(None))
    }

    fn resident(&mut self, enough: u64) -> u64 {
        resident(self.id(), enough)
    }
}

/// A worker that hung up has a status and has perhaps said why.
fn explained(error: WorkerError, group: &mut Group, stderr: &Path) -> WorkerError {
    if !matches!(error, WorkerError::HungUp) {
        return error;
    }
    let clock = Instant::now();
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
    transport: Transport,
    free: Mutex<Vec<Worker>>,
    /// Held while a worker is started before there is work for it.
    filling: Mutex<()>,
    /// The files that its workers are made of.
    body: Mutex<Body>,
}

impl Pool {
    pub fn new(command: WorkerCommand, machine: Machine, limits: Limits) -> Self {
        let (free, body) = (Mutex::new(Vec::new()), Mutex::new(Body::default()));
        Self { command, machine, limits, transport: Transport::Stdio, free, filling: Mutex::new(()), body }
    }

    /// With another transport.
    #[must_use]
    pub fn over(self, transport: Transport) -> Self {
        Self { transport, ..self }
    }

    /// Of workers that are made of these files.
    #[must_use]
    pub(super) fn of(self, parts: Vec<Part>, store: Option<&Store>) -> Self {
        Self { body: Mutex::new(Body::new(parts, store)), ..self }
    }

    /// Takes in which files its workers are made of.
    pub(super) fn learn(&self, parts: Vec<Part>) {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).parts = parts;
    }

    /// The content of these files at this moment.
    pub(super) fn content(&self) -> Result<Content, WorkerError> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).now()
    }

    /// The content that a worker was made of, where it can be known: what it was started under is the same now, and what was
    /// only learned of since has not been touched. A worker of which it cannot be known gets no more to do.
    pub(super) fn settle(&self, worker: &mut Worker) -> Result<Option<Content>, WorkerError> {
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        let now = body.now()?;
        let is_own = body.parts.iter().all(|part| match worker.content.get(&part.name) {
            Some(digest) => now.get(&part.name) == Some(digest),
            None => part.is_untouched_since(worker.started),
        });
        if !is_own {
            return Ok(None);
        }
        worker.content.clone_from(&now);
        Ok(Some(now))
    }

    /// How long its workers may take.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Starts a worker for whatever comes, unless one is free. Jobs wait for it.
    pub(super) fn fill(&self) {
        let _filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(worker) = self.take().or_else(|| self.start().ok()) {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        }
    }

    /// Gives a worker, free or new, a job; it is kept for the next one if it is still sound.
    pub fn with<T>(&self, job: impl FnOnce(&mut Worker) -> Result<T, WorkerError>) -> Result<T, WorkerError> {
        drop(self.filling.lock().unwrap_or_else(PoisonError::into_inner));
        let mut worker = self.take().map_or_else(|| self.start(), Ok)?;
        let result = job(&mut worker);
        self.put_back(worker, &result);
        result
    }

    /// Gives a worker a job of a stage, and takes what it made. A worker that had ended, or was about to, when it got the
    /// job has not harmed it: another one gets it. `content`: what the job's key says of the program; no worker of another one
    /// gets the job.
    pub(super) fn run<T>(
        &self,
        content: &Content,
        request: &RunRequest,
        watch: &Watch<'_>,
        collect: impl Fn(Finished) -> Result<T, WorkerError>,
    ) -> Result<T, WorkerError> {
        while let Some(mut worker) = self.take() {
            if differing(content, &worker.content).is_some() {
                continue;
            }
            let result = worker.run(request.clone(), watch);
            if matches!(result, Err(WorkerError::Lost { .. })) && worker.session.died_between_jobs() {
                continue;
            }
            let result = result.and_then(&collect);
            self.put_back(worker, &result);
            return result;
        }
        let mut worker = self.start()?;
        if let Some(name) = differing(content, &worker.content) {
            return Err(WorkerError::Changing { name: name.to_owned() });
        }
        let result = worker.run(request.clone(), watch).and_then(&collect);
        self.put_back(worker, &result);
        result
    }

    fn start(&self) -> Result<Worker, WorkerError> {
        let mut changed = String::new();
        for _ in 0..TRIES {
            let before = self.content()?;
            let mut worker = Worker::start(&self.command, &self.machine, self.limits, self.transport)?;
            let after = self.content()?;
            let Some(name) = differing(&before, &after) else {
                worker.content = before;
                return Ok(worker);
            };
            name.clone_into(&mut changed);
        }
        Err(WorkerError::Changing { name: changed })
    }

    /// Keeps a worker for the next job if it is still sound.
    fn put_back<T>(&self, mut worker: Worker, result: &Result<T, WorkerError>) {
        if is_sound(result) && worker.session.is_sound() && worker.lives() {
            self.free.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
        }
    }

    /// A free worker that has not died meanwhile, of a program that is still the same.
    fn take(&self) -> Option<Worker> {
        let content = self.content().ok()?;
        loop {
            let mut worker = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if worker.session.is_sound() && worker.lives() && worker.content == content {
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
            matches!(class, FailureClass::Config | FailureClass::Store | FailureClass::Transient)
        }
        Err(_) => false,
    }
}
