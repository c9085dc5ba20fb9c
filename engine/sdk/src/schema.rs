//! What a stage declares of its parameters. One schema drives decoding (with spans and "did you mean"), the
//! effective parameters that enter a key, and the generated documentation.
//!
//! | manifest | declaration | dotted paths |
//! |---|---|---|
//! | `compute-dtype f16` | [`NodeForm::Value`] | `compute-dtype` |
//! | `batch 1 8` | [`NodeForm::Value`] of a list | `batch` |
//! | `scheme nf4 block=64` | [`NodeForm::Value`] with properties | `scheme`, `scheme.block` |
//! | `from embedded=tiny` | [`NodeForm::Group`] | `from.embedded` |
//! | `task boolq limit=500` | [`NodeForm::Keyed`], repeatable | `task.boolq` (true), `task.boolq.limit` |
//! | `output table "t.tsv"` | [`NodeForm::Named`], repeatable | `output.table`, for any name |
//! | `module "*.o_proj" rtn bits=8` | [`NodeForm::Named`] with properties | `module.*.o_proj`, `module.*.o_proj.bits` |

use crate::value::{Params, Value};

/// The type of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum ParamType {
    Bool,
    /// An integer within `min..=max`.
    Int {
        min: i64,
        max: i64,
    },
    /// A number within `min..=max`.
    Float {
        min: f64,
        max: f64,
    },
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A file or directory, relative to the manifest: `path="…"` or `(file)"…"`.
    File,
    /// A file, or one of these words. A text with a `/`, `\\` or `.` that is no word is a path. A word that ends in
    /// `*` stands for every longer text that begins so: `hub:*`.
    FileOr(&'static [&'static str]),
    /// One or more values of a type.
    List(Box<ParamType>),
}

impl ParamType {
    pub fn list(of: Self) -> Self {
        Self::List(Box::new(of))
    }

    /// An integer of at least `min`.
    pub const fn at_least(min: i64) -> Self {
        Self::Int { min, max: i64::MAX }
    }

    /// Whether a text is among the words of a [`Self::FileOr`].
    pub fn is_word(words: &[&str], text: &str) -> bool {
        let longer = |stem: &str| text.strip_prefix(stem).is_some_and(|rest| !rest.is_empty());
        words.iter().any(|word| *word == text || word.strip_suffix('*').is_some_and(longer))
    }

    /// For messages and docs: `one of nf4, fp4`, `an integer ≥ 1`.
    pub fn describe(&self) -> String {
        match self {
            Self::Bool => "`#true` or `#false`".into(),
            Self::Int { min, max: i64::MAX } => format!("an integer ≥ {min}"),
            Self::Int { min, max } => format!("an integer from {min} to {max}"),
            Self::Float { min, max } if max.is_infinite() => format!("a number ≥ {min}"),
            Self::Float { min, max } => format!("a number from {min} to {max}"),
            Self::Text => "a string".into(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::File => "a path".into(),
            Self::FileOr(words) => format!("a path or one of {}", words.join(", ")),
            Self::List(of) => format!("one or more values, each {}", of.describe()),
        }
    }
}

/// When a parameter applies: only while `param` has one of `values`. Elsewhere it is dropped from the key, and
/// naming it in a manifest is an error. A property of a [`NodeForm::Named`] node names the node; its own rule's value
/// is meant.
#[derive(Clone, Debug, PartialEq)]
pub struct Applies {
    pub param: &'static str,
    pub values: &'static [&'static str],
}

/// One parameter: a node's argument or one of its properties.
#[derive(Clone, Debug)]
pub struct ParamSpec {
    /// The property's name (`block`); for a node's argument, the node's name.
    pub name: &'static str,
    pub doc: &'static str,
    pub ty: ParamType,
    /// Filled in where the manifest is silent; `None` means absent unless given.
    pub default: Option<Value>,
    pub required: bool,
    pub applies: Option<Applies>,
    /// `false` for a parameter that only locates something whose *content* is a source (`path=`), so that
    /// moving a checkpoint changes no key.
    pub in_key: bool,
}

impl ParamSpec {
    pub fn new(name: &'static str, ty: ParamType, doc: &'static str) -> Self {
        Self { name, doc, ty, default: None, required: false, applies: None, in_key: true }
    }

    #[must_use]
    pub fn default(mut self, value: Value) -> Self {
        self.default = Some(value);
        self
    }

    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }

    #[must_use]
    pub fn applies(mut self, param: &'static str, values: &'static [&'static str]) -> Self {
        self.applies = Some(Applies { param, values });
        self
    }

    #[must_use]
    pub fn location(mut self) -> Self {
        self.in_key = false;
        self
    }
}

