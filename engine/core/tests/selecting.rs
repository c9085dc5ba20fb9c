//! `--only`, `--from`, `--until` and `--force=STAGE`.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod steps;

use qpipe_engine::plan::{Force, PlanOptions, plan};
use qpipe_engine::run::{Goals, RunOptions, RunOutcome, SelectError, Selection, named};
use steps::{StepOf, Steps, ends};

/// Two cells of `one → two → three`, and in each a `side` that depends on `one`.
fn steps() -> Steps {
    let chain: [StepOf<'_>; 4] = [
        ("one", None, &[]),
        ("two", Some("one"), &[]),
        ("three", Some("two"), &[]),
        ("side", Some("one"), &[]),
    ];
    Steps::new().cell("a", &chain).cell("b=1/2", &chain)
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn select(only: &[&str], from: &[&str], until: &[&str]) -> Selection {
    Selection { only: names(only), from: names(from), until: names(until) }
}

fn run(steps: &Steps, selection: &Selection) -> String {
    let goals = selection.goals(&steps.study).unwrap();
    let (result, _) = steps.run(&RunOptions { goals, ..RunOptions::default() });
    assert_eq!(result.outcome, RunOutcome::Done, "what was asked for was done");
    ends(&result)
}

fn goals(steps: &Steps, selection: &Selection) -> Result<Option<Goals>, SelectError> {
    selection.goals(&steps.study)
}

#[test]
fn until_runs_what_leads_there() {
    assert_eq!(run(&steps(), &select(&[], &[], &["two"])), "rr--rr--");
    assert_eq!(run(&steps(), &select(&[], &[], &["two/b=1/2", "side/a"])), "r--rrr--");
    assert_eq!(run(&steps(), &select(&[], &[], &["/a"])), "rrrr----");
}

#[test]
fn from_runs_what_follows_and_what_that_needs() {
    let steps = steps();
    assert_eq!(run(&steps, &select(&[], &["two/a"], &[])), "rrr-----");
    assert_eq!(run(&steps, &select(&[], &["two"], &[])), "ccc-rrr-");
}

#[test]
fn options_narrow_each_other_down() {
    let steps = steps();
    assert_eq!(run(&steps, &select(&[], &["two"], &["two"])), "rr--rr--");
    assert_eq!(goals(&steps, &select(&[], &["three"], &["one"])), Err(SelectError::Nothing));
    assert_eq!(goals(&steps, &select(&["two/a"], &[], &["/b=1/2"])), Err(SelectError::Nothing));
}

#[test]
fn only_runs_nothing_else() {
    let steps = steps();
    let selection = select(&["two/a"], &[], &[]);
    let goals = selection.goals(&steps.study).unwrap().unwrap();
    let planned =
        |steps: &Steps| plan(&steps.study, &steps.registry(), &steps.store, &PlanOptions::default()).unwrap();
    let missing = SelectError::MissingInput { node: "a.two".into(), input: "a.one".into() };
    assert_eq!(goals.check(&steps.study, &planned(&steps)), Err(missing));
    run(&steps, &select(&["one"], &[], &[]));
    assert_eq!(goals.check(&steps.study, &planned(&steps)), Ok(()));
    assert_eq!(run(&steps, &selection), "cr--c---", "what the store holds is shown, and nothing else runs");
}

#[test]
fn unknown_names_are_told_with_the_nearest() {
    let steps = steps();
    let help = |near: &str| Some(format!("did you mean `{near}`?"));
    let unknown = SelectError::UnknownStage { name: "thre".into(), help: help("three") };
    assert_eq!(goals(&steps, &select(&["thre"], &[], &[])), Err(unknown));
    let unknown = SelectError::UnknownCell { name: "b=1/3".into(), help: help("b=1/2") };
    assert_eq!(goals(&steps, &select(&[], &["two/b=1/3"], &[])), Err(unknown));
    assert!(matches!(goals(&steps, &select(&[], &[], &[""])), Err(SelectError::UnknownStage { .. })));
}

#[test]
fn force_of_a_stage_runs_it_and_stops_where_bytes_are_equal() {
    let steps = steps();
    steps.run(&RunOptions::default());
    let force = Force::Nodes(named(&steps.study, &names(&["two/a"])).unwrap());
    let (result, _) = steps.run_planned(&PlanOptions { force }, &RunOptions::default());
    assert_eq!(ends(&result), "crcccccc");
}
