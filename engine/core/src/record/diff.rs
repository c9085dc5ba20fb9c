//! What differs between two runs: in what went in, and in what came out.
//!
//! Nodes are compared use by use, under the name `STAGE` of a cell, since two runs number their nodes differently.
//! A node's inputs are its key document; the store keeps it with the result, so a use whose record was removed from
//! the store differs without saying how.

use std::collections::{BTreeMap, BTreeSet};

use qpipe_cache::{ActionKey, KeyDoc, Lookup, Store};
use serde::Serialize;
use serde_json::Value;

use super::read::{RunRecord, TableMetric};
use super::summary::{NodeStatus, NodeSummary, RunSummary};
use crate::plan::{MissReason, changes};

/// Version of [`RunDiff`]'s layout.
pub const DIFF_SCHEMA: u32 = 1;

/// Everything in which run `b` differs from run `a`.
#[derive(Clone, Debug, Serialize)]
pub struct RunDiff {
    pub schema: u32,
    pub a: String,
    pub b: String,
    /// Of the runs as wholes: study, texts, overrides, machine, outcome.
    pub runs: Vec<Change>,
    /// By cell and stage.
    pub inputs: Vec<InputDiff>,
    /// Numbers that differ, or that only one run has.
    pub results: Vec<ResultDiff>,
    /// How many uses and numbers are equal.
    pub same_inputs: usize,
    pub same_results: usize,
}

/// One value of two runs; `None` where a run has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub what: String,
    pub a: Option<String>,
    pub b: Option<String>,
}

/// A use whose node is not the same in both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InputDiff {
    pub cell: String,
    pub stage: String,
    pub how: InputChange,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum InputChange {
    OnlyInA,
    OnlyInB,
    /// Its key differs; `why` names the fields, `reasons` hold them.
    Key {
        reasons: Vec<MissReason>,
        why: Vec<String>,
    },
    /// Its key differs, but the store no longer has both records.
    Unknown,
    /// Same inputs; it ended otherwise.
    Ended {
        a: String,
        b: String,
    },
}

/// A number that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResultDiff {
    pub cell: String,
    pub stage: String,
    pub metric: String,
    pub unit: String,
    pub a: Option<Value>,
    pub b: Option<Value>,
    /// `b - a`, of finite numbers.
    pub difference: Option<f64>,
}

impl RunDiff {
    /// Compares two runs whose results are, or were, in `store`.
    pub fn new(a: &RunRecord, b: &RunRecord, store: &Store) -> Self {
        let (inputs, same_inputs) = inputs(&a.summary, &b.summary, store);
        let (results, same_results) = results(a, b);
        Self {
            schema: DIFF_SCHEMA,
            a: a.summary.run.to_string(),
            b: b.summary.run.to_string(),
            runs: whole(&a.summary, &b.summary),
            inputs,
            results,
            same_inputs,
            same_results,
        }
    }
}

fn whole(a: &RunSummary, b: &RunSummary) -> Vec<Change> {
    let fields = |run: &RunSummary| {
        let mut fields = BTreeMap::from([
            ("study".to_owned(), run.study.clone()),
            ("outcome".to_owned(), format!("{:?}", run.outcome).to_lowercase()),
            ("tool".to_owned(), run.environment.tool.clone()),
            ("cpu".to_owned(), run.environment.cpu.clone().unwrap_or_default()),
        ]);
        fields.extend(run.sources_digest.clone().map(|digest| ("manifest".to_owned(), short(&digest))));
        fields.extend(run.overrides.iter().map(|(name, value)| (format!("--set {name}"), value.clone())));
        fields
    };
    let (a, b) = (fields(a), fields(b));
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    let change = |name: &&String| a.get(*name) != b.get(*name);
    let changed = names.into_iter().filter(change);
    changed
        .map(|name| Change { what: name.clone(), a: a.get(name).cloned(), b: b.get(name).cloned() })
        .collect()
}

fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

type Use<'a> = (&'a str, &'a str);

