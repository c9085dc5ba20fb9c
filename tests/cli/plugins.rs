//! Plugins, in Python and in Rust, as a reader of `docs/plugins.md` and a user of `pipelines/prune.kdl` meets them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::processes::repository;
use crate::program::{Counts, Project};
use crate::python;

fn with_kit(project: &Project, folder: &str) {
    fs::create_dir_all(project.path(folder)).unwrap();
    let kit = repository().join("engine/sdk/python/qpipe_stage.py");
    fs::copy(kit, project.path(folder).join("qpipe_stage.py")).unwrap();
}

/// The blocks of a page that a line such as "`tally.py`:" names.
fn named_blocks(page: &str) -> BTreeMap<String, String> {
    let mut blocks = BTreeMap::new();
    let mut name = None;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if let Some(name) = name.take() {
                blocks.insert(name, text.join("\n") + "\n");
            }
        } else if let Some(last) = line.strip_suffix("`:").and_then(|line| line.rsplit('`').next()) {
            name = Some(last.to_owned());
        }
    }
    blocks
}

/// A metric of a cell, from the newest run's table.
fn metric(project: &Project, cell: &str, stage: &str, name: &str) -> f64 {
    let table = fs::read(project.last_run().join("table.json")).unwrap();
    let table: Value = serde_json::from_slice(&table).unwrap();
    let cells = table["cells"].as_array().unwrap();
    let cell = cells.iter().find(|one| one["cell"] == cell).unwrap_or_else(|| panic!("no cell `{cell}`"));
    let metrics = cell["metrics"].as_array().unwrap();
    let metric = metrics.iter().find(|one| one["stage"] == stage && one["metric"] == name);
    metric.unwrap_or_else(|| panic!("no `{stage}.{name}`"))["value"].as_f64().unwrap()
}

#[test]
fn the_tutorial_can_be_followed() {
    if !python::is_here("the_tutorial_can_be_followed") {
        return;
    }
    let page = fs::read_to_string(repository().join("docs/plugins.md")).unwrap();
    let blocks = named_blocks(&page);
    assert_eq!(blocks.keys().collect::<Vec<_>>(), ["study.kdl", "tally.py"]);
    assert!(blocks["tally.py"].lines().count() <= 40);
    let project = Project::new("qpipe 1 name=unused\n");
    with_kit(&project, ".");
    for (name, text) in &blocks {
        fs::write(project.path(name), text).unwrap();
    }
    fs::write(project.path("text.txt"), "b a b c a b\n").unwrap();
    let first = project.ok(&["run", "study.kdl"]);
    assert!(first.contains("distinct"), "{first}");
    assert_eq!(project.counts(), Counts { ran: 2, cached: 0 });
    project.ok(&["run", "study.kdl"]);
    assert_eq!(project.counts(), Counts { ran: 0, cached: 2 });
    fs::write(project.path("tally.py"), blocks["tally.py"].replace("lower()", "casefold()")).unwrap();
    let planned = project.ok(&["plan", "study.kdl"]);
    assert!(planned.contains("plugin `tally` changed: tally.py"), "{planned}");
    fs::write(project.path("wrong.kdl"), blocks["study.kdl"].replace("top 3", "top 0")).unwrap();
    let refused = project.qpipe(&["check", "wrong.kdl"]);
    assert_eq!(refused.status.code(), Some(3));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("`top` takes an integer ≥ 1"), "{said}");
    let tried = Command::new("python3")
        .args(["tally.py", "--try", "tally", "text=text.txt", "top=1", "--out", "made"])
        .current_dir(project.path("."))
        .output()
        .unwrap();
    assert!(tried.status.success(), "{}", String::from_utf8_lossy(&tried.stderr));
    assert_eq!(fs::read_to_string(project.path("made/table")).unwrap(), "b\t3\n");
}

#[test]
fn a_new_plugin_works_and_so_does_its_test() {
    if !python::is_here("a_new_plugin_works_and_so_does_its_test") {
        return;
    }
    let project = Project::new("qpipe 1 name=unused\n");
    project.ok(&["plugin", "new", "word-stats", "mine"]);
    project.ok(&["run", "mine/word-stats.kdl"]);
    assert_eq!(project.counts(), Counts { ran: 2, cached: 0 });
    assert!((metric(&project, "baseline", "counted", "distinct") - 11.0).abs() < f64::EPSILON);
    let tests =
        Command::new("python3").args(["-m", "unittest", "-q"]).current_dir(project.path("mine")).output();
    let tests = tests.unwrap();
    assert!(tests.status.success(), "{}", String::from_utf8_lossy(&tests.stderr));
    assert!(String::from_utf8_lossy(&tests.stderr).contains("Ran 1 test"));
    let listed = project.ok(&["plugin", "ls", "mine/word-stats.kdl"]);
    let is_listed = |line: &str| line.starts_with("word-stats ") && line.contains("mine/word-stats.py  b3:");
    assert!(listed.lines().any(is_listed), "{listed}");
    let listed: Value =
        serde_json::from_str(&project.ok(&["plugin", "ls", "mine/word-stats.kdl", "--json"])).unwrap();
    assert_eq!((&listed["schema"], &listed["plugins"][0]["problem"]), (&1.into(), &Value::Null), "{listed}");
    let again = project.qpipe(&["plugin", "new", "word-stats", "mine"]);
    assert!(!again.status.success(), "nothing is overwritten");
    for bad in ["Word Stats", "vars", "load", "exec", "qpipe_stage", "test"] {
        for lang in ["python", "rust"] {
            let refused = project.qpipe(&["plugin", "new", bad, "other", "--lang", lang]);
            assert_eq!(refused.status.code(), Some(2), "{bad}");
        }
    }
    assert!(!project.path("other").exists(), "nothing was written");
}

