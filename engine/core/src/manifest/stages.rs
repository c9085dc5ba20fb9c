//! Stage nodes against their stage types' schemas.
//!
//! A stage that has an error is kept, marked as not sound: its name stays known, so that its users are not blamed,
//! and what would follow from the error (a missing parameter next to a misspelt one) is not reported.

use std::collections::BTreeMap;

use kdl::{KdlEntry, KdlNode};
use qpipe_sdk::{
    KeyedChoice, NodeForm, NodeSpec, ParamSpec, ParamType, PortSpec, Schema, Stage, StageSpec, Value,
};

use super::document::{plain_word, refuse_annotation, refuse_properties, refuse_rest};
use super::error::{Errors, ManifestError};
use super::near::suggest;
use super::scope::{Literal, Scope, refuse_block};
use super::syntax::{arguments, children, entry_span, header_span, key_span, name_span, properties};
use super::typed::coerce;
use crate::graph::Span;

/// A parameter that the manifest (or the command line) gives.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Given {
    pub(crate) value: Value,
    pub(crate) span: Span,
    pub(crate) from: Giver,
}

/// Who gives a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Giver {
    /// The stage itself, or the command line.
    Stage,
    /// The manifest's `defaults`: it is no error there if it does not apply to this stage.
    Defaults,
}

/// `model base`: an input port, and the name of the stage it is connected to.
#[derive(Clone, Debug)]
pub(crate) struct PortUse {
    pub(crate) port: &'static str,
    pub(crate) stage: String,
    pub(crate) span: Span,
}

/// A stage of the template.
pub(crate) struct StageDecl<'r> {
    pub(crate) stage: &'r dyn Stage,
    pub(crate) name: String,
    /// The node without its block.
    pub(crate) span: Span,
    /// Given parameters by dotted path, typed.
    pub(crate) given: BTreeMap<String, Given>,
    pub(crate) ports: Vec<PortUse>,
    /// Whether it was decoded without errors.
    pub(crate) sound: bool,
}

impl<'r> StageDecl<'r> {
    /// Decodes a stage node whose name is known already.
    pub(crate) fn read(
        node: &KdlNode,
        stage: &'r dyn Stage,
        name: &str,
        scope: &Scope<'_>,
        errors: &mut Errors,
    ) -> Self {
        let mut reader = Reader::new(stage.spec(), scope, Giver::Stage, errors);
        for child in children(node) {
            reader.child(child);
        }
        let Reader { given, ports, sound, .. } = reader;
        Self { stage, name: name.to_owned(), span: header_span(node), given, ports, sound }
    }

    /// Decodes the block of a stage type in `defaults`: the parameters, and whether it had no errors.
    pub(crate) fn read_defaults(
        node: &KdlNode,
        spec: &StageSpec,
        scope: &Scope<'_>,
        errors: &mut Errors,
    ) -> (BTreeMap<String, Given>, bool) {
        let mut reader = Reader::new(spec, scope, Giver::Defaults, errors);
        for child in children(node) {
            reader.child(child);
        }
        (reader.given, reader.sound)
    }

    pub(crate) fn spec(&self) -> &StageSpec {
        self.stage.spec()
    }

    pub(crate) fn schema(&self) -> &Schema {
        &self.stage.spec().schema
    }
}

pub(super) struct Reader<'a, 'e> {
    pub(super) spec: &'a StageSpec,
    pub(super) scope: &'a Scope<'a>,
    /// Children that may stand once, with their places.
    seen: BTreeMap<String, Span>,
    pub(super) given: BTreeMap<String, Given>,
    pub(super) ports: Vec<PortUse>,
    sound: bool,
    pub(super) giver: Giver,
    errors: &'e mut Errors,
}

impl<'a, 'e> Reader<'a, 'e> {
    fn new(spec: &'a StageSpec, scope: &'a Scope<'a>, giver: Giver, errors: &'e mut Errors) -> Self {
        let (seen, given) = (BTreeMap::new(), BTreeMap::new());
        Self { spec, scope, seen, given, ports: Vec::new(), sound: true, giver, errors }
    }

    pub(super) fn fail(&mut self, error: ManifestError) {
        self.sound = false;
        self.errors.push(error);
    }

