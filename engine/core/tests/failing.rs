//! Failures, further tries, timeouts, and the grace period.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod steps;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use qpipe_engine::limits::{Limits, PerStage, Retry};
use qpipe_engine::run::{FailureMode, FreeGpu, RunEvent, RunEventKind, RunOptions, RunOutcome, RunResult};
use qpipe_sdk::{ErrorClass, Value};
use steps::{Steps, does, ends};

const NOW: Duration = Duration::from_millis(1);

fn options() -> RunOptions {
    let limits = Limits { retry: Some(Retry { times: 2, wait: NOW }), ..Limits::default() };
    let jobs = 4.try_into().unwrap();
    RunOptions { jobs, limits, grace: Duration::from_millis(50), ..RunOptions::default() }
}

fn timeout(stage: &str) -> PerStage<Duration> {
    PerStage { all: None, of: [(stage.to_owned(), Duration::from_millis(50))].into() }
}

fn classes(result: &RunResult) -> Vec<ErrorClass> {
    result.failures().map(|(_, class, _)| class).collect()
}

fn retries(events: &[RunEvent]) -> Vec<(u32, ErrorClass)> {
    let retry = |event: &RunEvent| match &event.kind {
        RunEventKind::NodeRetried { attempt, class, .. } => Some((*attempt, *class)),
        _ => None,
    };
    events.iter().filter_map(retry).collect()
}

#[test]
fn fail_fast_stops_what_runs_and_starts_nothing() {
    let steps = Steps::new().cell(
        "a",
        &[
            ("bad", None, &[does("config:2")]),
            ("polite", None, &[does("polite:0")]),
            ("next", Some("polite"), &[]),
        ],
    );
    let (result, _) = steps.run(&options());
    assert_eq!((result.outcome, ends(&result).as_str()), (RunOutcome::Failed, "F.."));
    assert_eq!(result.abandoned, 0);
}

#[test]
fn fail_fast_waits_for_the_deaf_no_longer_than_the_grace_period() {
    let steps =
        Steps::new().cell("a", &[("bad", None, &[does("config:2")]), ("deaf", None, &[does("deaf:0")])]);
    let clock = Instant::now();
    let (result, events) = steps.run(&options());
    assert!(clock.elapsed() < Duration::from_secs(10), "it waited: {:?}", clock.elapsed());
    assert_eq!((ends(&result).as_str(), result.abandoned), ("F.", 1));
    let warned = |event: &&RunEvent| matches!(&event.kind, RunEventKind::Warning { message } if message.contains("a.deaf"));
    assert_eq!(events.iter().filter(warned).count(), 1);
}

#[test]
fn keep_going_runs_what_does_not_depend_on_the_failure() {
    let steps = Steps::new()
        .cell("a", &[("bad", None, &[does("config:1")]), ("after", Some("bad"), &[])])
        .cell("b", &[("good", None, &[]), ("after", Some("good"), &[])]);
    let (result, _) = steps.run(&RunOptions { failure: FailureMode::KeepGoing, ..options() });
    assert_eq!((result.outcome, ends(&result).as_str()), (RunOutcome::Failed, "Fsrr"));
}

#[test]
fn a_passing_failure_is_tried_again() {
    let steps =
        Steps::new().cell("a", &[("line", None, &[does("transient:2")]), ("after", Some("line"), &[])]);
    let (result, events) = steps.run(&options());
    assert_eq!(ends(&result), "rr");
    assert_eq!(retries(&events), [(1, ErrorClass::Transient), (2, ErrorClass::Transient)]);
}

#[test]
fn tries_end_and_the_last_failure_is_told() {
    let steps = Steps::new().cell("a", &[("line", None, &[does("transient:9")])]);
    let (result, events) = steps.run(&options());
    assert_eq!((classes(&result), retries(&events).len()), (vec![ErrorClass::Transient], 2));
    assert_eq!(steps.world.log().len(), 6, "three tries");
}

