//! The table in all its forms, and the record a run leaves.

mod lab;

use lab::{Lab, Recipe};
use qpipe_engine::record::{NodeStatus, Recorded, Recorder, RunStatus, RunSummary, runs};
use qpipe_engine::report::{Overview, Row, StudyTable, TableDoc, csv, markdown, terminal};
use qpipe_engine::run::{EVENTS_SCHEMA, FailureMode, RunEvent, RunEventKind, RunOptions, RunOutcome, run};

fn table_of(schemes: &[&'static str], fp4_fails: bool) -> StudyTable {
    let lab = Lab::new();
    lab.switches.set(|s| &s.fp4_fails, fp4_fails);
    let study = Recipe::new(schemes).study();
    let options = RunOptions { failure: FailureMode::KeepGoing, ..RunOptions::default() };
    let (result, _) = lab.run_with(&study, &lab.plan(&study), &options);
    StudyTable::new(&study, &result)
}

#[test]
fn the_terminal_shows_differences_beside_values_where_they_fit() {
    insta::assert_snapshot!(terminal(&table_of(&["nf4", "fp4", "int8"], true), 120));
}

#[test]
fn a_narrower_terminal_shows_them_below() {
    insta::assert_snapshot!(terminal(&table_of(&["nf4", "int8"], false), 80));
}

#[test]
fn a_very_narrow_terminal_gets_several_tables_none_too_wide() {
    let text = terminal(&table_of(&["nf4", "int8"], false), 50);
    insta::assert_snapshot!(text);
    assert!(text.lines().filter(|l| l.starts_with('│')).all(|l| l.chars().count() <= 50));
}

#[test]
fn a_long_table_is_shown_in_part_and_says_so() {
    let short = table_of(&["nf4", "fp4", "int8"], false);
    let mut long = short.clone();
    let row = long.rows[2].clone();
    long.rows.extend((0..100).map(|n| Row { cell: format!("cell-{n}"), ..row.clone() }));
    let rows = |text: &str| text.lines().filter(|line| line.starts_with("│ ")).count();
    let text = Overview::new(&long).text(120);
    assert!(text.contains("… and 63 more cells: the tables of the run's record have all\n"), "{text}");
    assert!(text.contains("cell-36 ") && !text.contains("cell-37 "), "{text}");
    assert_eq!(rows(&text), rows(&Overview::new(&short).text(120)) + 37);
    assert_eq!(Overview::new(&short).text(120), terminal(&short, 120));
    assert_eq!(rows(&terminal(&long, 120)), rows(&text) + 63);
    assert_eq!(markdown(&long).lines().count(), markdown(&short).lines().count() + 100);
    let kept: Overview = serde_json::from_value(serde_json::to_value(Overview::new(&long)).unwrap()).unwrap();
    assert_eq!(kept.text(80), Overview::new(&long).text(80));
}

#[test]
fn markdown_has_the_same_table() {
    insta::assert_snapshot!(markdown(&table_of(&["nf4", "fp4", "int8"], true)));
}

#[test]
fn csv_has_every_metric_in_long_form() {
    insta::assert_snapshot!(csv(&table_of(&["nf4", "int8"], false)).unwrap());
}

#[test]
fn paired_differences_stand_with_their_intervals_and_what_they_are_from() {
    let lab = Lab::new();
    let mut study = Recipe { task: "paired", ..Recipe::new(&["nf4", "fp4", "int8"]) }.study();
    let base = study.cells[0].nodes.get("base").unwrap();
    for node in study.nodes.iter_mut().filter(|node| *node.kind == *"evaluate") {
        let model = node.inputs.get("model").unwrap();
        node.inputs = [("against".to_owned(), base), ("model".to_owned(), model)].into_iter().collect();
    }
    let table = StudyTable::new(&study, &lab.run(&study));
    insta::assert_snapshot!(terminal(&table, 140));
    insta::assert_snapshot!(csv(&table).unwrap());
    let json = serde_json::to_value(TableDoc::new(&table)).unwrap();
    let metrics = json["cells"][1]["metrics"].as_array().unwrap();
    let f1 = metrics.iter().find(|m| m["metric"] == "boolq.f1").unwrap();
    assert_eq!((&f1["paired"]["against"], &f1["paired"]["wrong_to_right"]), (&"base".into(), &12.into()));
}

#[test]
fn json_says_how_each_stage_ended_and_what_is_infinite() {
    let value = serde_json::to_value(TableDoc::new(&table_of(&["nf4", "fp4"], true))).unwrap();
    assert_eq!(value["schema"], 1);
    let failed = &value["cells"][1]["stages"];
    assert_eq!(failed["weights"]["state"], "failed");
    assert_eq!(failed["quality"]["because"], "weights#3");
    let kl = value["cells"][0]["metrics"].as_array().unwrap().iter().find(|m| m["metric"] == "kl").unwrap();
    assert_eq!(kl["value"], "inf");
}

#[test]
fn asked_for_columns_replace_the_headline_ones() {
    let lab = Lab::new();
    let mut study = Recipe::new(&["nf4"]).study();
    study.report.columns = vec!["quality.kl".into(), "base.parameters".into(), "quality.absent".into()];
    let table = StudyTable::new(&study, &lab.run(&study));
    let text = markdown(&table);
    assert!(text.contains("| cell | quality.kl (nat) ↓ | base.parameters | quality.absent |"), "{text}");
    assert!(text.contains("| baseline | inf | 7 | – |"), "{text}");
}

#[test]
fn a_record_is_complete_and_listed() {
    let lab = Lab::new();
    lab.switches.set(|s| &s.fp4_fails, true);
    let study = Recipe::new(&["nf4", "fp4"]).study();
    let plan = lab.plan(&study);
    let dir = lab.dir.path().join("runs");
    let mut recorder = Recorder::create(&dir, &study, &plan).unwrap();
    assert_eq!(runs(&dir).unwrap()[0].status, RunStatus::Running);

    let result = run(&study, &plan, &lab.registry(), &lab.store, &RunOptions::default(), &mut recorder);
    let Recorded { dir: at, faults, .. } =
        recorder.finish(&study, &plan, &result, &StudyTable::new(&study, &result));
    assert!(faults.is_empty(), "{faults:?}");
    for file in ["manifest.kdl", "plan.json", "started.json", "table.md", "table.csv", "table.json"] {
        assert!(at.join(file).is_file(), "{file}");
    }
    let summary: RunSummary = serde_json::from_slice(&std::fs::read(at.join("run.json")).unwrap()).unwrap();
    assert_eq!((summary.outcome, summary.counts.ran, summary.counts.failed), (RunOutcome::Failed, 3, 1));
    assert!(matches!(&summary.nodes[4].status, NodeStatus::Skipped { because } if because == "weights#3"));
    assert_eq!(summary.cells[1].overrides["weights.scheme"], "fp4");

    let log = std::fs::read_to_string(at.join("events.jsonl")).unwrap();
    let events: Vec<RunEvent> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(matches!(events[0].kind, RunEventKind::RunStarted { schema: EVENTS_SCHEMA, nodes: 5, .. }));
    assert!(matches!(events.last().unwrap().kind, RunEventKind::RunFinished { .. }));

    let listed = runs(&dir).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].status, listed[0].study.as_deref()), (RunStatus::Failed, Some("lab")));
}

