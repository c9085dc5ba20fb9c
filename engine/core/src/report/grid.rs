//! The table's texts, before any layout: what the terminal and Markdown have in common.

use std::collections::BTreeMap;

use qpipe_sdk::Better;
use serde::{Deserialize, Serialize};

use super::table::{Column, Entry, Row, StageEnd, StudyTable};
use super::{format, paired};

/// Texts of the summary table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Grid {
    pub(super) columns: Vec<Head>,
    pub(super) rows: Vec<(String, Vec<Text>)>,
    pub(super) notes: Vec<String>,
}

/// A column's head.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) stage: String,
    /// `boolq.f1 ↑`, with the unit where values do not show it.
    pub(super) metric: String,
}

/// One place of the table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Text {
    /// The value with its spread: `0.6123 ±0.0210`.
    pub(super) value: String,
    /// The paired difference with its interval, or else the signed difference from the cell's baseline.
    pub(super) difference: Option<String>,
}

impl Grid {
    /// The texts of the first `most` rows, and of what stands below the rows of the whole table.
    pub(super) fn new(table: &StudyTable, most: usize) -> Self {
        let several = table.baselines().len() > 1;
        let shown = table.rows.iter().take(most);
        let mut rows: Vec<(String, Vec<Text>)> = shown.map(|r| row(table, r, several)).collect();
        let trivial = trivial_row(table);
        let notes = notes(table, most, trivial.is_some());
        rows.extend(trivial);
        Self { columns: table.columns.iter().map(head).collect(), rows, notes }
    }
}

fn head(column: &Column) -> Head {
    let arrow = match column.better {
        Better::Higher => " ↑",
        Better::Lower => " ↓",
        Better::Neither => "",
    };
    let in_values = column.unit.is_empty() || format::shows_unit(&column.unit);
    let unit = if in_values { String::new() } else { format!(" ({})", column.unit) };
    Head { stage: column.stage.clone(), metric: format!("{}{unit}{arrow}", column.metric) }
}

/// With several baselines in one table, each row names its own.
fn row(table: &StudyTable, row: &Row, several_baselines: bool) -> (String, Vec<Text>) {
    let name = match &row.baseline {
        Some(baseline) if several_baselines => format!("{} (vs {baseline})", row.cell),
        _ => row.cell.clone(),
    };
    (name, table.columns.iter().map(|column| text(row, column)).collect())
}

fn text(row: &Row, column: &Column) -> Text {
    match row.entry(&column.stage, &column.metric) {
        Some(entry) => entry_text(entry),
        None => Text { value: absent(row.stages.get(&column.stage)).into(), difference: None },
    }
}

/// A missing value says why: `failed` where its stage did, `–` where there is nothing to have.
fn absent(end: Option<&StageEnd>) -> &'static str {
    match end {
        Some(StageEnd::Failed { .. }) => "failed",
        _ => "–",
    }
}

fn entry_text(entry: &Entry) -> Text {
    let metric = &entry.metric;
    let shown = |number: f64| format::quantity(number, &metric.unit);
    let spread = match (metric.stderr, metric.range) {
        (Some(stderr), _) => format!(" ±{}", shown(stderr)),
        (None, Some((low, high))) => format!(" [{}–{}]", shown(low), shown(high)),
        (None, None) => String::new(),
    };
    let difference = paired_text(entry)
        .or_else(|| entry.difference().map(|d| format::difference(d, metric.value, &metric.unit)));
    Text { value: format!("{}{spread}", shown(metric.value)), difference }
}

/// `-0.0049 [-0.0063, -0.0035]*`; only the sign of equality where nothing differs.
fn paired_text(entry: &Entry) -> Option<String> {
    let (metric, comparison) = (&entry.metric, entry.comparison.as_ref()?);
    let paired = metric.paired.as_ref()?;
    let signed = |number: f64| format::difference(number, metric.value, &metric.unit);
    let nothing = [paired.difference, paired.low, paired.high].iter().all(|number| *number == 0.0);
    if paired.p.is_none() || nothing {
        return Some(signed(paired.difference));
    }
    let mark = if comparison.is_significant() { "*" } else { "" };
    Some(format!("{} [{}, {}]{mark}", signed(paired.difference), signed(paired.low), signed(paired.high)))
}

fn trivial_row(table: &StudyTable) -> Option<(String, Vec<Text>)> {
    let text = |column: &Column| match table.trivial(column) {
        None => Text::default(),
        Some(Ok(value)) => Text { value: format::quantity(value, &column.unit), difference: None },
        Some(Err(_)) => Text { value: "varies".into(), difference: None },
    };
    let texts: Vec<Text> = table.columns.iter().map(text).collect();
    texts.iter().any(|t| !t.value.is_empty()).then(|| ("(trivial answer)".into(), texts))
}

/// The stages that shown paired differences are from, with the size of the largest family.
fn compared(table: &StudyTable) -> BTreeMap<&str, usize> {
    let shown = |entry: &&Entry| {
        table.columns.iter().any(|c| c.stage == entry.stage && c.metric == entry.metric.name)
    };
    let mut all = BTreeMap::new();
    for entry in table.rows.iter().flat_map(|row| &row.entries) {
        let Some(comparison) = entry.comparison.as_ref().filter(|_| shown(&entry)) else { continue };
        let family: &mut usize = all.entry(comparison.against.as_str()).or_default();
        *family = comparison.family.max(*family);
    }
    all
}

fn notes(table: &StudyTable, most: usize, has_trivial: bool) -> Vec<String> {
    let mut notes = Vec::new();
    let compared = compared(table);
    let baselines = table.baselines();
    if let (1, Some(baseline)) = (baselines.len(), baselines.first()) {
        let others = if compared.is_empty() { "" } else { "other " };
        notes.push(format!("{others}differences are from `{baseline}`"));
    }
    for (against, family) in compared {
        notes.insert(
            0,
            format!(
                "differences with a 95 % interval are paired, from the model of `{against}` on the same items; * p < {} \
                 after Holm's correction for {family} comparisons",
                paired::LEVEL
            ),
        );
    }
    if has_trivial {
        notes.push("trivial answer: what always giving the same answer scores".into());
    }
    let failures = table.rows.iter().flat_map(|row| {
        row.stages.iter().filter_map(move |(stage, end)| match end {
            StageEnd::Failed { message } => Some(format!("`{stage}` of `{}` failed: {message}", row.cell)),
            _ => None,
        })
    });
    notes.extend(failures.take(most));
    notes
}
