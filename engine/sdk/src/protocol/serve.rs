//! The worker's side: any stage of a registry, served over a pair of streams. One thread reads requests, one runs the
//! job, one sends heartbeats, so that `cancel` is heard and life is shown whatever a stage is doing.
//!
//! A worker of the engine's own program opens the engine's store, commits units and results there by itself, and answers
//! `done` with the artifact (capability `store`). A plugin's has a store of its own for each job (`host`), and announces
//! what is in it.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use qpipe_cache::{ActionRecord, Digest, Store};

use super::describe::StageDescription;
use super::host::Host;
use super::line::{LineError, decode, encode, read_line};
use super::message::{Capability, FailureClass, Keyed, Problem, Reply, Request, RunRequest};
use super::wire::{WireMetric, params_from_json};
use super::{MINOR, PROTOCOL, WireParams};
use crate::error::StageError;
use crate::event::{Cancel, EventSink, StageEvent};
use crate::resources::Resources;
use crate::spec::ArtifactKind;
use crate::stage::{Artifact, Context, Outcome, SourceData, Stage, StageRegistry};

/// Why a worker stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Line(#[from] LineError),
    #[error("the conversation did not begin with `hello`")]
    NoHello,
    #[error("the engine speaks qstage {min} to {max}, this worker speaks {PROTOCOL}")]
    Version { min: u32, max: u32 },
}

/// Whose worker it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Engine,
    Plugin,
}

impl Owner {
    fn capabilities(self) -> &'static [Capability] {
        match self {
            Self::Engine => &[Capability::Key, Capability::Cancel, Capability::Heartbeat, Capability::Store],
            Self::Plugin => &[
                Capability::Key,
                Capability::Estimate,
                Capability::Cancel,
                Capability::Heartbeat,
                Capability::Resume,
            ],
        }
    }
}

/// Serves the stages of a plugin until the engine ends the conversation. `worker`: program and version, for logs.
///
/// `ended` is called when nothing more will be heard: a job that runs is asked to stop before, and waited for after. A
/// stage may never stop; a program that has to end all the same sees to it there.
///
/// # Errors
/// [`ServeError`] when the engine does not keep to the protocol; it is told so before.
pub fn serve_plugin(
    registry: &StageRegistry,
    worker: &str,
    input: impl BufRead,
    output: impl Write + Send,
    ended: impl FnOnce(),
) -> Result<(), ServeError> {
    serve_as(Owner::Plugin, registry, worker, input, output, ended)
}

/// Serves the engine's own stages until it closes `input`. `worker`: program and version, for logs.
///
/// # Errors
/// [`ServeError`] when the engine does not keep to the protocol; it is told so before.
pub fn serve(
    registry: &StageRegistry,
    worker: &str,
    input: impl BufRead,
    output: impl Write + Send,
) -> Result<(), ServeError> {
    serve_as(Owner::Engine, registry, worker, input, output, || ())
}

fn serve_as(
    owner: Owner,
    registry: &StageRegistry,
    worker: &str,
    mut input: impl BufRead,
    output: impl Write + Send,
    ended: impl FnOnce(),
) -> Result<(), ServeError> {
    let (output, job, store) = (Mutex::new(output), Mutex::new(None), Mutex::new(None));
    let mut server = Server { owner, registry, minor: 0, output, job, store };
    let interval = match server.greet(worker, &mut input) {
        Ok(interval) => interval,
        Err(error) => return Err(server.refuse(error)),
    };
    let (stop, stopped) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let server = &server;
        scope.spawn(move || {
            while matches!(stopped.recv_timeout(interval), Err(RecvTimeoutError::Timeout)) {
                server.send(&Reply::Heartbeat);
            }
        });
        let result = server.listen(scope, &mut input);
        server.cancel(None);
        ended();
        drop(stop);
        result.map_err(|error| server.refuse(error))
    })
}

struct Server<'r, W> {
    owner: Owner,
    registry: &'r StageRegistry,
    /// The engine's minor version.
    minor: u32,
    output: Mutex<W>,
    /// The job that runs.
    job: Mutex<Option<(u64, Cancel)>>,
    /// The store of the last job.
    store: Mutex<Option<(PathBuf, Store)>>,
}

