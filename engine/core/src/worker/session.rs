//! The engine's side of one conversation, over any pair of streams. It knows the protocol; of the process behind it only
//! what [`Peer`] says. Whoever owns the process kills it when a conversation fails.
//!
//! Reading and writing happen on threads of their own, so that a worker that neither speaks nor listens can keep nobody
//! from looking at the clock.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use qpipe_sdk::protocol::{
    Capability, Keyed, MINOR, PROTOCOL, Reply, Request, RunRequest, StageDescription, Versions, WireParams,
    encode,
};
use qpipe_sdk::{Cancel, EventSink};

use super::error::{WorkerError, clipped};
use super::job::{Finished, Job, Stopping};
use super::launch::GRACE;
use super::streams::{Heard, listen, speak};
use super::units::Keeper;

/// What the engine calls itself.
pub(super) const ENGINE: &str = concat!("qpipe ", env!("CARGO_PKG_VERSION"));
/// How often a waiting engine looks at everything but the worker.
const TICK: Duration = Duration::from_millis(20);
/// How often its memory is looked at, at most.
const WEIGH_EVERY: Duration = Duration::from_millis(100);

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
    /// Between `cancel` and SIGTERM, and between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Most memory that its processes may have resident while a job runs, bytes.
    pub memory: Option<u64>,
}

/// What a worker's messages go through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Its standard input and output.
    #[default]
    Stdio,
    /// Two files, see [`qpipe_sdk::protocol::transport`]. What it writes to standard output is log.
    Files,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(30),
            answer: Duration::from_mins(1),
            heartbeat: Duration::from_secs(2),
            silence: Duration::from_secs(30),
            job: None,
            grace: GRACE,
            memory: None,
        }
    }
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

/// What a job is watched with.
pub struct Watch<'a> {
    pub events: &'a dyn EventSink,
    pub cancel: &'a Cancel,
    /// Names of outputs that the stage declares; `None` where it makes none of its own.
    pub outputs: Option<&'a [&'a str]>,
    /// Whether it may announce blobs for its document.
    pub has_blobs: bool,
    /// Where its units are kept; `None` where they are not the engine's.
    pub units: Option<&'a Keeper>,
}

/// The process at the other end.
pub trait Peer {
    /// Sends it SIGTERM.
    fn terminate(&mut self);

    /// Ends it now.
    fn kill(&mut self);

    /// Whether it has ended, whatever its streams say: a child of it may still hold them.
    fn gone(&mut self) -> bool;

    /// Resident bytes of all its processes; what is not above `enough` may be a rough number.
    fn resident(&mut self, enough: u64) -> u64;
}

/// No process: a peer within this one.
impl Peer for () {
    fn terminate(&mut self) {}

    fn kill(&mut self) {}

    fn gone(&mut self) -> bool {
        false
    }

    fn resident(&mut self, _enough: u64) -> u64 {
        0
    }
}

/// A conversation that has begun.
pub struct Session {
    output: Sender<Vec<u8>>,
    /// Writes what `output` gets, until that is closed.
    writer: Option<JoinHandle<()>>,
    heard: Receiver<Heard>,
    limits: Limits,
    greeting: Greeting,
    capabilities: Vec<Capability>,
    next_id: u64,
    /// It spoke of a request after that request's end.
    is_confused: bool,
    /// Whether it had said anything of the last job, and how long that job took.
    last_job: Option<(bool, Duration)>,
}

impl Session {
    /// Says hello over a pair of streams.
    pub fn begin(
        input: impl BufRead + Send + 'static,
        output: impl Write + Send + 'static,
        limits: Limits,
    ) -> Result<Self, WorkerError> {
        Self::over(Transport::Stdio, input, output, limits)
    }

