//! The table for programs: every metric, in long form.

use std::collections::BTreeMap;

use qpipe_sdk::Better;
use qpipe_sdk::protocol::wire::Number;
use serde::{Serialize, Serializer};

use super::table::{Column, Entry, Row, StageEnd, StudyTable, TABLE_SCHEMA};

const HEADER: [&str; 21] = [
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
    "against",
    "paired_difference",
    "paired_low",
    "paired_high",
    "p",
    "p_holm",
    "detectable",
    "right_to_wrong",
    "wrong_to_right",
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

fn csv_line(row: &Row, entry: &Entry) -> [String; 21] {
    let (metric, comparison) = (&entry.metric, entry.comparison.as_ref());
    let paired = metric.paired.as_ref();
    let count = |value: Option<u64>| value.map_or_else(String::new, |n| n.to_string());
    let number = |value: Option<f64>| value.map_or_else(String::new, |v| v.to_string());
    [
        row.cell.clone(),
        entry.stage.clone(),
        metric.name.clone(),
        metric.value.to_string(),
        metric.unit.clone(),
        count(metric.n),
        number(metric.stderr),
        number(metric.range.map(|(low, _)| low)),
        number(metric.range.map(|(_, high)| high)),
        number(metric.trivial),
        number(entry.baseline_value),
        number(entry.difference()),
        comparison.map_or_else(String::new, |c| c.against.clone()),
        number(paired.map(|p| p.difference)),
        number(paired.map(|p| p.low)),
        number(paired.map(|p| p.high)),
        number(paired.and_then(|p| p.p)),
        number(comparison.and_then(|c| c.adjusted_p)),
        number(paired.and_then(|p| p.detectable)),
        count(paired.and_then(|p| p.right_to_wrong)),
        count(paired.and_then(|p| p.wrong_to_right)),
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
    #[serde(skip_serializing_if = "Option::is_none")]
    paired: Option<PairedDoc<'a>>,
}

/// `difference` here is paired, item by item, from the model of the stage `against`.
#[derive(Serialize)]
struct PairedDoc<'a> {
    against: &'a str,
    difference: Number,
    low: Number,
    high: Number,
    p: Option<Number>,
    p_holm: Option<Number>,
    detectable: Option<Number>,
    right_to_wrong: Option<u64>,
    wrong_to_right: Option<u64>,
}

impl<'a> PairedDoc<'a> {
    fn new(entry: &'a Entry) -> Option<Self> {
        let (paired, comparison) = (entry.metric.paired.as_ref()?, entry.comparison.as_ref()?);
        Some(Self {
            against: &comparison.against,
            difference: Number(paired.difference),
            low: Number(paired.low),
            high: Number(paired.high),
            p: paired.p.map(Number),
            p_holm: comparison.adjusted_p.map(Number),
            detectable: paired.detectable.map(Number),
            right_to_wrong: paired.right_to_wrong,
            wrong_to_right: paired.wrong_to_right,
        })
    }
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
            paired: PairedDoc::new(entry),
        }
    }
}
