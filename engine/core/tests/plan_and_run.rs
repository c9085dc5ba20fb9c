//! What is run again, and why: plans and runs of small studies over a real store.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod hows;
mod lab;

use hows::hows;
use lab::{Lab, Recipe};
use qpipe_cache::Digest;
use qpipe_engine::graph::{NodeId, Study};
use qpipe_engine::plan::{Force, MissReason, NodeState, Plan, PlanOptions, plan};
use qpipe_engine::run::{FailureMode, NodeResult, RunEventKind, RunOptions, RunOutcome};
use qpipe_sdk::{ErrorClass, Value};

fn reasons(plan: &Plan, node: usize) -> &[MissReason] {
    match &plan.nodes[node].state {
        NodeState::Miss { reasons, .. } => reasons,
        other => panic!("node {node} is no miss: {other:?}"),
    }
}

fn explained(study: &Study, plan: &Plan, node: usize) -> Vec<String> {
    reasons(plan, node).iter().map(|reason| reason.explain(study, &study.nodes[node])).collect()
}

#[test]
fn a_second_run_is_all_hits_and_runs_no_stage() {
    let lab = Lab::new();
    let study = Recipe::new(&["nf4", "fp4"]).study();
    let first = lab.plan(&study);
    assert_eq!(reasons(&first, 0), [MissReason::NeverRan]);
    assert!(matches!(&first.nodes[1].state, NodeState::Pending { on } if on == &[NodeId(0)]));
    let result = lab.run(&study);
    assert_eq!((result.outcome, hows(&result.nodes).as_str()), (RunOutcome::Done, "rrrrr"));
    assert_eq!(lab.runs(), 5);

    let again = lab.plan(&study);
    assert!(again.nodes.iter().all(|node| matches!(node.state, NodeState::Hit(_))));
    let result = lab.run(&study);
    assert_eq!((hows(&result.nodes).as_str(), lab.runs()), ("ccccc", 5));
}

#[test]
fn one_changed_parameter_re_runs_its_node_and_what_depends_on_it() {
    let lab = Lab::new();
    lab.run(&Recipe::new(&["nf4"]).study());
    let study = Recipe::new(&["int8"]).study();
    let plan = lab.plan(&study);
    assert!(matches!(plan.nodes[0].state, NodeState::Hit(_)));
    assert_eq!(
        explained(&study, &plan, 1),
        ["`weights.scheme` changed from `nf4` to `int8` (lab.kdl:5:5)"],
        "{}",
        study.text()
    );
    assert!(matches!(&plan.nodes[2].state, NodeState::Pending { on } if on == &[NodeId(1)]));
    let (result, events) = lab.run_with(&study, &plan, &RunOptions::default());
    assert_eq!(hows(&result.nodes), "crr");
    let why: Vec<&String> = events
        .iter()
        .filter_map(|e| {
            if let RunEventKind::NodeStarted { node: 2, why, .. } = &e.kind { why.first() } else { None }
        })
        .collect();
    assert!(why[0].starts_with("input `model` has other content: `weights#1` gave "), "{why:?}");
}

#[test]
fn equal_bytes_stop_the_re_run_early() {
    let lab = Lab::new();
    lab.switches.set(|s| &s.constant, true);
    lab.run(&Recipe::new(&["nf4"]).study());
    let result = lab.run(&Recipe::new(&["fp4"]).study());
    assert_eq!(hows(&result.nodes), "crc", "other codes, same bytes: the evaluation is not repeated");
}

#[test]
fn a_failure_keeps_what_finished_and_the_same_run_continues() {
    let lab = Lab::new();
    lab.switches.set(|s| &s.fp4_fails, true);
    let study = Recipe::new(&["nf4", "fp4", "int8"]).study();
    let result = lab.run(&study);
    assert_eq!((result.outcome, hows(&result.nodes).as_str()), (RunOutcome::Failed, "rrrFs.."));
    let failures: Vec<_> = result.failures().collect();
    assert_eq!(failures, [(NodeId(3), ErrorClass::Config, "no codes for `fp4`")]);

    lab.switches.set(|s| &s.fp4_fails, false);
    let result = lab.run(&study);
    assert_eq!((result.outcome, hows(&result.nodes).as_str()), (RunOutcome::Done, "cccrrrr"));
}

