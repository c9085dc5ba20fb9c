//! A plugin's program: where it is, what it consists of, and what it says of itself, which is asked only where it is not kept.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use qpipe_cache::Store;
use qpipe_sdk::protocol::{Capability, StageDescription};

use super::content::{PROGRAM, Part, PluginDigest, SCRIPT};
use super::error::WorkerError;
use super::launch::find_program;
use super::machine::Machine;
use super::notes::{Answers, Notes, Told, Unkept};
use super::plugin::PluginCommand;
use super::process::{Pool, WorkerCommand};
use super::search;

/// A plugin that described itself, now or before.
pub struct Program {
    /// What it consists of, the program first.
    pub(super) parts: Vec<Part>,
    pub(super) told: Told,
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
        let (program, script) = find(plugin, machine)?;
        let script_args = script.iter().map(|path| path.clone().into());
        let args = script_args.chain(plugin.args.iter().map(Into::into)).collect();
        let command = WorkerCommand { program: program.clone(), args, env: Vec::new() };
        let pool = Pool::new(command, machine.clone(), plugin.limits).over(plugin.transport);
        let mut parts = vec![Part::new(PROGRAM, program)];
        parts.extend(script.map(|script| Part::new(SCRIPT, script)));
        let files = plugin.files.iter();
        parts.extend(files.map(|(name, path)| Part::new(format!("file:{name}"), path.clone())));
        // the program was found; what it would be given must be there as well
        parts.iter().skip(1).try_for_each(Part::check)?;
        let (told, answers, unkept) = if let Some(store) = store {
            let (told, answers) = ask_with(store, &pool, &parts, &plugin.args)?;
            (told, Some(answers), None)
        } else {
            let unkept = Unkept::before(&parts, &plugin.args)?;
            let told = ask(&pool)?;
            let unkept = may_be_kept(&told).then(|| unkept.told(&told));
            (told, None, unkept)
        };
        let source = |(name, path): (&String, &PathBuf)| Part::new(format!("source:{name}"), path.clone());
        parts.extend(told.sources.iter().flatten().map(source));
        Ok(Self { parts, told, pool, answers, unkept, store: store.cloned() })
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

/// What a plugin says of itself, unless the store has kept it; and the place of its answers.
fn ask_with(
    store: &Store,
    pool: &Pool,
    parts: &[Part],
    args: &[String],
) -> Result<(Told, Answers), WorkerError> {
    let before = Notes::of(store, parts, args)?;
    if let Some(told) = before.told() {
        let answers = before.answers(&told)?;
        return Ok((told, answers));
    }
    let told = ask(pool)?;
    // of what was changed meanwhile, nobody knows which one described itself
    let unchanged = Notes::of(store, parts, args)?.is_of(&before);
    if unchanged && may_be_kept(&told) {
        before.keep(&told);
    }
    let answers = before.answers(&told)?;
    Ok((told, answers))
}

fn ask(pool: &Pool) -> Result<Told, WorkerError> {
    pool.with(|worker| {
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
