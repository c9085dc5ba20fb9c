//! The exit codes of `docs/exit-codes.md`, of a real process. Those of signals are in `signals`.

use std::fs;

use crate::program::Project;
use crate::stages::STUDY;

#[track_caller]
fn ends(project: &Project, more: &[&str], code: i32, told: &str) {
    let args: Vec<&str> = ["run", "study.kdl"].iter().chain(more).copied().collect();
    let (found, errors) = project.run(&args);
    assert_eq!(found, Some(code), "{errors}");
    assert!(errors.contains(told), "{errors}");
}

#[test]
fn a_run_ends_with_the_code_of_what_happened() {
    let project = Project::new();
    ends(&project, &[], 0, "ran 7 · cached 0 · failed 0");
    ends(&project, &["--set", "total.fail=1"], 1, "asked to fail");
    ends(&project, &["--jobs", "none"], 2, "--jobs");
    ends(&project, &["--only", "totl"], 2, "did you mean `total`?");
    ends(&project, &["--timeout", "hlf=5s"], 2, "did you mean `half`?");
    ends(&project, &["--set", "total.fial=1"], 3, "did you mean");
    ends(&project, &["--from", "total", "--until", "base"], 5, "nothing is selected");
    ends(&project, &["--set", "total.fail=2", "--retries", "0"], 7, "out of host memory");
    fs::write(project.path().join(".qpipe/format.json"), r#"{"format":"qpipe-cache","version":99}"#).unwrap();
    ends(&project, &[], 6, "newer than the supported");
}

#[test]
fn what_a_failed_run_says_last_continues_it() {
    let project = Project::of(&STUDY.replace("model half", "model half; fail 1"));
    ends(&project, &["--failure", "keep-going"], 1, "`");
    let (_, errors) = project.run(&["run", "study.kdl"]);
    let hint = "the same command continues, finished work is kept: `qpipe run study.kdl`";
    assert!(errors.contains(hint), "{errors}");
}