/// Every node by cell and stage.
fn uses(run: &RunSummary) -> BTreeMap<Use<'_>, &NodeSummary> {
    let cells = run.cells.iter().flat_map(|cell| {
        cell.nodes.iter().map(move |(stage, node)| ((cell.cell.as_str(), stage.as_str()), *node))
    });
    cells.filter_map(|(name, node)| Some((name, run.nodes.get(node)?))).collect()
}

fn inputs(a: &RunSummary, b: &RunSummary, store: &Store) -> (Vec<InputDiff>, usize) {
    let (a, b) = (uses(a), uses(b));
    let names: BTreeSet<&Use<'_>> = a.keys().chain(b.keys()).collect();
    let (mut found, mut same) = (Vec::new(), 0);
    for name in names {
        match input_change(a.get(name).copied(), b.get(name).copied(), store) {
            None => same += 1,
            Some(how) => found.push(InputDiff { cell: name.0.to_owned(), stage: name.1.to_owned(), how }),
        }
    }
    (found, same)
}

fn input_change(a: Option<&NodeSummary>, b: Option<&NodeSummary>, store: &Store) -> Option<InputChange> {
    let (a, b) = match (a, b) {
        (Some(a), Some(b)) => (a, b),
        (Some(_), None) => return Some(InputChange::OnlyInA),
        _ => return Some(InputChange::OnlyInB),
    };
    if a.key != b.key {
        let docs = doc(a, store).zip(doc(b, store));
        return Some(docs.map_or(InputChange::Unknown, |(old, new)| {
            let reasons = changes(&b.stage, &old, &new);
            InputChange::Key { why: reasons.iter().map(MissReason::to_string).collect(), reasons }
        }));
    }
    let (was, is) = (ended(&a.status), ended(&b.status));
    (was != is).then(|| InputChange::Ended { a: was.into(), b: is.into() })
}

/// Running and finding the result again are the same end.
fn ended(status: &NodeStatus) -> &'static str {
    match status {
        NodeStatus::Ran { .. } | NodeStatus::Cached { .. } => "done",
        NodeStatus::Failed { .. } => "failed",
        NodeStatus::Skipped { .. } => "skipped",
        NodeStatus::Stopped => "stopped",
        NodeStatus::Unselected => "unselected",
    }
}

fn doc(node: &NodeSummary, store: &Store) -> Option<KeyDoc> {
    let key: ActionKey = node.key.as_ref()?.parse().ok()?;
    match store.lookup(&key) {
        Lookup::Hit(record) => Some(record.doc),
        Lookup::Absent | Lookup::Damaged(_) => None,
    }
}

fn results(a: &RunRecord, b: &RunRecord) -> (Vec<ResultDiff>, usize) {
    let (a, b) = (numbers(a), numbers(b));
    let names: BTreeSet<&(&str, &str, &str)> = a.keys().chain(b.keys()).collect();
    let (mut found, mut same) = (Vec::new(), 0);
    for name in names {
        let (before, after) = (a.get(name), b.get(name));
        let values = (before.map(|m| &m.value), after.map(|m| &m.value));
        if values.0 == values.1 {
            same += 1;
            continue;
        }
        let number = |value: Option<&Value>| value.and_then(Value::as_f64);
        found.push(ResultDiff {
            cell: name.0.to_owned(),
            stage: name.1.to_owned(),
            metric: name.2.to_owned(),
            unit: after.or(before).map(|m| m.unit.clone()).unwrap_or_default(),
            a: values.0.cloned(),
            b: values.1.cloned(),
            difference: number(values.1).zip(number(values.0)).map(|(after, before)| after - before),
        });
    }
    (found, same)
}

fn numbers(run: &RunRecord) -> BTreeMap<(&str, &str, &str), &TableMetric> {
    let cells = run.table.cells.iter();
    let metrics = cells.flat_map(|cell| cell.metrics.iter().map(move |metric| (cell.cell.as_str(), metric)));
    metrics.map(|(cell, metric)| ((cell, metric.stage.as_str(), metric.metric.as_str()), metric)).collect()
}