/// One alternative of a [`NodeForm::Keyed`] node, with properties of its own.
#[derive(Clone, Debug)]
pub struct KeyedChoice {
    pub name: &'static str,
    pub doc: &'static str,
    pub props: Vec<ParamSpec>,
}

/// The shape of a child node.
#[derive(Clone, Debug)]
pub enum NodeForm {
    /// Arguments hold one value (several where the type is a list).
    Value(ParamSpec),
    /// Properties alone.
    Group,
    /// Repeatable; the argument picks one of the choices, each at most once; `required` asks for at least one.
    Keyed { choices: Vec<KeyedChoice>, required: bool },
    /// Repeatable, under names that the manifest chooses: each has a value of its own at `NODE.NAME`.
    Named { value: ParamSpec, names: Names },
}

/// How a [`NodeForm::Named`] node names its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// `output NAME VALUE`.
    Argument,
    /// `module PATTERN VALUE [props]`: the name may hold `*`, and is none of the properties' names.
    Pattern,
    /// `input NAME VALUE`, or `input NAME (stage)STAGE`: then it is an input port called `input.NAME`, which takes
    /// the artifact of any stage.
    ArgumentOrStage,
    /// `env NAME …` takes variables of the environment, `env NAME=VALUE` sets one.
    Environment,
}

/// One child node a stage understands.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    pub name: &'static str,
    pub doc: &'static str,
    pub form: NodeForm,
    pub props: Vec<ParamSpec>,
}

impl NodeSpec {
    /// `name ARG [props]`, documented by its parameter.
    pub fn value(param: ParamSpec) -> Self {
        Self { name: param.name, doc: param.doc, form: NodeForm::Value(param), props: Vec::new() }
    }

    pub fn group(name: &'static str, doc: &'static str) -> Self {
        Self { name, doc, form: NodeForm::Group, props: Vec::new() }
    }

    /// `name NAME VALUE`, for any name.
    pub fn named(value: ParamSpec, names: Names) -> Self {
        let (name, doc) = (value.name, value.doc);
        Self { name, doc, form: NodeForm::Named { value, names }, props: Vec::new() }
    }

    pub fn keyed(name: &'static str, doc: &'static str, required: bool, choices: Vec<KeyedChoice>) -> Self {
        Self { name, doc, form: NodeForm::Keyed { choices, required }, props: Vec::new() }
    }

    #[must_use]
    pub fn prop(mut self, param: ParamSpec) -> Self {
        self.props.push(param);
        self
    }
}

/// All parameters of a stage type.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// Not to be changed once the schema is made: its parameters are listed then.
    nodes: Vec<NodeSpec>,
    params: Vec<Listed>,
    /// Positions in `params`, ordered by path.
    by_path: Vec<usize>,
}

/// A parameter in the list of all.
#[derive(Clone, Debug)]
struct Listed {
    path: String,
    /// The choice it belongs to, as a path: `task.boolq`.
    choice: Option<String>,
    spec: ParamSpec,
}

impl Schema {
    pub fn new(nodes: Vec<NodeSpec>) -> Self {
        let params: Vec<Listed> = nodes.iter().flat_map(listed).collect();
        let mut by_path: Vec<usize> = (0..params.len()).collect();
        by_path.sort_by(|a, b| params[*a].path.cmp(&params[*b].path));
        Self { nodes, params, by_path }
    }

    /// The child nodes that the stage type understands, in declaration order.
    pub fn nodes(&self) -> &[NodeSpec] {
        &self.nodes
    }

    /// Every declared parameter with its dotted path, in declaration order; of keyed nodes, every choice's.
    pub fn params(&self) -> impl ExactSizeIterator<Item = (&str, &ParamSpec)> {
        self.params.iter().map(|listed| (listed.path.as_str(), &listed.spec))
    }

    fn listed(&self, path: &str) -> Option<&Listed> {
        let found = self.by_path.binary_search_by(|at| self.params[*at].path.as_str().cmp(path));
        found.ok().map(|at| &self.params[self.by_path[at]])
    }

    /// The declaration behind a dotted path; `None` for an unknown one and for a keyed node's own presence
    /// (`task.boolq`).
    pub fn param(&self, path: &str) -> Option<&ParamSpec> {
        self.listed(path).map(|listed| &listed.spec).or_else(|| self.named(path).map(|(spec, _)| spec))
    }

