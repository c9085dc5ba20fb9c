//! Workers that talk over files.

use std::time::{Duration, Instant};

use qpipe_engine::worker::{Limits, PluginCommand, Transport, WorkerError};
use qpipe_sdk::ErrorClass;

use crate::hows::hows;
use crate::lab::{Lab, failure, is_walled, runs};

fn talk(lab: &Lab, args: &[&str]) -> PluginCommand {
    let limits = Limits { heartbeat: Duration::from_millis(20), ..Limits::default() };
    PluginCommand { transport: Transport::Files, ..lab.command("talk", "talk.py", args, limits) }
}

#[test]
fn a_conversation_over_files_is_one_like_any_other() {
    let Some(lab) = Lab::new("a_conversation_over_files_is_one_like_any_other") else { return };
    let registry = lab.start(&talk(&lab, &[])).unwrap();
    let (result, _) = lab.hows(&registry, "talk", &["well", "beats", "pieces"]);
    assert_eq!(hows(&result.nodes), "rrr", "{result:?}");
    let pid = lab.output(&result.nodes[0], "out");
    assert_eq!(pid, lab.output(&result.nodes[2], "out"), "one worker did it all");
    assert!(runs(&pid));
    drop(registry);
    assert!(!runs(&pid));
    assert!(lab.dir.join("farewell").exists(), "it heard `bye`");
}

#[test]
fn a_worker_that_ends_is_lost_and_its_output_is_told() {
    let Some(lab) = Lab::new("a_worker_that_ends_is_lost_and_its_output_is_told") else { return };
    let clock = Instant::now();
    let mute = lab.start(&talk(&lab, &["mute"])).err().unwrap();
    assert!(matches!(mute, WorkerError::Lost { .. }), "{mute}");
    assert_eq!(mute.to_string(), "the worker was lost: exit status 3\nno queue of this name");

    let registry = lab.start(&talk(&lab, &[])).unwrap();
    let (result, _) = lab.hows(&registry, "talk", &["gone", "half", "garbage", "well"]);
    assert_eq!(hows(&result.nodes), "FFFr", "{result:?}");
    let failures: Vec<(ErrorClass, &str)> = result.failures().map(|(_, class, text)| (class, text)).collect();
    assert_eq!(failures[0], (ErrorClass::Transient, "the worker was lost: exit status 7\nabout gone"));
    assert_eq!(failures[1], (ErrorClass::Transient, "the worker was lost: exit status 0\nabout half"));
    assert_eq!(failures[2].0, ErrorClass::Bug);
    assert!(failures[2].1.starts_with("the worker broke the protocol: this is no JSON: `no message`"));
    assert!(clock.elapsed() < Duration::from_mins(1));
}

#[test]
fn the_files_of_a_conversation_cannot_be_taken_away() {
    let test = "the_files_of_a_conversation_cannot_be_taken_away";
    if !is_walled(test) {
        return;
    }
    let Some(lab) = Lab::new(test) else { return };
    let (result, _) = lab.hows(&lab.start(&talk(&lab, &[])).unwrap(), "talk", &["takes"]);
    assert_eq!(hows(&result.nodes), "r", "{result:?}");
}

#[test]
fn a_job_over_files_can_be_timed_out() {
    let Some(lab) = Lab::new("a_job_over_files_can_be_timed_out") else { return };
    let mut command = talk(&lab, &[]);
    // it waits for heartbeats that never come
    command.limits = Limits {
        job: Some(Duration::from_millis(300)),
        heartbeat: Duration::from_hours(1),
        ..command.limits
    };
    let (result, _) = lab.hows(&lab.start(&command).unwrap(), "talk", &["beats", "well"]);
    assert_eq!(hows(&result.nodes), "Fr");
    assert_eq!(failure(&result).0, ErrorClass::Timeout);
}
