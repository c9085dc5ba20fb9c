//! `plugin NAME command="python3" "file.py" …`: a stage type that a program brings.
//!
//! A plugin declares its parameters itself, so it has to describe itself before a stage of its type can be read. That is why
//! plugins are a step of their own, taken by whoever owns the registry: [`load_plugins`] answers the registry with the
//! plugins in it, and [`super::load_study`] then reads the manifest as if they were built in.
//!
//! How such a node is written, [`super::plugin_words`] says.

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
use crate::worker::{Machine, PluginCommand, PluginDigest, PluginStage, Program, WorkerError};

/// A plugin as a manifest declares it.
#[derive(Clone, Debug)]
pub struct DeclaredPlugin {
    pub command: PluginCommand,
    /// What its content must be, and where that is written.
    pub digest: Option<(PluginDigest, Span)>,
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
            _ => None,
        };
        ManifestError::Plugin { name, reason: error.to_string(), span: self.span.into(), help }
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
    let mut registry = registry.clone();
    for plugin in &declared {
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
