//! The table as data: cells × metrics, with each value's baseline.

use std::collections::{BTreeMap, BTreeSet};

use qpipe_sdk::{Better, Metric};
use serde::Serialize;

use super::paired::{self, Comparison};
use crate::graph::{Cell, NodeId, Study};
use crate::run::{NodeResult, RunResult};

/// Version of the layout of `table.json`.
pub const TABLE_SCHEMA: u32 = 1;

/// The results of a study: one row per cell, in the manifest's order.
#[derive(Clone, Debug)]
pub struct StudyTable {
    pub study: String,
    /// What the summary shows, in the order of the data's flow.
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
}

/// One metric of one stage, over all cells.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Column {
    pub stage: String,
    pub metric: String,
    pub unit: String,
    pub better: Better,
}

/// One cell.
#[derive(Clone, Debug)]
pub struct Row {
    pub cell: String,
    pub group: String,
    /// Name of the cell it is compared with.
    pub baseline: Option<String>,
    pub stages: BTreeMap<String, StageEnd>,
    /// Every metric of every stage, stages in the order of the data's flow.
    pub entries: Vec<Entry>,
}

/// How a stage ended in a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum StageEnd {
    Done,
    Failed {
        message: String,
    },
    /// `because`: label of the failed node it depends on.
    Skipped {
        because: String,
    },
    Stopped,
    /// Not asked for, and not in the store.
    Unselected,
}

/// One measured value, and the baseline's.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub stage: String,
    pub metric: Metric,
    /// The same metric of the baseline cell; `None` for a baseline and where the baseline has no value.
    pub baseline_value: Option<f64>,
    /// Of a metric with a paired difference: what it is compared with, and what that says in this study.
    pub comparison: Option<Comparison>,
}

impl Entry {
    /// Value minus the baseline's; equal values differ by nothing, infinite ones included.
    pub fn difference(&self) -> Option<f64> {
        let value = self.metric.value;
        let equal = |baseline: f64| value.partial_cmp(&baseline) == Some(std::cmp::Ordering::Equal);
        self.baseline_value.map(|baseline| if equal(baseline) { 0.0 } else { value - baseline })
    }
}

impl Row {
    pub fn entry(&self, stage: &str, metric: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.stage == stage && e.metric.name == metric)
    }
}

impl StudyTable {
    /// The table of a run.
    pub fn new(study: &Study, result: &RunResult) -> Self {
        let stages = stages_in_flow_order(study);
        let metrics: Vec<Vec<Metric>> =
            result.nodes.iter().map(|node| node.metrics().unwrap_or_default()).collect();
        let row = |cell| row(study, result, &stages, &metrics, cell);
        let mut rows: Vec<Row> = study.cells.iter().map(row).collect();
        paired::compare(study, &mut rows);
        let columns = columns(&study.report.columns, &stages, &rows);
        Self { study: study.name.clone(), columns, rows }
    }

    /// What a trivial answer scores in a column: `None` where no cell says, an error where cells differ.
    pub fn trivial(&self, column: &Column) -> Option<Result<f64, Vec<f64>>> {
        let entries = self.rows.iter().filter_map(|row| row.entry(&column.stage, &column.metric));
        let values: Vec<f64> = entries.filter_map(|entry| entry.metric.trivial).collect();
        let first = *values.first()?;
        Some(if values.iter().all(|v| v.to_bits() == first.to_bits()) { Ok(first) } else { Err(values) })
    }

    /// The names of the cells that others are compared with.
    pub fn baselines(&self) -> BTreeSet<&str> {
        self.rows.iter().filter_map(|row| row.baseline.as_deref()).collect()
    }
}

fn stages_in_flow_order(study: &Study) -> Vec<String> {
    let mut first: BTreeMap<&str, NodeId> = BTreeMap::new();
    for (stage, id) in study.cells.iter().flat_map(|cell| cell.nodes.iter()) {
        first.entry(stage).and_modify(|at| *at = (*at).min(id)).or_insert(id);
    }
    let mut stages: Vec<(NodeId, &str)> = first.into_iter().map(|(stage, id)| (id, stage)).collect();
    stages.sort_unstable();
    stages.into_iter().map(|(_, stage)| stage.to_owned()).collect()
}

fn row(study: &Study, result: &RunResult, stages: &[String], metrics: &[Vec<Metric>], cell: &Cell) -> Row {
    let baseline = cell.baseline.filter(|id| *id != cell.id).map(|id| &study.cells[id.0]);
    let mut entries = Vec::new();
    for stage in stages {
        let Some(id) = cell.nodes.get(stage) else { continue };
        let compared = baseline.and_then(|b| b.nodes.get(stage)).map(|id| &metrics[id.0]);
        for metric in &metrics[id.0] {
            let same = compared.and_then(|list| list.iter().find(|m| m.name == metric.name));
            let baseline_value = same.map(|m| m.value);
            entries.push(Entry {
                stage: stage.clone(),
                metric: metric.clone(),
                baseline_value,
                comparison: None,
            });
        }
    }
    Row {
        cell: cell.name.to_string(),
        group: cell.group.to_string(),
        baseline: baseline.map(|b| b.name.to_string()),
        stages: cell.nodes.iter().map(|(stage, id)| (stage.to_owned(), end(study, result, id))).collect(),
        entries,
    }
}

fn end(study: &Study, result: &RunResult, id: NodeId) -> StageEnd {
    match &result.nodes[id.0] {
        NodeResult::Done { .. } => StageEnd::Done,
        NodeResult::Failed { message, .. } => StageEnd::Failed { message: message.clone() },
        NodeResult::Skipped { because } => {
            StageEnd::Skipped { because: study.nodes[because.0].label.clone() }
        }
        NodeResult::Stopped => StageEnd::Stopped,
        NodeResult::Unselected => StageEnd::Unselected,
    }
}

/// The columns asked for as `STAGE.METRIC`, or every headline metric that any cell has. A column that was asked
/// for and that no cell has stays, empty: it is shown to be missing.
fn columns(asked: &[String], stages: &[String], rows: &[Row]) -> Vec<Column> {
    let known = |stage: &str, metric: &str| {
        let entry = rows.iter().find_map(|row| row.entry(stage, metric));
        let (unit, better) =
            entry.map_or((String::new(), Better::Neither), |e| (e.metric.unit.clone(), e.metric.better));
        Column { stage: stage.to_owned(), metric: metric.to_owned(), unit, better }
    };
    if !asked.is_empty() {
        let split = |path: &String| path.split_once('.').map(|(stage, metric)| known(stage, metric));
        return asked.iter().filter_map(split).collect();
    }
    let mut columns: Vec<Column> = Vec::new();
    for stage in stages {
        let entries = rows.iter().flat_map(|row| &row.entries);
        for entry in entries.filter(|e| e.stage == *stage && e.metric.headline) {
            if !columns.iter().any(|c| c.stage == *stage && c.metric == entry.metric.name) {
                columns.push(known(stage, &entry.metric.name));
            }
        }
    }
    columns
}
