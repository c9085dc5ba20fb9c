//! What a written value means: variables, paths relative to the file they stand in, the environment, units.
//!
//! Annotations are types, not templates: `(var)samples` is a value wherever a value may stand, and never part of a
//! string. This crate reads neither the environment nor the working directory's variables by itself: the caller
//! hands in a lookup.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kdl::{KdlEntry, KdlNode, KdlValue};
use qpipe_sdk::Value;

use super::error::{Checked, Errors, ManifestError};
use super::near::suggest;
use super::syntax::{arguments, children, entry_span, header_span, name_span, properties};
use crate::graph::Span;
use crate::sources::Sources;

/// Byte units, and their size in bytes.
pub(crate) const BYTES: [(&str, i64); 6] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// Time units, and their length in milliseconds.
pub(crate) const TIMES: [(&str, i64); 4] = [("ms", 1), ("s", 1_000), ("min", 60_000), ("h", 3_600_000)];

/// A value as written, meaning resolved, type not yet checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Literal {
    pub(crate) value: Value,
    /// Where it is used.
    pub(crate) span: Span,
    /// Where its variable is defined, if it comes from one in the manifest.
    pub(crate) variable: Option<Span>,
    /// Whether the command line gave it: its paths start where the user stands.
    pub(crate) replaced: bool,
}

struct Variable {
    value: Value,
    defined: Span,
    /// Whether the command line replaced the value that stands at `defined`.
    replaced: bool,
}