impl<W: Write + Send> Server<'_, W> {
    /// An engine that is gone closes `input` too, so what cannot be sent is not missed.
    fn send(&self, reply: &Reply) {
        let line = encode(reply).or_else(|error| {
            let (id, message) = (reply.id(), format!("`{}` cannot be sent: {error}", reply.word()));
            encode(&Reply::Error { id, class: FailureClass::Bug, message })
        });
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(line) = line {
            let _gone = output.write_all(&line).and_then(|()| output.flush());
        }
    }

    fn refuse(&self, error: ServeError) -> ServeError {
        self.send(&Reply::Error { id: None, class: FailureClass::Bug, message: error.to_string() });
        error
    }

    fn greet(&mut self, worker: &str, input: &mut impl BufRead) -> Result<Duration, ServeError> {
        let mut line = Vec::new();
        if !read_line(input, &mut line)? {
            return Err(ServeError::NoHello);
        }
        let Request::Hello { protocol, minor, heartbeat_ms, .. } = decode(&line)? else {
            return Err(ServeError::NoHello);
        };
        if !(protocol.min..=protocol.max).contains(&PROTOCOL) {
            return Err(ServeError::Version { min: protocol.min, max: protocol.max });
        }
        self.minor = minor;
        let capabilities = self.owner.capabilities().iter().map(|known| known.word().to_owned()).collect();
        let worker = worker.to_owned();
        self.send(&Reply::Hello { protocol: PROTOCOL, minor: MINOR, worker, capabilities });
        Ok(Duration::from_millis(heartbeat_ms.max(1)))
    }

    fn listen<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        input: &mut impl BufRead,
    ) -> Result<(), ServeError> {
        let mut line = Vec::new();
        while read_line(input, &mut line)? {
            let request = match decode(&line) {
                Err(error @ LineError::Malformed { .. }) if self.owner == Owner::Plugin => {
                    // one question is no reason to end a plugin that may be run by an engine of another version
                    let Some(id) = id_of(&line) else { return Err(error.into()) };
                    self.fail(id, FailureClass::Bug, error.to_string());
                    continue;
                }
                request => request?,
            };
            match request {
                Request::Hello { .. } => return Err(ServeError::NoHello),
                Request::Describe { id } => self.describe(id),
                Request::Key { id, stage, params } => self.key(id, &stage, &params),
                Request::Estimate { id, stage, params } => self.estimate(id, &stage, &params),
                Request::Cancel { id } => self.cancel(Some(id)),
                Request::Run(request) => self.start(scope, request),
                Request::Heartbeat => {}
                Request::Bye => return Ok(()),
            }
        }
        Ok(())
    }

    fn describe(&self, id: u64) {
        let stages = self.registry.kinds().filter_map(|kind| self.registry.get(kind));
        let stages = stages.map(|stage| self.described(stage)).collect();
        self.send(&Reply::Description { id, stages, sources: None });
    }

    fn described(&self, stage: &dyn Stage) -> StageDescription {
        let mut told = StageDescription::of(stage.spec());
        if self.owner == Owner::Plugin {
            told.output.files = stage.files();
            told.keyed_by = Some(stage.keyed_by());
        }
        told
    }

    fn estimate(&self, id: u64, stage: &str, params: &WireParams) {
        let resources = || {
            let stage = self.stage(stage)?;
            let params = params_from_json(&stage.spec().schema, params).map_err(StageError::config)?;
            Ok::<_, StageError>(stage.resources(&params, 0))
        };
        match resources() {
            Ok(Resources { memory, .. }) => self.send(&Reply::Estimated {
                id,
                seconds: None,
                host_bytes: Some(memory),
                device_bytes: None,
            }),
            Err(error) => self.report(id, &error),
        }
    }

    fn key(&self, id: u64, stage: &str, params: &WireParams) {
        match self.keyed(id, stage, params) {
            Ok(keyed) => self.send(&Reply::Keyed(keyed)),
            Err(error) => self.report(id, &error),
        }
    }

    fn keyed(&self, id: u64, stage: &str, params: &WireParams) -> Result<Keyed, StageError> {
        let stage = self.stage(stage)?;
        let params = params_from_json(&stage.spec().schema, params).map_err(StageError::config)?;
        let problems = stage.check(&params).into_iter().map(|(path, message)| Problem { path, message });
        let problems: Vec<Problem> = problems.collect();
        let mut sources = BTreeMap::new();
        // what breaks a rule may not be readable
        for source in if problems.is_empty() { stage.sources(&params)? } else { Vec::new() } {
            // a file among the parameters needs no telling
            if self.owner == Owner::Plugin && params.file(&source.name).is_some() {
                continue;
            }
            let SourceData::File(path) = source.data else {
                let message = format!("the source `{}` is inside the program", source.name);
                return Err(StageError::Bug(message));
            };
            sources.insert(source.name, path.to_string_lossy().into_owned());
        }
        Ok(Keyed { id, numerics: stage.numerics(&params), sources, problems })
    }

    fn stage(&self, kind: &str) -> Result<&dyn Stage, StageError> {
        let unknown = || StageError::Config(format!("no stage type is called `{kind}`"));
        self.registry.get(kind).ok_or_else(unknown)
    }

    fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, request: RunRequest) {
        let cancel = Cancel::default();
        let mut job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((running, _)) = *job {
            let message = format!("job {running} is still running");
            return self.fail(request.id, FailureClass::Bug, message);
        }
        *job = Some((request.id, cancel.clone()));
        drop(job);
        scope.spawn(move || self.work(&request, &cancel));
    }

    /// Asks the job to stop: the one with this id, or whichever.
    fn cancel(&self, id: Option<u64>) {
        let job = self.job.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((running, cancel)) = job.as_ref()
            && id.is_none_or(|id| id == *running)
        {
            cancel.request();
        }
    }

    fn work(&self, request: &RunRequest, cancel: &Cancel) {
        let run = || self.run(request, cancel);
        let panicked = |payload: Box<dyn Any + Send>| {
            Err(StageError::Bug(format!("panicked: {}", panic_text(&*payload))))
        };
        let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(panicked);
        // free before the engine hears of the end, since it may send the next job at once
        *self.job.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let id = request.id;
        match result {
            Ok((outcome, announced)) => {
                for output in &announced {
                    self.send(output);
                }
                for metric in &outcome.metrics {
                    self.send(&Reply::Metric { id, metric: WireMetric::from(metric) });
                }
                let artifact = Some(outcome.artifact).filter(|_| self.owner == Owner::Engine);
                self.send(&Reply::Done { id, artifact });
            }
            Err(error) => self.report(id, &error),
        }
    }

    /// Does a job. From a plugin, what it made comes as announcements too.
    fn run(&self, request: &RunRequest, cancel: &Cancel) -> Result<(Outcome, Vec<Reply>), StageError> {
        let stage = self.stage(&request.stage)?;
        let params = params_from_json(&stage.spec().schema, &request.params).map_err(StageError::bug)?;
        let host = match self.owner {
            Owner::Engine => None,
            Owner::Plugin => Some(Host::open(request)?),
        };
        for message in host.iter().flat_map(|host| &host.unread) {
            self.send(&Reply::Log { id: request.id, message: message.clone() });
        }
        let no_store = || StageError::Bug("this worker needs the path of the store".into());
        let store = match &host {
            Some(host) => host.store.clone(),
            None => self.store(Path::new(request.store.as_deref().ok_or_else(no_store)?))?,
        };
        let inputs = request.inputs.iter().map(|(port, input)| {
            let refs = input.refs.iter().map(|blob| blob.digest).collect();
            let artifact =
                Artifact { kind: ArtifactKind::new(input.kind.clone()), digest: input.digest, refs };
            (port.clone(), artifact)
        });
        let sources: BTreeMap<String, Digest> =
            request.sources.iter().map(|(name, blob)| (name.clone(), blob.digest)).collect();
        let ctx = Context {
            params: &params,
            inputs: &inputs.collect(),
            sources: &sources,
            store: &store,
            events: &Events { server: self, id: request.id, host: host.as_ref() },
            cancel,
            device: &request.device,
            doc: None,
        };
        let outcome = stage.run(&ctx)?;
        let announced = host.map(|host| host.outputs(request.id, &outcome.artifact)).transpose()?;
        Ok((outcome, announced.unwrap_or_default()))
    }

    fn store(&self, root: &Path) -> Result<Store, StageError> {
        let mut known = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((path, store)) = known.as_ref()
            && path == root
        {
            return Ok(store.clone());
        }
        let store = Store::open(root)?;
        *known = Some((root.to_owned(), store.clone()));
        Ok(store)
    }

    fn report(&self, id: u64, error: &StageError) {
        match FailureClass::of(error) {
            None => self.send(&Reply::Cancelled { id }),
            Some((class, message)) => self.fail(id, class.known_to(self.minor), message),
        }
    }

    fn fail(&self, id: u64, class: FailureClass, message: String) {
        self.send(&Reply::Error { id: Some(id), class, message });
    }
}

