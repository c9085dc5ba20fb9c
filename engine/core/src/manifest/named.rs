//! Nodes whose names the manifest chooses: `output NAME VALUE`, `input NAME (stage)STAGE`, `env NAME=VALUE`,
//! `module PATTERN VALUE`.

use kdl::{KdlEntry, KdlNode};
use qpipe_sdk::{Names, NodeSpec, ParamSpec, Value, intern};

use super::document::{plain_word, refuse_properties, refuse_rest};
use super::error::ManifestError;
use super::stages::{Giver, PortUse, Reader};
use super::syntax::{arguments, entry_span, key_span, properties};
use crate::graph::Span;
use crate::worker::files::is_file_name;

/// The annotation of a value that names a stage.
const STAGE: &str = "stage";

impl Reader<'_, '_> {
    pub(super) fn named(&mut self, node: &KdlNode, spec: &NodeSpec, value: &ParamSpec, names: Names) {
        match names {
            Names::Environment => self.environment(node, value),
            Names::Pattern => self.pattern(node, spec, value),
            Names::Argument | Names::ArgumentOrStage => self.named_value(node, value, names),
        }
    }

    /// `module PATTERN VALUE`, with properties.
    fn pattern(&mut self, node: &KdlNode, spec: &NodeSpec, value: &ParamSpec) {
        let mut entries = arguments(node);
        let (first, second) = (entries.next(), entries.next());
        self.checked(|errors| refuse_rest(node, entries, "two arguments, a pattern and a value", errors));
        let (Some(first), Some(second)) = (first, second) else {
            return self.missing(node, "a pattern and a value".into(), "PATTERN VALUE");
        };
        let Some(name) = self.checked(|errors| plain_word(node, first, "a pattern", errors)) else { return };
        let of_property = |name: &str| spec.props.iter().any(|p| name.rsplit('.').next() == Some(p.name));
        if !is_file_name(&name.replace('*', "x")) || of_property(name) {
            let reason = format!("`{name}` cannot be the pattern of a `{}`", value.name);
            let help = "use letters, digits, `.`, `-`, `_` and `*`, and no property's name";
            return self.bad_name(reason, help, entry_span(first));
        }
        let path = format!("{}.{name}", value.name);
        self.prop(&path, value, second);
        self.props(node, &[(&path, &spec.props)]);
    }

    fn named_value(&mut self, node: &KdlNode, value: &ParamSpec, names: Names) {
        let mut entries = arguments(node);
        let (first, second) = (entries.next(), entries.next());
        self.checked(|errors| {
            refuse_rest(node, entries, "two arguments, a name and a value", errors);
            refuse_properties(node, &format!("write `{} NAME VALUE`", value.name), errors);
        });
        let (Some(first), Some(second)) = (first, second) else {
            return self.missing(node, "a name and a value".into(), "NAME VALUE");
        };
        let Some(name) = self.checked(|errors| plain_word(node, first, "a name", errors)) else { return };
        if !is_file_name(name) {
            let reason = format!("`{name}` cannot be the name of an `{}`", value.name);
            return self.bad_name(reason, "use letters, digits, `.`, `-` and `_`", entry_span(first));
        }
        let path = format!("{}.{name}", value.name);
        let is_stage = second.ty().is_some_and(|ty| ty.value() == STAGE);
        if is_stage && names == Names::ArgumentOrStage {
            self.named_port(node, &path, second);
        } else {
            self.prop(&path, value, second);
        }
    }

    /// `input NAME (stage)STAGE`.
    fn named_port(&mut self, node: &KdlNode, path: &str, entry: &KdlEntry) {
        let span = entry_span(entry);
        if self.giver == Giver::Defaults {
            let (port, kind) = (path.to_owned(), self.spec.kind.to_owned());
            return self.fail(ManifestError::InputDefault { port, kind, span: span.into() });
        }
        let Some(stage) = entry.value().as_string() else {
            let annotation = STAGE.to_owned();
            return self.fail(ManifestError::BadAnnotation {
                annotation,
                takes: "the name of a stage",
                span: span.into(),
            });
        };
        let first = self.ports.iter().find(|known| known.port == path).map(|known| known.span);
        let first = first.or_else(|| self.given.get(path).map(|given| given.span));
        if let Some(first) = first {
            return self.fail(ManifestError::Duplicate {
                what: "parameter",
                name: path.to_owned(),
                span: entry_span(node.entries().first().unwrap_or(entry)).into(),
                first: first.into(),
                help: None,
            });
        }
        self.ports.push(PortUse { port: intern(path), stage: stage.to_owned(), span });
    }

    /// `env NAME …` takes variables from the environment, `env NAME=VALUE` sets them.
    fn environment(&mut self, node: &KdlNode, value: &ParamSpec) {
        if node.entries().is_empty() {
            return self.missing(node, "the names of variables".into(), "NAME OTHER=VALUE");
        }
        for entry in arguments(node) {
            let name = self.checked(|errors| plain_word(node, entry, "the name of a variable", errors));
            if let Some(name) = name.filter(|name| self.is_variable(name, entry_span(entry))) {
                self.inherited(value, name, entry);
            }
        }
        for (name, entry) in properties(node) {
            if self.is_variable(name, key_span(entry)) {
                self.prop(&format!("{}.{name}", value.name), value, entry);
            }
        }
    }

    fn inherited(&mut self, value: &ParamSpec, name: &str, entry: &KdlEntry) {
        let span = entry_span(entry);
        match self.scope.variable_of_environment(name) {
            Some(text) => {
                self.give(format!("{}.{name}", value.name), Value::Text(text), span);
            }
            None => {
                self.fail(ManifestError::UnsetEnvironment { name: name.to_owned(), span: span.into() });
            }
        }
    }

    /// Whether a shell could have this variable; an error if not.
    fn is_variable(&mut self, name: &str, span: Span) -> bool {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let fits = name.chars().all(allowed) && !name.starts_with(|c: char| c.is_ascii_digit());
        if !fits || name.is_empty() {
            let reason = format!("`{name}` cannot be the name of a variable");
            self.bad_name(reason, "use letters, digits and `_`", span);
        }
        fits && !name.is_empty()
    }

    fn bad_name(&mut self, reason: String, help: &str, span: Span) {
        self.fail(ManifestError::BadValue { reason, span: span.into(), help: Some(help.to_owned()) });
    }
}
