//! Which plugins there are: those of a manifest, then those that a search finds. Each says what it has, or why it cannot be
//! used; one that is kept in the store is not started for it.

use std::path::{Path, PathBuf};

use qpipe_cache::Store;
use serde::Serialize;

use qpipe_sdk::StageRegistry;
use qpipe_sdk::protocol::{PROTOCOL, StageDescription};

use crate::manifest::DeclaredPlugin;
use crate::schema::{self, StageDoc};
use crate::worker::program::find;
use crate::worker::search::{Place, all};
use crate::worker::{Machine, PluginCommand, PluginStage, Program, WorkerError};

/// Version of the list's layout.
pub const PLUGINS_SCHEMA: u32 = 1;

/// Where a plugin is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whence {
    /// The manifest declares it.
    Study,
    /// `plugins/` beside the manifest.
    Beside,
    /// The user's folder of plugins.
    User,
    /// The search path.
    Path,
}

impl Whence {
    /// For a table.
    pub fn word(self) -> &'static str {
        match self {
            Self::Study => "study",
            Self::Beside => "beside",
            Self::User => "user",
            Self::Path => "path",
        }
    }
}

impl From<Place> for Whence {
    fn from(place: Place) -> Self {
        match place {
            Place::Beside => Self::Beside,
            Place::User => Self::User,
            Place::Path => Self::Path,
        }
    }
}

/// A plugin, and what it has.
#[derive(Clone, Debug, Serialize)]
pub struct PluginEntry {
    pub name: String,
    pub from: Whence,
    /// Why it cannot be used.
    pub problem: Option<String>,
    pub program: Option<PathBuf>,
    pub script: Option<PathBuf>,
    /// `b3:` and 64 hex digits.
    pub digest: Option<String>,
    /// The same, short enough for a table.
    #[serde(skip)]
    pub short_digest: Option<String>,
    /// Program and version, as it says.
    pub worker: Option<String>,
    /// `1.1`
    pub protocol: Option<String>,
    pub stages: Vec<StageEntry>,
}

/// A stage type of a plugin.
#[derive(Clone, Debug, Serialize)]
pub struct StageEntry {
    pub kind: String,
    pub semantics: u32,
    pub doc: String,
    /// What it takes; nothing where that cannot be understood.
    pub schema: Option<StageDoc>,
}

impl PluginEntry {
    /// The file that a person would look into.
    pub fn file(&self) -> Option<&Path> {
        self.script.as_deref().or(self.program.as_deref())
    }

    /// The first line of what its stage type is, or else the last one of why it cannot be used: the end of a traceback says
    /// what happened.
    pub fn about(&self) -> &str {
        let named = self.stages.iter().find(|stage| stage.kind == self.name);
        let doc = named.map_or("", |stage| stage.doc.as_str());
        let problem = self.problem.as_deref().map(|problem| problem.trim_end().lines().next_back());
        problem.unwrap_or_else(|| doc.lines().next()).unwrap_or_default().trim()
    }
}

/// Every plugin of a manifest that declares these and lies in `folder`, then every one that a search finds, in its order: of
/// two with one name the first is taken.
pub fn plugins(
    declared: &[DeclaredPlugin],
    folder: Option<&Path>,
    machine: &Machine,
    store: Option<&Store>,
) -> Vec<PluginEntry> {
    let own = declared.iter().map(|plugin| {
        let opened = plugin.open(machine, store);
        let checked = |program: &Program| plugin.check(program);
        entry((&plugin.command, Whence::Study), machine, opened, checked)
    });
    let mut entries: Vec<PluginEntry> = own.collect();
    let folders: Vec<PathBuf> = folder.map(Path::to_owned).into_iter().collect();
    for found in all(&folders, machine) {
        let is_known = |entry: &PluginEntry| entry.program.as_ref() == Some(&found.program);
        if entries.iter().any(is_known) {
            continue;
        }
        let file = Some(found.program.clone());
        let command = PluginCommand { kind: found.name, file, ..PluginCommand::default() };
        let opened = Program::open(&command, machine, store);
        entries.push(PluginEntry {
            program: Some(found.program),
            ..entry((&command, found.place.into()), machine, opened, |_| Ok(()))
        });
    }
    entries
}

/// A registry with the plugin `name` that a search finds, from `folder` on.
///
/// # Errors
/// Why there is none, or why it cannot be used.
pub fn with_found(
    registry: &StageRegistry,
    name: &str,
    folder: Option<&Path>,
    machine: &Machine,
    store: Option<&Store>,
) -> Result<StageRegistry, WorkerError> {
    let folders = folder.map(Path::to_owned).into_iter().collect();
    let command = PluginCommand { kind: name.to_owned(), folders, ..PluginCommand::default() };
    let stage = PluginStage::of(&command, Program::open(&command, machine, store)?)?;
    Ok(registry.clone().with(Box::new(stage)))
}

/// The program and the script of a plugin, also of one that is not there.
fn named(command: &PluginCommand, machine: &Machine) -> (Option<PathBuf>, Option<PathBuf>) {
    match find(command, machine) {
        Ok((program, script)) => (Some(program), script),
        Err(_) if command.command.is_some() => (None, command.file.clone()),
        Err(_) => (command.file.clone(), None),
    }
}

fn entry(
    (command, from): (&PluginCommand, Whence),
    machine: &Machine,
    opened: Result<Program, WorkerError>,
    check: impl FnOnce(&Program) -> Result<(), WorkerError>,
) -> PluginEntry {
    let (program, script) = named(command, machine);
    let mut entry = PluginEntry {
        name: command.kind.clone(),
        from,
        problem: None,
        program,
        script,
        digest: None,
        short_digest: None,
        worker: None,
        protocol: None,
        stages: Vec::new(),
    };
    let described = opened.and_then(|program| {
        entry.worker = Some(program.worker().to_owned());
        entry.protocol = Some(format!("{PROTOCOL}.{}", program.minor()));
        entry.stages = program.stages().iter().map(stage).collect();
        let digest = program.digest()?;
        (entry.digest, entry.short_digest) = (Some(digest.to_string()), Some(digest.short()));
        check(&program)?;
        PluginStage::of(command, program).map(drop)
    });
    entry.problem = described.err().map(|error| error.to_string());
    entry
}

fn stage(told: &StageDescription) -> StageEntry {
    let schema = told.understand().ok().map(|described| schema::stage(&described.spec));
    StageEntry { kind: told.kind.clone(), semantics: told.semantics, doc: told.doc.clone(), schema }
}