#[test]
fn the_peer_agrees_or_says_what_it_lacks() {
    if !python::is_here("the_peer_agrees_or_says_what_it_lacks") {
        return;
    }
    let project = Project::new("qpipe 1 name=unused\n");
    with_kit(&project, "plugins");
    fs::create_dir_all(project.path("tiny")).unwrap();
    for file in ["peer.kdl", "plugins/peer.py", "tiny/stories.jsonl", "tiny/boolq.jsonl"] {
        fs::copy(repository().join("pipelines").join(file), project.path(file)).unwrap();
    }
    let few = ["--set", "windows=10", "--set", "items=10", "--failure", "keep-going"];
    let output = project.qpipe(&[&["run", "peer.kdl"][..], &few].concat());
    let told =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    let nll = |cell: &str, stage: &str| metric(&project, cell, stage, "perplexity.nll");
    if output.status.success() {
        for cell in ["none", "nf4"] {
            assert!((nll(cell, "ours") - nll(cell, "theirs")).abs() < 1e-3, "{cell}: {told}");
        }
    } else {
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("this stage needs torch, transformers and"), "{told}");
        assert!(nll("none", "ours") > 0.0, "what does not need the peer goes on");
    }
}

const PICK: &str = r#"
from dataclasses import dataclass
from pathlib import Path

import qpipe_stage as qpipe


@dataclass
class Params:
    of: Path = qpipe.param("Rows.")
    every: int = qpipe.param("One of so many.", default=10, min=1)


@qpipe.stage("pick", outputs={"rows": "Some of the rows."})
def pick(job: qpipe.Job, params: Params):
    """Picks rows of a file."""
    lines = params.of.read_text(encoding="utf-8").splitlines(keepends=True)
    job.output("rows").write_text("".join(lines[:: params.every]), encoding="utf-8")


qpipe.main()
"#;