    /// The declaration behind `output.table`, where `output` takes values under any name, or behind a property of
    /// such a value, with the value's path.
    fn named<'p>(&self, path: &'p str) -> Option<(&ParamSpec, Option<&'p str>)> {
        let (node, name) = path.split_once('.')?;
        let known = self.nodes.iter().find(|known| known.name == node)?;
        let NodeForm::Named { value, .. } = &known.form else { return None };
        let prop = name.rsplit_once('.').and_then(|(_, prop)| known.props.iter().find(|p| p.name == prop));
        Some(match prop {
            Some(prop) => (prop, path.rsplit_once('.').map(|(owner, _)| owner)),
            None => (value, None),
        })
    }

    /// The path of the parameter that decides whether the one at `path` applies.
    pub fn decider(&self, path: &str) -> Option<String> {
        let rule = self.param(path)?.applies.as_ref()?;
        let owner = self.named(path).and_then(|(_, owner)| owner);
        Some(owner.unwrap_or(rule.param).to_owned())
    }

    /// Whether the value at a path decides whether other parameters apply.
    pub fn decides(&self, path: &str) -> bool {
        let rules = self.params.iter().filter_map(|listed| listed.spec.applies.as_ref());
        let of_rule = || {
            let node = path.split_once('.').map(|(node, _)| node);
            let node = self.nodes.iter().find(|known| Some(known.name) == node);
            node.is_some_and(|n| {
                n.props.iter().any(|p| p.applies.as_ref().is_some_and(|a| a.param == n.name))
            }) && self.named(path).is_some_and(|(_, owner)| owner.is_none())
        };
        self.is_presence(path) || rules.into_iter().any(|rule| rule.param == path) || of_rule()
    }

    /// Whether a dotted path is a keyed node's presence, like `task.boolq`.
    pub fn is_presence(&self, path: &str) -> bool {
        path.split_once('.').is_some_and(|(node, choice)| {
            self.nodes.iter().any(|n| {
                n.name == node
                    && matches!(&n.form, NodeForm::Keyed { choices, .. } if choices.iter().any(|c| c.name == choice))
            })
        })
    }

    /// Whether the parameter at `path` applies, given the others (with defaults already filled in).
    pub fn applies(&self, path: &str, given: &Params) -> bool {
        match self.listed(path) {
            Some(Listed { choice: Some(choice), .. }) if !given.has(choice) => false,
            Some(listed) => {
                listed.spec.applies.as_ref().is_none_or(|rule| allows(rule, given.get(rule.param)))
            }
            None => match self.named(path) {
                Some((prop, Some(owner))) => {
                    let value = given.get(owner);
                    value.is_some() && prop.applies.as_ref().is_none_or(|rule| allows(rule, value))
                }
                _ => true,
            },
        }
    }

    /// The effective parameters: defaults filled in, inapplicable parameters dropped.
    #[must_use]
    pub fn effective(&self, given: &Params) -> Params {
        let mut filled = given.clone();
        for (path, spec) in self.params() {
            if let (None, Some(default)) = (filled.get(path), &spec.default) {
                filled.set(path, default.clone());
            }
        }
        for (path, default) in self.named_defaults(given) {
            if !filled.has(&path) {
                filled.set(path, default);
            }
        }
        // a parameter that decides may itself turn out not to apply, so this runs until nothing drops out
        loop {
            let applied: Vec<bool> = filled.0.keys().map(|path| self.applies(path, &filled)).collect();
            if applied.iter().all(|applies| *applies) {
                return filled;
            }
            let mut keep = applied.into_iter();
            filled.0.retain(|_, _| keep.next() == Some(true));
        }
    }

    /// Defaults of the properties of values under names that the manifest chose.
    fn named_defaults(&self, given: &Params) -> Vec<(String, Value)> {
        let values = given.0.keys().filter(|path| matches!(self.named(path), Some((_, None))));
        let defaults = values.flat_map(|path| {
            let node =
                self.nodes.iter().filter(|node| path.split_once('.').is_some_and(|(n, _)| n == node.name));
            let props = node.flat_map(|node| &node.props);
            props.filter_map(move |p| Some((format!("{path}.{}", p.name), p.default.clone()?)))
        });
        defaults.collect()
    }
}

/// Whether the deciding parameter has one of a rule's values.
fn allows(rule: &Applies, value: Option<&Value>) -> bool {
    match value {
        None => false,
        Some(Value::Text(word)) => rule.values.contains(&word.as_str()),
        Some(other) => rule.values.contains(&other.to_string().as_str()),
    }
}

