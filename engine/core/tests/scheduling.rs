//! What runs beside what, and in which order.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod steps;

use qpipe_engine::run::{RunOptions, RunOutcome};
use qpipe_sdk::{Cancel, ErrorClass, Value};
use steps::{StepOf, Steps, does, ends};

fn jobs(jobs: usize) -> RunOptions {
    RunOptions { jobs: jobs.try_into().unwrap(), ..RunOptions::default() }
}

#[test]
fn as_many_run_at_once_as_there_are_jobs() {
    let together = |count: usize| {
        let step = [does(&format!("together:{count}"))];
        let steps = Steps::new()
            .cell("a", &[("one", None, &step), ("two", None, &step)])
            .cell("b", &[("one", None, &step), ("two", None, &step)]);
        let (result, _) = steps.run(&jobs(count));
        assert_eq!(ends(&result), "rrrr");
        steps.world.most()
    };
    assert_eq!([together(1), together(2), together(3)], [1, 2, 3]);
}

#[test]
fn every_gpu_is_a_slot_beside_the_jobs() {
    let gpu = [does("together:3"), ("device", Value::Text("auto".into()))];
    let steps =
        Steps::new().cell("a", &[("x", None, &gpu), ("y", None, &gpu), ("cpu", None, &[does("together:3")])]);
    let options = RunOptions { gpus: vec![0, 1], device: "cpu".into(), ..jobs(1) };
    assert_eq!(ends(&steps.run(&options).0), "rrr");
    assert_eq!(steps.world.most(), 3);
    let mut devices = ["a.x", "a.y", "a.cpu"].map(|name| steps.world.device(name));
    devices.sort();
    assert_eq!(devices, ["cpu", "cuda:0", "cuda:1"]);
}

#[test]
fn memory_is_not_overcommitted() {
    let mib = |n: i64| [does("together:3"), ("mib", Value::Int(n))];
    let steps =
        Steps::new().cell("a", &[("big", None, &mib(6)), ("other", None, &mib(6)), ("small", None, &mib(4))]);
    let options = RunOptions { memory: Some(10 << 20), ..jobs(4) };
    assert_eq!(ends(&steps.run(&options).0), "rrr");
    assert!(!steps.world.overlap("a.big", "a.other"), "{:?}", steps.world.log());
    assert!(steps.world.overlap("a.big", "a.small"), "a smaller one fits beside: {:?}", steps.world.log());
}

#[test]
fn what_needs_more_memory_than_there_is_fails_before_it_starts() {
    let steps = Steps::new().cell("a", &[("huge", None, &[("mib", Value::Int(11))])]);
    let (result, _) = steps.run(&RunOptions { memory: Some(10 << 20), ..jobs(1) });
    let failures: Vec<_> = result.failures().map(|(_, class, message)| (class, message)).collect();
    let told = "out of host memory: needs 11 MiB, and the run may use 10 MiB (`--memory`)";
    assert_eq!(failures, [(ErrorClass::OomHost, told)]);
    assert_eq!(steps.world.log(), [""; 0]);
}

#[test]
fn the_manifests_memory_counts_more_than_the_stages_estimate() {
    let mut steps = Steps::new().cell("a", &[("huge", None, &[("mib", Value::Int(11))])]);
    steps.study.limits.memory.of.insert("huge".into(), 1 << 20);
    let options = RunOptions { memory: Some(10 << 20), limits: steps.study.limits.clone(), ..jobs(1) };
    assert_eq!(ends(&steps.run(&options).0), "r");
}

#[test]
fn exclusive_runs_alone_whatever_the_jobs() {
    let (with, alone) = ([does("together:3")], [does("together:2"), ("exclusive", Value::Bool(true))]);
    let steps = Steps::new().cell(
        "a",
        &[
            ("one", None, &with),
            ("two", None, &with),
            ("speed", None, &alone),
            ("four", None, &with),
            ("five", None, &with),
        ],
    );
    assert_eq!(ends(&steps.run(&jobs(4)).0), "rrrrr");
    for other in ["one", "two", "four", "five"] {
        assert!(!steps.world.overlap("a.speed", &format!("a.{other}")), "{other}: {:?}", steps.world.log());
    }
    assert!(steps.world.overlap("a.one", "a.two") && steps.world.overlap("a.four", "a.five"));
    assert!(steps.world.at("+a.speed") < steps.world.at("+a.four"), "it is not overtaken for ever");
}

#[test]
fn cells_finish_early_rather_than_all_at_the_end() {
    let step = [does("sleep:5")];
    let chain: [StepOf<'_>; 3] =
        [("one", None, &step), ("two", Some("one"), &step), ("three", Some("two"), &step)];
    let steps = Steps::new().cell("a", &chain).cell("b", &chain).cell("c", &chain).cell("d", &chain);
    assert_eq!(ends(&steps.run(&jobs(2)).0), "r".repeat(12));
    let at = |entry: &str| steps.world.at(entry);
    assert!(at("-a.three").min(at("-b.three")) < at("+c.one"), "{:?}", steps.world.log());
    assert!(at("-a.three").max(at("-b.three")) < at("+d.one"), "{:?}", steps.world.log());
}

#[test]
fn a_stop_from_outside_ends_what_heeds_it_and_starts_nothing() {
    let steps = Steps::new().cell("a", &[("one", None, &[does("polite:0")]), ("two", Some("one"), &[])]);
    let cancel = Cancel::default();
    let options = RunOptions { cancel: cancel.clone(), ..jobs(2) };
    let (result, _) = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            cancel.request();
        });
        steps.run(&options)
    });
    assert_eq!((result.outcome, ends(&result).as_str()), (RunOutcome::Interrupted, ".."));
    assert_eq!((result.abandoned, steps.world.log().len()), (0, 2));
}
