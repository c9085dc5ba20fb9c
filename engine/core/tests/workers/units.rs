//! Units of a job, kept through kills of either side.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use qpipe_cache::{GcOptions, Lookup};
use qpipe_engine::run::RunResult;
use qpipe_engine::worker::Limits;
use qpipe_sdk::{ErrorClass, StageEvent, StageRegistry};

use crate::hows::hows;
use crate::lab::{Lab, failure, wait};

fn steps(lab: &Lab, args: &[&str]) -> StageRegistry {
    lab.start(&lab.command("steps", "steps.py", args, Limits::default())).unwrap()
}

/// Units that a run told of: done now, and found.
fn units(events: &[StageEvent]) -> (usize, usize) {
    let of = |how: bool| {
        events.iter().filter(move |e| matches!(e, StageEvent::Unit { cached, .. } if *cached == how))
    };
    (of(false).count(), of(true).count())
}

fn whole(lab: &Lab, result: &RunResult) -> (String, String) {
    (lab.output(&result.nodes[0], "all"), lab.output(&result.nodes[0], "last"))
}

const JOB: &str = "steps a {\n seed 1\n}";

#[test]
fn a_plugin_that_is_killed_goes_on_where_it_was() {
    let Some(lab) = Lab::new("a_plugin_that_is_killed_goes_on_where_it_was") else { return };
    lab.file("stop", "2 kill");
    let (result, events) = lab.run(&steps(&lab, &[]), JOB);
    let (class, message) = failure(&result);
    assert_eq!((class, message.as_str()), (ErrorClass::Transient, "the worker was lost: killed by signal 9"));
    assert_eq!((units(&events), lab.read("did").as_str()), ((2, 0), "1:0\n1:1\n"));

    std::fs::remove_file(lab.dir.join("stop")).unwrap();
    let (result, events) = lab.run(&steps(&lab, &[]), JOB);
    assert_eq!((hows(&result.nodes).as_str(), units(&events)), ("r", (2, 2)));
    assert_eq!(lab.read("did"), "1:0\n1:1\n1:2\n1:3\n", "two units were done again");
    let expected = ("1:0\n1:1\n1:2\n1:3\n".to_owned(), "1:3\n".to_owned());
    assert_eq!(whole(&lab, &result), expected);

    let (other, events) = lab.run(&steps(&lab, &[]), &JOB.replace("seed 1", "seed 2"));
    assert_eq!((hows(&other.nodes).as_str(), units(&events)), ("r", (4, 0)), "another job has its own units");

    // in one go, elsewhere
    let fresh = Lab::new("again").unwrap();
    let (straight, _) = fresh.run(&steps(&fresh, &[]), JOB);
    let output = |result: &RunResult| result.nodes[0].record().unwrap().outputs["out"].digest;
    assert_eq!(output(&straight), output(&result));
}

#[test]
fn every_kill_costs_one_unit_at_most() {
    let Some(lab) = Lab::new("every_kill_costs_one_unit_at_most") else { return };
    lab.file("stop", "1 kill");
    let registry = steps(&lab, &[]);
    let goes: String = (0..4).map(|_| hows(&lab.run(&registry, JOB).0.nodes)).collect();
    assert_eq!(goes, "FFFF");
    let (result, events) = lab.run(&registry, JOB);
    assert_eq!((hows(&result.nodes).as_str(), units(&events)), ("r", (0, 4)));
    assert_eq!(lab.read("did").lines().count(), 4);
}

#[test]
fn a_worker_without_the_capability_has_no_units() {
    let Some(lab) = Lab::new("a_worker_without_the_capability_has_no_units") else { return };
    let (result, events) = lab.run(&steps(&lab, &["old"]), JOB);
    assert_eq!(units(&events), (4, 0), "a path that is not known is ignored, the event is not");
    assert_eq!(
        failure(&result).1,
        "the worker's output `last` is to be the unit `part/3`, which was never kept"
    );
}

#[test]
fn units_are_records_and_go_like_records() {
    let Some(lab) = Lab::new("units_are_records_and_go_like_records") else { return };
    lab.file("stop", "2 kill");
    lab.run(&steps(&lab, &[]), JOB);
    let kinds =
        |lab: &Lab| lab.store().ls().unwrap().into_iter().map(|r| (r.stage, r.key)).collect::<Vec<_>>();
    let kept = kinds(&lab);
    assert!(kept.len() == 2 && kept.iter().all(|(kind, _)| kind == "steps/unit"), "{kept:?}");
    let gc = |options: &GcOptions| {
        lab.store().gc(&GcOptions { grace: Duration::ZERO, ..options.clone() }).unwrap()
    };
    gc(&GcOptions::default());
    assert!(kept.iter().all(|(_, key)| matches!(lab.store().lookup(key), Lookup::Hit(_))));

    // one of them goes: what is behind it is done again, and is there again
    let store = lab.store();
    let number = |key| match store.lookup(key) {
        Lookup::Hit(record) => record.doc.params["unit#"].clone(),
        other => panic!("{other:?}"),
    };
    let first = kept.iter().find(|(_, key)| number(key) == 0_i64.into()).unwrap().1;
    drop(store);
    let hex = first.to_string();
    std::fs::remove_file(lab.dir.join(format!("store/v1/actions/{}/{hex}.json", &hex[..2]))).unwrap();
    let (_, events) = lab.run(&steps(&lab, &[]), JOB);
    assert_eq!(units(&events), (2, 0));
    let (_, events) = lab.run(&steps(&lab, &[]), JOB);
    assert_eq!(units(&events), (2, 2), "{events:?}");

    gc(&GcOptions { older_than: Some(Duration::ZERO), ..GcOptions::default() });
    assert!(kinds(&lab).is_empty());
    std::fs::remove_file(lab.dir.join("stop")).unwrap();
    let (result, events) = lab.run(&steps(&lab, &[]), JOB);
    assert_eq!((hows(&result.nodes).as_str(), units(&events)), ("r", (4, 0)));
}