/// The parameters of one node, with their paths.
fn listed(node: &NodeSpec) -> Vec<Listed> {
    let named =
        |path: String, choice: Option<String>, spec: &ParamSpec| Listed { path, choice, spec: spec.clone() };
    let mut all = Vec::new();
    if let NodeForm::Value(arg) = &node.form {
        all.push(named(node.name.to_owned(), None, arg));
    }
    if !matches!(node.form, NodeForm::Named { .. }) {
        all.extend(node.props.iter().map(|p| named(format!("{}.{}", node.name, p.name), None, p)));
    }
    if let NodeForm::Keyed { choices, .. } = &node.form {
        for choice in choices {
            let presence = format!("{}.{}", node.name, choice.name);
            let of_choice =
                |p: &ParamSpec| named(format!("{presence}.{}", p.name), Some(presence.clone()), p);
            all.extend(choice.props.iter().map(of_choice));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        Schema::new(vec![
            NodeSpec::value(ParamSpec::new("scheme", ParamType::Choice(&["nf4", "int8"]), "").required())
                .prop(
                    ParamSpec::new("block", ParamType::at_least(32), "")
                        .default(Value::Int(64))
                        .applies("scheme", &["nf4"]),
                ),
            NodeSpec::keyed(
                "task",
                "",
                true,
                vec![KeyedChoice {
                    name: "boolq",
                    doc: "",
                    props: vec![ParamSpec::new("limit", ParamType::at_least(1), "").default(Value::Int(7))],
                }],
            ),
        ])
    }

    fn params(pairs: &[(&str, Value)]) -> Params {
        Params(pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect())
    }

    #[test]
    fn defaults_fill_in_and_inapplicable_parameters_drop_out() {
        let nf4 = schema().effective(&params(&[("scheme", Value::Text("nf4".into()))]));
        assert_eq!(nf4.int("scheme.block"), Some(64));
        let int8 = schema()
            .effective(&params(&[("scheme", Value::Text("int8".into())), ("scheme.block", Value::Int(32))]));
        assert!(!int8.has("scheme.block"));
    }

    #[test]
    fn what_depends_on_an_inapplicable_parameter_drops_out_too() {
        let int = |name| ParamSpec::new(name, ParamType::at_least(0), "").default(Value::Int(0));
        let schema = Schema::new(vec![
            NodeSpec::value(ParamSpec::new("a", ParamType::Choice(&["x", "y"]), "")),
            NodeSpec::value(int("b").applies("a", &["x"])),
            NodeSpec::value(int("c").applies("b", &["0"])),
        ]);
        assert_eq!(schema.effective(&params(&[("a", Value::Text("x".into()))])).0.len(), 3);
        assert_eq!(schema.effective(&params(&[("a", Value::Text("y".into()))])).0.len(), 1);
    }

    #[test]
    fn parameters_are_found_by_their_paths() {
        let schema = schema();
        let paths: Vec<&str> = schema.params().map(|(path, _)| path).collect();
        assert_eq!(paths, ["scheme", "scheme.block", "task.boolq.limit"]);
        assert!(paths.iter().all(|path| schema.param(path).is_some()));
        assert!(schema.param("task.boolq").is_none() && schema.param("block").is_none());
        let deciding = ["scheme", "task.boolq", "scheme.block"].map(|path| schema.decides(path));
        assert_eq!(deciding, [true, true, false]);
    }

    #[test]
    fn a_named_node_takes_any_name() {
        let output = ParamSpec::new("output", ParamType::Text, "");
        let schema = Schema::new(vec![NodeSpec::named(output, Names::Argument)]);
        assert!(schema.param("output.table").is_some() && schema.param("output").is_none());
        let given = params(&[("output.table", Value::Text("t.tsv".into()))]);
        assert_eq!(schema.effective(&given), given);
    }

    #[test]
    fn a_named_value_has_properties_of_its_own() {
        let word = ParamSpec::new("module", ParamType::Choice(&["rtn", "int8"]), "");
        let bits = ParamSpec::new("bits", ParamType::at_least(1), "").default(Value::Int(4));
        let node = NodeSpec::named(word, Names::Pattern).prop(bits.applies("module", &["rtn"]));
        let schema = Schema::new(vec![node]);
        let text = |word: &str| Value::Text(word.into());
        let given = params(&[("module.*.o_proj", text("rtn")), ("module.head", text("int8"))]);
        let effective = schema.effective(&given);
        assert_eq!(effective.int("module.*.o_proj.bits"), Some(4));
        assert!(!effective.has("module.head.bits"));
        let given = params(&[("module.head", text("int8")), ("module.head.bits", Value::Int(8))]);
        assert!(!schema.effective(&given).has("module.head.bits"));
        assert_eq!(schema.decider("module.head.bits").as_deref(), Some("module.head"));
        assert!(schema.decides("module.head") && !schema.decides("module.head.bits"));
        assert_eq!(schema.params().len(), 0);
    }

    #[test]
    fn a_choice_brings_its_own_defaults_only_when_present() {
        assert!(!schema().effective(&Params::default()).has("task.boolq.limit"));
        let with = schema().effective(&params(&[("task.boolq", Value::Bool(true))]));
        assert_eq!(with.int("task.boolq.limit"), Some(7));
    }
}