    /// Runs a check that reports by itself, and notes whether it did.
    pub(super) fn checked<T>(&mut self, check: impl FnOnce(&mut Errors) -> T) -> T {
        let before = self.errors.len();
        let result = check(self.errors);
        self.sound &= self.errors.len() == before;
        result
    }

    fn child(&mut self, node: &KdlNode) {
        let name = node.name().value();
        let spec = self.spec;
        self.checked(|errors| refuse_annotation(node, errors));
        if let Some(port) = spec.inputs.iter().find(|port| port.name == name) {
            match self.giver {
                Giver::Stage => self.port(node, port),
                Giver::Defaults => self.fail(ManifestError::InputDefault {
                    port: name.to_owned(),
                    kind: spec.kind.to_owned(),
                    span: name_span(node).into(),
                }),
            }
        } else if let Some(param) = spec.schema.nodes().iter().find(|param| param.name == name) {
            self.checked(|errors| refuse_block(node, errors));
            self.param(node, param);
        } else {
            let known = spec.inputs.iter().map(|p| p.name).chain(spec.schema.nodes().iter().map(|n| n.name));
            self.fail(ManifestError::UnknownParameter {
                parent: spec.kind.to_owned(),
                name: name.to_owned(),
                span: name_span(node).into(),
                help: suggest(name, "parameters", known),
            });
        }
    }

    /// Whether this is the first child of its name.
    fn first(&mut self, node: &KdlNode) -> bool {
        let (name, span) = (node.name().value().to_owned(), header_span(node));
        match self.seen.get(&name).copied() {
            None => {
                self.seen.insert(name, span);
                true
            }
            Some(first) => {
                self.fail(ManifestError::Duplicate {
                    what: "parameter",
                    name,
                    span: span.into(),
                    first: first.into(),
                    help: None,
                });
                false
            }
        }
    }

    pub(super) fn missing(&mut self, node: &KdlNode, needs: String, example: &str) {
        let name = node.name().value();
        self.fail(ManifestError::MissingArgument {
            node: name.to_owned(),
            needs,
            span: name_span(node).into(),
            help: Some(format!("write `{name} {example}`")),
        });
    }

    fn port(&mut self, node: &KdlNode, port: &PortSpec) {
        if !self.first(node) {
            return;
        }
        let mut entries = arguments(node);
        let first = entries.next();
        self.checked(|errors| {
            refuse_rest(node, entries, "one argument, the name of a stage", errors);
            refuse_properties(node, "an input has no properties", errors);
            refuse_block(node, errors);
        });
        let Some(entry) = first else {
            return self.missing(node, "the name of a stage".into(), "STAGE");
        };
        let name = self.checked(|errors| plain_word(node, entry, "the name of a stage", errors));
        if let Some(stage) = name {
            let use_ = PortUse { port: port.name, stage: stage.to_owned(), span: entry_span(entry) };
            self.ports.push(use_);
        }
    }

    fn param(&mut self, node: &KdlNode, spec: &NodeSpec) {
        match &spec.form {
            NodeForm::Value(arg) => {
                if self.first(node) {
                    self.value(node, arg);
                    self.props(node, &[(spec.name, &spec.props)]);
                }
            }
            NodeForm::Group => {
                if self.first(node) {
                    let all = arguments(node);
                    self.checked(|errors| refuse_rest(node, all, "properties only", errors));
                    self.props(node, &[(spec.name, &spec.props)]);
                }
            }
            NodeForm::Keyed { choices, .. } => self.keyed(node, spec, choices),
            NodeForm::Named { value, names } => self.named(node, spec, value, *names),
        }
    }

