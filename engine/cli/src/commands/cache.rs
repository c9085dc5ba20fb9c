//! `qpipe cache`: what the store holds, what of it is kept, and whether it is sound.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use qpipe_cache::{RecordInfo, Repair, Store, Tally};
use qpipe_engine::report::duration;

use super::gc;
use crate::args::CacheCommand;
use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

pub(super) fn run(store: &Store, command: &CacheCommand, printer: &mut Printer) -> Result<Exit, CliError> {
    match command {
        CacheCommand::Ls { limit, json } => ls(store, *limit, *json, printer),
        CacheCommand::Gc(options) => gc::gc(store, options, printer),
        CacheCommand::Pin { name, run, keys } => gc::pin(store, name, run.as_deref(), keys, printer),
        CacheCommand::Unpin { name } => gc::unpin(store, name, printer),
        CacheCommand::Pins { json } => gc::pins(store, *json, printer),
        CacheCommand::Verify { repair } => Ok(verify(store, *repair, printer)),
        CacheCommand::Du { json } => du(store, *json, printer),
    }
}

fn ls(store: &Store, limit: Option<usize>, json: bool, printer: &mut Printer) -> Result<Exit, CliError> {
    let mut records = store.ls()?;
    records.truncate(limit.unwrap_or(usize::MAX));
    if json {
        let list: Vec<_> = records.iter().map(record_json).collect();
        let doc = serde_json::json!({ "schema": 1, "records": list });
        printer.data(&serde_json::to_string_pretty(&doc)?);
        return Ok(Exit::Ok);
    }
    let header = ["key", "stage", "size", "took", "age", "last use", "pins"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(records.iter().map(record_row));
    printer.columns(&rows);
    Ok(Exit::Ok)
}

fn record_row(info: &RecordInfo) -> Vec<String> {
    let stage = if info.fault.is_some() { "(damaged)" } else { info.stage.as_str() };
    vec![
        info.key.to_string().chars().take(12).collect(),
        stage.to_owned(),
        bytes(info.bytes),
        duration(info.elapsed_ms),
        ago(info.committed_unix_ms),
        ago(info.last_use_unix_ms),
        info.pins.join(", "),
    ]
}

fn record_json(info: &RecordInfo) -> serde_json::Value {
    serde_json::json!({
        "key": info.key.to_string(), "stage": info.stage, "bytes": info.bytes, "elapsed_ms": info.elapsed_ms,
        "committed_unix_ms": info.committed_unix_ms, "last_use_unix_ms": info.last_use_unix_ms, "pins": info.pins,
        "fault": info.fault.as_ref().map(ToString::to_string),
    })
}

/// `3d`: the time since, in its largest unit.
fn ago(unix_ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = now.saturating_sub(Duration::from_millis(unix_ms)).as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}min", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Faults are data, one a line; a damaged store has its own exit code.
fn verify(store: &Store, repair: bool, printer: &mut Printer) -> Exit {
    let report = store.verify(if repair { Repair::SetAside } else { Repair::Nothing });
    for fault in &report.faults {
        printer.data(&fault.to_string());
    }
    printer.human(&format!(
        "checked {} blobs, {} linked files and {} records, {}: {} faults",
        report.blobs,
        report.links,
        report.records,
        bytes(report.bytes),
        report.faults.len()
    ));
    if report.is_clean() { Exit::Ok } else { Exit::Store }
}

fn du(store: &Store, json: bool, printer: &mut Printer) -> Result<Exit, CliError> {
    let usage = store.du();
    if json {
        let doc = serde_json::json!({ "schema": 1, "usage": usage, "owned_bytes": usage.owned_bytes() });
        printer.data(&serde_json::to_string_pretty(&doc)?);
        return Ok(Exit::Ok);
    }
    let row = |(what, tally): (&str, Tally)| vec![what.into(), tally.count.to_string(), bytes(tally.bytes)];
    let parts = [
        ("blobs", usage.blobs),
        ("records", usage.records),
        ("notes", usage.notes),
        ("staging", usage.staging),
        ("bookkeeping", usage.bookkeeping),
        ("damaged", usage.damaged),
        ("linked (not owned)", usage.linked),
    ];
    let mut rows: Vec<Vec<String>> = parts.into_iter().map(row).collect();
    rows.push(vec!["owned".into(), String::new(), bytes(usage.owned_bytes())]);
    printer.columns(&rows);
    for path in &usage.unreadable {
        printer.human(&format!("warning: cannot examine `{}`", path.display()));
    }
    Ok(Exit::Ok)
}

pub(super) fn bytes(count: u64) -> String {
    qpipe_engine::report::quantity(count as f64, "bytes")
}