    /// Says hello. Over files, the engine shows that it lives, and says when it ends.
    pub fn over(
        transport: Transport,
        input: impl BufRead + Send + 'static,
        output: impl Write + Send + 'static,
        limits: Limits,
    ) -> Result<Self, WorkerError> {
        let beat = (transport == Transport::Files).then_some(limits.heartbeat);
        let (heard, (lines, writer)) = (listen(input), speak(output, beat));
        let mut session = Self {
            output: lines,
            writer: Some(writer),
            heard,
            limits,
            greeting: Greeting::default(),
            capabilities: Vec::new(),
            next_id: 1,
            is_confused: false,
            last_job: None,
        };
        session.send(&Request::Hello {
            protocol: Versions { min: PROTOCOL, max: PROTOCOL },
            minor: MINOR,
            engine: ENGINE.into(),
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
        let keeper = watch.units.filter(|_| self.can(Capability::Resume));
        (request.id, request.units) = (id, keeper.map(Keeper::told).unwrap_or_default());
        let mut job = Job::new(id, keeper);
        let ended = self.converse(&Request::Run(request), &mut job, watch, peer);
        self.last_job = Some((job.has_spoken, job.started.elapsed()));
        job.tell_progress(watch, true);
        // not after the wait for what it had to keep; one that ends by itself is left its status
        if ended
            .as_ref()
            .is_err_and(|error| !matches!(error, WorkerError::HungUp | WorkerError::Failed { .. }))
        {
            peer.kill();
        }
        // what it said is complete is kept, however it ended
        let stored = self.wait_for_units(&mut job, watch, ended.is_ok());
        ended?;
        stored?;
        job.end()
    }

    /// A job from the request to the worker's last word.
    fn converse(
        &mut self,
        request: &Request,
        job: &mut Job<'_>,
        watch: &Watch<'_>,
        peer: &mut dyn Peer,
    ) -> Result<(), WorkerError> {
        self.send(request)?;
        loop {
            if let Some(reply) = self.hear(TICK)? {
                job.last_heard = Instant::now();
                if job.take(reply, watch)? {
                    return Ok(());
                }
            }
            // also while it never stops talking
            if job.looked.elapsed() >= TICK {
                self.look(job, watch, peer)?;
                job.looked = Instant::now();
            }
        }
    }

    /// Waits until what was announced is stored: after a good end as long as the job may take, else not for ever.
    fn wait_for_units(&self, job: &mut Job<'_>, watch: &Watch<'_>, is_done: bool) -> Result<(), WorkerError> {
        let clock = Instant::now();
        loop {
            let settled = job.settle(watch);
            if is_done {
                settled?;
            }
            if !job.is_storing() {
                return Ok(());
            }
            if watch.cancel.killed() {
                return Err(WorkerError::Cancelled);
            }
            if let Some(after) = self.limits.job.filter(|limit| is_done && job.started.elapsed() > *limit) {
                return Err(WorkerError::TimedOut { after });
            }
            if !is_done && clock.elapsed() > self.limits.answer {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Everything that can end a job other than the worker's word.
    fn look(&mut self, job: &mut Job<'_>, watch: &Watch<'_>, peer: &mut dyn Peer) -> Result<(), WorkerError> {
        let Limits { silence, job: limit, grace, memory, .. } = self.limits;
        job.settle(watch)?;
        job.tell_progress(watch, false);
        if peer.gone() && job.gone.get_or_insert_with(Instant::now).elapsed() > LAST_WORDS {
            return Err(WorkerError::HungUp);
        }
        if self.can(Capability::Heartbeat) && job.last_heard.elapsed() > silence {
            return Err(WorkerError::Silent { after: silence });
        }
        if let Some(after) = limit.filter(|limit| job.started.elapsed() > *limit) {
            return Err(WorkerError::TimedOut { after });
        }
        if let Some(limit) = memory.filter(|_| job.weighed.is_none_or(|weighed| weighed <= Instant::now())) {
            let clock = Instant::now();
            let seen = peer.resident(limit);
            if seen > limit {
                return Err(WorkerError::Memory { limit, seen });
            }
            // a machine of very many processes is not kept busy by looking at them
            job.weighed = Some(Instant::now() + WEIGH_EVERY.max(20 * clock.elapsed()));
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

    /// Ends the conversation: nothing can be said any more, and what was said is written.
    pub(super) fn close(&mut self) {
        self.output = channel().0;
        if let Some(writer) = self.writer.take() {
            let _panicked = writer.join();
        }
    }

    /// Whether it can be trusted with another job: it has said nothing that nobody asked for.
    pub(super) fn is_sound(&mut self) -> bool {
        loop {
            match self.heard.try_recv() {
                Ok(Heard::Reply(Reply::Heartbeat)) => {}
                Ok(_) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return !self.is_confused,
            }
        }
    }

    /// Whether it ended as a job began, before it said a word of it.
    pub(super) fn died_between_jobs(&self) -> bool {
        self.last_job.is_some_and(|(has_spoken, took)| !has_spoken && took < LAST_WORDS)
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

    fn hear(&mut self, within: Duration) -> Result<Option<Reply>, WorkerError> {
        match self.heard.recv_timeout(within) {
            Ok(Heard::Reply(Reply::Error { id: None, message, .. })) => {
                Err(WorkerError::Refused { message: clipped(message) })
            }
            // of something that is over: whatever it means, it is not about what was asked now
            Ok(Heard::Reply(reply)) if reply.id().is_some_and(|id| id + 1 < self.next_id) => {
                self.is_confused = true;
                Ok(None)
            }
            Ok(Heard::Reply(reply)) => Ok(Some(reply)),
            Ok(Heard::Bad(error)) => Err(WorkerError::Line(error)),
            Ok(Heard::End) | Err(RecvTimeoutError::Disconnected) => Err(WorkerError::HungUp),
            Err(RecvTimeoutError::Timeout) => Ok(None),
        }
    }
}

/// Why a reply is not the answer to question `id`.
fn no_answer(id: u64, reply: &Reply) -> WorkerError {
    match reply {
        Reply::Error { id: Some(found), class, message } if *found == id => {
            WorkerError::Failed { class: *class, message: clipped(message.clone()) }
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