    fn value(&mut self, node: &KdlNode, arg: &ParamSpec) {
        let (scope, entries) = (self.scope, arguments(node).collect::<Vec<_>>());
        let Some(first) = entries.first() else {
            let may_lack = self.giver == Giver::Defaults || !arg.required && arg.default.is_none();
            let props_alone = may_lack && properties(node).next().is_some();
            if !props_alone {
                self.missing(node, arg.ty.describe(), "VALUE");
            }
            return;
        };
        let values: Vec<Option<Literal>> =
            self.checked(|errors| entries.iter().map(|entry| scope.literal(entry, errors)).collect());
        let Some(values) = values.into_iter().collect::<Option<Vec<_>>>() else {
            self.sound = false;
            return;
        };
        let end = entries.last().map_or(entry_span(first), |last| entry_span(last));
        let span =
            Span { offset: entry_span(first).offset, len: end.offset + end.len - entry_span(first).offset };
        if matches!(arg.ty, ParamType::List(_)) {
            let typed: Option<Vec<Value>> =
                values.iter().map(|literal| self.typed(arg.name, &arg.ty, literal)).collect();
            if let Some(lists) = typed {
                self.give(arg.name.to_owned(), flatten(lists), span);
            }
            return;
        }
        self.checked(|errors| refuse_rest(node, entries.iter().skip(1).copied(), "one argument", errors));
        if let Some(value) = self.typed(arg.name, &arg.ty, &values[0]) {
            self.give(arg.name.to_owned(), value, values[0].span);
        }
    }

    fn keyed(&mut self, node: &KdlNode, spec: &NodeSpec, choices: &[KeyedChoice]) {
        let mut entries = arguments(node);
        let first = entries.next();
        self.checked(|errors| refuse_rest(node, entries, "one argument", errors));
        let Some(entry) = first else {
            let names: Vec<&str> = choices.iter().map(|choice| choice.name).collect();
            return self.missing(node, format!("one of {}", names.join(", ")), "NAME");
        };
        let Some(name) = self.checked(|errors| plain_word(node, entry, "a name", errors)) else { return };
        let Some(choice) = choices.iter().find(|choice| choice.name == name) else {
            return self.fail(ManifestError::UnknownChoice {
                param: spec.name.to_owned(),
                value: name.to_owned(),
                span: entry_span(entry).into(),
                variable: None,
                help: suggest(name, "choices", choices.iter().map(|choice| choice.name)),
            });
        };
        let path = format!("{}.{}", spec.name, choice.name);
        if self.give(path.clone(), Value::Bool(true), entry_span(entry)) {
            self.props(node, &[(&path, &choice.props), (spec.name, &spec.props)]);
        }
    }

    /// Reads a node's properties; `known` holds the declarations with the path that each group stands under.
    pub(super) fn props(&mut self, node: &KdlNode, known: &[(&str, &Vec<ParamSpec>)]) {
        let declared = || known.iter().flat_map(|(path, specs)| specs.iter().map(move |spec| (*path, spec)));
        for (name, entry) in properties(node) {
            match declared().find(|(_, spec)| spec.name == name) {
                Some((path, spec)) => self.prop(&format!("{path}.{name}"), spec, entry),
                None => self.fail(ManifestError::UnknownProperty {
                    node: known[0].0.replace('.', " "),
                    name: name.to_owned(),
                    span: key_span(entry).into(),
                    help: suggest(name, "properties", declared().map(|(_, spec)| spec.name)),
                }),
            }
        }
    }

    pub(super) fn prop(&mut self, path: &str, spec: &ParamSpec, entry: &KdlEntry) {
        let scope = self.scope;
        match self.checked(|errors| scope.literal(entry, errors)) {
            None => self.sound = false,
            Some(literal) => {
                if let Some(value) = self.typed(path, &spec.ty, &literal) {
                    self.give(path.to_owned(), value, literal.span);
                }
            }
        }
    }

    fn typed(&mut self, path: &str, ty: &ParamType, literal: &Literal) -> Option<Value> {
        match coerce(&literal.value, ty, self.scope.folder_of(literal)) {
            Ok(value) => Some(value),
            Err(misfit) => {
                self.fail(misfit.at(path, literal));
                None
            }
        }
    }

    /// Notes a parameter; `false` (and an error) if it was given before.
    pub(super) fn give(&mut self, path: String, value: Value, span: Span) -> bool {
        if let Some(first) = self.given.get(&path).map(|given| given.span) {
            self.fail(ManifestError::Duplicate {
                what: "parameter",
                name: path,
                span: span.into(),
                first: first.into(),
                help: None,
            });
            return false;
        }
        self.given.insert(path, Given { value, span, from: self.giver });
        true
    }
}

/// One list of all the lists' items.
fn flatten(lists: Vec<Value>) -> Value {
    let items = lists.into_iter().flat_map(|list| match list {
        Value::List(items) => items,
        single => vec![single],
    });
    Value::List(items.collect())
}
