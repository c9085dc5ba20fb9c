//! A plugin's stage: described by its worker, keyed with its program's content, run in its worker. What it made is
//! looked for, hashed and stored here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use qpipe_cache::{KeyValue, Store};
use qpipe_sdk::protocol::wire::params_to_json;
use qpipe_sdk::protocol::{Described, Keyed, KeyedBy, OutputFile};
use qpipe_sdk::{
    Artifact, ArtifactKind, Context, Determinism, GpuNeed, Outcome, ParamType, Params, Resources, Source,
    SourceData, Stage, StageError, StageSpec, Value, metrics,
};

use super::command::{PluginCommand, Sandbox};
use super::content::{Content, PROGRAM, Part, SCRIPT, SOURCE, Stamp};
use super::document::{self, ROOT};
use super::error::WorkerError;
use super::files::{FileEntry, Files, Output};
use super::job::{Finished, Made};
use super::machine::Machine;
use super::notes::{Answers, Unkept};
use super::pool::Pool;
use super::process::Worker;
use super::program::Program;
use super::request::{self, Given, length};
use super::session::Watch;
use super::units::{Keeper, Units};
use super::wall::{Access, Wall};

/// What a source of a plugin's own content is called, before the part's name.
pub(crate) const OWN: &str = "plugin:";
/// The entry of a key that stands for a plugin's content.
pub(crate) const SEMANTICS: &str = "plugin:semantics";
/// The entry of a key that holds the arguments that a plugin is given.
pub(crate) const ARGS: &str = "plugin:args";
/// The parameter that names a device, as that of the built-in stages does.
const DEVICE: &str = "device";

/// A stage type that a plugin brings.
pub struct PluginStage {
    described: Described,
    pool: Pool,
    is_walled: bool,
    /// What the key contains of the plugin itself, unless `semantics` stands for it.
    parts: Vec<Part>,
    /// What they were when it described itself.
    content: Content,
    semantics: Option<u32>,
    args: Vec<String>,
    /// What the answer to `key` depends on; whether the worker answers `estimate`.
    keyed_by: KeyedBy,
    estimates: bool,
    keyed: Mutex<Known>,
}

/// Answers to `key`: those of this process by parameters, and those that the store keeps.
struct Known {
    here: BTreeMap<String, Heard>,
    kept: Option<Answers>,
    /// What the plugin described before there was a store.
    unkept: Option<Unkept>,
}

/// An answer to `key`.
struct Heard {
    keyed: Keyed,
    /// The files among the parameters, where they were the same before and after; `None` also where there is one that cannot
    /// be looked at.
    about: Option<Vec<Stamp>>,
    /// Whether the worker was of the content that described itself.
    is_own: bool,
}

/// The files among parameters, as they are now.
fn stamps(params: &Params) -> Option<Vec<Stamp>> {
    params.files().map(|(_, path)| Stamp::of(path)).collect()
}

/// The files among parameters, which a question and a job are about.
fn reached(params: &Params) -> Wall {
    let mut wall = Wall::default();
    params.files().for_each(|(_, path)| wall.open_file(path, Access::Read));
    wall
}

/// Whether a source is there for a job to read. What a worker has loaded may be edited while it runs.
fn is_given(source: &str) -> bool {
    source
        .strip_prefix(OWN)
        .is_none_or(|part| ![PROGRAM, SCRIPT].contains(&part) && !part.starts_with(SOURCE))
}

impl PluginStage {
    /// Starts the plugin and has it describe itself.
    pub fn start(plugin: &PluginCommand, machine: &Machine) -> Result<Self, WorkerError> {
        Self::of(plugin, Program::open(plugin, machine, None)?)
    }

    /// The stage type of a plugin's program.
    pub fn of(plugin: &PluginCommand, program: Program) -> Result<Self, WorkerError> {
        let Program { parts, told, content, pool, answers, unkept, .. } = program;
        let stage = told.stages.iter().find(|stage| stage.kind == plugin.kind);
        let no_stage = || WorkerError::NoStage {
            kind: plugin.kind.clone(),
            known: told.stages.iter().map(|stage| stage.kind.clone()).collect(),
        };
        let stage = stage.ok_or_else(no_stage)?;
        let described = stage.understand()?;
        let measures = described.spec.determinism == Determinism::Measurement;
        let keyed_by = match stage.keyed_by.unwrap_or(KeyedBy::Machine) {
            _ if !told.keys => KeyedBy::Nothing,
            // what was measured on one machine is no answer on another
            KeyedBy::Params if measures => KeyedBy::Machine,
            other => other,
        };
        if measures && keyed_by == KeyedBy::Nothing {
            return Err(WorkerError::Unfingerprinted);
        }
        let (semantics, args, estimates) = (plugin.semantics, plugin.args.clone(), told.estimates);
        let is_walled = plugin.sandbox != Sandbox::Off;
        let kept = answers.filter(|_| keyed_by == KeyedBy::Params);
        let keyed = Mutex::new(Known { here: BTreeMap::new(), kept, unkept });
        Ok(Self { described, pool, is_walled, parts, content, semantics, args, keyed_by, estimates, keyed })
    }

