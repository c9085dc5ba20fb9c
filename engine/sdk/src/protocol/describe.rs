//! A stage type's declaration as a document. A plugin sends it, the engine makes a [`StageSpec`] of it: from there on
//! a plugin's stage is decoded, keyed and documented like any other.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::wire::{self, WireError};
use crate::intern::{intern, intern_all};
use crate::schema::{Applies, KeyedChoice, Names, NodeForm, NodeSpec, ParamSpec, ParamType, Schema};
use crate::spec::{ArtifactKind, Determinism, PortSpec, StageSpec};
use crate::value::Value;

/// A stage type, as told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageDescription {
    pub kind: String,
    pub semantics: u32,
    #[serde(default)]
    pub doc: String,
    #[serde(default)]
    pub inputs: Vec<PortDescription>,
    pub output: OutputDescription,
    #[serde(default)]
    pub nodes: Vec<NodeDescription>,
    pub determinism: Determinism,
    /// What the answer to `key` depends on; absent where a worker does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyed_by: Option<KeyedBy>,
}

/// What a worker's answer to `key` depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyedBy {
    /// There is nothing to ask: parameters and files say it all.
    Nothing,
    /// The program, the parameters and the files among them: an answer can be kept.
    Params,
    /// Whatever else: it has to be asked every time. So is a worker that says a word that is not known.
    #[serde(other)]
    Machine,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortDescription {
    pub name: String,
    #[serde(default)]
    pub doc: String,
    pub kind: String,
    #[serde(default = "yes")]
    pub required: bool,
}

/// What a stage makes: an artifact of `kind`. Of the kind `files` it is a set of named outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputDescription {
    pub kind: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<OutputFile>,
}

/// One output: a file or a folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputFile {
    pub name: String,
    #[serde(default)]
    pub doc: String,
    #[serde(default = "yes")]
    pub required: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeDescription {
    pub name: String,
    #[serde(default)]
    pub doc: String,
    #[serde(flatten)]
    pub form: FormDescription,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub props: Vec<ParamDescription>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "kebab-case")]