/// The names that values may refer to.
pub(crate) struct Scope<'a> {
    vars: BTreeMap<String, Variable>,
    /// `--set NAME=VALUE`: replaces a value where it is defined, so that later definitions see it.
    sets: BTreeMap<String, String>,
    /// Names whose definition was refused: their users are not blamed for it.
    broken: Vec<String>,
    sources: &'a Sources,
    /// Where relative paths in `sets` start from.
    sets_folder: PathBuf,
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Scope<'a> {
    /// A scope for the manifest in `sources`; `sets` are the variables that the command line replaces, with paths
    /// relative to `sets_folder` (else to the manifest's folder).
    pub(crate) fn new(
        sources: &'a Sources,
        sets: BTreeMap<String, String>,
        sets_folder: Option<&Path>,
        env: &'a dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let sets_folder = sets_folder.unwrap_or(sources.root().folder()).to_owned();
        Self { vars: BTreeMap::new(), sets, broken: Vec::new(), sources, sets_folder, env }
    }

    /// Where relative paths on the command line start from.
    pub(crate) fn sets_folder(&self) -> &Path {
        &self.sets_folder
    }

    /// Where a relative path in a value starts from: the folder of the text in which it is written.
    pub(crate) fn folder_of(&self, literal: &Literal) -> &Path {
        if literal.replaced {
            return &self.sets_folder;
        }
        self.folder_at(literal.variable.unwrap_or(literal.span))
    }

    fn folder_at(&self, span: Span) -> &Path {
        self.sources.file(span.offset).folder()
    }

    /// Adds the definitions of one `vars { … }`; each may use those above it.
    pub(crate) fn define_all(&mut self, section: &KdlNode, errors: &mut Errors) {
        for entry in section.entries() {
            errors.push(ManifestError::UnexpectedArgument {
                node: "vars".into(),
                takes: "a block of variables only".into(),
                span: entry_span(entry).into(),
                help: Some("write `vars { name value }`".into()),
            });
        }
        for node in children(section) {
            self.define(node, errors);
        }
    }

    fn define(&mut self, node: &KdlNode, errors: &mut Errors) {
        let name = node.name().value();
        if let Some(first) = self.vars.get(name) {
            let (what, span) = ("variable", name_span(node).into());
            let (name, first) = (name.to_owned(), first.defined.into());
            errors.push(ManifestError::Duplicate { what, name, span, first, help: None });
            return;
        }
        let before = errors.len();
        let value = self.definition(node, errors);
        match value {
            Some(value) if errors.len() == before => {
                let set = self.sets.get(name).map(|text| self.replacement(text, &value));
                let (replaced, value) = (set.is_some(), set.unwrap_or(value));
                self.vars.insert(name.to_owned(), Variable { value, defined: header_span(node), replaced });
            }
            _ => self.broken.push(name.to_owned()),
        }
    }

    fn definition(&self, node: &KdlNode, errors: &mut Errors) -> Option<Value> {
        let name = node.name().value();
        if !is_name(name) {
            let span = name_span(node).into();
            errors.push(ManifestError::InvalidName { what: "a variable", name: name.to_owned(), span });
        }
        refuse_block(node, errors);
        if let Some((property, entry)) = properties(node).next() {
            errors.push(ManifestError::UnknownProperty {
                node: name.to_owned(),
                name: property.to_owned(),
                span: entry_span(entry).into(),
                help: Some("a variable has values only: `name value`".into()),
            });
        }
        let mut values = Vec::new();
        for entry in arguments(node) {
            values.push(self.literal(entry, errors)?.value);
        }
        match values.len() {
            0 => {
                errors.push(ManifestError::MissingArgument {
                    node: name.to_owned(),
                    needs: "a value".into(),
                    span: name_span(node).into(),
                    help: Some(format!("write `{name} VALUE`")),
                });
                None
            }
            1 => values.pop(),
            _ => Some(Value::List(values)),
        }
    }

    /// A variable has no declared type: the value that is replaced says whether a word is a boolean, a string, a
    /// path or a list.
    fn replacement(&self, text: &str, replaced: &Value) -> Value {
        match (replaced, text.trim()) {
            (Value::Bool(_), "true") => Value::Bool(true),
            (Value::Bool(_), "false") => Value::Bool(false),
            (Value::Text(_), text) => Value::Text(unquoted(text).to_owned()),
            (Value::File(_), path) => file(&self.sets_folder, unquoted(path)),
            (_, text) if text.contains(',') => Value::List(text.split(',').map(word).collect()),
            (_, text) => word(text),
        }
    }

    /// Refuses replacements of variables that no `vars` section defines.
    pub(crate) fn check_sets(&self, errors: &mut Errors) {
        for name in self.sets.keys().filter(|name| !self.vars.contains_key(*name) && !self.is_broken(name)) {
            let help = suggest(name, "variables", self.variable_names())
                .or_else(|| Some("a parameter is set as `--set STAGE.PARAM=VALUE`".into()));
            let reason = "no variable has this name".to_owned();
            errors.push(ManifestError::BadSet { key: name.clone(), reason, help });
        }
    }

    fn variable_names(&self) -> impl Iterator<Item = &str> {
        self.vars.keys().map(String::as_str)
    }

    fn is_broken(&self, name: &str) -> bool {
        self.broken.iter().any(|broken| broken == name)
    }

    /// The meaning of an argument or a property's value; `None` after an error, or where the cause was reported
    /// already.
    pub(crate) fn literal(&self, entry: &KdlEntry, errors: &mut Errors) -> Option<Literal> {
        let span = entry_span(entry);
        let result = match entry.ty().map(kdl::KdlIdentifier::value) {
            None => plain(entry.value(), span).map(Some),
            Some("var") => return self.variable(entry, errors),
            Some("file") => self.relative_file(entry.value(), span).map(Some),
            Some("env") => self.environment(entry.value(), span).map(Some),
            Some(unit) => from_unit(unit, entry.value(), span).map(Some),
        };
        match result {
            Ok(value) => value.map(|value| Literal { value, span, variable: None, replaced: false }),
            Err(error) => {
                errors.push(*error);
                None
            }
        }
    }

    fn variable(&self, entry: &KdlEntry, errors: &mut Errors) -> Option<Literal> {
        let span = entry_span(entry);
        let Some(name) = entry.value().as_string() else {
            errors.push(*bad_annotation("var", "the name of a variable", span));
            return None;
        };
        if let Some(Variable { value, defined, replaced }) = self.vars.get(name) {
            let variable = (!replaced).then_some(*defined);
            return Some(Literal { value: value.clone(), span, variable, replaced: *replaced });
        }
        if !self.is_broken(name) {
            let help = suggest(name, "variables", self.variable_names())
                .or_else(|| Some(format!("define it above: `vars {{ {name} VALUE }}`")));
            errors.push(ManifestError::UnknownVariable { name: name.to_owned(), span: span.into(), help });
        }
        None
    }

    /// A variable of the environment, as it is.
    pub(crate) fn variable_of_environment(&self, name: &str) -> Option<String> {
        (self.env)(name)
    }

    fn relative_file(&self, value: &KdlValue, span: Span) -> Checked<Value> {
        let path = value.as_string().filter(|path| !path.is_empty());
        path.map(|path| file(self.folder_at(span), path))
            .ok_or_else(|| bad_annotation("file", "a path", span))
    }

    fn environment(&self, value: &KdlValue, span: Span) -> Checked<Value> {
        let name = value.as_string().ok_or_else(|| bad_annotation("env", "a name", span))?;
        let missing =
            || Box::new(ManifestError::UnsetEnvironment { name: name.to_owned(), span: span.into() });
        (self.env)(name).map(|text| word(&text)).ok_or_else(missing)
    }
}

