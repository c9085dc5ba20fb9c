//! The engine's side of one conversation, over any pair of streams. It knows the protocol; of the process behind it only
//! what [`Peer`] says. Whoever owns the process kills it when a conversation fails.
//!
//! Reading and writing happen on threads of their own, so that a worker that neither speaks nor listens can keep nobody
//! from looking at the clock.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use qpipe_sdk::protocol::{
    Capability, Keyed, LineError, MINOR, PROTOCOL, Reply, Request, RunRequest, StageDescription, Versions,
    WireParams, decode, encode, read_line,
};
use qpipe_sdk::{Artifact, Cancel, EventSink, Metric, StageEvent};

use super::document::BLOB;
use super::error::WorkerError;
use super::launch::GRACE;

/// What the engine calls itself.
pub(super) const ENGINE: &str = concat!("qpipe ", env!("CARGO_PKG_VERSION"));
/// How many replies may wait to be read.
const BACKLOG: usize = 256;
/// Most metrics of one job.
const MAX_METRICS: usize = 10_000;
/// How often a waiting engine looks at everything but the worker.
const TICK: Duration = Duration::from_millis(20);

/// How long a worker's last messages may be on their way after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long a worker may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From its start to its `hello`.
    pub hello: Duration,
    /// For an answer to a question.
    pub answer: Duration,
    /// How often a worker with the capability `heartbeat` is to say that it lives.
    pub heartbeat: Duration,
    /// After how much silence such a worker is lost.
    pub silence: Duration,
    /// For a job; `None`: as long as it takes.
    pub job: Option<Duration>,
    /// Resident memory of the worker's process group, bytes; `None`: as much as there is.
    pub memory: Option<u64>,
    /// Between `cancel` and SIGTERM, and between SIGTERM and SIGKILL.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(30),
            answer: Duration::from_mins(1),
            heartbeat: Duration::from_secs(2),
            silence: Duration::from_secs(30),
            job: None,
            memory: None,
            grace: GRACE,
        }
    }
}

/// How messages travel between engine and worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Over the worker's standard streams.
    #[default]
    Stdio,
    /// Over two files that grow, for a worker that is started where its streams do not reach the engine.
    Files,
}

/// What a worker says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// Program and version.
    pub worker: String,
    /// The protocol's minor version that it was written for.
    pub minor: u32,
}

/// A worker's stage types.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    pub stages: Vec<StageDescription>,
    /// Files that belong to its program besides itself, where it says so: absolute paths by name.
    pub sources: Option<BTreeMap<String, String>>,
}

/// What a worker says that a run would need.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    pub seconds: Option<f64>,
    pub host_bytes: Option<u64>,
    pub device_bytes: Option<u64>,
}

/// What a job has brought.
#[derive(Debug, Default)]
pub struct Finished {
    /// Outputs by name, as paths relative to the scratch folder, as the worker states them.
    pub outputs: BTreeMap<String, String>,
    pub metrics: Vec<Metric>,
    /// From a worker that commits by itself.
    pub artifact: Option<Artifact>,
}

/// What a job is watched with.
pub struct Watch<'a> {
    pub events: &'a dyn EventSink,
    pub cancel: &'a Cancel,
    /// Names of outputs that the stage declares; `None` where it makes none of its own.
    pub outputs: Option<&'a [&'a str]>,
    /// Whether it may announce blobs for its document.
    pub has_blobs: bool,
}

/// The process at the other end.
pub trait Peer {
    /// Sends it SIGTERM.
    fn terminate(&mut self);

    /// Whether it has ended, whatever its streams say: a child of it may still hold them.
    fn gone(&mut self) -> bool;
}

/// No process: a peer within this one.
impl Peer for () {
    fn terminate(&mut self) {}

    fn gone(&mut self) -> bool {
        false
    }
}

enum Heard {
    Reply(Reply),
    Bad(LineError),
    End,
}

/// A conversation that has begun.
pub struct Session {
    output: Sender<Vec<u8>>,
    heard: Receiver<Heard>,
    limits: Limits,
    greeting: Greeting,
    capabilities: Vec<Capability>,
    next_id: u64,
}