#[test]
fn keep_going_skips_only_what_depends_on_the_failure() {
    let lab = Lab::new();
    lab.switches.set(|s| &s.fp4_fails, true);
    let study = Recipe::new(&["nf4", "fp4", "int8"]).study();
    let options = RunOptions { failure: FailureMode::KeepGoing, ..RunOptions::default() };
    let (result, _) = lab.run_with(&study, &lab.plan(&study), &options);
    assert_eq!((result.outcome, hows(&result.nodes).as_str()), (RunOutcome::Failed, "rrrFsrr"));
    assert!(matches!(result.nodes[4], NodeResult::Skipped { because: NodeId(3) }));
}

#[test]
fn a_failure_hides_no_result_that_the_cache_holds() {
    let lab = Lab::new();
    lab.run(&Recipe::new(&["int8"]).study());
    lab.switches.set(|s| &s.fp4_fails, true);
    let result = lab.run(&Recipe::new(&["fp4", "int8"]).study());
    assert_eq!(hows(&result.nodes), "cFscc");
}

#[test]
fn a_panic_is_one_typed_failure() {
    let lab = Lab::new();
    lab.switches.set(|s| &s.fp4_panics, true);
    let options = RunOptions { failure: FailureMode::KeepGoing, ..RunOptions::default() };
    let study = Recipe::new(&["fp4", "nf4"]).study();
    let (result, _) = lab.run_with(&study, &lab.plan(&study), &options);
    assert_eq!(hows(&result.nodes), "rFsrr");
    let failures: Vec<_> = result.failures().collect();
    assert_eq!(failures, [(NodeId(1), ErrorClass::Bug, "panicked: the fp4 kernel went wild")]);
}

#[test]
fn a_stop_on_request_is_no_failure_and_keeps_what_finished() {
    let lab = Lab::new();
    lab.switches.set(|s| &s.cancels, true);
    let study = Recipe::new(&["nf4", "fp4"]).study();
    let result = lab.run(&study);
    assert_eq!((result.outcome, hows(&result.nodes).as_str()), (RunOutcome::Interrupted, "rr..."));
    lab.switches.set(|s| &s.cancels, false);
    assert_eq!(hows(&lab.run(&study).nodes), "ccrrr");
}

#[test]
fn cells_finish_one_after_the_other_in_order() {
    let lab = Lab::new();
    let study = Recipe::new(&["nf4", "fp4"]).study();
    let (_, events) = lab.run_with(&study, &lab.plan(&study), &RunOptions::default());
    let started = events
        .iter()
        .filter_map(|e| if let RunEventKind::NodeStarted { node, .. } = e.kind { Some(node) } else { None });
    assert_eq!(started.collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
}

#[test]
fn several_slots_give_the_same_results() {
    let lab = Lab::new();
    let study = Recipe::new(&["nf4", "fp4", "int8", "nf3"]).study();
    let options = RunOptions { jobs: 4.try_into().unwrap(), ..RunOptions::default() };
    let (result, _) = lab.run_with(&study, &lab.plan(&study), &options);
    assert_eq!((hows(&result.nodes).as_str(), lab.runs()), ("rrrrrrrrr", 9));
    assert_eq!(hows(&lab.run(&study).nodes), "ccccccccc");
}

/// The file of an action record, which is named by its key.
fn record_file(lab: &Lab, key: &str) -> std::path::PathBuf {
    let mut open = vec![lab.store.root().to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.file_stem().is_some_and(|stem| stem == key) {
                return path;
            }
        }
    }
    panic!("no record of `{key}`")
}