    /// What the worker says of these parameters, asked once.
    fn keyed(&self, params: &Params) -> Result<Keyed, WorkerError> {
        if self.keyed_by == KeyedBy::Nothing {
            return Ok(Keyed::default());
        }
        let (kind, json) = (self.described.spec.kind, params_to_json(params)?);
        let name = serde_json::to_string(&json).unwrap_or_default();
        let mut known = self.keyed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = stamps(params);
        if let Some(heard) = known.here.get(&name).filter(|heard| heard.about == before) {
            return Ok(heard.keyed.clone());
        }
        // a file that cannot be read is the worker's to complain of, or the planner's
        let kept = known.kept.as_ref();
        let asked = kept.and_then(|kept| kept.question(kind, &name, params.files()).ok());
        let known_before = asked.and_then(|asked| kept?.get(&asked));
        let ask = || {
            self.pool.with_reach(reached(params), |worker| {
                let keyed = worker.ask(|session| session.key(kind, json))?;
                Ok((keyed, *worker.content() == self.content))
            })
        };
        let is_new = known_before.is_none();
        let (keyed, is_own) = known_before.map_or_else(ask, |keyed| Ok((keyed, true)))?;
        // an answer is about files that stayed as they were
        let about = before.filter(|before| stamps(params).as_ref() == Some(before));
        if let (true, Some(kept), Some(asked)) = (is_new, known.kept.as_mut(), asked)
            && is_own
            && about.is_some()
        {
            kept.keep(asked, &keyed);
        }
        known.here.insert(name, Heard { keyed: keyed.clone(), about, is_own });
        Ok(keyed)
    }

    /// What was said before there was a store is kept in the first one that a job has.
    fn keep(&self, store: &Store, params: &Params) {
        let mut known = self.keyed.lock().unwrap_or_else(PoisonError::into_inner);
        let Known { here, kept, unkept } = &mut *known;
        if let Some(unkept) = unkept.take() {
            *kept = Some(unkept.keep(store)).filter(|_| self.keyed_by == KeyedBy::Params);
        }
        let (Some(kept), Ok(json)) = (kept, params_to_json(params)) else { return };
        let name = serde_json::to_string(&json).unwrap_or_default();
        let Some(heard) = here.get(&name).filter(|heard| heard.is_own && heard.about.is_some()) else {
            return;
        };
        let asked = kept.question(self.described.spec.kind, &name, params.files());
        if let Ok(asked) = asked
            && stamps(params) == heard.about
            && kept.get(&asked).is_none()
        {
            kept.keep(asked, &heard.keyed);
        }
    }

    /// The device that its parameter `device` asks for, where it has one that takes a name.
    fn asked_device<'a>(&'a self, params: &'a Params) -> Option<&'a str> {
        let spec = self.described.spec.schema.param(DEVICE)?;
        let default = if let Some(Value::Text(name)) = &spec.default { name } else { "auto" };
        let takes_name = matches!(spec.ty, ParamType::Text | ParamType::Choice(_));
        takes_name.then(|| params.text(DEVICE).unwrap_or(default))
    }

    /// The device of a job: the one that is asked for, or under `auto` the one that it was assigned.
    fn device(&self, ctx: &Context<'_>) -> String {
        let asked = self.asked_device(ctx.params).unwrap_or("auto");
        match GpuNeed::of_device(asked) {
            GpuNeed::Ordinal(ordinal) => format!("cuda:{ordinal}"),
            GpuNeed::None if asked == "cpu" => asked.to_owned(),
            GpuNeed::None | GpuNeed::Any => ctx.device.to_owned(),
        }
    }

    /// Whether its artifact is what it tells, of which the engine makes a document.
    fn is_measured(&self) -> bool {
        self.described.spec.output.0 == ArtifactKind::METRICS
    }

    fn outputs(&self) -> Vec<&str> {
        match self.described.files.as_slice() {
            [] if self.is_measured() => Vec::new(),
            [] => vec![ROOT],
            files => files.iter().map(|file| file.name.as_str()).collect(),
        }
    }

    fn work(&self, ctx: &Context<'_>) -> Result<Outcome, WorkerError> {
        self.keep(ctx.store, ctx.params);
        let units = Units::find(ctx);
        let mut needs = reached(ctx.params);
        for path in request::files(ctx)?.into_iter().chain(units.paths(ctx.store)) {
            needs.open_file(&path, Access::Read);
        }
        let own = ctx
            .sources
            .iter()
            .filter_map(|(name, digest)| Some((name.strip_prefix(OWN)?.to_owned(), *digest)));
        self.pool.run(&own.collect(), ctx.store, needs, |worker| self.work_in(worker, ctx, &units))
    }