pub enum FormDescription {
    Value(ValueDescription),
    Group,
    Keyed {
        choices: Vec<ChoiceDescription>,
        #[serde(default)]
        required: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChoiceDescription {
    pub name: String,
    #[serde(default)]
    pub doc: String,
    #[serde(default)]
    pub props: Vec<ParamDescription>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParamDescription {
    pub name: String,
    #[serde(default)]
    pub doc: String,
    #[serde(flatten)]
    pub value: ValueDescription,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValueDescription {
    #[serde(rename = "type")]
    pub ty: TypeDescription,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Json>,
    #[serde(default)]
    pub required: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applies: Option<AppliesDescription>,
    #[serde(default = "yes")]
    pub in_key: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppliesDescription {
    pub param: String,
    pub values: Vec<String>,
}

/// `"text"`, `{"int": {"min": 1}}`, `{"choice": ["nf4", "fp4"]}`, `{"list": "text"}`, …
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TypeDescription {
    Bool,
    Int {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<i64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<i64>,
    },
    Float {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        min: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max: Option<f64>,
    },
    Text,
    Choice(Vec<String>),
    File,
    FileOr(Vec<String>),
    List(Box<TypeDescription>),
}

/// Why a description cannot be a stage type.
#[derive(Debug, thiserror::Error)]
pub enum DescribeError {
    #[error("`{name}` cannot be the name of {what}: lowercase letters, digits, `-` and `_`")]
    BadName { what: &'static str, name: String },
    #[error("{what} `{name}` is declared twice")]
    Duplicate { what: &'static str, name: String },
    #[error("the default does not fit: {0}")]
    Default(#[from] WireError),
    #[error("`{path}` depends on `{param}`, which is no parameter")]
    Applies { path: String, param: String },
    #[error("an artifact of kind `files` needs at least one file, any other kind has none")]
    Output,
    #[error("`{path}` has no choices")]
    NoChoice { path: String },
    #[error("the type at `{path}` is a list of lists")]
    NestedList { path: String },
}

/// A description, understood.
#[derive(Clone, Debug)]
pub struct Described {
    pub spec: StageSpec,
    /// Named outputs, where the artifact is of the kind `files`.
    pub files: Vec<OutputFile>,
}

const fn yes() -> bool {
    true
}

impl StageDescription {
    /// The description of a stage of ours. Nodes under names that a manifest chooses are left out: only the
    /// engine's own stages have them.
    pub fn of(spec: &StageSpec) -> Self {
        let port = |port: &PortSpec| PortDescription {
            name: port.name.into(),
            doc: port.doc.into(),
            kind: port.kind.0.clone(),
            required: port.required,
        };
        Self {
            kind: spec.kind.into(),
            semantics: spec.semantics,
            doc: spec.doc.into(),
            inputs: spec.inputs.iter().map(port).collect(),
            output: OutputDescription { kind: spec.output.0.clone(), files: Vec::new() },
            nodes: spec.schema.nodes().iter().filter_map(node_of).collect(),
            determinism: spec.determinism,
            keyed_by: None,
        }
    }

    /// The stage type that this describes.
    pub fn understand(&self) -> Result<Described, DescribeError> {
        check_names("a stage type", [self.kind.as_str()])?;
        let children = self.inputs.iter().map(|p| &p.name).chain(self.nodes.iter().map(|n| &n.name));
        check_names("a parameter or input", children.map(String::as_str))?;
        check_files(&self.output)?;
        let port = |port: &PortDescription| PortSpec {
            name: intern(&port.name),
            doc: intern(&port.doc),
            kind: ArtifactKind::new(port.kind.clone()),
            required: port.required,
        };
        let nodes = self.nodes.iter().map(node).collect::<Result<Vec<_>, _>>()?;
        let schema = Schema::new(nodes);
        check_applies(&schema)?;
        let spec = StageSpec {
            kind: intern(&self.kind),
            semantics: self.semantics,
            doc: intern(&self.doc),
            inputs: self.inputs.iter().map(port).collect(),
            output: ArtifactKind::new(self.output.kind.clone()),
            schema,
            determinism: self.determinism,
        };
        Ok(Described { spec, files: self.output.files.clone() })
    }
}

/// Whether a word may stand as a name in a manifest.
fn is_name(word: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    word.bytes().all(allowed) && word.bytes().next().is_some_and(|first| first.is_ascii_lowercase())
}

fn check_names<'a>(
    what: &'static str,
    names: impl IntoIterator<Item = &'a str>,
) -> Result<(), DescribeError> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !is_name(name) {
            return Err(DescribeError::BadName { what, name: name.to_owned() });
        }
        if !seen.insert(name) {
            return Err(DescribeError::Duplicate { what, name: name.to_owned() });
        }
    }
    Ok(())
}

fn check_files(output: &OutputDescription) -> Result<(), DescribeError> {
    check_names("an artifact", [output.kind.as_str()])?;
    check_names("an output", output.files.iter().map(|file| file.name.as_str()))?;
    let is_files = output.kind == ArtifactKind::FILES;
    if is_files == output.files.is_empty() { Err(DescribeError::Output) } else { Ok(()) }
}

fn check_applies(schema: &Schema) -> Result<(), DescribeError> {
    for (path, spec) in schema.params() {
        if let Some(rule) = spec.applies.as_ref().filter(|rule| schema.param(rule.param).is_none()) {
            return Err(DescribeError::Applies { path: path.to_owned(), param: rule.param.to_owned() });
        }
    }
    Ok(())
}

fn node(told: &NodeDescription) -> Result<NodeSpec, DescribeError> {
    let (name, doc) = (intern(&told.name), intern(&told.doc));
    let spec = match &told.form {
        FormDescription::Value(value) => NodeSpec::value(param(&told.name, name, doc, value)?),
        FormDescription::Group => NodeSpec::group(name, doc),
        FormDescription::Keyed { choices, required } => {
            check_names("a choice", choices.iter().map(|choice| choice.name.as_str()))?;
            let choices = choices.iter().map(|c| choice(&told.name, c)).collect::<Result<Vec<_>, _>>()?;
            NodeSpec::keyed(name, doc, *required, choices)
        }
    };
    let props = params(&told.name, &told.props)?;
    Ok(props.into_iter().fold(spec, NodeSpec::prop))
}

fn choice(node: &str, told: &ChoiceDescription) -> Result<KeyedChoice, DescribeError> {
    let props = params(&format!("{node}.{}", told.name), &told.props)?;
    Ok(KeyedChoice { name: intern(&told.name), doc: intern(&told.doc), props })
}

fn params(parent: &str, told: &[ParamDescription]) -> Result<Vec<ParamSpec>, DescribeError> {
    check_names("a property", told.iter().map(|p| p.name.as_str()))?;
    let one = |p: &ParamDescription| {
        param(&format!("{parent}.{}", p.name), intern(&p.name), intern(&p.doc), &p.value)
    };
    told.iter().map(one).collect()
}

fn param(
    path: &str,
    name: &'static str,
    doc: &'static str,
    told: &ValueDescription,
) -> Result<ParamSpec, DescribeError> {
    let ty = param_type(path, &told.ty)?;
    let default = told.default.as_ref().map(|json| wire::value(path, &ty, json)).transpose()?;
    let applies = told.applies.as_ref().map(|rule| Applies {
        param: intern(&rule.param),
        values: intern_all(rule.values.iter().map(String::as_str)),
    });
    Ok(ParamSpec { name, doc, ty, default, required: told.required, applies, in_key: told.in_key })
}

fn param_type(path: &str, told: &TypeDescription) -> Result<ParamType, DescribeError> {
    let words = |words: &[String]| match words {
        [] => Err(DescribeError::NoChoice { path: path.to_owned() }),
        words => Ok(intern_all(words.iter().map(String::as_str))),
    };
    Ok(match told {
        TypeDescription::Bool => ParamType::Bool,
        TypeDescription::Text => ParamType::Text,
        TypeDescription::File => ParamType::File,
        TypeDescription::Int { min, max } => {
            ParamType::Int { min: min.unwrap_or(i64::MIN), max: max.unwrap_or(i64::MAX) }
        }
        TypeDescription::Float { min, max } => {
            ParamType::Float { min: min.unwrap_or(f64::NEG_INFINITY), max: max.unwrap_or(f64::INFINITY) }
        }
        TypeDescription::Choice(of) => ParamType::Choice(words(of)?),
        TypeDescription::FileOr(of) => ParamType::FileOr(words(of)?),
        TypeDescription::List(of) if matches!(**of, TypeDescription::List(_)) => {
            return Err(DescribeError::NestedList { path: path.to_owned() });
        }
        TypeDescription::List(of) => ParamType::list(param_type(path, of)?),
    })
}

fn node_of(spec: &NodeSpec) -> Option<NodeDescription> {
    let form = match &spec.form {
        NodeForm::Value(param) => FormDescription::Value(value_of(param)),
        NodeForm::Group => FormDescription::Group,
        NodeForm::Keyed { choices, required } => FormDescription::Keyed {
            choices: choices
                .iter()
                .map(|c| ChoiceDescription {
                    name: c.name.into(),
                    doc: c.doc.into(),
                    props: c.props.iter().map(param_of).collect(),
                })
                .collect(),
            required: *required,
        },
        NodeForm::Named {
            names: Names::Argument | Names::Pattern | Names::ArgumentOrStage | Names::Environment,
            ..
        } => {
            return None;
        }
    };
    let props = spec.props.iter().map(param_of).collect();
    Some(NodeDescription { name: spec.name.into(), doc: spec.doc.into(), form, props })
}

fn param_of(spec: &ParamSpec) -> ParamDescription {
    ParamDescription { name: spec.name.into(), doc: spec.doc.into(), value: value_of(spec) }
}

fn value_of(spec: &ParamSpec) -> ValueDescription {
    ValueDescription {
        ty: type_of(&spec.ty),
        default: spec.default.as_ref().map(default_of),
        required: spec.required,
        applies: spec.applies.as_ref().map(|rule| AppliesDescription {
            param: rule.param.into(),
            values: rule.values.iter().map(|word| (*word).to_owned()).collect(),
        }),
        in_key: spec.in_key,
    }
}

fn default_of(value: &Value) -> Json {
    match value {
        Value::Bool(flag) => Json::from(*flag),
        Value::Int(integer) => Json::from(*integer),
        Value::Float(number) => Json::from(*number),
        Value::Text(text) => Json::from(text.as_str()),
        Value::File(path) => Json::from(path.to_string_lossy()),
        Value::List(items) => Json::Array(items.iter().map(default_of).collect()),
    }
}

fn type_of(ty: &ParamType) -> TypeDescription {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match ty {
        ParamType::Bool => TypeDescription::Bool,
        ParamType::Int { min, max } => TypeDescription::Int {
            min: (*min != i64::MIN).then_some(*min),
            max: (*max != i64::MAX).then_some(*max),
        },
        ParamType::Float { min, max } => TypeDescription::Float {
            min: min.is_finite().then_some(*min),
            max: max.is_finite().then_some(*max),
        },
        ParamType::Text => TypeDescription::Text,
        ParamType::Choice(of) => TypeDescription::Choice(words(of)),
        ParamType::File => TypeDescription::File,
        ParamType::FileOr(of) => TypeDescription::FileOr(words(of)),
        ParamType::List(of) => TypeDescription::List(Box::new(type_of(of))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> StageDescription {
        serde_json::from_str(text).unwrap()
    }

    const WORDS: &str = r#"{"kind": "words", "semantics": 2, "determinism": "exact",
        "inputs": [{"name": "text", "kind": "files"}],
        "output": {"kind": "files", "files": [{"name": "table"}]},
        "nodes": [
            {"name": "top", "form": "value", "type": {"int": {"min": 1}}, "default": 10},
            {"name": "scheme", "form": "value", "type": {"choice": ["nf4", "int8"]}, "required": true,
             "props": [{"name": "block", "type": {"int": {}}, "default": 64,
                        "applies": {"param": "scheme", "values": ["nf4"]}}]},
            {"name": "task", "form": "keyed", "required": true,
             "choices": [{"name": "boolq", "props": [{"name": "data", "type": "file"}]}]},
            {"name": "from", "form": "group",
             "props": [{"name": "path", "type": "file", "in_key": false}]}]}"#;

    #[test]
    fn a_description_becomes_a_stage_type_and_comes_back() {
        let described = told(WORDS).understand().unwrap();
        let spec = &described.spec;
        assert_eq!((spec.kind, spec.semantics), ("words", 2));
        assert_eq!(spec.schema.param("top").unwrap().ty, ParamType::at_least(1));
        assert_eq!(spec.schema.param("scheme.block").unwrap().default, Some(Value::Int(64)));
        assert!(spec.schema.is_presence("task.boolq") && !spec.schema.param("from.path").unwrap().in_key);
        let mut again = StageDescription::of(spec);
        assert_eq!(again.nodes, told(WORDS).nodes);
        again.output.files = described.files;
        let text = serde_json::to_string(&again).unwrap();
        assert_eq!(told(&text), again);
    }

    #[test]
    fn what_cannot_be_a_stage_type_is_refused_by_name() {
        let broken = |from: &str, to: &str| {
            assert!(WORDS.contains(from), "{from}");
            told(&WORDS.replace(from, to)).understand().unwrap_err().to_string()
        };
        assert!(broken(r#""words""#, r#""Two Words""#).contains("`Two Words`"));
        assert!(broken(r#""name": "top""#, r#""name": "text""#).contains("`text` is declared twice"));
        assert!(
            broken(r#""default": 10"#, r#""default": 0"#).contains("`top` takes an integer ≥ 1, not `0`")
        );
        assert!(broken(r#""param": "scheme""#, r#""param": "shape""#).contains("`shape`"));
        assert!(broken(r#"[{"name": "table"}]"#, "[]").contains("at least one file"));
        assert!(broken(r#"["nf4", "int8"]"#, "[]").contains("`scheme` has no choices"));
    }
}
