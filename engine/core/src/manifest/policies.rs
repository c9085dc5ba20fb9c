//! `retry`, `timeout` and `resources` of `defaults { … }`: what a run may spend on a node.
//!
//! ```kdl
//! defaults {
//!     retry 3 wait=(s)2                // further tries for passing failures, and the first pause
//!     timeout (min)30 quantize=(h)2    // for every stage, and others by stage type or name
//!     resources { memory (GiB)4 weights=(GiB)24; gpus 0 2 }
//! }
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use kdl::{KdlEntry, KdlNode};
use qpipe_sdk::Value;

use super::document::refuse_rest;
use super::error::{Errors, ManifestError};
use super::near::suggest;
use super::scope::{BYTES, Scope, TIMES, refuse_block};
use super::syntax::{arguments, children, entry_span, header_span, key_span, name_span, properties};
use crate::graph::Span;
use crate::limits::{Gpus, LAST_GPU, Limits, PerStage, Retry};

/// Tries beyond this are no policy.
const MAX_RETRIES: i64 = 100;
/// Nodes of `resources`.
const RESOURCES: [&str; 2] = ["memory", "gpus"];
/// The longest time that can be stated, seconds: ten years.
const MAX_SECONDS: f64 = 315_360_000.0;

/// Reads the policies, each once.
pub(crate) struct Policies<'a> {
    pub(crate) limits: Limits,
    scope: &'a Scope<'a>,
    /// Stage types and names of the manifest.
    names: Vec<&'a str>,
    seen: BTreeMap<&'static str, Span>,
}

