//! A finished run, read back from its record.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::ReadError;
use super::list::runs;
use super::summary::{RUN_SCHEMA, RunSummary};
use crate::report::TABLE_SCHEMA;

/// A run's summary with its numbers.
#[derive(Clone, Debug)]
pub struct RunRecord {
    pub dir: PathBuf,
    pub summary: RunSummary,
    pub table: TableRecord,
}

/// `table.json`, as far as it is compared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableRecord {
    pub schema: u32,
    pub cells: Vec<TableCell>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableCell {
    pub cell: String,
    pub metrics: Vec<TableMetric>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableMetric {
    pub stage: String,
    pub metric: String,
    /// A number, or `NaN`, `inf`, `-inf`.
    pub value: Value,
    pub unit: String,
    #[serde(default)]
    pub headline: bool,
}

/// The finished run whose id is `id` or begins with it; `latest` is the newest one.
pub fn read_run(folder: &Path, id: &str) -> Result<RunRecord, ReadError> {
    let known = runs(folder)?;
    let mut ids = known.iter().map(|entry| entry.run.0.as_str()).filter(|known| known.starts_with(id));
    let found = match (id, ids.next(), ids.next()) {
        ("latest", _, _) => known.last().map(|entry| entry.run.0.as_str()),
        (_, Some(first), second) if second.is_none() || first == id => Some(first),
        (_, Some(_), _) => return Err(ReadError::Ambiguous { id: id.to_owned() }),
        (_, None, _) => None,
    };
    let found = found.ok_or_else(|| ReadError::Unknown { id: id.to_owned() })?;
    let dir = folder.join(found);
    let summary: RunSummary = document(&dir, "run.json", RUN_SCHEMA)?;
    let table = document(&dir, "table.json", TABLE_SCHEMA)?;
    Ok(RunRecord { dir, summary, table })
}

/// A document of a version that is known; the version is looked at before the rest.
fn document<T: serde::de::DeserializeOwned>(dir: &Path, name: &str, newest: u32) -> Result<T, ReadError> {
    let path = dir.join(name);
    let text = fs::read(&path).map_err(|source| ReadError::Io { path: path.clone(), source })?;
    let damaged = |source| ReadError::Damaged { path: path.clone(), source };
    let value: Value = serde_json::from_slice(&text).map_err(damaged)?;
    let version = value.get("schema").and_then(Value::as_u64).unwrap_or(0);
    if version > u64::from(newest) {
        return Err(ReadError::Newer { path, version });
    }
    serde_json::from_value(value).map_err(damaged)
}
