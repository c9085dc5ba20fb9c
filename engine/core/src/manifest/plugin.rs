//! `plugin NAME command="python3" "file.py" …`: a stage type that a program brings.
//!
//! A plugin declares its parameters itself, so it has to describe itself before a stage of its type can be read. That is why
//! plugins are a step of their own, taken by whoever owns the registry: [`load_plugins`] answers the registry with the
//! plugins in it, and [`super::load_study`] then reads the manifest as if they were built in.
//!
//! How such a node is written, [`super::plugin_words`] says.

use std::collections::BTreeMap;
use std::path::Path;

use kdl::KdlNode;
use miette::SourceSpan;
use qpipe_cache::Store;
use qpipe_sdk::StageRegistry;

use super::document::SECTIONS;
use super::error::{Errors, ManifestError, ManifestErrors};
use super::load::{LoadOptions, read_nodes};
use super::near::nearest;
use super::plugin_words::read;
use super::syntax::arguments;
use crate::graph::Span;
use crate::sources::Sources;
use crate::worker::launch::LaunchError;
use crate::worker::search;
use crate::worker::{Machine, PluginCommand, PluginDigest, PluginStage, Program, READS, SCRIPT, WorkerError};

/// A plugin as a manifest declares it.
#[derive(Clone, Debug)]
pub struct DeclaredPlugin {
    pub command: PluginCommand,
    /// What its content must be, and where that is written.
    pub digest: Option<(PluginDigest, Span)>,
    /// Where its file is written.
    pub file: Option<Span>,
    /// Where each path of its `reads` is written.
    pub reads: Vec<Span>,
    pub span: Span,
}

impl DeclaredPlugin {
    /// Finds its program, and has it describe itself unless that is kept in the store.
    pub fn open(&self, machine: &Machine, store: Option<&Store>) -> Result<Program, WorkerError> {
        Program::open(&self.command, machine, store)
    }

    /// Whether its content is what it must be.
    pub fn check(&self, program: &Program) -> Result<(), WorkerError> {
        let Some((expected, _)) = self.digest else { return Ok(()) };
        let found = program.digest()?;
        if found == expected { Ok(()) } else { Err(WorkerError::Content { expected, found }) }
    }

    fn stage(&self, machine: &Machine, store: Option<&Store>) -> Result<PluginStage, WorkerError> {
        let program = self.open(machine, store)?;
        self.check(&program)?;
        PluginStage::of(&self.command, program)
    }

    fn refused(&self, error: &WorkerError) -> ManifestError {
        let name = self.command.kind.clone();
        if let (WorkerError::Content { expected, found }, Some((_, span))) = (error, self.digest) {
            let (expected, found) = (expected.to_string(), found.to_string());
            return ManifestError::PluginDigest { name, expected, found, span: span.into() };
        }
        let help = match error {
            WorkerError::NoPlugin(none) => nearest(&name, none.known.iter().map(String::as_str))
                .map(|near| format!("did you mean `{near}`?"))
                .or_else(|| Some(format!("name its program: `plugin {name} command=\"python3\" \"FILE\"`"))),
            _ => self.file_help(error),
        };
        let of_file = self.file.filter(|_| self.is_of_file(error));
        let span = of_file.or_else(|| self.granted(error)).unwrap_or(self.span).into();
        ManifestError::Plugin { name, reason: error.to_string(), span, help }
    }
}

impl DeclaredPlugin {
    /// Whether an error is about the file that the plugin names.
    fn is_of_file(&self, error: &WorkerError) -> bool {
        match error {
            WorkerError::Unreadable { name, .. } => name == SCRIPT,
            WorkerError::Launch(LaunchError::NotFound { .. } | LaunchError::NotExecutable { .. }) => {
                self.command.command.is_none()
            }
            _ => false,
        }
    }

    /// Where the path of its `reads` is written that an error is about.
    fn granted(&self, error: &WorkerError) -> Option<Span> {
        let WorkerError::Unreadable { name, path, .. } = error else { return None };
        let mut granted = self.command.reads.iter().zip(&self.reads);
        granted.find(|(granted, _)| name == READS && *granted == path).map(|(_, span)| *span)
    }

    /// What helps where the file is not to be had: the name of another beside it, or how it can be started.
    fn file_help(&self, error: &WorkerError) -> Option<String> {
        let file = self.command.file.as_deref().filter(|_| self.is_of_file(error))?;
        let name = file.file_name()?.to_str()?;
        if matches!(error, WorkerError::Launch(LaunchError::NotExecutable { .. })) {
            return Some(format!(
                "name what runs it, as in `command=\"python3\" \"{name}\"`, or make it executable: `chmod +x {name}`"
            ));
        }
        let entries = std::fs::read_dir(file.parent()?).ok()?;
        let names: Vec<String> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        let near = nearest(name, names.iter().map(String::as_str))?;
        Some(format!("did you mean `{near}`?"))
    }
}

