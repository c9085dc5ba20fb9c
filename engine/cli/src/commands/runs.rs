//! `qpipe runs ls`: the runs there are.

use qpipe_cache::Store;
use qpipe_engine::record::{self, RunEntry, RunStatus};
use qpipe_engine::report::duration;

use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

pub(super) fn ls(store: &Store, json: bool, printer: &mut Printer) -> Result<Exit, CliError> {
    let runs = record::runs(&store.runs_dir())?;
    if json {
        let list = serde_json::json!({ "schema": record::RUN_SCHEMA, "runs": runs });
        printer.data(&serde_json::to_string_pretty(&list)?);
        return Ok(Exit::Ok);
    }
    let header = ["run", "study", "started", "outcome", "ran", "cached", "failed", "time"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(runs.iter().map(row));
    printer.columns(&rows);
    Ok(Exit::Ok)
}

fn row(entry: &RunEntry) -> Vec<String> {
    let unknown = || "–".to_owned();
    let count = |of: fn(&qpipe_engine::run::Counts) -> usize| {
        entry.counts.as_ref().map_or_else(unknown, |counts| of(counts).to_string())
    };
    vec![
        entry.run.to_string(),
        entry.study.clone().unwrap_or_else(unknown),
        entry.started.as_deref().map_or_else(unknown, to_the_second),
        status(entry.status).into(),
        count(|c| c.ran),
        count(|c| c.cached),
        count(|c| c.failed),
        entry.elapsed_ms.map_or_else(unknown, duration),
    ]
}

/// `2026-11-22T20:30:15.123Z` → `2026-11-22 20:30:15Z`.
fn to_the_second(rfc3339: &str) -> String {
    let seconds = rfc3339.split(['.', 'Z']).next().unwrap_or(rfc3339);
    format!("{}Z", seconds.replace('T', " "))
}

fn status(status: RunStatus) -> &'static str {
    match status {
        RunStatus::Done => "done",
        RunStatus::Failed => "failed",
        RunStatus::Running => "running",
        RunStatus::Interrupted => "interrupted",
        RunStatus::Unreadable => "unreadable",
    }
}
