//! The top level of a manifest: the header, and every other node sorted by what it is.

use kdl::{KdlDocument, KdlEntry, KdlNode, KdlValue};
use miette::SourceSpan;
use qpipe_sdk::{Stage, StageRegistry};

use super::error::{Errors, ManifestError};
use super::near::suggest;
use super::plugin::is_loaded;
use super::scope::{is_name, refuse_block};
use super::syntax::{arguments, entry_span, header_span, key_span, name_span, properties};
use crate::graph::Span;

/// The version of the language that this program reads.
const VERSION: i64 = 1;

/// The nodes that are no stages.
pub(super) const SECTIONS: [&str; 9] =
    ["qpipe", "vars", "ablate", "sweep", "run", "report", "include", "defaults", "plugin"];

/// The nodes of a manifest, each in its place, not yet decoded.
#[derive(Default)]
pub(crate) struct Document<'t, 'r> {
    pub(crate) name: String,
    pub(crate) vars: Vec<&'t KdlNode>,
    pub(crate) stages: Vec<(&'t KdlNode, &'r dyn Stage)>,
    /// Nodes of an unknown type: refused, but the names they declare are known.
    pub(crate) unknown: Vec<&'t KdlNode>,
    /// `ablate`, `sweep` and `run`, in order.
    pub(crate) groups: Vec<&'t KdlNode>,
    pub(crate) report: Option<&'t KdlNode>,
    pub(crate) defaults: Option<&'t KdlNode>,
}

/// Whether a header must name the study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    Required,
    /// In an included text, whose name is nobody's.
    Optional,
}

impl<'t, 'r> Document<'t, 'r> {
    /// Sorts the nodes of a manifest whose header was read.
    pub(crate) fn read(
        name: String,
        nodes: &'t [KdlNode],
        registry: &'r StageRegistry,
        errors: &mut Errors,
    ) -> Self {
        let mut document = Self { name, ..Self::default() };
        for node in nodes {
            document.sort(node, nodes.first(), registry, errors);
        }
        document
    }

    fn sort(
        &mut self,
        node: &'t KdlNode,
        first: Option<&KdlNode>,
        registry: &'r StageRegistry,
        errors: &mut Errors,
    ) {
        refuse_annotation(node, errors);
        match node.name().value() {
            "qpipe" => repeated_header(node, first, errors),
            "vars" => self.vars.push(node),
            "ablate" | "sweep" | "run" => self.groups.push(node),
            "report" => set_once(&mut self.report, node, errors),
            "defaults" => set_once(&mut self.defaults, node, errors),
            "plugin" if is_loaded(node, registry) => {}
            name @ "plugin" => not_supported(name, node, errors),
            kind => match registry.get(kind) {
                Some(stage) => self.stages.push((node, stage)),
                None => self.set_unknown(node, registry, errors),
            },
        }
    }

    fn set_unknown(&mut self, node: &'t KdlNode, registry: &StageRegistry, errors: &mut Errors) {
        let name = node.name().value().to_owned();
        let help = suggest(&name, "stage types and sections", registry.kinds().chain(SECTIONS));
        errors.push(ManifestError::UnknownStage { name, span: name_span(node).into(), help });
        self.unknown.push(node);
    }
}

/// Notes a section that stands once.
fn set_once<'t>(place: &mut Option<&'t KdlNode>, node: &'t KdlNode, errors: &mut Errors) {
    let Some(first) = *place else {
        *place = Some(node);
        return;
    };
    let name = node.name().value();
    errors.push(ManifestError::Duplicate {
        what: "section",
        name: name.into(),
        span: name_span(node).into(),
        first: name_span(first).into(),
        help: Some(format!("write one `{name}` with both contents")),
    });
}

/// Refuses `(type)node`: annotations belong to values.
pub(crate) fn refuse_annotation(node: &KdlNode, errors: &mut Errors) {
    if let Some(ty) = node.ty() {
        errors.push(ManifestError::BadValue {
            reason: format!("a node cannot have the annotation `({})`", ty.value()),
            span: ty.span(),
            help: Some("annotate values: `node (var)name`".into()),
        });
    }
}

/// A word without annotation, such as a name or a path; anything else is an error that says it should be `what`.
pub(crate) fn plain_word<'t>(
    node: &KdlNode,
    entry: &'t KdlEntry,
    what: &str,
    errors: &mut Errors,
) -> Option<&'t str> {
    if let (None, KdlValue::String(text)) = (entry.ty(), entry.value()) {
        return Some(text);
    }
    errors.push(ManifestError::WrongType {
        param: node.name().value().to_owned(),
        expected: what.to_owned(),
        found: "another value".to_owned(),
        span: entry_span(entry).into(),
        variable: None,
        help: None,
    });
    None
}

/// The first argument of `node` as the name of `what`; more arguments and properties are refused.
pub(crate) fn declared_name<'t>(
    node: &'t KdlNode,
    what: &'static str,
    errors: &mut Errors,
) -> Option<(&'t str, Span)> {
    let kind = node.name().value();
    let mut entries = arguments(node);
    let first = entries.next();
    refuse_rest(node, entries, "one argument, its name", errors);
    for (name, entry) in properties(node) {
        errors.push(ManifestError::UnknownProperty {
            node: kind.to_owned(),
            name: name.to_owned(),
            span: key_span(entry).into(),
            help: Some(format!("parameters stand in the block: `{kind} NAME {{ … }}`")),
        });
    }
    let Some(entry) = first else {
        errors.push(ManifestError::MissingArgument {
            node: kind.to_owned(),
            needs: "a name".into(),
            span: name_span(node).into(),
            help: Some(format!("write `{kind} NAME {{ … }}`")),
        });
        return None;
    };
    let name = plain_word(node, entry, "a name", errors)?;
    if !is_name(name) {
        let span = entry_span(entry).into();
        errors.push(ManifestError::InvalidName { what, name: name.to_owned(), span });
    }
    Some((name, entry_span(entry)))
}