#[test]
fn a_dataset_of_a_plugin_is_evaluated_on() {
    if !python::is_here("a_dataset_of_a_plugin_is_evaluated_on") {
        return;
    }
    let rows = repository().join("pipelines/tiny/boolq.jsonl");
    let project = Project::new(&format!(
        "qpipe 1 name=picked\nplugin pick command=\"python3\" \"pick.py\"\nload base {{\n    from tiny\n}}\n\
         pick some {{\n    of {rows:?}\n    every 50\n}}\n\
         evaluate quality {{\n    model base\n    data some\n    task boolq data=\"stage:rows\"\n}}\n"
    ));
    with_kit(&project, ".");
    fs::write(project.path("pick.py"), PICK).unwrap();
    project.ok(&["run", "study.kdl"]);
    let lines = fs::read_to_string(rows).unwrap().lines().count();
    let table = fs::read_to_string(project.last_run().join("table.csv")).unwrap();
    let picked = format!(",{},", lines.div_ceil(50));
    assert!(table.lines().any(|line| line.contains("boolq.acc,") && line.contains(&picked)), "{table}");
    project.edit("every 50", "every 100");
    project.ok(&["run", "study.kdl"]);
    assert_eq!(project.counts(), Counts { ran: 2, cached: 1 });
    project.edit("stage:rows", "stage:columns");
    let failed = project.qpipe(&["run", "study.kdl"]);
    let said =
        [failed.stdout, failed.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(said.contains("the stage makes no file `columns`, only `rows`"), "{said}");
    project.edit("    data some\n", "");
    let failed = project.qpipe(&["run", "study.kdl"]);
    let said =
        [failed.stdout, failed.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(said.contains("`data` names no stage that makes `columns`"), "{said}");
}

/// The shipped stage type in Rust, found on the search path by its name.
#[test]
fn a_stage_in_rust_is_a_plugin() {
    let folder = Path::new(env!("CARGO_BIN_EXE_qpipe")).parent().unwrap();
    let program = folder.join("qpipe-stage-wordstats");
    assert!(program.exists(), "{} is built with the workspace's tests", program.display());
    let project = Project::new("qpipe 1 name=unused\n");
    let study = repository().join("pipelines/plugins/wordstats/wordstats.kdl");
    let run = ["run", study.to_str().unwrap()];
    project.ok_with_path(folder, &run);
    assert_eq!(project.counts(), Counts { ran: 2, cached: 0 });
    let distinct = |cell: &str| metric(&project, cell, "stories", "distinct");
    assert!(distinct("baseline") > 100.0, "{}", distinct("baseline"));
    project.ok_with_path(folder, &run);
    assert_eq!(project.counts(), Counts { ran: 0, cached: 2 });

    fs::write(project.path("text.txt"), "b a b c a b\n").unwrap();
    let test = ["plugin", "test", "--file", "text=text.txt", "qpipe-stage-wordstats"];
    let report = project.ok_with_path(folder, &test);
    assert!(report.contains(", 0 failed, 0 warned, "), "{report}");
    let listed = project.ok_with_path(folder, &["plugin", "ls"]);
    assert!(listed.lines().any(|line| line.starts_with("wordstats ")), "{listed}");
}

/// What `plugin new --lang rust` writes is built, tested and run.
#[test]
fn a_new_plugin_in_rust_works_and_so_does_its_test() {
    let project = Project::new("qpipe 1 name=unused\n");
    let lost = project.qpipe(&["plugin", "new", "--lang", "rust", "word-stats", "mine"]);
    assert_eq!(lost.status.code(), Some(2), "there is no crate around here");
    assert!(String::from_utf8_lossy(&lost.stderr).contains("`--sdk DIR`"));
    let sdk = repository().join("engine/sdk");
    project.ok(&["plugin", "new", "--lang", "rust", "--sdk", sdk.to_str().unwrap(), "word-stats", "mine"]);
    let mine = project.path("mine");
    // the versions that are here already
    fs::copy(repository().join("Cargo.lock"), mine.join("Cargo.lock")).unwrap();
    for args in [["test", "--release"], ["build", "--release"]] {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(args).current_dir(&mine).env("CARGO_TARGET_DIR", mine.join("target"));
        let output = cargo.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    project.ok(&["run", "mine/word-stats.kdl"]);
    assert_eq!(project.counts(), Counts { ran: 2, cached: 0 });
    assert!((metric(&project, "baseline", "counted", "distinct") - 11.0).abs() < f64::EPSILON);
}

#[test]
fn a_plugin_is_held_to_the_protocol() {
    if !python::is_here("a_plugin_is_held_to_the_protocol") {
        return;
    }
    let project = Project::new("qpipe 1 name=unused\n");
    project.ok(&["plugin", "new", "word-stats", "mine"]);
    let report = project.ok(&["plugin", "test", "--file", "text=mine/text.txt", "mine/word-stats.py"]);
    assert!(report.contains("ok    word-stats exact: "), "{report}");
    assert!(report.ends_with(" ok, 0 failed, 0 warned, 1 skipped\n"), "{report}");
    assert!(report.contains("skip  word-stats resume: the sample's job announced no unit"), "{report}");

    // a model comes from the program's own stages
    with_kit(&project, ".");
    fs::copy(repository().join("pipelines/plugins/prune.py"), project.path("prune.py")).unwrap();
    let report: Value = serde_json::from_str(&project.ok(&["plugin", "test", "--json", "prune.py"])).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let engine = checks.iter().find(|check| check["rule"] == "engine").unwrap();
    assert_eq!((&engine["stage"], &engine["outcome"]), (&"prune".into(), &"passed".into()));

    let broken = fs::read_to_string(project.path("prune.py")).unwrap().replace("zeros / max", "x / max");
    fs::write(project.path("prune.py"), broken).unwrap();
    let failed = project.qpipe(&["plugin", "test", "prune.py"]);
    assert_eq!(failed.status.code(), Some(1));
    let said = String::from_utf8_lossy(&failed.stdout).into_owned();
    assert!(said.contains("FAIL  prune run: it failed (bug): NameError: name 'x' is not defined"), "{said}");
    assert_eq!(project.qpipe(&["plugin", "test", "./absent"]).status.code(), Some(2));
}

#[test]
fn a_pruned_model_is_quantized_and_evaluated() {
    if !python::is_here("a_pruned_model_is_quantized_and_evaluated") {
        return;
    }
    let project = Project::new("qpipe 1 name=unused\n");
    with_kit(&project, "plugins");
    for file in ["prune.kdl", "plugins/prune.py"] {
        fs::copy(repository().join("pipelines").join(file), project.path(file)).unwrap();
    }
    project.ok(&["run", "prune.kdl", "--set", "windows=20"]);
    assert_eq!(project.counts(), Counts { ran: 16, cached: 0 });
    let nll = |cell: &str| metric(&project, cell, "quality", "perplexity.nll");
    assert!(nll("sparsity=0.5,scheme=none") > nll("sparsity=0,scheme=none") + 0.1);
    assert!(nll("sparsity=0.3,scheme=none") < nll("sparsity=0.3,scheme=nf4"));
    assert!((metric(&project, "sparsity=0.5,scheme=nf4", "smaller", "sparsity") - 0.5).abs() < 1e-3);
    project.ok(&["run", "prune.kdl", "--set", "windows=20"]);
    assert_eq!(project.counts(), Counts { ran: 0, cached: 16 });
}
