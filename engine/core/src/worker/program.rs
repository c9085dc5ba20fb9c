//! A plugin's program: where it is, what it consists of, and what it says of itself, which is asked only where it is not kept.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use qpipe_cache::Store;
use qpipe_sdk::protocol::{Capability, StageDescription};

use super::command::{PluginCommand, Sandbox};
use super::content::{Content, PROGRAM, Part, PluginDigest, SCRIPT};
use super::error::WorkerError;
use super::launch::find_program;
use super::machine::Machine;
use super::notes::{Answers, Notes, Told, Unkept};
use super::pool::{Pool, TRIES};
use super::process::{Worker, WorkerCommand};
use super::reach::Reach;
use super::search;

/// What is granted besides, as an error calls it.
pub(crate) const READS: &str = "reads";

/// A plugin that described itself, now or before.
pub struct Program {
    /// What it consists of, the program first.
    pub(super) parts: Vec<Part>,
    pub(super) told: Told,
    /// What the parts were when it described itself.
    pub(super) content: Content,
    /// Starts a worker only when one is needed.
    pub(super) pool: Pool,
    /// What it answered to `key`, where there is a store.
    pub(super) answers: Option<Answers>,
    /// What it said, where there is none yet.
    pub(super) unkept: Option<Unkept>,
    store: Option<Store>,
}

impl Program {
    /// Finds a plugin's program and has it describe itself, unless the store has kept what it said.
    pub fn open(
        plugin: &PluginCommand,
        machine: &Machine,
        store: Option<&Store>,
    ) -> Result<Self, WorkerError> {
        if plugin.sandbox == Sandbox::Required
            && let Some(why) = machine.walls().note()
        {
            return Err(WorkerError::Unwalled { why });
        }
        let (program, script) = find(plugin, machine)?;
        let script_args = script.iter().map(|path| path.clone().into());
        let args = script_args.chain(plugin.args.iter().map(Into::into)).collect();
        let command = WorkerCommand { program: program.clone(), args, env: Vec::new() };
        let (reads, network) = (plugin.reads.clone(), plugin.network);
        let reach = Reach { program: program.clone(), file: script.clone(), reads, network };
        let mut parts = vec![Part::new(PROGRAM, program)];
        parts.extend(script.map(|script| Part::new(SCRIPT, script)));
        let files = plugin.files.iter();
        parts.extend(files.map(|(name, path)| Part::new(format!("file:{name}"), path.clone())));
        // the program was found; what it would be given must be there as well
        parts.iter().skip(1).try_for_each(Part::check)?;
        plugin.reads.iter().try_for_each(|path| check_granted(path))?;
        let pool = Pool::new(command, machine.clone(), plugin.limits).over(plugin.transport);
        let pool = pool.of(parts.clone(), store);
        let pool = if plugin.sandbox == Sandbox::Off { pool } else { pool.behind(reach) };
        let (told, content, answers, unkept) = if let Some(store) = store {
            let (told, content, answers) = describe_with(store, &pool, &parts, &plugin.args)?;
            (told, content, Some(answers), None)
        } else {
            let (told, content) = describe(&pool, &parts)?;
            let unkept = || Unkept::new(&parts, &plugin.args, &told, &content);
            let unkept = may_be_kept(&told).then(unkept);
            (told, content, None, unkept)
        };
        parts.extend(told.parts());
        Ok(Self { parts, told, content, pool, answers, unkept, store: store.cloned() })
    }

    /// The digest of its content.
    pub fn digest(&self) -> Result<PluginDigest, WorkerError> {
        PluginDigest::of(&self.parts, self.store.as_ref())
    }

    /// Every stage type that it has.
    pub fn stages(&self) -> &[StageDescription] {
        &self.told.stages
    }

    /// Program and version, as it says.
    pub fn worker(&self) -> &str {
        &self.told.worker
    }

    /// The protocol's minor version that it was written for.
    pub fn minor(&self) -> u32 {
        self.told.minor
    }