impl<'a> Policies<'a> {
    /// Nodes of `defaults` that this reads.
    pub(crate) const NODES: [&'static str; 3] = ["retry", "timeout", "resources"];

    pub(crate) fn new(scope: &'a Scope<'a>, names: Vec<&'a str>) -> Self {
        Self { limits: Limits::default(), scope, names, seen: BTreeMap::new() }
    }

    pub(crate) fn read(&mut self, name: &'static str, node: &KdlNode, errors: &mut Errors) {
        if !self.is_first(name, node, errors) {
            return;
        }
        match name {
            "retry" => self.limits.retry = self.retry(node, errors),
            "timeout" => self.limits.timeout = self.per_stage(node, Self::duration, errors),
            _ => self.resources(node, errors),
        }
    }

    /// Whether a node is the first of its name.
    fn is_first(&mut self, name: &str, node: &KdlNode, errors: &mut Errors) -> bool {
        let known = Self::NODES.into_iter().chain(RESOURCES).find(|known| *known == name);
        let Some(first) = known.and_then(|known| self.seen.insert(known, header_span(node))) else {
            return true;
        };
        errors.push(ManifestError::Duplicate {
            what: "default",
            name: name.to_owned(),
            span: header_span(node).into(),
            first: first.into(),
            help: None,
        });
        false
    }

    fn retry(&self, node: &KdlNode, errors: &mut Errors) -> Option<Retry> {
        refuse_block(node, errors);
        let mut entries = arguments(node);
        let first = entries.next();
        refuse_rest(node, entries, "one argument", errors);
        let mut retry = Retry::default();
        for (name, entry) in properties(node) {
            match name {
                "wait" => retry.wait = self.duration("wait", entry, errors)?,
                _ => unknown_property(node, name, entry, ["wait"], errors),
            }
        }
        let Some(entry) = first else {
            missing(node, "how many further tries", "write `retry 3` or `retry 3 wait=(s)2`", errors);
            return None;
        };
        let value = self.scope.literal(entry, errors)?.value;
        let times = if let Value::Int(n @ 0..=MAX_RETRIES) = value { u32::try_from(n).ok() } else { None };
        if times.is_none() {
            wrong("retry", "a number of tries from 0 to 100", &value, entry, errors);
        }
        times.map(|times| Retry { times, ..retry })
    }

    /// One argument for every stage, and properties for some.
    fn per_stage<T>(
        &self,
        node: &KdlNode,
        value: fn(&Self, &str, &KdlEntry, &mut Errors) -> Option<T>,
        errors: &mut Errors,
    ) -> PerStage<T> {
        let name = node.name().value();
        refuse_block(node, errors);
        let mut entries = arguments(node);
        let all = entries.next().and_then(|entry| value(self, name, entry, errors));
        refuse_rest(node, entries, "one argument, and others as `STAGE=VALUE`", errors);
        let mut of = BTreeMap::new();
        for (stage, entry) in properties(node) {
            if self.names.contains(&stage) {
                of.extend(value(self, name, entry, errors).map(|value| (stage.to_owned(), value)));
            } else {
                unknown_property(node, stage, entry, self.names.iter().copied(), errors);
            }
        }
        if node.entries().is_empty() {
            missing(node, "a value", "such as `timeout (min)30 quantize=(h)2`", errors);
        }
        PerStage { all, of }
    }

    fn resources(&mut self, node: &KdlNode, errors: &mut Errors) {
        refuse_rest(node, arguments(node), "a block only: `resources { memory (GiB)24 }`", errors);
        for (name, entry) in properties(node) {
            unknown_property(node, name, entry, [], errors);
        }
        for child in children(node) {
            match child.name().value() {
                name if !self.is_first(name, child, errors) => {}
                "memory" => self.limits.memory = self.per_stage(child, Self::bytes, errors),
                "gpus" => self.limits.gpus = self.gpus(child, errors),
                name => errors.push(ManifestError::UnknownParameter {
                    parent: "resources".into(),
                    name: name.to_owned(),
                    span: name_span(child).into(),
                    help: suggest(name, "nodes here", RESOURCES),
                }),
            }
        }
    }

    /// `gpus all`, or ordinals: `gpus 0 2`.
    fn gpus(&self, node: &KdlNode, errors: &mut Errors) -> Option<Gpus> {
        refuse_block(node, errors);
        for (name, entry) in properties(node) {
            unknown_property(node, name, entry, [], errors);
        }
        let entries: Vec<&KdlEntry> = arguments(node).collect();
        let mut ordinals = Vec::with_capacity(entries.len());
        for entry in &entries {
            match self.scope.literal(entry, errors)?.value {
                Value::Text(text) if text == "all" && entries.len() == 1 => return Some(Gpus::All),
                Value::Int(n) if is_gpu(n) && !ordinals.contains(&(n as usize)) => ordinals.push(n as usize),
                other => {
                    let expected = "`all` alone, or numbers of GPUs such as `gpus 0 2`, each once";
                    wrong("gpus", expected, &other, entry, errors);
                    return None;
                }
            }
        }
        if ordinals.is_empty() {
            missing(node, "which GPUs", "write `gpus all`, or their numbers: `gpus 0 2`", errors);
            return None;
        }
        Some(Gpus::These(ordinals))
    }

    fn duration(&self, param: &str, entry: &KdlEntry, errors: &mut Errors) -> Option<Duration> {
        let value = self.literal(param, entry, &TIMES, "(min)30", errors)?;
        let seconds = number(&value).filter(|seconds| (0.0..=MAX_SECONDS).contains(seconds));
        if seconds.is_none_or(|seconds| seconds == 0.0) {
            wrong(param, "a time such as `(min)30`", &value, entry, errors);
            return None;
        }
        seconds.map(Duration::from_secs_f64)
    }

    fn bytes(&self, param: &str, entry: &KdlEntry, errors: &mut Errors) -> Option<u64> {
        let value = self.literal(param, entry, &BYTES, "(GiB)24", errors)?;
        let bytes = number(&value).filter(|bytes| *bytes >= 1.0).map(|bytes| bytes as u64);
        if bytes.is_none() {
            wrong(param, "a size such as `(GiB)24`", &value, entry, errors);
        }
        bytes
    }

    /// A value with one of these units; a variable brings its own.
    fn literal(
        &self,
        param: &str,
        entry: &KdlEntry,
        units: &[(&str, i64)],
        example: &str,
        errors: &mut Errors,
    ) -> Option<Value> {
        let value = self.scope.literal(entry, errors)?.value;
        let unit = entry.ty().map(kdl::KdlIdentifier::value);
        let fits = |unit: &str| unit == "var" || units.iter().any(|(known, _)| *known == unit);
        if unit.is_some_and(fits) {
            return Some(value);
        }
        wrong(param, &format!("a number with a unit such as `{example}`"), &value, entry, errors);
        None
    }
}

fn is_gpu(number: i64) -> bool {
    usize::try_from(number).is_ok_and(|ordinal| ordinal <= LAST_GPU)
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(int) => Some(*int as f64),
        Value::Float(float) => Some(*float),
        _ => None,
    }
}

fn wrong(param: &str, expected: &str, found: &Value, entry: &KdlEntry, errors: &mut Errors) {
    errors.push(ManifestError::WrongType {
        param: param.to_owned(),
        expected: expected.to_owned(),
        found: format!("`{found}`"),
        span: entry_span(entry).into(),
        variable: None,
        help: None,
    });
}

fn missing(node: &KdlNode, needs: &str, help: &str, errors: &mut Errors) {
    errors.push(ManifestError::MissingArgument {
        node: node.name().value().to_owned(),
        needs: needs.to_owned(),
        span: name_span(node).into(),
        help: Some(help.to_owned()),
    });
}

fn unknown_property<'n>(
    node: &KdlNode,
    name: &str,
    entry: &KdlEntry,
    known: impl IntoIterator<Item = &'n str>,
    errors: &mut Errors,
) {
    errors.push(ManifestError::UnknownProperty {
        node: node.name().value().to_owned(),
        name: name.to_owned(),
        span: key_span(entry).into(),
        help: suggest(name, "properties", known),
    });
}
