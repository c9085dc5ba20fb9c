//! Ctrl-C and its like, on real processes.

use std::collections::BTreeSet;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::program::Project;
use crate::stages::{NODES, STUDY};

fn slow(pause_ms: u32) -> Project {
    Project::of(&STUDY.replace("factor 2\n", &format!("factor 2\n    pause-ms {pause_ms}\n")))
}

fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

fn wait_until(what: &str, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !reached() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(5));
    }
}

/// Starts a run, and sends it a signal while it works.
fn interrupted(project: &Project, signal: &str) -> Child {
    let child = project.start(&["run", "study.kdl"]);
    wait_until("no unit was started", || project.started().len() >= 2);
    send(&child, signal);
    child
}

#[test]
fn one_signal_finishes_the_current_unit_and_stops() {
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let project = slow(100);
        let status = interrupted(&project, signal).wait().unwrap();
        assert_eq!(status.code(), Some(code));
        let (started, recorded) = (project.started(), project.recorded());
        assert!((2..12).contains(&started.len()), "it stopped midway: {}", started.len());
        assert!(started.iter().all(|key| recorded.contains(key)), "what was started was finished");
        let record = project.record();
        assert_eq!((&record["outcome"], &record["counts"]["failed"]), (&"interrupted".into(), &0.into()));

        project.ok(&["run", "study.kdl"]);
        let started = project.started();
        assert_eq!(started.len(), started.iter().collect::<BTreeSet<_>>().len(), "no unit was done twice");
        assert_eq!(project.record()["outcome"], "done");
    }
}

#[test]
fn two_signals_end_at_once() {
    let project = slow(2000);
    let mut child = project.start(&["run", "study.kdl"]);
    wait_until("no unit was started", || !project.started().is_empty());
    send(&child, "-INT");
    sleep(Duration::from_millis(200));
    let clock = Instant::now();
    assert!(child.try_wait().unwrap().is_none(), "one signal waits for the unit");
    send(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(clock.elapsed() < Duration::from_secs(1), "it took {:?}", clock.elapsed());
    assert!(!project.last_run().join("run.json").exists());
    let listed = project.command(&["runs", "ls"]).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("interrupted"));
    project.assert_whole();
    let done: u64 = {
        project.ok(&["run", "study.kdl", "--set", "half.pause-ms=0"]);
        let counts = &project.record()["counts"];
        counts["ran"].as_u64().unwrap() + counts["cached"].as_u64().unwrap()
    };
    assert_eq!(done, NODES);
}
