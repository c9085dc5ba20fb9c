//! `qpipe cache gc`, `pin`, `unpin` and `pins`: what stays in the store and what goes.

use std::collections::BTreeSet;

use qpipe_cache::{ActionKey, Evicted, GcMode, GcOptions, GcReport, Store, Tally, Why};
use qpipe_engine::record::{self, NodeStatus, NodeSummary, RunStatus};

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

/// Every finished result in the records of the last `count` runs. A run without a summary names none: what it is doing
/// is protected by its own lease, and what it did is young.
fn keys_of_latest_runs(store: &Store, count: usize) -> Result<BTreeSet<ActionKey>, CliError> {
    let runs = record::runs(&store.runs_dir())?;
    let mut keys = BTreeSet::new();
    for entry in runs.iter().rev().take(count) {
        if !matches!(entry.status, RunStatus::Running | RunStatus::Interrupted) {
            keys.extend(keys_of(store, &entry.run.0)?);
        }
    }
    Ok(keys)
}

fn keys_of(store: &Store, run: &str) -> Result<BTreeSet<ActionKey>, CliError> {
    let record = record::read_run(&store.runs_dir(), run)?;
    let finished =
        |node: &&NodeSummary| matches!(node.status, NodeStatus::Ran { .. } | NodeStatus::Cached { .. });
    let keys = record.summary.nodes.iter().filter(finished).filter_map(|node| node.key.as_deref());
    keys.map(|key| key.parse().map_err(|_| CliError::NoKey { run: run.to_owned(), text: key.to_owned() }))
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
        Some(run) => keys_of(store, run)?,
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