#[test]
fn a_document_and_its_blobs_can_be_units() {
    let Some(lab) = Lab::new("a_document_and_its_blobs_can_be_units") else { return };
    let registry = lab.start(&lab.command("sheet", "steps.py", &[], Limits::default())).unwrap();
    let (result, events) = lab.run(&registry, "sheet a {\n seed 1\n}");
    assert_eq!((hows(&result.nodes).as_str(), units(&events)), ("r", (2, 0)), "{result:?}");
    let (store, record) = (lab.store(), result.nodes[0].record().unwrap());
    let document: serde_json::Value =
        serde_json::from_slice(&store.read(&record.outputs["out"].digest).unwrap()).unwrap();
    let page = document["page"].as_str().unwrap().parse().unwrap();
    assert_eq!(store.read(&page).unwrap(), b"words\n");
    let expected = [record.outputs["out"].digest, page].into();
    assert_eq!(record.refs, expected, "what only resembles a digest is a text");
}

#[test]
fn what_is_no_unit_is_refused_by_name() {
    let cases = [
        (
            "traversal",
            "the path `../../../../../../../../etc/hostname` of output `a` leads out of the working folder",
        ),
        ("absolute", "the path `/etc/hostname` of output `a` leads out of the working folder"),
        ("missing", "output `a` is missing: there is no `nowhere`"),
        ("link", "the path `out-link` of output `a` leads out of the working folder"),
        ("fifo", "out-fifo`, which is neither a file nor a folder"),
        ("folder", "is to be a file, and `out-folder` is a folder"),
        ("name", "the worker's unit `../a` has a name that cannot be"),
        ("root", "the worker's unit `/a` has a name that cannot be"),
        ("long", "the worker said `checkpoint` with a name of 1000000 bytes, more than 1024"),
        ("twice", "the worker announced the unit `a` twice"),
        ("unknown", "the worker's output `last` is to be the unit `b`, which was never kept"),
        ("both", "the worker's output `last` is to be at a `path` or a `unit`: one of the two"),
        ("neither", "the worker's output `last` is to be at a `path` or a `unit`: one of the two"),
    ];
    let Some(lab) = Lab::new("what_is_no_unit_is_refused_by_name") else { return };
    let registry = steps(&lab, &[]);
    for (how, expected) in cases {
        let (result, _) = lab.hows(&registry, "steps", &[how]);
        let (class, message) = failure(&result);
        assert_eq!(class, ErrorClass::Bug, "{how}: {message}");
        assert!(message.contains(expected), "{how}: {message}");
    }
}

/// Runs as a process of its own, which is killed.
#[test]
#[ignore = "the victim of the test below"]
fn victim() {
    let dir = PathBuf::from(std::env::var_os("QPIPE_TEST_FOLDER").expect("the test below sets it"));
    let lab = Lab::at(&dir);
    lab.run(&steps(&lab, &[]), JOB);
}

fn files(folder: &Path) -> usize {
    let buckets = std::fs::read_dir(folder).into_iter().flatten().flatten();
    buckets.flat_map(|bucket| std::fs::read_dir(bucket.path()).into_iter().flatten()).count()
}

#[test]
fn an_engine_that_is_killed_has_kept_what_was_announced() {
    let Some(lab) = Lab::new("an_engine_that_is_killed_has_kept_what_was_announced") else { return };
    lab.file("stop", "2 hang");
    let mut engine = Command::new(std::env::current_exe().unwrap());
    engine.args(["--exact", "units::victim", "--ignored"]).env("QPIPE_TEST_FOLDER", &lab.dir);
    let mut engine = engine.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait("two units", || files(&lab.dir.join("store/v1/actions")) == 2);
    engine.kill().unwrap();
    engine.wait().unwrap();
    std::fs::remove_file(lab.dir.join("stop")).unwrap();
    let (result, events) = lab.run(&steps(&lab, &[]), JOB);
    assert_eq!((hows(&result.nodes).as_str(), units(&events)), ("r", (2, 2)));
    assert_eq!(lab.read("did").lines().count(), 4);
    assert_eq!(whole(&lab, &result).1, "1:3\n");
}
