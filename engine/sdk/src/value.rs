//! Typed parameter values. A stage's parameters are one flat map from dotted path to value:
//! `scheme nf4 block=64` in a manifest is `{"scheme": nf4, "scheme.block": 64}` here, which is also how
//! `--set`, `vary` and a report name them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use qpipe_cache::KeyValue;
use serde::{Deserialize, Serialize};

/// One parameter value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// A file, absolute once decoded. Its *content* enters the key (as a source), its path never does.
    File(PathBuf),
    List(Vec<Value>),
}

impl Value {
    /// The value's form in an action key; `None` for files, which enter a key by content.
    pub fn to_key(&self) -> Option<KeyValue> {
        Some(match self {
            Self::Bool(b) => KeyValue::Bool(*b),
            Self::Int(i) => KeyValue::Int(*i),
            Self::Float(f) => KeyValue::Float(*f),
            Self::Text(t) => KeyValue::Text(t.clone()),
            Self::File(_) => return None,
            Self::List(items) => KeyValue::List(items.iter().filter_map(Self::to_key).collect()),
        })
    }

    /// The name of the value's type, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::File(_) => "a file",
            Self::List(_) => "a list",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(b) => write!(f, "{b}"),
            Self::Int(i) => write!(f, "{i}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::Text(t) => f.write_str(t),
            Self::File(p) => write!(f, "{}", p.display()),
            Self::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        f.write_str(" ")?;
                    }
                    write!(f, "{item}")?;
                }
                Ok(())
            }
        }
    }
}

/// Parameters of one stage by dotted path. After [`crate::Schema::effective`] every applicable parameter is
/// present and no inapplicable one is. The typed getters give `None` for a parameter that is absent or of another
/// type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Params(pub BTreeMap<String, Value>);

impl Params {
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.0.get(path)
    }

    pub fn set(&mut self, path: impl Into<String>, value: Value) {
        self.0.insert(path.into(), value);
    }

    pub fn has(&self, path: &str) -> bool {
        self.0.contains_key(path)
    }

    pub fn text(&self, path: &str) -> Option<&str> {
        match self.get(path) {
            Some(Value::Text(t)) => Some(t),
            _ => None,
        }
    }

    pub fn int(&self, path: &str) -> Option<i64> {
        match self.get(path) {
            Some(Value::Int(i)) => Some(*i),
            _ => None,
        }
    }

    /// A number; integers count as numbers.
    pub fn float(&self, path: &str) -> Option<f64> {
        match self.get(path) {
            Some(Value::Float(x)) => Some(*x),
            Some(Value::Int(i)) => Some(*i as f64),
            _ => None,
        }
    }

    pub fn bool(&self, path: &str) -> Option<bool> {
        match self.get(path) {
            Some(Value::Bool(b)) => Some(*b),
            _ => None,
        }
    }

    pub fn file(&self, path: &str) -> Option<&Path> {
        match self.get(path) {
            Some(Value::File(p)) => Some(p),
            _ => None,
        }
    }

    /// A list of integers; one integer counts as a list of one.
    pub fn ints(&self, path: &str) -> Vec<i64> {
        match self.get(path) {
            Some(Value::List(items)) => {
                items.iter().filter_map(|v| if let Value::Int(i) = v { Some(*i) } else { None }).collect()
            }
            Some(Value::Int(i)) => vec![*i],
            _ => Vec::new(),
        }
    }

    /// A list of strings; one string counts as a list of one.
    pub fn texts(&self, path: &str) -> Vec<String> {
        match self.get(path) {
            Some(Value::List(items)) => items
                .iter()
                .filter_map(|v| if let Value::Text(t) = v { Some(t.clone()) } else { None })
                .collect(),
            Some(Value::Text(t)) => vec![t.clone()],
            _ => Vec::new(),
        }
    }

    /// The files among the values, with their paths' names: their contents are inputs of the stage.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.0
            .iter()
            .filter_map(|(k, v)| if let Value::File(p) = v { Some((k.as_str(), p.as_path())) } else { None })
    }
}
