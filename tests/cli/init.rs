//! `qpipe init`, and the studies it writes.

use std::fs;

use crate::program::{Counts, Project};

fn empty() -> Project {
    Project::new("qpipe 1 name=unused\n")
}

#[test]
fn every_template_is_listed_written_and_a_valid_study() {
    let project = empty();
    let list = project.ok(&["init", "--list"]);
    let names: Vec<&str> = list.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(names.contains(&"ablation") && names.contains(&"sweep"), "{list}");
    for name in names {
        project.ok(&["init", name, "--template", name]);
        project.ok(&["check", &format!("{name}/{name}.kdl")]);
        let shipped = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
        let shipped = std::path::Path::new(&shipped).join(format!("../../pipelines/{name}.kdl"));
        let written = fs::read(project.path(name).join(format!("{name}.kdl"))).unwrap();
        assert_eq!(written, fs::read(shipped).unwrap());
    }
}

#[test]
fn nothing_is_overwritten() {
    let project = empty();
    project.ok(&["init"]);
    fs::write(project.path("ablation.kdl"), "mine").unwrap();
    let refused = project.qpipe(&["init"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is there already"));
    assert_eq!(fs::read_to_string(project.path("ablation.kdl")).unwrap(), "mine");
    // of several files, one that is there keeps all from being written
    fs::create_dir_all(project.path("w/words")).unwrap();
    fs::write(project.path("w/words/zipf.py"), "mine").unwrap();
    assert_eq!(project.qpipe(&["init", "w", "--template", "words"]).status.code(), Some(2));
    assert!(!project.path("w/words.kdl").exists());
    let unknown = project.qpipe(&["init", "--template", "ablatoin"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("did you mean `ablation`?"));
}

#[test]
fn the_sweep_runs_and_a_value_added_runs_only_its_own_cells() {
    let project = empty();
    project.ok(&["init", "--template", "sweep"]);
    let table = project.ok(&["run", "sweep.kdl", "--set", "windows=20"]);
    assert!(table.contains("scheme=fp4,block=256"), "{table}");
    // 8 plain cells and 4 nested ones, two nodes each, and the checkpoint
    assert_eq!(project.counts(), Counts { ran: 25, cached: 0 });
    let text = fs::read_to_string(project.path("sweep.kdl")).unwrap();
    fs::write(project.path("sweep.kdl"), text.replace("32 64 128 256", "32 64 128 256 512")).unwrap();
    project.ok(&["run", "sweep.kdl", "--set", "windows=20"]);
    assert_eq!(project.counts(), Counts { ran: 4, cached: 25 });
}

#[test]
fn a_model_is_a_word_or_a_path() {
    let project = empty();
    project.ok(&["init"]);
    let shipped = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    let tiny = std::path::Path::new(&shipped).join("../../pipelines/tiny");
    fs::create_dir_all(project.path("copied")).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(tiny.join(file), project.path("copied").join(file)).unwrap();
    }
    let only = ["run", "ablation.kdl", "--only", "base", "--only", "weights"];
    project.ok(&only);
    let first = project.counts();
    project.ok(&[&only[..], &["--set", "model=./copied"]].concat());
    // another place, the same content: the same model, so what follows is there
    assert_eq!(project.counts().ran, 0, "{:?} after {first:?}", project.counts());
    let refused = project.qpipe(&[&only[..], &["--set", "model=tinny"]].concat());
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("did you mean `tiny`?"));
    let absent = project.qpipe(&[&only[..], &["--set", "model=absent.gguf"]].concat());
    assert_eq!(absent.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&absent.stderr).contains("absent.gguf"));
}
