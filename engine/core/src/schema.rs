//! What the stage types declare of themselves, as documents: for a person in a terminal, for programs and editors as
//! JSON, for pages as Markdown. All three come from the declarations that decoding and keys use.

use std::fmt::Write;

use qpipe_sdk::{Determinism, NodeForm, NodeSpec, ParamSpec, ParamType, StageRegistry, StageSpec, Value};
use serde::Serialize;

/// Version of [`SchemaDoc`]'s layout.
pub const SCHEMA_SCHEMA: u32 = 1;

/// The head of the page of all stage types.
const PAGE: &str = "\
# Stages

What every stage type takes, from its own declaration; `qpipe schema --format md` writes this page. A parameter is named
by its path, as `vary`, `axis`, `set` and `--set` name it after the stage's name; [the manifest](manifest.md) says how paths
are written, [measuring](measuring.md) what the stages' figures mean.

";

/// The declarations of some stage types.
#[derive(Clone, Debug, Serialize)]
pub struct SchemaDoc {
    pub schema: u32,
    pub stages: Vec<StageDoc>,
    /// Whether it is about every stage type there is.
    #[serde(skip)]
    whole: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct StageDoc {
    pub kind: &'static str,
    pub doc: &'static str,
    pub semantics: u32,
    pub determinism: Determinism,
    pub inputs: Vec<PortDoc>,
    /// The kind of artifact it makes.
    pub output: String,
    pub nodes: Vec<NodeDoc>,
}

#[derive(Clone, Debug, Serialize)]
pub struct PortDoc {
    pub name: &'static str,
    pub doc: &'static str,
    pub artifact: String,
    pub required: bool,
}

/// A child node of a stage.
#[derive(Clone, Debug, Serialize)]
pub struct NodeDoc {
    pub name: &'static str,
    pub doc: &'static str,
    pub form: FormDoc,
    /// For `keyed`: whether at least one must stand.
    pub required: bool,
    pub params: Vec<ParamDoc>,
    /// The alternatives of a `keyed` node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<ChoiceDoc>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FormDoc {
    /// `name VALUE [PROPERTY=…]`
    Value,
    /// `name PROPERTY=…`
    Group,
    /// `name CHOICE [PROPERTY=…]`, repeatable.
    Keyed,
    /// `name NAME VALUE`, repeatable, under names of the manifest's choice.
    Named,
}

#[derive(Clone, Debug, Serialize)]
pub struct ChoiceDoc {
    pub name: &'static str,
    pub doc: &'static str,
    pub params: Vec<ParamDoc>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ParamDoc {
    /// As `--set`, `vary` and reports name it, after the stage's name.
    pub path: String,
    pub doc: &'static str,
    #[serde(rename = "type")]
    pub ty: TypeDoc,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    pub required: bool,
    /// Only while that parameter has one of those values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applies: Option<AppliesDoc>,
    /// Whether the value enters the action key; of a path that locates something, the content does instead.
    pub in_key: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct TypeDoc {
    pub name: &'static str,
    /// In words: `an integer ≥ 1`.
    pub text: String,
    #[serde(skip_serializing_if = "<[&str]>::is_empty")]
    pub words: &'static [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Box<TypeDoc>>,
}

#[derive(Clone, Debug, Serialize)]
pub struct AppliesDoc {
    pub param: &'static str,
    pub values: &'static [&'static str],
}

impl SchemaDoc {
    /// Every stage type, or the one called `kind`; `None` if there is none of this name.
    pub fn new(registry: &StageRegistry, kind: Option<&str>) -> Option<Self> {
        let kinds: Vec<&str> = kind.map_or_else(|| registry.kinds().collect(), |kind| vec![kind]);
        let stages = kinds.into_iter().map(|kind| Some(stage(registry.get(kind)?.spec())));
        let whole = kind.is_none();
        Some(Self { schema: SCHEMA_SCHEMA, stages: stages.collect::<Option<_>>()?, whole })
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (index, stage) in self.stages.iter().enumerate() {
            if index > 0 {
                out.push('\n');
            }
            stage_text(stage, &mut out);
        }
        out
    }

