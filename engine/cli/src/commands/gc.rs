//! `qpipe cache gc`, `pin`, `unpin` and `pins`: what stays in the store and what goes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use qpipe_cache::{ActionKey, Evicted, GcMode, GcOptions, GcReport, Store, Tally, Why};
use qpipe_engine::record::{self, NodeStatus, RunSummary};

use super::cache::bytes;
use crate::args::GcArgs;
use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

pub(super) fn gc(store: &Store, args: &GcArgs, printer: &mut Printer) -> Result<Exit, CliError> {
    let options = GcOptions {
        older_than: args.max_age,
        max_bytes: args.max_size.map(|size| size.as_u64()),
        grace: args.grace,
        keep: keys_of_latest_runs(store, args.keep_runs)?,
        mode: if args.dry_run { GcMode::DryRun } else { GcMode::Remove },
    };
    let report = store.gc(&options)?;
    if args.json {
        let doc = serde_json::json!({ "schema": 1, "freed_bytes": report.freed_bytes(), "gc": report });
        printer.data(&serde_json::to_string_pretty(&doc)?);
        return Ok(Exit::Ok);
    }
    printer.columns(&report.evicted.iter().map(evicted_row).collect::<Vec<_>>());
    summary(&report, printer);
    Ok(Exit::Ok)
}

fn evicted_row(evicted: &Evicted) -> Vec<String> {
    let key = evicted.key.to_string().chars().take(12).collect();
    let why = match evicted.why {
        Why::Damaged => "damaged",
        Why::Idle => "not used for longer than the limit",
        Why::Space => "the store was larger than the limit",
    };
    vec![key, evicted.stage.clone(), why.to_owned()]
}

fn summary(report: &GcReport, printer: &mut Printer) {
    let verb = if report.mode == GcMode::DryRun { "would remove" } else { "removed" };
    let count = |tally: Tally| tally.count;
    printer.human(&format!(
        "{verb} {} records and {} blobs, {}; {} records and {} blobs stay, {}",
        count(report.records),
        count(report.blobs),
        bytes(report.freed_bytes()),
        count(report.kept.records),
        count(report.kept.blobs),
        bytes(report.kept.records.bytes + report.kept.blobs.bytes),
    ));
    if report.over_bytes > 0 {
        let over = bytes(report.over_bytes);
        printer.human(&format!(
            "still {over} above the limit: pins, the latest runs, running processes and what is young hold it"
        ));
    }
    if let Some(lease) = &report.held_by {
        printer.human(&format!("warning: a process holds everything (`{}`)", lease.display()));
    }
}

/// Every finished result in the records of the last `count` runs. A run without a summary names none: what it is doing is
/// protected by its own lease, and what it did is young.
fn keys_of_latest_runs(store: &Store, count: usize) -> Result<BTreeSet<ActionKey>, CliError> {
    let runs = record::runs(&store.runs_dir())?;
    let mut keys = BTreeSet::new();
    for entry in runs.iter().rev().take(count) {
        let path = store.runs_dir().join(&entry.run.0).join("run.json");
        if path.is_file() {
            keys.extend(keys_of(&path)?);
        }
    }
    Ok(keys)
}

fn keys_of(run_json: &Path) -> Result<Vec<ActionKey>, CliError> {
    let damaged = |reason: String| CliError::RunRecord { path: run_json.to_owned(), reason };
    let text = fs::read(run_json).map_err(|error| damaged(error.to_string()))?;
    let summary: RunSummary = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    summary
        .nodes
        .iter()
        .filter(|node| matches!(node.status, NodeStatus::Ran { .. } | NodeStatus::Cached { .. }))
        .filter_map(|node| node.key.as_deref())
        .map(|key| key.parse().map_err(|_| damaged(format!("`{key}` is no key"))))
        .collect()
}

pub(super) fn pin(
    store: &Store,
    name: &str,
    run: Option<&str>,
    keys: &[ActionKey],
    printer: &mut Printer,
) -> Result<Exit, CliError> {
    let keys: BTreeSet<ActionKey> = match run {
        Some(run) => {
            let path = store.runs_dir().join(run).join("run.json");
            let is_name = Path::new(run).file_name().is_some_and(|name| name == run);
            if !is_name || !path.is_file() {
                return Err(CliError::NoRun { run: run.to_owned() });
            }
            keys_of(&path)?.into_iter().collect()
        }
        None => keys.iter().copied().collect(),
    };
    store.pin(name, &keys)?;
    printer.human(&format!("pinned {} results as `{name}`", keys.len()));
    Ok(Exit::Ok)
}

pub(super) fn unpin(store: &Store, name: &str, printer: &mut Printer) -> Result<Exit, CliError> {
    if !store.unpin(name)? {
        return Err(CliError::NoPin { name: name.to_owned() });
    }
    printer.human(&format!("forgot the pin `{name}`"));
    Ok(Exit::Ok)
}

pub(super) fn pins(store: &Store, json: bool, printer: &mut Printer) -> Result<Exit, CliError> {
    let pins = store.pins()?;
    if json {
        let doc = serde_json::json!({ "schema": 1, "pins": pins });
        printer.data(&serde_json::to_string_pretty(&doc)?);
        return Ok(Exit::Ok);
    }
    let mut rows = vec![vec!["pin".to_owned(), "results".to_owned()]];
    rows.extend(pins.iter().map(|pin| vec![pin.name.clone(), pin.keys.len().to_string()]));
    printer.columns(&rows);
    Ok(Exit::Ok)
}
