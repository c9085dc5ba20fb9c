//! The words of a `plugin` node, on its line or in its block:
//!
//! | node | program | its arguments |
//! |---|---|---|
//! | `plugin a command="python3" "a.py" "-v"` | `python3`, on the search path | `a.py`, `-v` |
//! | `plugin a { command "python3" "a.py" "-v" }` | the same | the same |
//! | `plugin a { command "python3"; file "a.py"; args "-v" }` | the same | the same |
//! | `plugin a "bin/a" "-v"` | `bin/a` | `-v` |
//! | `plugin a command="a-tool"` | `a-tool`, on the search path | none |
//! | `plugin a` | `qpipe-stage-a`, in the folders of plugins or on the search path | none |
//!
//! Whatever is one value may stand on the line as a property (`timeout=(min)30`) or in the block; a file is relative to the
//! text it stands in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kdl::{KdlEntry, KdlIdentifier, KdlNode, KdlValue};
use qpipe_sdk::Value;

use super::document::{plain_word, refuse_annotation, refuse_properties, refuse_rest};
use super::error::{Errors, ManifestError};
use super::load::LoadOptions;
use super::near::suggest;
use super::plugin::DeclaredPlugin;
use super::plugin_values::{bad_value, bytes, example, sandbox, seconds};
use super::scope::{Scope, file, is_name, refuse_block};
use super::syntax::{arguments, children, entry_span, header_span, key_span, name_span, properties};
use crate::graph::Span;
use crate::sources::Sources;
use crate::worker::{PluginCommand, Transport};

/// Words of one value.
const SINGLE: [&str; 9] =
    ["command", "file", "digest", "semantics", "timeout", "memory", "transport", "sandbox", "network"];
/// Words of several values, which stand in the block only.
const LISTS: [&str; 3] = ["args", "files", "reads"];

/// A `plugin` node; `None` after an error.
pub(super) fn read(
    node: &KdlNode,
    sources: &Sources,
    options: &LoadOptions<'_>,
    errors: &mut Errors,
) -> Option<DeclaredPlugin> {
    let before = errors.len();
    refuse_annotation(node, errors);
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
    let span = header_span(node);
    let folder = sources.file(span.offset).folder();
    // beside the text in which it stands, then beside the manifest that includes it
    let folders = vec![folder.to_owned(), sources.root().folder().to_owned()];
    let command = PluginCommand { kind: kind.to_owned(), folders, ..PluginCommand::default() };
    let scope = Scope::new(sources, BTreeMap::new(), None, options.env);
    let mut reader = Reader {
        plugin: DeclaredPlugin { command, digest: None, file: None, reads: Vec::new(), span },
        scope: &scope,
        folder,
        seen: BTreeMap::new(),
    };
    reader.line(node, &words.collect::<Vec<_>>(), errors);
    for child in children(node) {
        reader.child(child, errors);
    }
    (errors.len() == before).then_some(reader.plugin)
}

struct Reader<'a> {
    plugin: DeclaredPlugin,
    scope: &'a Scope<'a>,
    /// That of the text in which the node stands.
    folder: &'a Path,
    /// Where each word was given.
    seen: BTreeMap<&'static str, Span>,
}

