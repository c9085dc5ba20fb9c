//! The table for programs: every metric, in long form.

use std::collections::BTreeMap;

use qpipe_sdk::Better;
use serde::{Serialize, Serializer};

use super::table::{Column, Entry, Row, StageEnd, StudyTable, TABLE_SCHEMA};
use crate::run::metrics::Number;

const HEADER: [&str; 12] = [
    "cell",
    "stage",
    "metric",
    "value",
    "unit",
    "n",
    "stderr",
    "low",
    "high",
    "trivial",
    "baseline_value",
    "difference",
];

/// Long CSV: one line per cell and metric; what is unknown is empty. Cells whose stages failed have no lines for
/// them; `table.json` says how each stage ended.
pub fn csv(table: &StudyTable) -> Result<String, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(HEADER)?;
    for row in &table.rows {
        for entry in &row.entries {
            writer.write_record(csv_line(row, entry))?;
        }
    }
    let bytes = writer.into_inner().map_err(csv::IntoInnerError::into_error)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn csv_line(row: &Row, entry: &Entry) -> [String; 12] {
    let metric = &entry.metric;
    let number = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
    [
        row.cell.clone(),
        entry.stage.clone(),
        metric.name.clone(),
        metric.value.to_string(),
        metric.unit.clone(),
        metric.n.map_or_else(String::new, |n| n.to_string()),
        number(metric.stderr),
        number(metric.range.map(|(low, _)| low)),
        number(metric.range.map(|(_, high)| high)),
        number(metric.trivial),
        number(entry.baseline_value),
        number(entry.difference()),
    ]
}

/// JSON with its schema version: every metric of every cell, and how each stage ended. Numbers that are not finite
/// are the strings `NaN`, `inf` and `-inf`. Serialized as it is walked, since a sweep has many cells.
#[derive(Serialize)]
pub struct TableDoc<'a> {
    schema: u32,
    study: &'a str,
    columns: &'a [Column],
    cells: Cells<'a>,
}

impl<'a> TableDoc<'a> {
    pub fn new(table: &'a StudyTable) -> Self {
        let StudyTable { study, columns, rows } = table;
        Self { schema: TABLE_SCHEMA, study, columns, cells: Cells(rows) }
    }
}

struct Cells<'a>(&'a [Row]);

impl Serialize for Cells<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(CellDoc::new))
    }
}

#[derive(Serialize)]
struct CellDoc<'a> {
    cell: &'a str,
    group: &'a str,
    baseline: &'a Option<String>,
    stages: &'a BTreeMap<String, StageEnd>,
    metrics: Metrics<'a>,
}

impl<'a> CellDoc<'a> {
    fn new(row: &'a Row) -> Self {
        let Row { cell, group, baseline, stages, entries } = row;
        Self { cell, group, baseline, stages, metrics: Metrics(entries) }
    }
}

struct Metrics<'a>(&'a [Entry]);

impl Serialize for Metrics<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(MetricDoc::new))
    }
}

#[derive(Serialize)]
struct MetricDoc<'a> {
    stage: &'a str,
    metric: &'a str,
    value: Number,
    unit: &'a str,
    better: Better,
    headline: bool,
    n: Option<u64>,
    stderr: Option<Number>,
    low: Option<Number>,
    high: Option<Number>,
    trivial: Option<Number>,
    baseline_value: Option<Number>,
    difference: Option<Number>,
}

impl<'a> MetricDoc<'a> {
    fn new(entry: &'a Entry) -> Self {
        let metric = &entry.metric;
        Self {
            stage: &entry.stage,
            metric: &metric.name,
            value: Number(metric.value),
            unit: &metric.unit,
            better: metric.better,
            headline: metric.headline,
            n: metric.n,
            stderr: metric.stderr.map(Number),
            low: metric.range.map(|(low, _)| Number(low)),
            high: metric.range.map(|(_, high)| Number(high)),
            trivial: metric.trivial.map(Number),
            baseline_value: entry.baseline_value.map(Number),
            difference: entry.difference().map(Number),
        }
    }
}
