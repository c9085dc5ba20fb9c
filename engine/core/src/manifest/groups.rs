//! `ablate`, `sweep` and `run`: where the cells of a study come from, typed but not yet expanded.

use std::collections::HashMap;

use kdl::KdlNode;
use qpipe_sdk::{ParamType, Value};

use super::document::{declared_name, not_supported, refuse_annotation, refuse_properties};
use super::error::{Errors, ManifestError};
use super::near::suggest;
use super::scope::{Literal, Scope, refuse_block};
use super::syntax::{arguments, children, entry_span, key_span, name_span, properties};
use super::template::{ParamPath, Template};
use super::typed::coerce;
use crate::graph::Span;

/// A value that a cell gives to a parameter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) value: Value,
    pub(crate) span: Span,
}

/// A parameter with the values it takes, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Axis {
    pub(crate) path: ParamPath,
    pub(crate) values: Vec<Choice>,
}

/// What a group does with its axes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// One cell per value of each axis, against the baseline.
    Ablate,
    /// The cross product, without the combinations (axis, value) listed.
    Sweep { exclude: Vec<Vec<(usize, usize)>> },
    /// One cell; every axis has one value.
    Run,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) span: Span,
    pub(crate) form: Form,
    pub(crate) axes: Vec<Axis>,
}

/// Decodes the groups of a manifest; a group with an error is left out.
pub(crate) fn read_groups(
    nodes: &[&KdlNode],
    template: &Template<'_>,
    scope: &Scope<'_>,
    errors: &mut Errors,
) -> Vec<Group> {
    let mut places: HashMap<String, Span> = HashMap::new();
    let mut groups = Vec::new();
    for node in nodes {
        let Some((name, span)) = declared_name(node, "a group of cells", errors) else { continue };
        if let Some(first) = places.insert(name.to_owned(), span) {
            errors.push(ManifestError::Duplicate {
                what: "group",
                name: name.to_owned(),
                span: span.into(),
                first: first.into(),
                help: None,
            });
            continue;
        }
        let before = errors.len();
        let mut reader =
            Reader { template, scope, errors, axes: Vec::new(), exclude: Vec::new(), skipped: false };
        let form = reader.group(node, name, span);
        let Reader { axes, skipped, .. } = reader;
        if errors.len() == before && !skipped {
            groups.push(Group { name: name.to_owned(), span, form, axes });
        }
    }
    groups
}

struct Reader<'a, 'e> {
    template: &'a Template<'a>,
    scope: &'a Scope<'a>,
    errors: &'e mut Errors,
    axes: Vec<Axis>,
    exclude: Vec<Vec<(usize, usize)>>,
    /// Whether something was left out whose cause was reported elsewhere.
    skipped: bool,
}

impl Reader<'_, '_> {
    fn group(&mut self, node: &KdlNode, name: &str, span: Span) -> Form {
        let kind = match node.name().value() {
            "ablate" => "ablate",
            "sweep" => "sweep",
            _ => "run",
        };
        if kind == "run" && name == "baseline" {
            self.errors.push(ManifestError::ReservedName { span: span.into() });
        }
        let before = self.errors.len();
        let (later, now): (Vec<_>, Vec<_>) =
            children(node).iter().partition(|child| kind == "sweep" && child.name().value() == "exclude");
        for child in now {
            self.child(kind, child);
        }
        if !self.axes.is_empty() {
            for child in later {
                self.excluded(child);
            }
        } else if self.errors.len() == before && !self.skipped {
            self.empty(kind, name, node);
        }
        match kind {
            "ablate" => Form::Ablate,
            "sweep" => Form::Sweep { exclude: std::mem::take(&mut self.exclude) },
            _ => Form::Run,
        }
    }

    fn empty(&mut self, kind: &'static str, name: &str, node: &KdlNode) {
        let line = match kind {
            "ablate" => "vary STAGE.PARAM VALUE…",
            "sweep" => "axis STAGE.PARAM VALUE…",
            _ => "set STAGE.PARAM VALUE",
        };
        self.errors.push(ManifestError::EmptyGroup {
            kind,
            name: name.to_owned(),
            span: super::syntax::header_span(node).into(),
            help: Some(format!("add `{line}`")),
        });
    }

    fn child(&mut self, kind: &str, node: &KdlNode) {
        refuse_annotation(node, self.errors);
        match (kind, node.name().value()) {
            ("ablate", "vary") | ("sweep", "axis") => self.axis(node, false),
            ("run", "set") => self.axis(node, true),
            ("ablate", "baseline") => not_supported("baseline", node, self.errors),
            (_, name) => {
                let known: &[&str] = match kind {
                    "ablate" => &["vary"],
                    "sweep" => &["axis", "exclude"],
                    _ => &["set"],
                };
                self.errors.push(ManifestError::UnknownParameter {
                    parent: kind.to_owned(),
                    name: name.to_owned(),
                    span: name_span(node).into(),
                    help: suggest(name, "nodes here", known.iter().copied()),
                });
            }
        }
    }