    /// What is started, and the script that it is given.
    pub fn files(&self) -> (Option<&Path>, Option<&Path>) {
        let of =
            |name: &str| self.parts.iter().find(|part| part.name == name).map(|part| part.path.as_path());
        (of(PROGRAM), of(SCRIPT))
    }
}

/// The program of a plugin, and the file that it reads.
pub(crate) fn find(
    plugin: &PluginCommand,
    machine: &Machine,
) -> Result<(PathBuf, Option<PathBuf>), WorkerError> {
    let find = |name: &str| find_program(name, Path::new("/"), machine.search());
    Ok(match (&plugin.command, &plugin.file) {
        (Some(command), file) => (find(command)?, file.clone()),
        (None, Some(file)) => (find(&file.display().to_string())?, None),
        (None, None) => (search::find(&plugin.kind, &plugin.folders, machine)?, None),
    })
}

/// What a manifest grants must be there, and the root of everything is nothing that a wall lets through.
fn check_granted(path: &Path) -> Result<(), WorkerError> {
    let found = path.canonicalize().and_then(|path| match path.parent() {
        Some(_) => Ok(()),
        None => Err(io::Error::other("it is the root of everything")),
    });
    found.map_err(|source| WorkerError::Unreadable { name: READS.into(), path: path.to_owned(), source })
}

/// What a plugin says of itself, unless the store has kept it; and the place of its answers.
fn describe_with(
    store: &Store,
    pool: &Pool,
    parts: &[Part],
    args: &[String],
) -> Result<(Told, Content, Answers), WorkerError> {
    let mut content = pool.content()?;
    let notes = Notes::of(store, parts, args, &content);
    if let Some((told, sources)) = notes.told() {
        pool.learn(parts.iter().cloned().chain(told.parts()).collect(), told.sources.is_some());
        content.extend(sources);
        let answers = notes.answers(&content);
        return Ok((told, content, answers));
    }
    let (told, content) = describe(pool, parts)?;
    let notes = Notes::of(store, parts, args, &content);
    if may_be_kept(&told) {
        notes.keep(&told, &content);
    }
    let answers = notes.answers(&content);
    Ok((told, content, answers))
}

/// What a plugin says of itself, and the content of which it is true: of what was changed meanwhile, nobody knows which one
/// described itself.
fn describe(pool: &Pool, parts: &[Part]) -> Result<(Told, Content), WorkerError> {
    for _ in 0..TRIES {
        pool.doubt();
        let (told, content) = pool.with(|worker| {
            let told = ask(worker)?;
            pool.learn(parts.iter().cloned().chain(told.parts()).collect(), told.sources.is_some());
            let content = pool.settle(worker)?;
            Ok((told, content))
        })?;
        if let Some(content) = content {
            return Ok((told, content));
        }
    }
    Err(WorkerError::Changing { name: "files".into() })
}

fn ask(worker: &mut Worker) -> Result<Told, WorkerError> {
    worker.ask(|session| {
        let description = session.describe()?;
        let greeting = session.greeting();
        Ok(Told {
            worker: greeting.worker.clone(),
            minor: greeting.minor,
            keys: session.can(Capability::Key),
            estimates: session.can(Capability::Estimate),
            sources: description.sources.map(absolute).transpose()?,
            stages: description.stages,
        })
    })
}

/// A worker is elsewhere: what it calls by a relative path is nothing here.
fn absolute(sources: BTreeMap<String, String>) -> Result<BTreeMap<String, PathBuf>, WorkerError> {
    let source = |(name, path): (String, String)| {
        let path = PathBuf::from(path);
        if path.is_absolute() {
            return Ok((name, path));
        }
        let source = io::Error::other("it is no absolute path");
        Err(WorkerError::Unreadable { name: format!("source:{name}"), path, source })
    };
    sources.into_iter().map(source).collect()
}

/// Whether a description can be known to hold: a worker from before `sources` cannot say what its own depends on.
fn may_be_kept(told: &Told) -> bool {
    told.minor >= 1 || told.sources.is_some() || told.stages.iter().any(|stage| stage.keyed_by.is_some())
}
