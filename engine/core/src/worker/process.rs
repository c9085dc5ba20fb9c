//! A worker process: a conversation, the process group it is held with, and a folder for what the process says.

use std::ffi::OsString;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use qpipe_cache::Store;
use qpipe_sdk::StageEvent;
use qpipe_sdk::protocol::transport::Talk;
use qpipe_sdk::protocol::{FailureClass, RunRequest, transport};

use super::content::Content;
use super::error::{WorkerError, clipped};
use super::job::Finished;
use super::launch::{Group, Launch, LaunchError};
use super::log::Log;
use super::machine::Machine;
use super::memory::resident;
use super::room::{Folders, Room};
use super::scratch::Scratch;
use super::session::{Limits, Peer, Session, Transport, Watch};
use super::temp::TempError;
use super::wall::{Access, Wall};

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
/// Where its two files are, in its folder.
const TALK: &str = "talk";

/// What a denied access is called, by the kernel and by languages. Where it is denied a folder, Python looks for a module in the
/// next one.
const DENIED: [&str; 4] = ["Permission denied", "PermissionError", "EACCES", "ModuleNotFoundError"];
/// What helps then.
const OPENS: &str = "help: a plugin sees its own program and its job's inputs, and no network; `files`, `reads` and `network` of its `plugin` node open more";

/// What a worker is started within.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// `None`: it reaches what its user does.
    pub(super) wall: Option<Wall>,
    /// What the wall lets through for the sake of jobs, besides what every job of the plugin may reach.
    pub(super) granted: Wall,
    /// Where its jobs have their folders, within the wall; `None`: behind a wall, it is only asked.
    pub(super) room: Option<Room>,
    /// Whether the wall was built for the files that the plugin told of.
    pub(super) is_told: bool,
}

/// A running worker. Dropping it kills its process group.
pub struct Worker {
    /// Dropped first: the group is dead before its folder is removed.
    group: Group,
    session: Session,
    log: Log,
    transport: Transport,
    pub(super) started: SystemTime,
    /// What its program consisted of when it was started, as far as its pool knew.
    pub(super) content: Content,
    pub(super) place: Place,
    _folder: Scratch,
}

impl Worker {
    pub(super) fn start(
        command: &WorkerCommand,
        machine: &Machine,
        limits: Limits,
        transport: Transport,
        mut place: Place,
    ) -> Result<Self, WorkerError> {
        let folder = machine.scratch()?;
        let make = |name| folder.folder(name).map_err(|error| TempError::of(folder.path(), error));
        let (home, tmp) = (make("home")?, make("tmp")?);
        let log = folder.path().join("stderr");
        let log = Log::create(log.clone()).map_err(|error| TempError::unusable(&log, error))?;
        let (program, args) = (command.program.clone(), command.args.clone());
        let mut env = machine.environment(home.clone(), tmp.clone());
        env.extend(command.env.iter().cloned());
        let (started, content) = (SystemTime::now(), Content::new());
        if let Some(wall) = &mut place.wall {
            // not what they lie in: what the engine reads there would be what the worker put there
            for path in [&home, &tmp, log.path()] {
                wall.open(path, Access::Write);
            }
            if let Some(room) = &place.room {
                room.open(wall);
            }
        }
        let stderr = log.path().to_owned();
        let mut launch = Launch { program, args, env, folder: home, stderr };
        let begun = match transport {
            Transport::Stdio => over_pipes(&launch, place.wall.as_ref(), limits),
            Transport::Files => over_files(&mut launch, place.wall.as_mut(), &log, &make(TALK)?, limits),
        };
        let (mut group, session) = begun?;
        match session {
            Ok(session) => {
                Ok(Self { group, session, log, transport, started, content, place, _folder: folder })
            }
            Err(error) => Err(helped(explained(error, &mut group, &log), place.wall.is_some())),
        }
    }

    /// Empty folders in the store for a job.
    pub(super) fn folders(&self, store: &Store) -> Result<Folders, WorkerError> {
        Ok(Folders::new(self.place.room.as_ref(), store)?)
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
        let is_walled = self.place.wall.is_some();
        question(&mut self.session)
            .map_err(|error| helped(explained(error, &mut self.group, &self.log), is_walled))
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
        let is_walled = self.place.wall.is_some();
        let mut explain = |error| match explained(error, &mut self.group, &self.log) {
            // it obeyed the signal without a word
            WorkerError::Lost { .. } if watch.cancel.requested() => WorkerError::Cancelled,
            // a traceback, say
            WorkerError::Failed { class: FailureClass::Bug, message } if !last.is_empty() => {
                let message = clipped(format!("{message}\n{}", last.join("\n")));
                WorkerError::Failed { class: FailureClass::Bug, message }
            }
            other => other,
        };
        result.map_err(|error| helped(explain(error), is_walled))
    }

    /// Whether it can be trusted with another job. What is left of the last one is taken away.
    pub(super) fn is_sound(&mut self) -> bool {
        let is_empty = self.place.room.as_ref().is_none_or(|room| room.empty().is_ok());
        is_empty && self.session.is_sound() && self.lives()
    }

    /// Whether it ended as a job began, before it said a word of it.
    pub(super) fn died_between_jobs(&self) -> bool {
        self.session.died_between_jobs()
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

fn over_pipes(launch: &Launch, wall: Option<&Wall>, limits: Limits) -> Begun {
    let failed = |source| LaunchError::Start { program: launch.program.clone(), source };
    let (their_input, our_output) = io::pipe().map_err(failed)?;
    let (our_input, their_output) = io::pipe().map_err(failed)?;
    let group = Group::start(launch, wall, Stdio::from(their_input), Stdio::from(their_output))?;
    Ok((group, Session::begin(BufReader::new(our_input), our_output, limits)))
}

fn over_files(
    launch: &mut Launch,
    mut wall: Option<&mut Wall>,
    log: &Log,
    folder: &Path,
    limits: Limits,
) -> Begun {
    launch.env.push((transport::FOLDER.into(), folder.into()));
    let failed = |source| LaunchError::Start { program: launch.program.clone(), source };
    let talk = Talk::create(folder).map_err(|error| TempError::unusable(folder, error))?;
    if let Some(wall) = &mut wall {
        wall.open(&transport::requests(folder), Access::Read);
        wall.open(&transport::replies(folder), Access::Write);
    }
    let said = Stdio::from(log.output().map_err(failed)?);
    let group = Group::start(launch, wall.as_deref(), Stdio::null(), said)?;
    let (input, output) = transport::engine_ends(talk, group.watch());
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
fn explained(error: WorkerError, group: &mut Group, log: &Log) -> WorkerError {
    if !matches!(error, WorkerError::HungUp) {
        return error;
    }
    let clock = Instant::now();
    while clock.elapsed() < LAST_WORDS && matches!(group.ended(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(2));
    }
    match group.kill() {
        Ok(status) => WorkerError::Lost { status, said: log.tail() },
        Err(_) => error,
    }
}

/// What helps where a plugin came upon its wall.
fn helped(error: WorkerError, is_walled: bool) -> WorkerError {
    let came_upon = |text: &str| is_walled && DENIED.iter().any(|word| text.contains(word));
    match error {
        WorkerError::Failed { class: FailureClass::Bug, message } if came_upon(&message) => {
            WorkerError::Failed { class: FailureClass::Bug, message: format!("{message}\n{OPENS}") }
        }
        WorkerError::Lost { status, said } if came_upon(&said) => {
            WorkerError::Lost { status, said: format!("{said}\n{OPENS}") }
        }
        other => other,
    }
}
