//! Plugins that do everything wrong: each costs its node a typed error, and the next node of the same plugin runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use qpipe_cache::Digest;
use qpipe_engine::manifest::{LoadOptions, load_study};
use qpipe_engine::worker::{Limits, WorkerError};
use qpipe_sdk::{ErrorClass, StageError, StageEvent, StageRegistry};

use crate::hows::hows;
use crate::lab::{Lab, failure, runs, wait};

fn faulty(lab: &Lab, args: &[&str], limits: Limits) -> StageRegistry {
    lab.start(&lab.command("faulty", "faulty.py", args, limits)).unwrap()
}

#[test]
fn each_wrong_costs_one_node() {
    use ErrorClass::{Bug, Transient};
    let cases = [
        ("outside", Bug, "leads out of the working folder"),
        ("absolute", Bug, "the path `/etc/hostname` of output `out` leads out of the working folder"),
        ("link", Bug, "the path `out` of output `out` leads out of the working folder"),
        ("folder-link", Bug, "out/a`, which is neither a file nor a folder"),
        ("fifo", Bug, "out`, which is neither a file nor a folder"),
        ("changing", Bug, "output `out` changed while it was stored"),
        ("utf8", Bug, "the worker broke the protocol: this is no JSON"),
        ("deep", Bug, "recursion limit exceeded"),
        ("garbage", Bug, "the worker broke the protocol: this is no JSON"),
        ("name", Bug, "the worker said `artifact` with a name of 1000000 bytes, more than 1024"),
        ("metric-name", Bug, "the worker said `metric` with a name of 1000000 bytes, more than 1024"),
        ("metrics", Bug, "the worker told of more than 10000 metrics"),
        ("undeclared", Bug, "the worker made the output `surprise`, which it never declared"),
        ("kill", Transient, "the worker was lost: killed by signal 9\nabout to go"),
        ("announces", Transient, "the worker was lost: killed by signal 9"),
        ("exit", Transient, "the worker was lost: exit status 1\nno device"),
        ("children", Transient, "the worker was lost: killed by signal 15"),
    ];
    let Some(lab) = Lab::new("each_wrong_costs_one_node") else { return };
    let registry = faulty(&lab, &[], Limits::default());
    for (how, expected, text) in cases {
        let fine = format!("fine after {how}");
        let (result, _) = lab.hows(&registry, "faulty", &[how, &fine]);
        assert_eq!(hows(&result.nodes), "Fr", "{how}: {result:?}");
        let (class, message) = failure(&result);
        assert_eq!(class, expected, "{how}: {message}");
        assert!(message.contains(text) && message.len() < 1000, "{how}: {message}");
    }
}

#[test]
fn what_a_plugin_swaps_while_it_is_stored_leads_nowhere_else() {
    let Some(lab) = Lab::new("what_a_plugin_swaps_while_it_is_stored_leads_nowhere_else") else { return };
    let secret = lab.dir.join("elsewhere");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("x"), "a secret").unwrap();
    let registry = faulty(&lab, &[], Limits::default());
    for number in 0..4 {
        let swaps = format!("swaps {} {number}", secret.display());
        let (result, _) = lab.hows(&registry, "faulty", &[&swaps, &format!("fine after {number}")]);
        let told = hows(&result.nodes);
        assert!(["Fr", "rr"].contains(&told.as_str()), "{result:?}");
        if told == "Fr" {
            let (class, message) = failure(&result);
            let says =
                ["neither a file nor a folder", "leads out", "changed while", "is missing", "failed to read"];
            assert!(says.iter().any(|text| message.contains(text)), "{class:?}: {message}");
        }
    }
    drop(registry);
    assert!(lab.store().contains(&Digest::of_bytes(b"a secret")).is_err(), "it was stored");
    assert_eq!(fs::read(secret.join("x")).unwrap(), b"a secret", "and was not removed with a job's folder");
}

#[test]
fn a_document_that_names_a_blob_it_was_not_given_costs_one_node() {
    let Some(lab) = Lab::new("a_document_that_names_a_blob_it_was_not_given_costs_one_node") else { return };
    let kept = lab.store().put_bytes(b"another job's").unwrap();
    let registry = faulty(&lab, &["document"], Limits::default());
    let (result, _) = lab.hows(&registry, "faulty", &[&format!("names {kept}"), "names nothing"]);
    assert_eq!(hows(&result.nodes), "Fr", "{result:?}");
    let text =
        format!("its document names {kept} at `/parts/0/blob`, which the job neither made nor was given");
    assert_eq!(failure(&result), (ErrorClass::Bug, text));
}

#[test]
fn what_a_worker_does_after_its_last_word_costs_nothing() {
    let Some(lab) = Lab::new("what_a_worker_does_after_its_last_word_costs_nothing") else { return };
    let registry = faulty(&lab, &[], Limits::default());
    for how in ["last-words", "done-twice", "hundred"] {
        let names: Vec<String> = (0..3).map(|number| format!("{how} is over {number}")).collect();
        let (result, _) = lab.hows(&registry, "faulty", &[how, &names[0], &names[1], &names[2]]);
        assert_eq!(hows(&result.nodes), "rrrr", "{how}: {result:?}");
    }
}