/// A file relative to `folder`, absolute.
pub(crate) fn file(folder: &Path, path: &str) -> Value {
    let joined = folder.join(path);
    Value::File(std::path::absolute(&joined).unwrap_or(joined))
}

/// A value from outside the manifest: a number or a boolean if it reads as one, else a string as it is.
pub(crate) fn word(text: &str) -> Value {
    let text = text.trim();
    match text {
        "#true" => return Value::Bool(true),
        "#false" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(integer) = text.parse() {
        return Value::Int(integer);
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Value::Float(number),
        _ => Value::Text(text.to_owned()),
    }
}

/// `"text"` without its quotes.
pub(crate) fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text)
}

/// Whether a word may name a stage, a variable, a cell or a study.
pub(crate) fn is_name(word: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    word.bytes().all(allowed) && word.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
}

/// Refuses children of a node that has none.
pub(crate) fn refuse_block(node: &KdlNode, errors: &mut Errors) {
    if node.children().is_some() {
        errors.push(ManifestError::UnexpectedBlock {
            node: node.name().value().to_owned(),
            span: header_span(node).into(),
            help: Some("write values and properties on the node's own line".into()),
        });
    }
}

fn bad_annotation(annotation: &str, takes: &'static str, span: Span) -> Box<ManifestError> {
    let annotation = annotation.to_owned();
    Box::new(ManifestError::BadAnnotation { annotation, takes, span: span.into() })
}

fn bad_value(reason: &str, help: &str, span: Span) -> Box<ManifestError> {
    let (reason, help) = (reason.to_owned(), Some(help.to_owned()));
    Box::new(ManifestError::BadValue { reason, span: span.into(), help })
}

fn plain(value: &KdlValue, span: Span) -> Checked<Value> {
    match value {
        KdlValue::String(text) => Ok(Value::Text(text.clone())),
        KdlValue::Bool(flag) => Ok(Value::Bool(*flag)),
        KdlValue::Integer(integer) => i64::try_from(*integer)
            .map(Value::Int)
            .map_err(|_| bad_value("the integer does not fit 64 bits", "use a smaller one", span)),
        KdlValue::Float(number) if number.is_finite() => Ok(Value::Float(number + 0.0)),
        KdlValue::Float(_) => Err(bad_value("the number is not finite", "use a finite number", span)),
        KdlValue::Null => Err(bad_value("`#null` is no value", "leave the parameter out instead", span)),
    }
}