/// The plugins that a manifest declares.
///
/// A manifest whose nodes cannot be read declares no plugin: [`super::load_study`] says what is wrong with it.
///
/// # Errors
/// Every `plugin` node that is wrong, at once.
pub fn read_plugins(
    path: &Path,
    text: &str,
    options: &LoadOptions<'_>,
) -> Result<Vec<DeclaredPlugin>, ManifestErrors> {
    let (declared, errors, sources) = declared(path, text, options);
    if errors.is_empty() { Ok(declared) } else { Err(errors.into_report(sources)) }
}

/// Has the plugins of a manifest describe themselves; the registry with their stage types. What they say is kept in `store`,
/// and one that has said it before is not started.
///
/// A manifest whose nodes cannot be read declares no plugin: [`super::load_study`] says what is wrong with it.
///
/// # Errors
/// Every `plugin` node that is wrong or whose program is, at once.
pub fn load_plugins(
    path: &Path,
    text: &str,
    options: &LoadOptions<'_>,
    registry: &StageRegistry,
    machine: &Machine,
    store: Option<&Store>,
) -> Result<StageRegistry, ManifestErrors> {
    let (declared, mut errors, sources) = declared(path, text, options);
    let (mut registry, mut names) = (registry.clone(), BTreeMap::new());
    for plugin in &declared {
        let name = &plugin.command.kind;
        if let Some(first) = names.insert(name, plugin.span) {
            let (what, name, span) = ("the plugin", name.clone(), plugin.span.into());
            errors.push(ManifestError::Duplicate { what, name, span, first: first.into(), help: None });
            continue;
        }
        if let Some(reason) = why_taken(&plugin.command.kind, &registry).map(str::to_owned) {
            let (name, span) = (plugin.command.kind.clone(), SourceSpan::from(plugin.span));
            errors.push(ManifestError::Plugin { name, reason, span, help: None });
            continue;
        }
        match plugin.stage(machine, store) {
            Ok(stage) => registry = registry.with(Box::new(stage)),
            Err(error) => errors.push(plugin.refused(&error)),
        }
    }
    if errors.is_empty() { Ok(registry) } else { Err(errors.into_report(sources)) }
}

/// The errors of a manifest with a better help for a stage type that is unknown to it although a plugin has it: one that
/// can be found by this name, or one that the manifest declares for another of its types.
#[must_use]
pub fn with_plugins_help(
    mut errors: ManifestErrors,
    (path, text): (&Path, &str),
    options: &LoadOptions<'_>,
    machine: &Machine,
    store: Option<&Store>,
) -> ManifestErrors {
    let (declared, _, sources) = declared(path, text, options);
    let mut kinds: Option<Vec<(String, String)>> = None;
    let of = |plugin: &DeclaredPlugin| {
        let stages = plugin.open(machine, store).map(|program| program.stages().to_vec()).unwrap_or_default();
        stages.into_iter().map(|stage| (stage.kind, plugin.command.kind.clone())).collect::<Vec<_>>()
    };
    for error in errors.errors_mut() {
        let ManifestError::UnknownStage { name, help, .. } = error else { continue };
        let known = kinds.get_or_insert_with(|| declared.iter().flat_map(of).collect());
        if let Some((_, owner)) = known.iter().find(|(kind, _)| kind == name) {
            *help = Some(format!(
                "add `plugin {name} …` with the words of `plugin {owner}`, whose program has it"
            ));
        } else if search::find(name, &[sources.root().folder().to_owned()], machine).is_ok() {
            *help = Some(format!("add `plugin {name}`: there is a program of this name"));
        }
    }
    errors
}

fn declared(path: &Path, text: &str, options: &LoadOptions<'_>) -> (Vec<DeclaredPlugin>, Errors, Sources) {
    let (mut unread, mut errors) = (Errors::default(), Errors::default());
    let mut sources = Sources::new(path, text);
    let nodes = read_nodes(text, options, &mut sources, &mut unread);
    let nodes = nodes.map_or_else(Vec::new, |(_, nodes)| nodes);
    let plugins = nodes.iter().filter(|node| node.name().value() == "plugin");
    let declared = plugins.filter_map(|node| read(node, &sources, options, &mut errors)).collect();
    (declared, errors, sources)
}

/// Whether a `plugin` node's stage type is in the registry.
pub(super) fn is_loaded(node: &KdlNode, registry: &StageRegistry) -> bool {
    let name = arguments(node).next().and_then(|entry| entry.value().as_string());
    name.is_some_and(|name| registry.get(name).is_some())
}

/// Why no plugin can bring a stage type of this name.
pub fn why_taken(kind: &str, registry: &StageRegistry) -> Option<&'static str> {
    if SECTIONS.contains(&kind) {
        return Some("a section of the language has this name");
    }
    registry.get(kind).map(|_| "another stage type has this name")
}
