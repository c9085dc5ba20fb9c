//! Which plugins there are: those of a manifest, then those that a search finds. Each says what it has, or why it cannot be
//! used; one that is kept in the store is not started for it.

use std::path::{Path, PathBuf};

use qpipe_cache::Store;
use serde::Serialize;

use qpipe_sdk::protocol::{PROTOCOL, StageDescription};

use crate::manifest::DeclaredPlugin;
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
}

impl PluginEntry {
    /// The file that a person would look into.
    pub fn file(&self) -> Option<&Path> {
        self.script.as_deref().or(self.program.as_deref())
    }

    /// The first line of what its stage type is, or else of why it cannot be used.
    pub fn about(&self) -> &str {
        let named = self.stages.iter().find(|stage| stage.kind == self.name);
        let doc = named.map_or("", |stage| stage.doc.as_str());
        self.problem.as_deref().unwrap_or(doc).lines().next().unwrap_or_default()
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
        entry((&plugin.command, Whence::Study), opened, checked)
    });
    let mut entries: Vec<PluginEntry> = own.collect();
    for found in all(folder, machine) {
        let is_known = |entry: &PluginEntry| entry.program.as_ref() == Some(&found.program);
        if entries.iter().any(is_known) {
            continue;
        }
        let file = Some(found.program.clone());
        let command = PluginCommand { kind: found.name, file, ..PluginCommand::default() };
        let opened = Program::open(&command, machine, store);
        let mut entry = entry((&command, found.place.into()), opened, |_| Ok(()));
        entry.program = Some(found.program);
        entries.push(entry);
    }
    entries
}

fn entry(
    (command, from): (&PluginCommand, Whence),
    opened: Result<Program, WorkerError>,
    check: impl FnOnce(&Program) -> Result<(), WorkerError>,
) -> PluginEntry {
    let mut entry = PluginEntry {
        name: command.kind.clone(),
        from,
        problem: None,
        program: None,
        script: None,
        digest: None,
        short_digest: None,
        worker: None,
        protocol: None,
        stages: Vec::new(),
    };
    let described = opened.and_then(|program| {
        let (started, script) = program.files();
        (entry.program, entry.script) = (started.map(Path::to_owned), script.map(Path::to_owned));
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
    StageEntry { kind: told.kind.clone(), semantics: told.semantics, doc: told.doc.clone() }
}
