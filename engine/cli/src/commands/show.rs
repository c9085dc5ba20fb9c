//! `qpipe runs show` and `qpipe runs diff`: one run, and what differs between two.

use qpipe_cache::Store;
use qpipe_engine::record::{
    self, InputChange, NodeSamples, NodeStatus, ResultDiff, RunDiff, RunRecord, RunSummary,
};
use qpipe_engine::report::{duration, quantity};

use crate::error::CliError;
use crate::exit::Exit;
use crate::printer::Printer;

/// The record as a person reads it, or `run.json` as it is.
pub(super) fn show(store: &Store, id: &str, json: bool, printer: &mut Printer) -> Result<Exit, CliError> {
    let record = record::read_run(&store.runs_dir(), id)?;
    if json {
        printer.data(&serde_json::to_string_pretty(&record.summary)?);
        return Ok(Exit::Ok);
    }
    printer.columns(&about(&record));
    printer.data("");
    let mut nodes: Vec<Vec<String>> = vec![["node", "outcome", "time", ""].map(str::to_owned).to_vec()];
    nodes.extend(record.summary.nodes.iter().map(|node| {
        let (ended, time, why) = ended(&node.status);
        vec![node.label.clone(), ended.to_owned(), time.map_or_else(String::new, duration), why]
    }));
    printer.columns(&nodes);
    for node in record::samples_of(&record.summary, store) {
        show_samples(&node, printer);
    }
    Ok(Exit::Ok)
}

/// The first texts that a node generated.
fn show_samples(node: &NodeSamples, printer: &mut Printer) {
    printer.data("");
    printer.data(&format!("{} ({} of {} texts)", node.node, node.samples.len(), node.all));
    for sample in &node.samples {
        let shown = format!("{} → {}", sample.prompt, sample.text.trim_start());
        shown.lines().for_each(|line| printer.data(&format!("  {line}")));
    }
}

fn about(record: &RunRecord) -> Vec<Vec<String>> {
    let run = &record.summary;
    let mut rows = vec![
        ("run", run.run.to_string()),
        ("study", run.study.clone()),
        ("manifest", run.manifest.display().to_string()),
    ];
    rows.extend(run.includes.iter().map(|file| ("include", file.path.display().to_string())));
    rows.extend(run.sources_digest.clone().map(|digest| ("digest", digest)));
    rows.extend(run.overrides.iter().map(|(name, value)| ("--set", format!("{name}={value}"))));
    rows.extend([
        ("started", run.started.clone()),
        ("outcome", format!("{:?}", run.outcome).to_lowercase()),
        ("nodes", counts(run)),
        ("time", duration(run.elapsed_ms)),
        ("tool", run.environment.tool.clone()),
    ]);
    rows.extend(run.environment.cpu.clone().map(|cpu| ("cpu", cpu)));
    rows.push(("record", record.dir.display().to_string()));
    rows.into_iter().map(|(what, value)| vec![what.to_owned(), value]).collect()
}

fn counts(run: &RunSummary) -> String {
    let counts = &run.counts;
    format!("ran {} · cached {} · failed {}", counts.ran, counts.cached, counts.failed)
}

/// How a node ended, how long its work took, and why it did not end well.
fn ended(status: &NodeStatus) -> (&'static str, Option<u64>, String) {
    match status {
        NodeStatus::Ran { elapsed_ms } => ("ran", Some(*elapsed_ms), String::new()),
        NodeStatus::Cached { elapsed_ms } => ("cached", Some(*elapsed_ms), String::new()),
        NodeStatus::Failed { error, elapsed_ms, .. } => ("failed", Some(*elapsed_ms), error.clone()),
        NodeStatus::Skipped { because } => ("skipped", None, format!("because of {because}")),
        NodeStatus::Stopped => ("stopped", None, String::new()),
        NodeStatus::Unselected => ("unselected", None, String::new()),
    }
}

/// What differs between two runs, in inputs and results.
pub(super) fn diff(
    store: &Store,
    (a, b): (&str, &str),
    json: bool,
    printer: &mut Printer,
) -> Result<Exit, CliError> {
    let runs = store.runs_dir();
    let diff = RunDiff::new(&record::read_run(&runs, a)?, &record::read_run(&runs, b)?, store);
    if json {
        printer.data(&serde_json::to_string_pretty(&diff)?);
        return Ok(Exit::Ok);
    }
    let absent = || "–".to_owned();
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(absent);
    let mut rows: Vec<Vec<String>> = diff
        .runs
        .iter()
        .map(|change| vec![change.what.clone(), format!("{} → {}", shown(&change.a), shown(&change.b))])
        .collect();
    for input in &diff.inputs {
        let name = format!("{} [{}]", input.stage, input.cell);
        rows.extend(lines(&input.how).into_iter().map(|line| vec![name.clone(), line]));
    }
    rows.extend(diff.results.iter().map(result_row));
    printer.columns(&rows);
    printer.human(&format!(
        "inputs: {} differ, {} equal · results: {} differ, {} equal",
        diff.inputs.len(),
        diff.same_inputs,
        diff.results.len(),
        diff.same_results
    ));
    Ok(Exit::Ok)
}

fn lines(how: &InputChange) -> Vec<String> {
    match how {
        InputChange::OnlyInA => vec!["only in the first run".into()],
        InputChange::OnlyInB => vec!["only in the second run".into()],
        InputChange::Key { why, .. } => why.clone(),
        InputChange::Unknown => vec!["other inputs; the store no longer knows which".into()],
        InputChange::Ended { a, b } => vec![format!("{a} → {b}")],
    }
}

fn result_row(result: &ResultDiff) -> Vec<String> {
    let shown = |value: &Option<serde_json::Value>| match value {
        None => "–".to_owned(),
        Some(value) => value.as_f64().map_or_else(|| value.to_string(), |v| quantity(v, &result.unit)),
    };
    let sign = if result.difference.is_some_and(|d| d >= 0.0) { "+" } else { "" };
    let by = result.difference.map(|d| format!(" ({sign}{})", quantity(d, &result.unit)));
    vec![
        format!("{}.{} [{}]", result.stage, result.metric, result.cell),
        format!("{} → {}{}", shown(&result.a), shown(&result.b), by.unwrap_or_default()),
    ]
}
