//! The table for programs: every metric, in long form.

use serde_json::{Value, json};

use super::table::{Entry, Row, StudyTable, TABLE_SCHEMA};
use crate::run::metrics::number;

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
/// are the strings `NaN`, `inf` and `-inf`.
pub fn json(table: &StudyTable) -> Value {
    json!({
        "schema": TABLE_SCHEMA,
        "study": table.study,
        "columns": table.columns,
        "cells": table.rows.iter().map(json_row).collect::<Vec<_>>(),
    })
}

fn json_row(row: &Row) -> Value {
    json!({
        "cell": row.cell,
        "group": row.group,
        "baseline": row.baseline,
        "stages": row.stages,
        "metrics": row.entries.iter().map(json_entry).collect::<Vec<_>>(),
    })
}

fn json_entry(entry: &Entry) -> Value {
    let metric = &entry.metric;
    json!({
        "stage": entry.stage,
        "metric": metric.name,
        "value": number(metric.value),
        "unit": metric.unit,
        "better": metric.better,
        "headline": metric.headline,
        "n": metric.n,
        "stderr": metric.stderr.map(number),
        "low": metric.range.map(|(low, _)| number(low)),
        "high": metric.range.map(|(_, high)| number(high)),
        "trivial": metric.trivial.map(number),
        "baseline_value": entry.baseline_value.map(number),
        "difference": entry.difference().map(number),
    })
}
