//! What stages compute on: listed with reasons, refused with the same reasons, and told of once where it matters.

use std::path::Path;

use serde_json::Value;

use crate::program::Project;

const STUDY: &str = r"
qpipe 1 name=devices
load base { from tiny }
evaluate quality {
    model base
    task perplexity data=tiny window=64 join=#false limit=4
}
";

fn listed(project: &Project) -> Value {
    serde_json::from_str(&project.ok(&["devices", "--json"])).unwrap()
}

/// Why there is no CUDA device, where there is none.
fn absence(project: &Project) -> Option<String> {
    listed(project)["cuda"]["message"].as_str().map(str::to_owned)
}

#[test]
fn the_processor_is_always_listed_and_one_device_is_marked() {
    let project = Project::new("");
    let (text, json) = (project.ok(&["devices"]), listed(&project));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("device  auto  name"), "{text}");
    assert!(lines[1].starts_with("cpu "), "{text}");
    let marked: Vec<&str> = lines.iter().filter(|line| line.contains(" * ")).copied().collect();
    let auto = json["auto"].as_str().unwrap();
    assert!(marked.len() == 1 && marked[0].starts_with(auto), "{text}");
    assert_eq!(json["schema"], 1);
    assert!(json["cpu"]["cores"].as_u64() > Some(0), "{json}");
    let devices = json["cuda"]["devices"].as_array().unwrap();
    assert_eq!(auto == "cpu", devices.is_empty());
    if let Some(why) = absence(&project) {
        assert!(text.contains(&format!("no CUDA device: {why}")), "{text}");
    }
    assert!(!project.store().exists(), "a question makes no store");
}

#[test]
fn a_device_that_there_is_not_has_its_exit_and_says_why() {
    let project = Project::new(STUDY);
    let Some(why) = absence(&project) else { return };
    for device in ["cuda", "cuda:1"] {
        let set = format!("quality.device={device}");
        let output = project.qpipe(&["run", "study.kdl", "--set", &set]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(7), "{told}");
        let words = told.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        let expected = format!("device `{device}` is not available: {why}");
        assert!(words.contains(&expected), "`{expected}` is not in: {words}");
        // to plan is to ask what would run, not where
        project.ok(&["plan", "study.kdl", "--set", &set]);
        project.ok(&["check", "study.kdl", "--set", &set]);
    }
    project.edit("model base\n", "model base\n    device cuda\n");
    assert_eq!(project.qpipe(&["run", "study.kdl"]).status.code(), Some(7));
}

#[test]
fn a_run_tells_once_that_it_computes_on_the_processor_where_a_gpu_was_to_be_expected() {
    let project = Project::new(STUDY);
    let gpus = Path::new("/proc/driver/nvidia/gpus");
    let has_gpus = gpus.read_dir().is_ok_and(|mut cards| cards.next().is_some());
    let reason = listed(&project)["cuda"]["absence"]["reason"].as_str().map(str::to_owned);
    let notable = reason.is_some_and(|reason| reason != "not-built" || has_gpus);
    let notes = |args: &[&str]| {
        let output = project.qpipe(args);
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).matches("note: `device auto` is the CPU").count()
    };
    assert_eq!(notes(&["run", "study.kdl", "--set", "quality.device=cpu"]), 0);
    let auto = ["run", "study.kdl", "--force", "--format", "jsonl"];
    assert_eq!(notes(&auto), usize::from(notable));
    assert_eq!(notes(&["run", "study.kdl"]), 0, "nothing runs");
}

#[test]
fn a_study_names_its_gpus_and_a_stage_gets_no_other() {
    let named = STUDY.replace("load base", "defaults { resources { gpus 1 2 } }\nload base");
    let project = Project::new(&named);
    let told = |args: &[&str]| {
        let output = project.qpipe(args);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let words = told.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        (output.status.code(), words)
    };
    let (code, words) = told(&["run", "study.kdl", "--set", "quality.device=cuda:0"]);
    assert_eq!(code, Some(7), "{words}");
    assert!(
        words.contains("device `cuda:0` is not among the GPUs of this run: `cuda:1`, `cuda:2`"),
        "{words}"
    );
    let Some(why) = absence(&project) else { return };
    let (code, words) = told(&["run", "study.kdl"]);
    assert_eq!(code, Some(7), "{words}");
    let expected = format!("device `cuda:1` is not available: {why}");
    assert!(words.contains(&expected), "the GPU's worker says so: {words}");
    let (code, words) = told(&["run", "study.kdl", "--gpus", "all"]);
    assert_eq!(code, Some(0), "the command line counts more: {words}");
}