/// What a panic said.
pub fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// The id of a message that is malformed otherwise.
fn id_of(line: &[u8]) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(line).ok()?.get("id")?.as_u64()
}

/// Passes a stage's events on.
struct Events<'a, 'r, W> {
    server: &'a Server<'r, W>,
    id: u64,
    host: Option<&'a Host>,
}

impl<W: Write + Send> EventSink for Events<'_, '_, W> {
    fn emit(&self, event: StageEvent) {
        let id = self.id;
        self.server.send(&match event {
            StageEvent::Progress { done, total, what } => Reply::Progress { id, done, total, what },
            // has been told by the name that the engine knows
            StageEvent::Unit { .. } if self.host.is_some() => return,
            StageEvent::Unit { name, cached } => Reply::Checkpoint { id, name, cached, path: None },
            StageEvent::Log { message } => Reply::Log { id, message },
        });
    }

    fn kept(&self, name: &str, record: &ActionRecord) {
        let Some(host) = self.host else { return };
        let id = self.id;
        self.server.send(&match host.keep(name, record) {
            Ok((name, path)) => Reply::Checkpoint { id, name, cached: false, path: Some(path) },
            // the work is done all the same, and will be done again after a kill
            Err(error) => Reply::Log { id, message: format!("unit `{name}` cannot be kept: {error}") },
        });
    }

    fn found(&self, name: &str, record: &ActionRecord) {
        let Some(host) = self.host else { return };
        let name = host.told_name(name, record);
        self.server.send(&Reply::Checkpoint { id: self.id, name, cached: true, path: None });
    }
}
