//! `plugin NAME command="python3" "file.py" …`: a stage type that a program brings.
//!
//! A plugin declares its parameters itself, so it has to be started before a stage of its type can be read. That is why
//! plugins are a step of their own, taken by whoever owns the registry: [`load_plugins`] answers the registry with the
//! plugins in it, and [`super::load_study`] then reads the manifest as if they were built in.
//!
//! | line | program | its arguments |
//! |---|---|---|
//! | `plugin a command="python3" "a.py" "-v"` | `python3`, on the search path | `a.py`, `-v` |
//! | `plugin a "bin/a" "-v"` | `bin/a` | `-v` |
//! | `plugin a command="a-tool"` | `a-tool`, on the search path | none |
//!
//! The first argument after the name is a file, relative to the text it stands in; its content enters every key of the
//! stage type. `timeout=(min)30` bounds each job.

use std::path::Path;
use std::time::Duration;

use kdl::{KdlEntry, KdlNode};
use qpipe_sdk::{StageRegistry, Value};

use super::document::{SECTIONS, plain_word, refuse_annotation};
use super::error::{Errors, ManifestError, ManifestErrors};
use super::load::{LoadOptions, read_nodes};
use super::near::suggest;
use super::scope::{Scope, file, is_name, refuse_block};
use super::syntax::{arguments, entry_span, header_span, key_span, name_span, properties};
use crate::graph::Span;
use crate::sources::Sources;
use crate::worker::{Limits, Machine, PluginCommand, PluginStage, Transport};

/// Starts the plugins of a manifest; the registry with their stage types.
///
/// A manifest whose nodes cannot be read declares no plugin: [`super::load_study`] says what is wrong with it.
///
/// # Errors
/// Every `plugin` line that is wrong or whose program is, at once.
pub fn load_plugins(
    path: &Path,
    text: &str,
    options: &LoadOptions<'_>,
    registry: &StageRegistry,
    machine: &Machine,
) -> Result<StageRegistry, ManifestErrors> {
    let (mut unread, mut errors) = (Errors::default(), Errors::default());
    let mut sources = Sources::new(path, text);
    let mut registry = registry.clone();
    let Some((_, nodes)) = read_nodes(text, options, &mut sources, &mut unread) else { return Ok(registry) };
    for node in nodes.iter().filter(|node| node.name().value() == "plugin") {
        let Some(plugin) = read(node, &sources, options, &mut errors) else { continue };
        let span = header_span(node);
        if let Some(reason) = why_taken(&plugin.kind, &registry) {
            errors.push(refused(&plugin.kind, reason, span));
            continue;
        }
        match PluginStage::start(&plugin, machine) {
            Ok(stage) => registry = registry.with(Box::new(stage)),
            Err(error) => errors.push(refused(&plugin.kind, error.to_string(), span)),
        }
    }
    if errors.is_empty() { Ok(registry) } else { Err(errors.into_report(sources)) }
}

/// Whether a `plugin` line's stage type is in the registry.
pub(super) fn is_loaded(node: &KdlNode, registry: &StageRegistry) -> bool {
    let name = arguments(node).next().and_then(|entry| entry.value().as_string());
    name.is_some_and(|name| registry.get(name).is_some())
}

fn why_taken(kind: &str, registry: &StageRegistry) -> Option<String> {
    if SECTIONS.contains(&kind) {
        return Some("a section of the language has this name".into());
    }
    registry.get(kind).map(|_| "another stage type has this name".into())
}

fn refused(name: &str, reason: String, span: Span) -> ManifestError {
    ManifestError::Plugin { name: name.to_owned(), reason, span: span.into(), help: None }
}

/// The command of a `plugin` line; `None` after an error.
fn read(
    node: &KdlNode,
    sources: &Sources,
    options: &LoadOptions<'_>,
    errors: &mut Errors,
) -> Option<PluginCommand> {
    let before = errors.len();
    refuse_annotation(node, errors);
    refuse_block(node, errors);
    let mut words = arguments(node);
    let Some(name) = words.next() else {
        errors.push(ManifestError::MissingArgument {
            node: "plugin".into(),
            needs: "a name".into(),
            span: name_span(node).into(),
            help: Some("write `plugin NAME command=\"python3\" \"FILE\"`".into()),
        });
        return None;
    };
    let kind = plain_word(node, name, "a name", errors)?;
    if !is_name(kind) {
        let (what, name_text, span) = ("a plugin", kind.to_owned(), entry_span(name).into());
        errors.push(ManifestError::InvalidName { what, name: name_text, span });
    }
    let mut plugin = PluginCommand {
        kind: kind.to_owned(),
        command: None,
        file: None,
        args: Vec::new(),
        limits: Limits::default(),
        transport: Transport::default(),
    };
    let words: Vec<&str> = words.filter_map(|word| plain_word(node, word, "a text", errors)).collect();
    let mut words = words.into_iter();
    let folder = sources.file(header_span(node).offset).folder();
    if let Some(Value::File(path)) = words.next().map(|word| file(folder, word)) {
        plugin.file = Some(path);
    }
    plugin.args = words.map(str::to_owned).collect();
    let scope = Scope::new(sources, std::collections::BTreeMap::new(), None, options.env);
    for (property, entry) in properties(node) {
        set(&mut plugin, node, (property, entry), &scope, errors);
    }
    (errors.len() == before).then_some(plugin)
}

fn set(
    plugin: &mut PluginCommand,
    node: &KdlNode,
    (property, entry): (&str, &KdlEntry),
    scope: &Scope<'_>,
    errors: &mut Errors,
) {
    match property {
        "command" => plugin.command = plain_word(node, entry, "a program", errors).map(str::to_owned),
        "timeout" => match scope.literal(entry, errors).map(|literal| seconds(&literal.value)) {
            Some(Some(limit)) => plugin.limits.job = Some(limit),
            Some(None) => errors.push(ManifestError::BadValue {
                reason: "a timeout is a number of seconds above 0".into(),
                span: entry_span(entry).into(),
                help: Some("write `timeout=(min)30`".into()),
            }),
            None => {}
        },
        other => errors.push(ManifestError::UnknownProperty {
            node: "plugin".into(),
            name: other.to_owned(),
            span: key_span(entry).into(),
            help: suggest(other, "properties", ["command", "timeout"]),
        }),
    }
}

fn seconds(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Int(seconds) => *seconds as f64,
        Value::Float(seconds) => *seconds,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok().filter(|limit| !limit.is_zero())
}