    fn work_in(&self, worker: &mut Worker, ctx: &Context<'_>, units: &Units) -> Result<Outcome, WorkerError> {
        let folders = worker.folders(ctx.store)?;
        let work = &folders.work;
        let mut request = request::request(ctx, self.described.spec.kind, work, Some(&folders.inputs))?;
        request.device = self.device(ctx);
        let limit = self.pool.limits().job;
        request.deadline_ms = limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        let given = Given::of(&request, is_given);
        let declared = self.outputs();
        let has_blobs = self.described.files.is_empty() && !self.is_measured();
        let keeper = Keeper::start(units.clone(), work, length(&request)?);
        let (events, cancel, units) = (ctx.events, ctx.cancel, Some(&keeper));
        let watch = Watch { events, cancel, outputs: Some(&declared), has_blobs, units };
        let finished = worker.run(request, &watch)?;
        let artifact = self.collect(ctx, work, &finished)?;
        given.check()?;
        Ok(Outcome { artifact, metrics: finished.metrics })
    }

    fn collect(&self, ctx: &Context<'_>, work: &Path, finished: &Finished) -> Result<Artifact, WorkerError> {
        let missing = |name: &str| WorkerError::MissingOutput { name: name.to_owned() };
        let made = |file: &OutputFile| !file.required || finished.outputs.contains_key(&file.name);
        if let Some(file) = self.described.files.iter().find(|file| !made(file)) {
            return Err(missing(&file.name));
        }
        if !self.described.files.is_empty() {
            let paths = finished.outputs.iter().filter_map(|(name, made)| match made {
                Made::Path(path) => Some((name.as_str(), path.as_str())),
                Made::Unit(_) => None,
            });
            let mut files = Files::collect(ctx.store, work, paths)?;
            for (name, made) in &finished.outputs {
                if let Made::Unit(kept) = made {
                    let entry = FileEntry::of(kept.digest, kept.bytes);
                    files.outputs.insert(name.clone(), Output::File(entry));
                }
            }
            return files.commit(ctx.store).map_err(|e| WorkerError::Artifact { reason: e.to_string() });
        }
        if self.is_measured() {
            return Ok(metrics::keep(ctx.store, self.described.spec.kind, &finished.metrics)?);
        }
        document::collect(ctx, &self.described.spec.output.0, work, &finished.outputs)
    }
}

impl Stage for PluginStage {
    fn spec(&self) -> &StageSpec {
        &self.described.spec
    }

    fn files(&self) -> Vec<OutputFile> {
        self.described.files.clone()
    }

    fn check(&self, params: &Params) -> Vec<(String, String)> {
        match self.keyed(params) {
            Ok(keyed) => keyed.problems.into_iter().map(|problem| (problem.path, problem.message)).collect(),
            Err(error) => vec![(String::new(), error.to_string())],
        }
    }

    fn sources(&self, params: &Params) -> Result<Vec<Source>, StageError> {
        let file = |name: String, path: PathBuf| Source { name, data: SourceData::File(path) };
        let mut all: Vec<Source> =
            params.files().map(|(name, path)| file(name.to_owned(), path.to_owned())).collect();
        let told = self.keyed(params)?.sources;
        all.extend(told.into_iter().map(|(name, path)| file(format!("told:{name}"), path.into())));
        let own = self.parts.iter().filter(|_| self.semantics.is_none());
        all.extend(own.map(|part| file(format!("{OWN}{}", part.name), part.path.clone())));
        Ok(all)
    }

    fn numerics(&self, params: &Params) -> Option<String> {
        // a worker that fails here fails `sources` as well, which can say so
        self.keyed(params).ok().and_then(|keyed| keyed.numerics)
    }

    fn keyed_by(&self) -> KeyedBy {
        self.keyed_by
    }

    fn key_entries(&self, _params: &Params) -> BTreeMap<String, KeyValue> {
        let semantics = self.semantics.map(|number| (SEMANTICS.to_owned(), KeyValue::Int(number.into())));
        let args = || KeyValue::List(self.args.iter().cloned().map(KeyValue::Text).collect());
        let args = (!self.args.is_empty()).then(|| (ARGS.to_owned(), args()));
        semantics.into_iter().chain(args).collect()
    }

    /// What the worker says, if it can; one that fails here fails its run as well, which can say so.
    fn resources(&self, params: &Params, _input_bytes: u64) -> Resources {
        let ask = || {
            let json = params_to_json(params)?;
            let kind = self.described.spec.kind;
            self.pool.with_reach(reached(params), |worker| worker.ask(|session| session.estimate(kind, json)))
        };
        let memory = if self.estimates { ask().ok().and_then(|told| told.host_bytes) } else { None };
        let gpu = self.asked_device(params).map_or(GpuNeed::None, GpuNeed::of_device);
        Resources { gpu, memory: memory.unwrap_or(0), exclusive: false }
    }

    fn is_external(&self) -> bool {
        true
    }

    fn is_walled(&self) -> bool {
        self.is_walled
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        Ok(self.work(ctx)?)
    }
}