    /// For a page: a section per stage type, a table of its parameters.
    pub fn markdown(&self) -> String {
        let mut out = if self.whole { PAGE.to_owned() } else { String::new() };
        for stage in &self.stages {
            stage_markdown(stage, &mut out);
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    }
}

pub(crate) fn stage(spec: &StageSpec) -> StageDoc {
    let port = |port: &qpipe_sdk::PortSpec| PortDoc {
        name: port.name,
        doc: port.doc,
        artifact: port.kind.to_string(),
        required: port.required,
    };
    StageDoc {
        kind: spec.kind,
        doc: spec.doc,
        semantics: spec.semantics,
        determinism: spec.determinism,
        inputs: spec.inputs.iter().map(port).collect(),
        output: spec.output.to_string(),
        nodes: spec.schema.nodes().iter().map(node).collect(),
    }
}

fn node(spec: &NodeSpec) -> NodeDoc {
    let props = || spec.props.iter().map(|p| param(format!("{}.{}", spec.name, p.name), p));
    let doc = |form, required, params, choices| NodeDoc {
        name: spec.name,
        doc: spec.doc,
        form,
        required,
        params,
        choices,
    };
    match &spec.form {
        NodeForm::Value(arg) => {
            let params = std::iter::once(param(spec.name.to_owned(), arg)).chain(props()).collect();
            doc(FormDoc::Value, arg.required, params, Vec::new())
        }
        NodeForm::Group => doc(FormDoc::Group, false, props().collect(), Vec::new()),
        NodeForm::Keyed { choices, required } => {
            let choice = |choice: &qpipe_sdk::KeyedChoice| {
                let path = |p: &ParamSpec| format!("{}.{}.{}", spec.name, choice.name, p.name);
                let params = choice.props.iter().map(|p| param(path(p), p)).collect();
                ChoiceDoc { name: choice.name, doc: choice.doc, params }
            };
            doc(FormDoc::Keyed, *required, props().collect(), choices.iter().map(choice).collect())
        }
        NodeForm::Named { value, .. } => {
            let path = |p: &ParamSpec| format!("{}.NAME.{}", spec.name, p.name);
            let props = spec.props.iter().map(|p| param(path(p), p));
            let params = std::iter::once(param(format!("{}.NAME", spec.name), value)).chain(props).collect();
            doc(FormDoc::Named, value.required, params, Vec::new())
        }
    }
}

fn param(path: String, spec: &ParamSpec) -> ParamDoc {
    ParamDoc {
        path,
        doc: spec.doc,
        ty: type_doc(&spec.ty),
        default: spec.default.as_ref().map(Value::to_string),
        required: spec.required,
        applies: spec.applies.as_ref().map(|rule| AppliesDoc { param: rule.param, values: rule.values }),
        in_key: spec.in_key,
    }
}

fn type_doc(ty: &ParamType) -> TypeDoc {
    let (name, words): (_, &'static [&'static str]) = match ty {
        ParamType::Bool => ("bool", &[]),
        ParamType::Int { .. } => ("int", &[]),
        ParamType::Float { .. } => ("float", &[]),
        ParamType::Text => ("text", &[]),
        ParamType::Choice(words) => ("choice", words),
        ParamType::File => ("file", &[]),
        ParamType::FileOr(words) => ("file-or-choice", words),
        ParamType::List(_) => ("list", &[]),
    };
    let items = if let ParamType::List(of) = ty { Some(Box::new(type_doc(of))) } else { None };
    TypeDoc { name, text: ty.describe(), words, items }
}

/// Every parameter of a stage with what it belongs to: the node's own, then each choice's.
fn params(stage: &StageDoc) -> impl Iterator<Item = &ParamDoc> {
    stage.nodes.iter().flat_map(|node| node.params.iter().chain(node.choices.iter().flat_map(|c| &c.params)))
}

/// `required`, `default 64`, `only while `scheme` is nf4 or fp4`.
fn notes(param: &ParamDoc) -> String {
    let mut notes = Vec::new();
    if param.required {
        notes.push("required".to_owned());
    }
    notes.extend(param.default.as_ref().map(|value| format!("default {value}")));
    notes.extend(
        param
            .applies
            .as_ref()
            .map(|rule| format!("only while `{}` is {}", rule.param, rule.values.join(" or "))),
    );
    notes.join("; ")
}

fn stage_text(stage: &StageDoc, out: &mut String) {
    let _ = writeln!(out, "{}: {}", stage.kind, stage.doc);
    let _ = writeln!(out, "  makes `{}`", stage.output);
    for port in &stage.inputs {
        let optional = if port.required { "" } else { " (optional)" };
        let _ = writeln!(out, "  {} STAGE{optional}: {} (`{}`)", port.name, port.doc, port.artifact);
    }
    for node in &stage.nodes {
        let required = if node.form == FormDoc::Keyed && node.required { " (at least one)" } else { "" };
        let _ = writeln!(out, "  {}{required}: {}", node.name, node.doc);
        for choice in &node.choices {
            let _ = writeln!(out, "    {} {}: {}", node.name, choice.name, choice.doc);
            choice.params.iter().for_each(|param| param_text(param, "      ", out));
        }
        node.params.iter().for_each(|param| param_text(param, "    ", out));
    }
}

fn param_text(param: &ParamDoc, indent: &str, out: &mut String) {
    let notes = notes(param);
    let notes = if notes.is_empty() { notes } else { format!("; {notes}") };
    let _ = writeln!(out, "{indent}{}: {}{notes}", param.path, param.ty.text);
}

fn stage_markdown(stage: &StageDoc, out: &mut String) {
    let _ = writeln!(out, "## `{}`\n\n{}\n", stage.kind, stage.doc);
    let _ = writeln!(out, "Makes `{}`.\n", stage.output);
    if !stage.inputs.is_empty() {
        let _ = writeln!(out, "| input | takes | |\n|---|---|---|");
        for port in &stage.inputs {
            let optional = if port.required { "required" } else { "optional" };
            let _ = writeln!(out, "| `{}` | `{}` | {optional}; {} |", port.name, port.artifact, port.doc);
        }
        out.push('\n');
    }
    let _ = writeln!(out, "| parameter | value | | meaning |\n|---|---|---|---|");
    for node in &stage.nodes {
        if node.form == FormDoc::Keyed {
            let required = if node.required { "at least one" } else { "" };
            let _ = writeln!(out, "| `{}` | – | {required} | {} |", node.name, cell(node.doc));
        }
        for choice in &node.choices {
            let _ = writeln!(out, "| `{} {}` | – | | {} |", node.name, choice.name, cell(choice.doc));
        }
    }
    for param in params(stage) {
        let (value, notes) = (cell(&param.ty.text), cell(&notes(param)));
        let _ = writeln!(out, "| `{}` | {value} | {notes} | {} |", param.path, cell(param.doc));
    }
    out.push('\n');
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}