impl Session {
    /// Says hello.
    pub fn begin(
        input: impl BufRead + Send + 'static,
        mut output: impl Write + Send + 'static,
        limits: Limits,
    ) -> Result<Self, WorkerError> {
        let (sender, heard) = sync_channel(BACKLOG);
        std::thread::spawn(move || listen(input, &sender));
        let (lines, written) = channel::<Vec<u8>>();
        // a worker that does not read has gone, or is about to be heard of
        std::thread::spawn(move || {
            written.iter().try_for_each(|line| output.write_all(&line).and_then(|()| output.flush()))
        });
        let (greeting, capabilities) = (Greeting::default(), Vec::new());
        let mut session = Self { output: lines, heard, limits, greeting, capabilities, next_id: 1 };
        session.send(&Request::Hello {
            protocol: Versions { min: PROTOCOL, max: PROTOCOL },
            engine: ENGINE.into(),
            minor: MINOR,
            heartbeat_ms: u64::try_from(limits.heartbeat.as_millis()).unwrap_or(u64::MAX),
        })?;
        match session.answer("hello", limits.hello)? {
            Reply::Hello { protocol: PROTOCOL, worker, minor, capabilities } => {
                session.greeting = Greeting { worker, minor };
                session.capabilities =
                    capabilities.iter().filter_map(|word| Capability::parse(word)).collect();
                Ok(session)
            }
            Reply::Hello { protocol, .. } => Err(WorkerError::Version { found: protocol }),
            other => Err(unexpected(&other, "instead of `hello`")),
        }
    }

    pub fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    pub fn can(&self, capability: Capability) -> bool {
        self.capabilities.contains(&capability)
    }

    /// Which stage types the worker has.
    pub fn describe(&mut self) -> Result<Description, WorkerError> {
        let id = self.id();
        match self.ask(&Request::Describe { id }, "describe")? {
            Reply::Description { id: answered, stages, sources } if answered == id => {
                Ok(Description { stages, sources })
            }
            other => Err(no_answer(id, &other)),
        }
    }

    /// What a stage's key contains besides parameters and files.
    pub fn key(&mut self, stage: &str, params: WireParams) -> Result<Keyed, WorkerError> {
        let (id, stage) = (self.id(), stage.to_owned());
        match self.ask(&Request::Key { id, stage, params }, "key")? {
            Reply::Keyed(keyed) if keyed.id == id => Ok(keyed),
            other => Err(no_answer(id, &other)),
        }
    }

    /// What a run would need, as a worker with the capability `estimate` says.
    pub fn estimate(&mut self, stage: &str, params: WireParams) -> Result<Estimate, WorkerError> {
        let (id, stage) = (self.id(), stage.to_owned());
        match self.ask(&Request::Estimate { id, stage, params }, "estimate")? {
            Reply::Estimated { id: answered, seconds, host_bytes, device_bytes } if answered == id => {
                Ok(Estimate { seconds, host_bytes, device_bytes })
            }
            other => Err(no_answer(id, &other)),
        }
    }

    /// Does a job.
    pub fn run(
        &mut self,
        mut request: RunRequest,
        watch: &Watch<'_>,
        peer: &mut dyn Peer,
    ) -> Result<Finished, WorkerError> {
        let id = self.id();
        request.id = id;
        self.send(&Request::Run(request))?;
        let now = Instant::now();
        let mut job = Job {
            id,
            finished: Finished::default(),
            started: now,
            last_heard: now,
            stopping: None,
            gone: None,
        };
        loop {
            match self.hear(TICK)? {
                Some(reply) => {
                    job.last_heard = Instant::now();
                    if job.take(reply, watch)? {
                        return Ok(job.finished);
                    }
                }
                None => self.look(&mut job, watch, peer)?,
            }
        }
    }