impl Reader<'_> {
    /// The first of these words is the file, the others are arguments.
    fn given(&mut self, node: &KdlNode, words: &[&KdlEntry], errors: &mut Errors) {
        let Some((first, rest)) = words.split_first() else { return };
        if self.once("file", entry_span(first), errors) {
            self.file(node, first, errors);
        }
        let Some(second) = rest.first() else { return };
        if self.once("args", entry_span(second), errors) {
            self.plugin.command.args = texts(node, rest, errors);
        }
    }

    fn line(&mut self, node: &KdlNode, words: &[&KdlEntry], errors: &mut Errors) {
        self.given(node, words, errors);
        for (property, entry) in properties(node) {
            match known(&SINGLE, property) {
                Some(word) if self.once(word, key_span(entry), errors) => {
                    self.single(word, node, entry, errors);
                }
                Some(_) => {}
                None => {
                    let in_block =
                        known(&LISTS, property).map(|_| format!("write `plugin NAME {{ {property} … }}`"));
                    errors.push(ManifestError::UnknownProperty {
                        node: "plugin".into(),
                        name: property.to_owned(),
                        span: key_span(entry).into(),
                        help: in_block.or_else(|| suggest(property, "properties", SINGLE)),
                    });
                }
            }
        }
    }

    fn child(&mut self, node: &KdlNode, errors: &mut Errors) {
        let name = node.name().value();
        refuse_annotation(node, errors);
        let (single, list) = (known(&SINGLE, name), known(&LISTS, name));
        let Some(word) = single.or(list) else {
            errors.push(ManifestError::UnknownParameter {
                parent: "plugin".into(),
                name: name.to_owned(),
                span: name_span(node).into(),
                help: suggest(name, "nodes here", SINGLE.into_iter().chain(LISTS)),
            });
            return;
        };
        refuse_block(node, errors);
        refuse_properties(node, "it has values only", errors);
        let mut values = arguments(node);
        let Some(first) = values.next() else {
            errors.push(ManifestError::MissingArgument {
                node: name.to_owned(),
                needs: "a value".into(),
                span: name_span(node).into(),
                help: Some(format!("write `{name} {}`", example(word))),
            });
            return;
        };
        if !self.once(word, name_span(node), errors) {
            return;
        }
        if word == "command" {
            self.single(word, node, first, errors);
            return self.given(node, &values.collect::<Vec<_>>(), errors);
        }
        if single.is_some() {
            refuse_rest(node, values, "one argument", errors);
            return self.single(word, node, first, errors);
        }
        let values: Vec<&KdlEntry> = std::iter::once(first).chain(values).collect();
        match word {
            "args" => self.plugin.command.args = texts(node, &values, errors),
            "reads" => self.reads(node, &values, errors),
            _ => self.files(node, &values, errors),
        }
    }

    /// Whether a word is given for the first time; an error where it is not.
    fn once(&mut self, word: &'static str, span: Span, errors: &mut Errors) -> bool {
        let Some(first) = self.seen.insert(word, span) else { return true };
        errors.push(ManifestError::Duplicate {
            what: "the plugin's",
            name: word.to_owned(),
            span: span.into(),
            first: first.into(),
            help: Some("give it once: on the plugin's own line, or in its block".into()),
        });
        false
    }

    fn single(&mut self, word: &str, node: &KdlNode, entry: &KdlEntry, errors: &mut Errors) {
        match word {
            "command" => {
                let program = plain_word(node, entry, "a program", errors);
                self.plugin.command.command = program.map(str::to_owned);
            }
            "file" => self.file(node, entry, errors),
            "digest" => self.digest(node, entry, errors),
            "transport" => self.transport(node, entry, errors),
            "sandbox" | "network" => self.switch(word, entry, errors),
            _ => self.number(word, entry, errors),
        }
    }

    fn file(&mut self, node: &KdlNode, entry: &KdlEntry, errors: &mut Errors) {
        self.plugin.file = Some(entry_span(entry));
        self.plugin.command.file = self.path(node, entry, errors);
    }

    fn number(&mut self, word: &str, entry: &KdlEntry, errors: &mut Errors) {
        let Some(value) = self.scope.literal(entry, errors).map(|literal| literal.value) else { return };
        let command = &mut self.plugin.command;
        let (is_one, needs) = match word {
            "timeout" => {
                command.limits.job = seconds(&value);
                (command.limits.job.is_some(), "a timeout is a number of seconds above 0")
            }
            "memory" => {
                command.limits.memory = bytes(&value);
                (command.limits.memory.is_some(), "a plugin's memory is at least 1 MiB")
            }
            _ => {
                command.semantics = if let Value::Int(int) = value { u32::try_from(int).ok() } else { None };
                (command.semantics.is_some(), "a plugin's semantics is a number, raised with each change")
            }
        };
        if !is_one {
            errors.push(bad_value(needs, word, entry));
        }
    }

    fn digest(&mut self, node: &KdlNode, entry: &KdlEntry, errors: &mut Errors) {
        let Some(text) = plain_word(node, entry, "a digest", errors) else { return };
        match text.parse() {
            Ok(digest) => self.plugin.digest = Some((digest, entry_span(entry))),
            Err(error) => errors.push(ManifestError::BadValue {
                reason: format!("this is no digest: {error}"),
                span: entry_span(entry).into(),
                help: Some("`qpipe plugin ls --json` tells a plugin's digest".into()),
            }),
        }
    }

    fn transport(&mut self, node: &KdlNode, entry: &KdlEntry, errors: &mut Errors) {
        let Some(word) = plain_word(node, entry, "a word", errors) else { return };
        self.plugin.command.transport = match word {
            "stdio" => Transport::Stdio,
            "files" => Transport::Files,
            other => {
                return errors.push(ManifestError::UnknownChoice {
                    param: "transport".into(),
                    value: other.to_owned(),
                    span: entry_span(entry).into(),
                    variable: None,
                    help: suggest(other, "transports", ["stdio", "files"]),
                });
            }
        };
    }

    fn switch(&mut self, word: &str, entry: &KdlEntry, errors: &mut Errors) {
        let Some(value) = self.scope.literal(entry, errors).map(|literal| literal.value) else { return };
        let command = &mut self.plugin.command;
        match (word, value) {
            ("network", Value::Bool(on)) => command.network = on,
            ("network", _) => {
                errors.push(bad_value("a plugin's network is `#true` or `#false`", word, entry));
            }
            (_, value) => {
                if let Some(sandbox) = sandbox(&value, entry, errors) {
                    command.sandbox = sandbox;
                }
            }
        }
    }

    fn files(&mut self, node: &KdlNode, values: &[&KdlEntry], errors: &mut Errors) {
        let mut named: BTreeMap<&str, Span> = BTreeMap::new();
        for value in values {
            let Some(path) = self.path(node, value, errors) else { continue };
            let name = value.value().as_string().unwrap_or_default();
            let span = entry_span(value);
            if let Some(first) = named.insert(name, span) {
                let (what, name, first) = ("the file", name.to_owned(), first.into());
                errors.push(ManifestError::Duplicate { what, name, span: span.into(), first, help: None });
            }
            self.plugin.command.files.push((name.to_owned(), path));
        }
    }

    fn reads(&mut self, node: &KdlNode, values: &[&KdlEntry], errors: &mut Errors) {
        for value in values {
            let Some(path) = self.path(node, value, errors) else { continue };
            self.plugin.command.reads.push(path);
            self.plugin.reads.push(entry_span(value));
        }
    }

    fn path(&self, node: &KdlNode, entry: &KdlEntry, errors: &mut Errors) -> Option<PathBuf> {
        let word = match (entry.ty().map(KdlIdentifier::value), entry.value()) {
            (Some("file"), KdlValue::String(word)) => word,
            _ => plain_word(node, entry, "a file", errors)?,
        };
        if word.is_empty() {
            errors.push(ManifestError::BadValue {
                reason: "a file has a name".into(),
                span: entry_span(entry).into(),
                help: None,
            });
        }
        match file(self.folder, word) {
            Value::File(path) => Some(path),
            _ => None,
        }
    }
}

fn known(words: &[&'static str], word: &str) -> Option<&'static str> {
    words.iter().copied().find(|known| *known == word)
}

fn texts(node: &KdlNode, values: &[&KdlEntry], errors: &mut Errors) -> Vec<String> {
    let texts = values.iter().filter_map(|word| plain_word(node, word, "a text", errors));
    texts.map(str::to_owned).collect()
}