#[test]
fn a_worker_that_dies_at_a_question_is_told_of_with_its_words() {
    let Some(lab) = Lab::new("a_worker_that_dies_at_a_question_is_told_of_with_its_words") else { return };
    for (arg, said) in [("die-hello", "no hello"), ("die-describe", "no answer")] {
        let error = lab.start(&lab.command("faulty", "faulty.py", &[arg], Limits::default())).err().unwrap();
        assert!(matches!(error, WorkerError::Lost { .. }), "{error}");
        assert_eq!(error.to_string(), format!("the worker was lost: exit status 1\n{said}"));
    }
    let registry = faulty(&lab, &["knowing", "die-key"], Limits::default());
    let text = "qpipe 1 name=lab\nfaulty a {\n how fine\n}";
    let errors = load_study(&lab.dir.join("x.kdl"), text, &LoadOptions::default(), &registry).unwrap_err();
    assert!(errors.errors()[0].to_string().contains("the worker was lost: exit status 1\nno answer"));
}

#[test]
fn a_folder_for_temporary_files_that_cannot_be_used_is_named() {
    let Some(lab) = Lab::new("a_folder_for_temporary_files_that_cannot_be_used_is_named") else { return };
    lab.file("temp", "a file where a folder is to be");
    let error = lab.start(&lab.command("faulty", "faulty.py", &[], Limits::default())).err().unwrap();
    assert!(matches!(error, WorkerError::Temp(_)), "{error}");
    let text = error.to_string();
    assert!(text.contains(lab.dir.join("temp").to_str().unwrap()) && text.contains("`TMPDIR`"), "{text}");
    assert_eq!(StageError::from(error).class(), ErrorClass::Config);
}

#[test]
fn nothing_of_a_worker_outlives_it() {
    let Some(lab) = Lab::new("nothing_of_a_worker_outlives_it") else { return };
    let registry = faulty(&lab, &["stays"], Limits::default());
    let (result, _) = lab.hows(&registry, "faulty", &["children"]);
    let message = failure(&result).1;
    let child = message.split("child ").nth(1).expect("it told").trim().to_owned();
    wait("the child's end", || !runs(&child));
    let (result, _) = lab.hows(&registry, "faulty", &["fine"]);
    let pid = lab.output(&result.nodes[0], "out");
    assert!(runs(&pid));
    drop(registry);
    assert!(!runs(&pid), "it ignored the end of its input");
}

#[test]
fn a_worker_that_never_stops_talking_can_be_timed_out() {
    let Some(lab) = Lab::new("a_worker_that_never_stops_talking_can_be_timed_out") else { return };
    let limits = Limits { job: Some(Duration::from_millis(500)), ..Limits::default() };
    let (result, events) = lab.hows(&faulty(&lab, &[], limits), "faulty", &["busy", "fine"]);
    assert_eq!((hows(&result.nodes).as_str(), failure(&result).0), ("Fr", ErrorClass::Timeout));
    assert!(events.len() < 200, "{} events", events.len());
}

#[test]
fn a_log_of_two_hundred_megabytes_keeps_its_beginning_and_its_end() {
    let Some(lab) = Lab::new("a_log_of_two_hundred_megabytes_keeps_its_beginning_and_its_end") else {
        return;
    };
    let registry = faulty(&lab, &[], Limits::default());
    let (result, _) = lab.hows(&registry, "faulty", &["stderr"]);
    assert_eq!(hows(&result.nodes), "r");
    let folders = fs::read_dir(lab.dir.join("temp")).unwrap().flatten();
    let inner = folders.flat_map(|folder| fs::read_dir(folder.path()).unwrap().flatten());
    let log = inner.map(|entry| entry.path().join("stderr")).find(|path| path.exists()).unwrap();
    wait("the log to be shortened", || fs::metadata(&log).unwrap().blocks() * 512 <= 16 << 20);
    let text = fs::read(&log).unwrap();
    assert!(text.starts_with(b"xxx") && text.ends_with(b"x\nthe last line\n"));
}

#[test]
fn of_endless_log_messages_enough_are_kept() {
    let Some(lab) = Lab::new("of_endless_log_messages_enough_are_kept") else { return };
    let registry = faulty(&lab, &[], Limits::default());
    let (result, events) = lab.hows(&registry, "faulty", &["chatter"]);
    assert_eq!(hows(&result.nodes), "r");
    let logged: Vec<&String> = events
        .iter()
        .filter_map(|event| if let StageEvent::Log { message } = event { Some(message) } else { None })
        .collect();
    assert_eq!(logged.len(), 10_001);
    assert_eq!((logged[0].as_str(), logged[9_999].as_str()), ("line 0", "line 9999"));
    assert_eq!(logged[10_000], "the worker's log goes on, and is not kept: 10000 lines are enough");
}

#[test]
fn memory_above_the_limit_costs_one_node() {
    let Some(lab) = Lab::new("memory_above_the_limit_costs_one_node") else { return };
    let clock = Instant::now();
    let limits = Limits { memory: Some(100 << 20), ..Limits::default() };
    let (result, _) = lab.hows(&faulty(&lab, &[], limits), "faulty", &["memory", "fine"]);
    assert_eq!(hows(&result.nodes), "Fr", "{result:?}");
    let (class, message) = failure(&result);
    assert_eq!(class, ErrorClass::OomHost);
    assert!(message.contains("of memory, of 100.0 MiB allowed"), "{message}");
    assert!(clock.elapsed() < Duration::from_mins(2));

    // three processes with the same pages
    let limits = Limits { memory: Some(600 << 20), ..Limits::default() };
    let (result, _) = lab.hows(&faulty(&lab, &[], limits), "faulty", &["shared"]);
    assert_eq!(hows(&result.nodes), "r", "{result:?}");
}
