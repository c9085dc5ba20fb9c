//! Work outside the engine's process: plugins, commands, and built-in stages in isolation.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::program::{Counts, Project, STUDY};
use crate::python;

pub(crate) fn repository() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("../..")
}

#[test]
fn a_plugin_in_python_is_a_stage_like_any_other() {
    if !python::is_here("a_plugin_in_python_is_a_stage_like_any_other") {
        return;
    }
    let study = "qpipe 1 name=words\nplugin tally command=\"python3\" \"tally.py\"\n\
                 tally words {\n    text \"text.txt\"\n    top 2\n}\n";
    let project = Project::new(study);
    let plugin = repository().join("engine/core/tests/plugins/tally.py");
    fs::copy(plugin, project.path("tally.py")).unwrap();
    fs::write(project.path("text.txt"), "a rose is a rose is a rose").unwrap();
    let table = project.ok(&["run", "study.kdl"]);
    assert!(table.contains("distinct"), "{table}");
    assert_eq!(project.counts(), Counts { ran: 1, cached: 0 });
    project.ok(&["run", "study.kdl"]);
    assert_eq!(project.counts(), Counts { ran: 0, cached: 1 });
    let script = fs::read_to_string(project.path("tally.py")).unwrap();
    fs::write(project.path("tally.py"), format!("{script}\n# changed\n")).unwrap();
    let plan = project.ok(&["plan", "study.kdl"]);
    assert!(plan.starts_with("miss"), "the plugin's own text is in the key: {plan}");
    project.edit("tally.py", "absent.py");
    let refused = project.qpipe(&["check", "study.kdl"]);
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("qpipe::manifest::plugin"));
}

#[test]
fn isolated_stages_give_the_same_results_under_the_same_keys() {
    let project = Project::new(STUDY);
    let inside = project.ok(&["run", "study.kdl", "--isolate", "quantize", "--isolate", "evaluate"]);
    assert_eq!(project.counts(), Counts { ran: 7, cached: 0 });
    let plain = project.ok(&["run", "study.kdl"]);
    assert_eq!(project.counts(), Counts { ran: 0, cached: 7 }, "isolation is in no key");
    assert_eq!(inside, plain);
    let fresh = project.ok(&["run", "study.kdl", "--store", "other"]);
    assert_eq!(fresh, plain, "and changes no result");
    let unknown = project.qpipe(&["run", "study.kdl", "--isolate", "quantise"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("did you mean `quantize`?"));
}

#[test]
fn the_pipeline_of_commands_runs_and_reruns_what_a_change_reaches() {
    if !python::is_here("the_pipeline_of_commands_runs_and_reruns_what_a_change_reaches") {
        return;
    }
    let project = Project::new("qpipe 1 name=unused\n");
    let from = repository().join("pipelines");
    fs::create_dir_all(project.path("tiny")).unwrap();
    fs::create_dir_all(project.path("words")).unwrap();
    for file in ["words.kdl", "words/zipf.py", "tiny/stories.jsonl"] {
        fs::copy(from.join(file), project.path(file)).unwrap();
    }
    project.ok(&["run", "words.kdl"]);
    let all = project.counts();
    assert!(all.ran >= 5 && all.cached == 0, "{all:?}");
    let script = fs::read_to_string(project.path("words/zipf.py")).unwrap();
    fs::write(project.path("words/zipf.py"), format!("{script}\n# changed\n")).unwrap();
    project.ok(&["run", "words.kdl"]);
    let last = project.counts();
    assert_eq!(last.ran + last.cached, all.ran);
    assert_eq!(last.ran, 2, "the last stage of both cells");
}

#[test]
fn what_qpipe_was_handed_is_not_handed_on() {
    let study = "qpipe 1 name=open\nexec look {\n    command \"test ! -e /proc/self/fd/7 && echo closed\"\n    \
                 shell #true\n    stdout seen\n}\n";
    let project = Project::new(study);
    // the shell's `test` sees it, and would in a command that inherits it
    let script = "exec 7<study.kdl; test -e /proc/self/fd/7 && exec \"$0\" run study.kdl";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_qpipe")]).current_dir(project.path("."));
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(project.counts(), Counts { ran: 1, cached: 0 });
}
