//! A plugin's stage: described by its worker, keyed with its program's content, run in its worker. What it made is
//! looked for, hashed and stored here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use qpipe_sdk::protocol::wire::params_to_json;
use qpipe_sdk::protocol::{Capability, Described, Keyed, OutputFile};
use qpipe_sdk::{
    Artifact, Context, Determinism, Outcome, Params, Resources, Source, SourceData, Stage, StageError,
    StageSpec,
};

use super::document::{self, ROOT};
use super::error::WorkerError;
use super::files::Files;
use super::launch::find_program;
use super::machine::Machine;
use super::process::{Pool, WorkerCommand};
use super::request::request;
use super::scratch::Scratch;
use super::session::{Finished, Limits, Watch};

/// `plugin NAME command="python3" "file.py" "--flag"`.
#[derive(Clone, Debug)]
pub struct PluginCommand {
    /// The stage type that it must describe.
    pub kind: String,
    /// A program on the search path; `None`: the file is the program.
    pub command: Option<String>,
    /// Absolute path of the plugin's own file.
    pub file: Option<PathBuf>,
    pub args: Vec<String>,
    pub limits: Limits,
}

/// A stage type that a plugin brings.
pub struct PluginStage {
    described: Described,
    pool: Pool,
    /// What the key contains of the plugin itself.
    program: PathBuf,
    script: Option<PathBuf>,
    /// Whether the worker answers `key`, and what it answered by parameters.
    asks_key: bool,
    /// Whether it answers `estimate`.
    estimates: bool,
    keyed: Mutex<BTreeMap<String, Keyed>>,
}

impl PluginStage {
    /// Starts the plugin and has it describe itself.
    pub fn start(plugin: &PluginCommand, machine: &Machine) -> Result<Self, WorkerError> {
        let (program, script) = program(plugin, machine)?;
        let script_args = script.iter().map(|path| path.clone().into());
        let args = script_args.chain(plugin.args.iter().map(Into::into)).collect();
        let command = WorkerCommand { program: program.clone(), args, env: Vec::new() };
        let pool = Pool::new(command, machine.clone(), plugin.limits);
        let (stages, asks_key, estimates) = pool.with(|worker| {
            worker.ask(|session| {
                let stages = session.describe()?;
                Ok((stages, session.can(Capability::Key), session.can(Capability::Estimate)))
            })
        })?;
        let told = stages.iter().find(|stage| stage.kind == plugin.kind);
        let no_stage = || WorkerError::NoStage {
            kind: plugin.kind.clone(),
            known: stages.iter().map(|stage| stage.kind.clone()).collect(),
        };
        let described = told.ok_or_else(no_stage)?.understand()?;
        if described.spec.determinism == Determinism::Measurement && !asks_key {
            return Err(WorkerError::Unfingerprinted);
        }
        Ok(Self { described, pool, program, script, asks_key, estimates, keyed: Mutex::default() })
    }

    /// What the worker says of these parameters, asked once.
    fn keyed(&self, params: &Params) -> Result<Keyed, WorkerError> {
        if !self.asks_key {
            return Ok(Keyed::default());
        }
        let json = params_to_json(params)?;
        let name = serde_json::to_string(&json).unwrap_or_default();
        let mut known = self.keyed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(keyed) = known.get(&name) {
            return Ok(keyed.clone());
        }
        let kind = self.described.spec.kind;
        let keyed = self.pool.with(|worker| worker.ask(|session| session.key(kind, json)))?;
        known.insert(name, keyed.clone());
        Ok(keyed)
    }

    fn outputs(&self) -> Vec<&str> {
        match self.described.files.as_slice() {
            [] => vec![ROOT],
            files => files.iter().map(|file| file.name.as_str()).collect(),
        }
    }

    fn work(&self, ctx: &Context<'_>) -> Result<Outcome, WorkerError> {
        let scratch = Scratch::new(ctx.store)?;
        let (work, inputs) = (scratch.folder("work")?, scratch.folder("inputs")?);
        let request = request(ctx, self.described.spec.kind, &work, Some(&inputs))?;
        let declared = self.outputs();
        let has_blobs = self.described.files.is_empty();
        let watch = Watch { events: ctx.events, cancel: ctx.cancel, outputs: Some(&declared), has_blobs };
        let finished = self.pool.with(|worker| worker.run(request, &watch))?;
        let artifact = self.collect(ctx, &work, &finished)?;
        Ok(Outcome { artifact, metrics: finished.metrics })
    }

    fn collect(&self, ctx: &Context<'_>, work: &Path, finished: &Finished) -> Result<Artifact, WorkerError> {
        let missing = |name: &str| WorkerError::MissingOutput { name: name.to_owned() };
        let made = |file: &OutputFile| !file.required || finished.outputs.contains_key(&file.name);
        if let Some(file) = self.described.files.iter().find(|file| !made(file)) {
            return Err(missing(&file.name));
        }
        let outputs = finished.outputs.iter().map(|(name, path)| (name.as_str(), path.as_str()));
        if !self.described.files.is_empty() {
            let files = Files::collect(ctx.store, work, outputs)?;
            return files.commit(ctx.store).map_err(|e| WorkerError::Artifact { reason: e.to_string() });
        }
        document::collect(ctx, &self.described.spec.output.0, work, &finished.outputs)
    }
}

/// The program of a plugin, and the file that it reads.
fn program(plugin: &PluginCommand, machine: &Machine) -> Result<(PathBuf, Option<PathBuf>), WorkerError> {
    let root = Path::new("/");
    let find = |name: &str| find_program(name, root, machine.search());
    Ok(match (&plugin.command, &plugin.file) {
        (Some(command), file) => (find(command)?, file.clone()),
        (None, Some(file)) => (find(&file.display().to_string())?, None),
        (None, None) => (find(&plugin.kind)?, None),
    })
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
        all.push(file("plugin:program".into(), self.program.clone()));
        all.extend(self.script.iter().map(|script| file("plugin:script".into(), script.clone())));
        Ok(all)
    }

    fn numerics(&self, params: &Params) -> Option<String> {
        // a worker that fails here fails `sources` as well, which can say so
        self.keyed(params).ok().and_then(|keyed| keyed.numerics)
    }

    /// What the worker says, if it can; one that fails here fails its run as well, which can say so.
    fn resources(&self, params: &Params, _input_bytes: u64) -> Resources {
        let ask = || {
            let json = params_to_json(params)?;
            self.pool.with(|worker| worker.ask(|session| session.estimate(self.described.spec.kind, json)))
        };
        let memory = if self.estimates { ask().ok().and_then(|told| told.host_bytes) } else { None };
        Resources { memory: memory.unwrap_or(0), ..Resources::default() }
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        Ok(self.work(ctx)?)
    }
}
