//! Caching and resuming, by running and killing the real program.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::program::{Counts, Project, STUDY};

#[test]
fn an_unchanged_study_is_all_hits_and_gives_the_same_table() {
    let project = Project::new(STUDY);
    project.ok(&["run", "study.kdl"]);
    assert_eq!(project.counts(), Counts { ran: 7, cached: 0 });
    let table = fs::read(project.last_run().join("table.csv")).unwrap();
    assert!(String::from_utf8_lossy(&table).contains("boolq.f1"));
    project.ok(&["run", "study.kdl"]);
    assert_eq!(project.counts(), Counts { ran: 0, cached: 7 });
    assert_eq!(fs::read(project.last_run().join("table.csv")).unwrap(), table);
}

#[test]
fn one_changed_value_reruns_its_own_nodes_and_says_why() {
    let project = Project::new(STUDY);
    project.ok(&["run", "study.kdl"]);
    project.edit("weights.scheme.block 128", "weights.scheme.block 256");
    project.ok(&["run", "study.kdl"]);
    assert_eq!(project.counts(), Counts { ran: 2, cached: 5 });
}

#[test]
fn comments_names_and_order_rerun_nothing() {
    let project = Project::new(STUDY);
    project.ok(&["run", "study.kdl"]);
    project.edit("weights", "packed");
    project.edit("load base {", "// a comment\nload base   {");
    project.edit(
        "vary packed.scheme fp4\n    vary packed.scheme.block 128",
        "vary packed.scheme.block 128\n    vary packed.scheme fp4",
    );
    project.ok(&["run", "study.kdl"]);
    assert_eq!(project.counts(), Counts { ran: 0, cached: 7 });
}

#[test]
fn plan_names_the_changed_field_and_its_place() {
    let project = Project::new(STUDY);
    project.ok(&["run", "study.kdl"]);
    project.edit("compute-dtype f32", "compute-dtype f16");
    let plan = project.ok(&["plan", "study.kdl"]);
    assert!(plan.contains("`weights.compute-dtype` changed from `f32` to `f16` (study.kdl:9:19)"), "{plan}");
}

/// Units of work that a run's events tell of, `(done now, found in the cache)`.
fn units(events: &[Value]) -> (usize, usize) {
    let is_unit = |e: &&Value| e.to_string().contains("\"unit\"");
    let cached = |e: &&Value| e.to_string().contains("\"cached\":true");
    let all: Vec<&Value> = events.iter().filter(is_unit).collect();
    let found = all.iter().filter(|e| cached(e)).count();
    (all.len() - found, found)
}

/// Starts a run and kills it as soon as `far_enough` of its events; gives the units it had told of as done.
fn killed(project: &Project, far_enough: impl Fn(&[Value]) -> bool) -> usize {
    let mut child = project.start(&["run", "study.kdl"]);
    let deadline = Instant::now() + Duration::from_mins(2);
    let before = loop {
        assert!(Instant::now() < deadline, "the run made no progress");
        sleep(Duration::from_millis(2));
        let runs = project.store().join("runs");
        if !runs.exists() || fs::read_dir(runs).unwrap().count() == 0 {
            continue;
        }
        let events = Project::events(&project.last_run());
        if far_enough(&events) {
            break units(&events).0;
        }
        assert!(child.try_wait().unwrap().is_none(), "the run ended before it was killed");
    };
    child.kill().unwrap();
    child.wait().unwrap();
    before
}

/// Asserts that the run after a kill does again nothing that was done, and ends as a whole one does.
fn assert_continues(project: &Project, before: usize, total: usize, table: &[u8]) {
    assert!(project.ok(&["runs", "ls"]).contains("interrupted"));
    project.ok(&["run", "study.kdl"]);
    let (ran, _) = units(&Project::events(&project.last_run()));
    assert!(ran + before <= total, "{before} units were done, then {ran} of {total} again");
    assert_eq!(fs::read(project.last_run().join("table.csv")).unwrap(), table);
    project.ok(&["cache", "verify"]);
}

#[test]
fn a_killed_run_loses_no_finished_unit() {
    let whole = Project::new(STUDY);
    whole.ok(&["run", "study.kdl"]);
    let (total, _) = units(&Project::events(&whole.last_run()));
    let table = fs::read(whole.last_run().join("table.csv")).unwrap();
    let project = Project::new(STUDY);
    let before = killed(&project, |events| units(events).0 > total / 3);
    assert_continues(&project, before, total, &table);
}

/// Units of one stage that a run's events tell of as done now.
fn units_of(events: &[Value], stage: &str) -> usize {
    let label = format!("\"label\":\"{stage}");
    let own: Vec<Value> = events.iter().filter(|e| e.to_string().contains(&label)).cloned().collect();
    units(&own).0
}

#[test]
fn a_kill_inside_quantize_and_inside_evaluate_continues_inside_the_stage() {
    let whole = Project::new(STUDY);
    whole.ok(&["run", "study.kdl"]);
    let events = Project::events(&whole.last_run());
    let (total, _) = units(&events);
    let table = fs::read(whole.last_run().join("table.csv")).unwrap();
    for stage in ["weights", "quality"] {
        let of_stage = units_of(&events, stage);
        assert!(of_stage >= 6, "{stage} has {of_stage} units");
        let project = Project::new(STUDY);
        let before = killed(&project, |events| units_of(events, stage) >= 2);
        assert_continues(&project, before, total, &table);
    }
}