#[test]
fn a_run_without_a_summary_was_interrupted() {
    let lab = Lab::new();
    let study = Recipe::new(&["nf4"]).study();
    let dir = lab.dir.path().join("runs");
    drop(Recorder::create(&dir, &study, &lab.plan(&study)).unwrap());
    std::fs::create_dir(dir.join("20200101T000000Z-000000")).unwrap();
    std::fs::write(dir.join("20200101T000000Z-000000/run.json"), "{").unwrap();
    let listed: Vec<RunStatus> = runs(&dir).unwrap().into_iter().map(|entry| entry.status).collect();
    assert_eq!(listed, [RunStatus::Unreadable, RunStatus::Interrupted]);
    assert_eq!(runs(&lab.dir.path().join("none")).unwrap(), []);
}

#[test]
fn a_record_that_cannot_be_written_fails_nothing() {
    let lab = Lab::new();
    let study = Recipe::new(&["nf4"]).study();
    let plan = lab.plan(&study);
    let dir = lab.dir.path().join("runs");
    let recorder = Recorder::create(&dir, &study, &plan).unwrap();
    let result = lab.run(&study);
    std::fs::remove_dir_all(recorder.dir()).unwrap();
    let Recorded { faults, .. } = recorder.finish(&study, &plan, &result, &StudyTable::new(&study, &result));
    assert_eq!((result.outcome, faults.len()), (RunOutcome::Done, 4));
}