/// A number with a unit: bytes, or seconds. Whole results are integers.
fn from_unit(unit: &str, value: &KdlValue, span: Span) -> Checked<Value> {
    let find = |units: &[(&str, i64)]| units.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size);
    let (size, per) = match (find(&BYTES), find(&TIMES)) {
        (Some(bytes), _) => (bytes, 1),
        (_, Some(milliseconds)) => (milliseconds, 1_000),
        _ => return Err(unknown_annotation(unit, span)),
    };
    let is_number = matches!(value, KdlValue::Integer(_) | KdlValue::Float(_));
    let takes = if is_number { "a smaller number" } else { "a number" };
    scaled(value, size, per).ok_or_else(|| bad_annotation(unit, takes, span))
}

fn unknown_annotation(name: &str, span: Span) -> Box<ManifestError> {
    let units = BYTES.iter().chain(&TIMES).map(|(name, _)| *name);
    let help = suggest(name, "annotations", ["var", "file", "env"].into_iter().chain(units));
    Box::new(ManifestError::UnknownAnnotation { name: name.to_owned(), span: span.into(), help })
}

/// `value · size / per`.
fn scaled(value: &KdlValue, size: i64, per: i64) -> Option<Value> {
    if let KdlValue::Integer(integer) = value {
        let product = i64::try_from(*integer).ok()?.checked_mul(size)?;
        return Some(if product % per == 0 { Value::Int(product / per) } else { ratio(product as f64, per) });
    }
    let KdlValue::Float(number) = value else { return None };
    let result = number * size as f64 / per as f64;
    let whole = result.fract() == 0.0 && result.abs() < (1_i64 << 53) as f64;
    let value = if whole { Value::Int(result as i64) } else { Value::Float(result) };
    result.is_finite().then_some(value)
}

fn ratio(numerator: f64, denominator: i64) -> Value {
    Value::Float(numerator / denominator as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(source: &str) -> Checked<Value> {
        let document = kdl::KdlDocument::parse_v2(&format!("a {source}")).unwrap();
        let env = |name: &str| (name == "N").then(|| "12".to_owned());
        let sources = Sources::new(Path::new("/studies/x.kdl"), "");
        let scope = Scope::new(&sources, BTreeMap::new(), None, &env);
        let mut errors = Errors::default();
        let found = scope.literal(&document.nodes()[0].entries()[0], &mut errors);
        found.map(|l| l.value).ok_or_else(|| Box::new(errors.into_list().remove(0)))
    }

    #[test]
    fn units_give_bytes_and_seconds() {
        assert_eq!(literal("(GiB)24"), Ok(Value::Int(24 << 30)));
        assert_eq!(literal("(GiB)1.5"), Ok(Value::Int(3 << 29)));
        assert_eq!(literal("(GB)2"), Ok(Value::Int(2_000_000_000)));
        assert_eq!(literal("(min)30"), Ok(Value::Int(1800)));
        assert_eq!(literal("(ms)250"), Ok(Value::Float(0.25)));
        assert_eq!(literal("(h)0.5"), Ok(Value::Int(1800)));
        assert!(matches!(*literal("(GiB)9000000000000").unwrap_err(), ManifestError::BadAnnotation { .. }));
        assert!(matches!(*literal("(GiB)many").unwrap_err(), ManifestError::BadAnnotation { .. }));
    }

    #[test]
    fn files_are_relative_to_the_manifest() {
        assert_eq!(literal("(file)\"./m/a.bin\""), Ok(Value::File("/studies/m/a.bin".into())));
        assert_eq!(literal("(file)\"/m/a.bin\""), Ok(Value::File("/m/a.bin".into())));
    }

    #[test]
    fn the_environment_is_read_through_the_lookup_alone() {
        assert_eq!(literal("(env)N"), Ok(Value::Int(12)));
        assert!(matches!(*literal("(env)HOME").unwrap_err(), ManifestError::UnsetEnvironment { .. }));
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        assert!(matches!(*literal("99999999999999999999").unwrap_err(), ManifestError::BadValue { .. }));
        assert!(matches!(*literal("#inf").unwrap_err(), ManifestError::BadValue { .. }));
        assert!(matches!(*literal("#null").unwrap_err(), ManifestError::BadValue { .. }));
    }
}