    /// `vary PATH v…`, `axis PATH v…` or, with `one` value, `set PATH v`.
    fn axis(&mut self, node: &KdlNode, one: bool) {
        refuse_block(node, self.errors);
        refuse_properties(node, "write the path first, then the values", self.errors);
        let mut entries = arguments(node);
        let Some(path_entry) = entries.next() else { return self.needs(node, "a path and values") };
        let Some(path) = self.template.resolve_entry(path_entry, self.errors) else {
            self.skipped = true;
            return;
        };
        let entries: Vec<_> = entries.collect();
        if entries.is_empty() {
            return self.needs(node, "a value");
        }
        let known = entries.iter().filter_map(|entry| self.scope.literal(entry, self.errors));
        let literals: Vec<Literal> = known.collect();
        self.skipped |= literals.len() < entries.len();
        let values = if one { self.single(node, &path, literals) } else { self.several(&path, &literals) };
        self.add(Axis { path, values });
    }

    fn needs(&mut self, node: &KdlNode, needs: &str) {
        let name = node.name().value();
        self.errors.push(ManifestError::MissingArgument {
            node: name.to_owned(),
            needs: needs.to_owned(),
            span: super::syntax::header_span(node).into(),
            help: Some(match name {
                "exclude" => "write `exclude STAGE.PARAM=VALUE STAGE.PARAM=VALUE`".to_owned(),
                _ => format!("write `{name} STAGE.PARAM VALUE`"),
            }),
        });
    }

    /// All literals as one value: the items of a list, or a single value.
    fn single(&mut self, node: &KdlNode, path: &ParamPath, literals: Vec<Literal>) -> Vec<Choice> {
        let Some(first) = literals.first().cloned() else { return Vec::new() };
        let is_list = matches!(self.template.param_type(path), ParamType::List(_));
        if literals.len() == 1 || !is_list {
            let rest = arguments(node).skip(2);
            super::document::refuse_rest(node, rest, "a path and one value", self.errors);
            return self.several(path, &[first]);
        }
        let items = literals.into_iter().map(|literal| literal.value).collect();
        self.several(path, &[Literal { value: Value::List(items), ..first }])
    }

    fn several(&mut self, path: &ParamPath, literals: &[Literal]) -> Vec<Choice> {
        let ty = self.template.param_type(path);
        let mut values: Vec<Choice> = Vec::new();
        for literal in literals {
            match coerce(&literal.value, &ty, self.scope.folder_of(literal)) {
                Ok(value) => values.push(Choice { value, span: literal.span }),
                Err(misfit) => self.errors.push(misfit.at(&self.template.display(path), literal)),
            }
        }
        values
    }

    /// Adds an axis; values of an axis that stands already join it.
    fn add(&mut self, axis: Axis) {
        let index = self.axes.iter().position(|known| known.path == axis.path).unwrap_or(self.axes.len());
        if index == self.axes.len() {
            self.axes.push(Axis { path: axis.path, values: Vec::new() });
        }
        for choice in axis.values {
            let known = &mut self.axes[index];
            match known.values.iter().find(|other| other.value == choice.value) {
                None => known.values.push(choice),
                Some(first) => self.errors.push(ManifestError::Duplicate {
                    what: "value",
                    name: choice.value.to_string(),
                    span: choice.span.into(),
                    first: first.span.into(),
                    help: Some("two equal cells would be one; remove one of them".into()),
                }),
            }
        }
    }

    /// `exclude PATH=v PATH=v`: a combination that the sweep leaves out.
    fn excluded(&mut self, node: &KdlNode) {
        refuse_annotation(node, self.errors);
        refuse_block(node, self.errors);
        super::document::refuse_rest(node, arguments(node), "properties only: `PATH=value`", self.errors);
        let before = self.errors.len();
        let found: Vec<Option<(usize, usize)>> =
            properties(node).map(|(path, entry)| self.excluded_value(path, entry)).collect();
        if found.is_empty() && self.errors.len() == before {
            return self.needs(node, "at least one `PATH=value`");
        }
        if let Some(combination) = found.into_iter().collect() {
            self.exclude.push(combination);
        }
    }

    fn excluded_value(&mut self, text: &str, entry: &kdl::KdlEntry) -> Option<(usize, usize)> {
        if self.skipped {
            return None;
        }
        let path = self.template.resolve(text, key_span(entry), self.errors)?;
        let Some(axis) = self.axes.iter().position(|axis| axis.path == path) else {
            let known: Vec<String> = self.axes.iter().map(|axis| self.template.display(&axis.path)).collect();
            let help = suggest(text, "axes", known.iter().map(String::as_str));
            self.excludes_nothing(text.to_owned(), key_span(entry), help);
            return None;
        };
        let literal = self.scope.literal(entry, self.errors)?;
        match coerce(&literal.value, &self.template.param_type(&path), self.scope.folder_of(&literal)) {
            Err(misfit) => self.errors.push(misfit.at(text, &literal)),
            Ok(value) => {
                let known = &self.axes[axis].values;
                if let Some(index) = known.iter().position(|choice| choice.value == value) {
                    return Some((axis, index));
                }
                let words: Vec<String> = known.iter().map(|choice| choice.value.to_string()).collect();
                let help =
                    suggest(&value.to_string(), "values of this axis", words.iter().map(String::as_str));
                self.excludes_nothing(format!("{text}={value}"), entry_span(entry), help);
            }
        }
        None
    }

    fn excludes_nothing(&mut self, what: String, span: Span, help: Option<String>) {
        self.errors.push(ManifestError::ExcludesNothing { what, span: span.into(), help });
    }
}