/// Refuses what follows the arguments a node takes.
pub(crate) fn refuse_rest<'t>(
    node: &KdlNode,
    rest: impl Iterator<Item = &'t KdlEntry>,
    takes: &str,
    errors: &mut Errors,
) {
    for entry in rest {
        errors.push(ManifestError::UnexpectedArgument {
            node: node.name().value().to_owned(),
            takes: takes.to_owned(),
            span: entry_span(entry).into(),
            help: None,
        });
    }
}

pub(crate) fn refuse_properties(node: &KdlNode, help: &str, errors: &mut Errors) {
    for (name, entry) in properties(node) {
        errors.push(ManifestError::UnknownProperty {
            node: node.name().value().to_owned(),
            name: name.to_owned(),
            span: key_span(entry).into(),
            help: Some(help.to_owned()),
        });
    }
}

pub(crate) fn not_supported(what: &str, node: &KdlNode, errors: &mut Errors) {
    errors.push(ManifestError::NotSupported {
        what: format!("`{what}`"),
        span: header_span(node).into(),
        help: None,
    });
}

/// The study's name, from a header of a version that is known; `None` if the text, which begins at `base`, is no
/// manifest of ours, and what it contains is better not looked at.
pub(crate) fn header(tree: &KdlDocument, base: usize, naming: Naming, errors: &mut Errors) -> Option<String> {
    let Some(first) = tree.nodes().first() else {
        errors.push(ManifestError::MissingHeader { span: SourceSpan::new(base.into(), 0) });
        return None;
    };
    let header = tree.nodes().iter().find(|node| node.name().value() == "qpipe");
    let Some(header) = header else {
        errors.push(ManifestError::MissingHeader { span: header_span(first).into() });
        return None;
    };
    if header.name().span() != first.name().span() {
        let (span, first) = (header_span(header).into(), header_span(first).into());
        errors.push(ManifestError::MisplacedHeader { span, first });
    }
    version(header, errors)?;
    refuse_block(header, errors);
    Some(study_name(header, naming, errors))
}

fn version(header: &KdlNode, errors: &mut Errors) -> Option<()> {
    let mut entries = arguments(header);
    let first = entries.next();
    refuse_rest(header, entries, "one argument, the version", errors);
    let found = first.and_then(|entry| entry.value().as_integer().filter(|_| entry.ty().is_none()));
    let Some(found) = found else {
        errors.push(ManifestError::MissingArgument {
            node: "qpipe".into(),
            needs: "the version of the language, an integer".into(),
            span: first.map_or_else(|| name_span(header), entry_span).into(),
            help: Some("write `qpipe 1 name=…`".into()),
        });
        return None;
    };
    if found == i128::from(VERSION) {
        return Some(());
    }
    let newer = found > i128::from(VERSION);
    let help = if newer { "a newer `qpipe` reads it" } else { "write `qpipe 1 name=…`" };
    errors.push(ManifestError::UnsupportedVersion {
        found: i64::try_from(found).unwrap_or(i64::MAX),
        span: first.map_or_else(|| name_span(header), entry_span).into(),
        help: Some(help.into()),
    });
    None
}

/// The study's name; empty after an error.
fn study_name(header: &KdlNode, naming: Naming, errors: &mut Errors) -> String {
    let mut name: Option<&KdlEntry> = None;
    for (property, entry) in properties(header) {
        if property != "name" {
            errors.push(ManifestError::UnknownProperty {
                node: "qpipe".into(),
                name: property.to_owned(),
                span: key_span(entry).into(),
                help: suggest(property, "properties", ["name"]),
            });
        } else if let Some(first) = name.replace(entry) {
            let (span, first) = (entry_span(entry).into(), entry_span(first).into());
            let (what, name) = ("property", "name".to_owned());
            errors.push(ManifestError::Duplicate { what, name, span, first, help: None });
        }
    }
    let Some(entry) = name else {
        if naming == Naming::Required {
            errors.push(ManifestError::MissingStudyName { span: header_span(header).into() });
        }
        return String::new();
    };
    let word = plain_word(header, entry, "a name", errors).unwrap_or_default();
    if !word.is_empty() && !is_name(word) {
        let span = entry_span(entry).into();
        errors.push(ManifestError::InvalidName { what: "a study", name: word.to_owned(), span });
    }
    word.to_owned()
}

fn repeated_header(node: &KdlNode, first: Option<&KdlNode>, errors: &mut Errors) {
    if let Some(first) = first.filter(|first| first.name().value() == "qpipe")
        && first.name().span() != node.name().span()
    {
        errors.push(ManifestError::Duplicate {
            what: "header",
            name: "qpipe".into(),
            span: header_span(node).into(),
            first: header_span(first).into(),
            help: None,
        });
    }
}