#[test]
fn the_pause_before_a_further_try_is_kept() {
    let steps = Steps::new().cell("a", &[("line", None, &[does("transient:2")])]);
    let retry = Some(Retry { times: 2, wait: Duration::from_millis(100) });
    let clock = Instant::now();
    let limits = Limits { retry, ..Limits::default() };
    assert_eq!(ends(&steps.run(&RunOptions { limits, ..options() }).0), "r");
    assert!(clock.elapsed() >= Duration::from_millis(300), "100 ms and 200 ms: {:?}", clock.elapsed());
}

#[test]
fn out_of_memory_is_tried_once_more_and_then_alone() {
    let steps =
        Steps::new().cell("a", &[("oom", None, &[does("oom:1")]), ("other", None, &[does("sleep:100")])]);
    let (result, events) = steps.run(&options());
    assert_eq!((ends(&result).as_str(), retries(&events).len()), ("rr", 1));
    let log = steps.world.log();
    let second = log.iter().rposition(|entry| entry == "+a.oom").unwrap();
    assert!(steps.world.at("-a.other") < second, "the second try has the machine for itself: {log:?}");

    let steps = Steps::new().cell("a", &[("oom", None, &[does("oom:9")])]);
    let (result, events) = steps.run(&options());
    assert_eq!((classes(&result), retries(&events).len()), (vec![ErrorClass::OomHost], 1));
}

#[test]
fn what_is_wrong_by_itself_is_not_tried_again() {
    let steps = Steps::new().cell("a", &[("bad", None, &[does("config:1")])]);
    let (result, events) = steps.run(&options());
    assert_eq!((classes(&result), retries(&events).len()), (vec![ErrorClass::Config], 0));
}

#[test]
fn a_stage_that_takes_too_long_is_stopped_and_says_so() {
    let steps =
        Steps::new().cell("a", &[("slow", None, &[does("polite:0")]), ("other", None, &[does("sleep:200")])]);
    let mut options = RunOptions { failure: FailureMode::KeepGoing, ..options() };
    options.limits.timeout = timeout("slow");
    let (result, events) = steps.run(&options);
    assert_eq!((ends(&result).as_str(), classes(&result)), ("Fr", vec![ErrorClass::Timeout]));
    let told: Vec<&str> = result.failures().map(|(_, _, message)| message).collect();
    assert_eq!((told, retries(&events).len()), (vec!["timed out after 0.05 s"], 0));
}

#[test]
fn one_that_ignores_its_timeout_is_given_up_and_its_slot_freed() {
    let steps = Steps::new().cell("a", &[("deaf", None, &[does("deaf:0")]), ("other", None, &[])]);
    let mut options =
        RunOptions { failure: FailureMode::KeepGoing, jobs: 1.try_into().unwrap(), ..options() };
    options.limits.timeout = timeout("step");
    let (result, _) = steps.run(&options);
    assert_eq!((ends(&result).as_str(), result.abandoned), ("Fr", 1));
    assert_eq!(classes(&result), [ErrorClass::Timeout]);
}

#[test]
fn a_node_that_found_no_room_on_a_gpu_has_what_is_kept_there_go() {
    let steps = Steps::new()
        .cell("a", &[("oom", None, &[does("oom:1"), ("device", Value::Text("cuda:1".into()))])])
        .cell("b", &[("other", None, &[does("config:1"), ("device", Value::Text("cuda:0".into()))])]);
    let freed = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&freed);
    let free_gpu = FreeGpu::by(move |gpu| asked.lock().unwrap().push(gpu));
    let options = RunOptions { gpus: vec![0, 1], free_gpu, failure: FailureMode::KeepGoing, ..options() };
    assert_eq!(ends(&steps.run(&options).0), "rF");
    assert_eq!(*freed.lock().unwrap(), [1], "before the second try, and for no other node");
}