    /// Everything that can end a job other than the worker's word.
    fn look(&mut self, job: &mut Job, watch: &Watch<'_>, peer: &mut dyn Peer) -> Result<(), WorkerError> {
        let Limits { silence, job: limit, grace, .. } = self.limits;
        if peer.gone() && job.gone.get_or_insert_with(Instant::now).elapsed() > LAST_WORDS {
            return Err(WorkerError::HungUp);
        }
        if self.can(Capability::Heartbeat) && job.last_heard.elapsed() > silence {
            return Err(WorkerError::Silent { after: silence });
        }
        if let Some(after) = limit.filter(|limit| job.started.elapsed() > *limit) {
            return Err(WorkerError::TimedOut { after });
        }
        if watch.cancel.killed() {
            return Err(WorkerError::Cancelled);
        }
        if !watch.cancel.requested() {
            return Ok(());
        }
        match job.stopping {
            None if self.can(Capability::Cancel) => {
                self.send(&Request::Cancel { id: job.id })?;
                job.stopping = Some((Instant::now(), Stopping::Asked));
            }
            None => job.terminate(peer),
            Some((since, Stopping::Asked)) if since.elapsed() > grace => job.terminate(peer),
            Some((since, Stopping::Terminated)) if since.elapsed() > grace => {
                return Err(WorkerError::Cancelled);
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn send(&mut self, request: &Request) -> Result<(), WorkerError> {
        let line = encode(request).map_err(WorkerError::Request)?;
        self.output.send(line).map_err(|_| WorkerError::HungUp)
    }

    fn ask(&mut self, request: &Request, question: &'static str) -> Result<Reply, WorkerError> {
        self.send(request)?;
        self.answer(question, self.limits.answer)
    }

    /// The next reply that is no heartbeat.
    fn answer(&mut self, question: &'static str, within: Duration) -> Result<Reply, WorkerError> {
        let clock = Instant::now();
        while let Some(left) = within.checked_sub(clock.elapsed()) {
            match self.hear(left)? {
                Some(Reply::Heartbeat) | None => {}
                Some(reply) => return Ok(reply),
            }
        }
        Err(WorkerError::NoAnswer { question, after: within })
    }

    fn hear(&self, within: Duration) -> Result<Option<Reply>, WorkerError> {
        match self.heard.recv_timeout(within) {
            Ok(Heard::Reply(Reply::Error { id: None, message, .. })) => Err(WorkerError::Refused { message }),
            Ok(Heard::Reply(reply)) => Ok(Some(reply)),
            Ok(Heard::Bad(error)) => Err(WorkerError::Line(error)),
            Ok(Heard::End) | Err(RecvTimeoutError::Disconnected) => Err(WorkerError::HungUp),
            Err(RecvTimeoutError::Timeout) => Ok(None),
        }
    }
}

#[derive(Clone, Copy)]
enum Stopping {
    Asked,
    Terminated,
}

struct Job {
    id: u64,
    finished: Finished,
    started: Instant,
    last_heard: Instant,
    stopping: Option<(Instant, Stopping)>,
    /// Since when its process is.
    gone: Option<Instant>,
}

impl Job {
    fn terminate(&mut self, peer: &mut dyn Peer) {
        peer.terminate();
        self.stopping = Some((Instant::now(), Stopping::Terminated));
    }

    /// Takes a reply in; `true` where it ends the job well.
    fn take(&mut self, reply: Reply, watch: &Watch<'_>) -> Result<bool, WorkerError> {
        if let Some(found) = reply.id().filter(|id| *id != self.id) {
            return Err(WorkerError::WrongId { expected: self.id, found });
        }
        match reply {
            Reply::Heartbeat => {}
            Reply::Progress { done, total, what, .. } => {
                watch.events.emit(StageEvent::Progress { done, total, what });
            }
            Reply::Log { message, .. } => watch.events.emit(StageEvent::Log { message }),
            Reply::Checkpoint { name, cached, .. } => watch.events.emit(StageEvent::Unit { name, cached }),
            Reply::Metric { .. } if self.finished.metrics.len() == MAX_METRICS => {
                return Err(WorkerError::TooManyMetrics { limit: MAX_METRICS });
            }
            Reply::Metric { metric, .. } => self.finished.metrics.push(metric.into()),
            Reply::Artifact { name, path, .. } => self.output(name, path, watch)?,
            Reply::Done { artifact, .. } => {
                self.finished.artifact = artifact;
                return Ok(true);
            }
            Reply::Cancelled { .. } if watch.cancel.requested() => return Err(WorkerError::Cancelled),
            Reply::Error { class, message, .. } => return Err(WorkerError::Failed { class, message }),
            other => return Err(unexpected(&other, "during a job")),
        }
        Ok(false)
    }

    fn output(&mut self, name: String, path: String, watch: &Watch<'_>) -> Result<(), WorkerError> {
        let is_blob = watch.has_blobs && name.starts_with(BLOB);
        if !is_blob && watch.outputs.is_none_or(|declared| !declared.contains(&name.as_str())) {
            return Err(WorkerError::Undeclared { name });
        }
        match self.finished.outputs.insert(name.clone(), path) {
            None => Ok(()),
            Some(_) => Err(WorkerError::Repeated { name }),
        }
    }
}

/// Why a reply is not the answer to question `id`.
fn no_answer(id: u64, reply: &Reply) -> WorkerError {
    match reply {
        Reply::Error { id: Some(found), class, message } if *found == id => {
            WorkerError::Failed { class: *class, message: message.clone() }
        }
        other => match other.id() {
            Some(found) if found != id => WorkerError::WrongId { expected: id, found },
            _ => unexpected(other, "as an answer"),
        },
    }
}

fn unexpected(reply: &Reply, at: &'static str) -> WorkerError {
    WorkerError::Unexpected { word: reply.word(), at }
}

/// Reads until the worker hangs up, says something that is no message, or nobody listens any more.
fn listen(mut input: impl BufRead, sender: &SyncSender<Heard>) {
    let mut line = Vec::new();
    loop {
        let heard = match read_line(&mut input, &mut line) {
            Ok(true) => decode(&line).map_or_else(Heard::Bad, Heard::Reply),
            Ok(false) => Heard::End,
            Err(error) => Heard::Bad(error),
        };
        let last = !matches!(heard, Heard::Reply(_));
        if sender.send(heard).is_err() || last {
            return;
        }
    }
}
