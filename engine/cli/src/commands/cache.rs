//! `qpipe cache verify` and `qpipe cache du`.

use qpipe_cache::{Repair, Store, Tally};

use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

/// Faults are data, one a line; a damaged store has its own exit code.
pub(super) fn verify(store: &Store, repair: bool, printer: &mut Printer) -> Exit {
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

pub(super) fn du(store: &Store, json: bool, printer: &mut Printer) -> Result<Exit, CliError> {
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

fn bytes(count: u64) -> String {
    qpipe_engine::report::quantity(count as f64, "bytes")
}