fn remove(path: &std::path::Path) {
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_deleted_blob_is_a_miss_that_says_which() {
    let lab = Lab::new();
    let study = Recipe::new(&["nf4"]).study();
    let result = lab.run(&study);
    let digest: Digest = result.nodes[1].record().unwrap().outputs["out"].digest;
    remove(&lab.store.blob_path(&digest).unwrap());
    let plan = lab.plan(&study);
    let why = explained(&study, &plan, 1);
    assert_eq!(why, [format!("its record cannot be used: blob `{}` is missing", digest.short())]);
    assert_eq!(hows(&lab.run(&study).nodes), "crc", "the same bytes come back, so the evaluation stands");
}

#[test]
fn a_damaged_record_is_a_miss_with_its_fault() {
    let lab = Lab::new();
    let study = Recipe::new(&["nf4"]).study();
    let result = lab.run(&study);
    let path = record_file(&lab, &result.nodes[2].record().unwrap().key.to_string());
    let text = std::fs::read(&path).unwrap();
    remove(&path);
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    let plan = lab.plan(&study);
    assert!(matches!(reasons(&plan, 2), [MissReason::RecordDamaged { .. }]), "{:?}", reasons(&plan, 2));
    assert_eq!(hows(&lab.run(&study).nodes), "ccr");
}

#[test]
fn a_lost_record_is_told_from_one_that_never_was() {
    let lab = Lab::new();
    let study = Recipe::new(&["nf4"]).study();
    let result = lab.run(&study);
    remove(&record_file(&lab, &result.nodes[2].record().unwrap().key.to_string()));
    assert_eq!(reasons(&lab.plan(&study), 2), [MissReason::RecordGone]);
}

#[test]
fn a_sources_content_counts_and_its_path_does_not() {
    let lab = Lab::new();
    let mut recipe = Recipe::new(&["nf4"]);
    recipe.path = Some(lab.file("a.bin", b"one"));
    lab.run(&recipe.study());
    recipe.path = Some(lab.file("b.bin", b"one"));
    assert!(matches!(lab.plan(&recipe.study()).nodes[0].state, NodeState::Hit(_)), "moved, same content");
    recipe.path = Some(lab.file("b.bin", b"two"));
    let plan = lab.plan(&recipe.study());
    assert!(matches!(reasons(&plan, 0), [MissReason::SourceChanged { name, .. }] if name == "from.path"));
}

#[test]
fn a_missing_source_is_an_error_with_its_place() {
    let lab = Lab::new();
    let mut recipe = Recipe::new(&["nf4", "fp4"]);
    recipe.path = Some(lab.dir.path().join("absent.bin"));
    let study = recipe.study();
    let error = plan(&study, &lab.registry(), &lab.store, &PlanOptions::default()).unwrap_err();
    assert_eq!((error.class(), error.errors.len()), (ErrorClass::Config, 1));
    let text = error.errors[0].to_string();
    assert!(text.starts_with("`base#0`: cannot read `from.path` at `"), "{text}");
    assert!(text.contains("absent.bin"), "{text}");
}

#[test]
fn raised_semantics_are_a_reason() {
    let lab = Lab::new();
    let study = Recipe::new(&["nf4"]).study();
    lab.run(&study);
    lab.switches.semantics.store(1, std::sync::atomic::Ordering::SeqCst);
    let raised = MissReason::SemanticsChanged { kind: "evaluate".into(), old: 1, new: 2 };
    assert_eq!(reasons(&lab.plan(&study), 2), [raised]);
}

#[test]
fn force_runs_everything_again() {
    let lab = Lab::new();
    let study = Recipe::new(&["nf4"]).study();
    lab.run(&study);
    let options = PlanOptions { force: Force::Everything };
    let plan = plan(&study, &lab.registry(), &lab.store, &options).unwrap();
    assert_eq!(reasons(&plan, 0), [MissReason::Forced]);
    let (result, _) = lab.run_with(&study, &plan, &RunOptions::default());
    assert_eq!((hows(&result.nodes).as_str(), lab.runs()), ("rrr", 6));
}

#[test]
fn several_changes_are_all_named() {
    let lab = Lab::new();
    lab.run(&Recipe::new(&["nf4"]).study());
    let mut study = Recipe::new(&["int8"]).study();
    let params = std::sync::Arc::make_mut(&mut study.nodes[0].params);
    params.set("from", Value::Bool(true));
    params.0.remove("text");
    let plan = lab.plan(&study);
    let added = MissReason::ParamAdded { path: "base.from".into(), new: "true".into() };
    let removed = MissReason::ParamRemoved { path: "base.text".into(), old: "weights".into() };
    assert_eq!(reasons(&plan, 0), [added, removed]);
}

#[test]
fn two_runs_at_once_share_the_work() {
    let lab = Lab::new();
    let study = Recipe::new(&["nf4", "fp4"]).study();
    let plan = lab.plan(&study);
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(|| lab.run_with(&study, &plan, &RunOptions::default()).0);
        (lab.run_with(&study, &plan, &RunOptions::default()).0, other.join().unwrap())
    });
    assert_eq!((a.outcome, b.outcome, lab.runs()), (RunOutcome::Done, RunOutcome::Done, 5));
}
