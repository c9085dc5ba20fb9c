//! Plugins on the Python kit (`engine/sdk/python`), over a real store; and documents with blobs.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "../../../tests/support/python.rs"]
mod python;

mod hows;

use std::fs;
use std::path::{Path, PathBuf};

use hows::hows;
use qpipe_cache::Store;
use qpipe_engine::manifest::{LoadOptions, load_plugins, load_study};
use qpipe_engine::plan::{NodeState, PlanOptions, plan};
use qpipe_engine::run::{RunOptions, RunOutcome, RunResult, metrics, run};
use qpipe_engine::worker::Machine;
use qpipe_engine::worker::files::Files;
use qpipe_sdk::{ErrorClass, StageRegistry};

fn package() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
}

struct Lab {
    dir: tempfile::TempDir,
    store: Store,
    machine: Machine,
}

impl Lab {
    /// `None` where there is no Python, after saying so.
    fn new(test: &str) -> Option<Self> {
        if !python::is_here(test) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let path = std::env::var_os("PATH").map(|path| ("PATH".into(), path));
        let machine = Machine::new(path, &dir.path().join("temp"));
        for name in ["tests/plugins/shelf.py", "tests/plugins/binding.py", "../sdk/python/qpipe_stage.py"] {
            let from = package().join(name);
            fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
        }
        Some(Self { dir, store, machine })
    }

    fn read(&self, text: &str) -> Result<(qpipe_engine::graph::Study, StageRegistry), String> {
        let text = format!(
            "qpipe 1 name=lab\nplugin bind command=\"python3\" \"shelf.py\"\nplugin read command=\"python3\" \"shelf.py\"\n{text}"
        );
        let (path, options) = (self.dir.path().join("lab.kdl"), LoadOptions::default());
        let told = |errors: qpipe_engine::manifest::ManifestErrors| {
            errors.errors().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        let registry = load_plugins(&path, &text, &options, &StageRegistry::default(), &self.machine, None);
        let registry = registry.map_err(told)?;
        Ok((load_study(&path, &text, &options, &registry).map_err(told)?, registry))
    }

    fn run(&self, text: &str) -> RunResult {
        let (study, registry) = self.read(text).unwrap();
        let plan = plan(&study, &registry, &self.store, &PlanOptions::default()).unwrap();
        run(&study, &plan, &registry, &self.store, &RunOptions::default(), &mut ())
    }

    fn failure(&self, how: &str) -> (ErrorClass, String) {
        let result = self.run(&BOOKS.replace("how well", &format!("how \"{how}\"")));
        let (_, class, message) = result.failures().next().expect("it fails");
        (class, message.to_owned())
    }
}

const BOOKS: &str = r#"
bind first {
    pages "a" "b"
    how well
}
bind second {
    pages "c"
    after first
    style indent=2
}
read all {
    book second
    aloud #true
}
"#;

#[test]
fn a_document_keeps_its_blobs_and_those_of_its_inputs() {
    let Some(lab) = Lab::new("a_document_keeps_its_blobs_and_those_of_its_inputs") else { return };
    let result = lab.run(BOOKS);
    assert_eq!((result.outcome, hows(&result.nodes).as_str()), (RunOutcome::Done, "rrr"), "{result:?}");
    let record = result.nodes[2].record().unwrap();
    let files = Files::read(&lab.store, &record.outputs["out"].digest).unwrap();
    let (path, entry) = files.entries().next().unwrap();
    assert_eq!(path, Path::new("text"));
    assert_eq!(lab.store.read(&entry.digest).unwrap(), b"A\nB\n  C\n");
    let book = &result.nodes[1].record().unwrap().outputs["out"];
    let document: serde_json::Value = serde_json::from_slice(&lab.store.read(&book.digest).unwrap()).unwrap();
    let pages: Vec<&str> =
        document["pages"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert_eq!((pages.len(), &document["title"]), (3, &serde_json::Value::Null));
    for page in pages {
        assert!(lab.store.read(&page.parse().unwrap()).unwrap().ends_with(b"\n"), "{page}");
    }
    let metric = &metrics::decode(&result.nodes[1].record().unwrap().metrics).unwrap()[0];
    assert_eq!(
        (metric.name.as_str(), metric.value, metric.unit.as_str(), metric.headline),
        ("pages", 3.0, "pages", true)
    );
    assert_eq!(hows(&lab.run(BOOKS).nodes), "ccc");
}

#[test]
fn a_module_of_the_plugin_is_part_of_the_key() {
    let Some(lab) = Lab::new("a_module_of_the_plugin_is_part_of_the_key") else { return };
    assert_eq!(hows(&lab.run(BOOKS).nodes), "rrr");
    fs::write(lab.dir.path().join("binding.py"), "def bound(text):\n    return text\n").unwrap();
    let (study, registry) = lab.read(BOOKS).unwrap();
    let planned = plan(&study, &registry, &lab.store, &PlanOptions::default()).unwrap();
    let NodeState::Miss { reasons, .. } = &planned.nodes[0].state else { panic!("a hit") };
    let reason = reasons[0].to_string();
    assert_eq!(reason, "plugin `bind` changed: binding.py");
}

#[test]
fn what_a_plugin_raises_is_a_typed_error() {
    let Some(lab) = Lab::new("what_a_plugin_raises_is_a_typed_error") else { return };
    assert_eq!(lab.failure("config"), (ErrorClass::Config, "no such paper".to_owned()));
    let (class, message) = lab.failure("defect");
    assert_eq!(class, ErrorClass::Bug);
    assert!(message.starts_with("KeyError: 'glue'\nTraceback"), "{message}");
    assert!(message.contains("raise KeyError(\"glue\")"), "{message}");
    let lost = "output `blob:page-0` was not written to blobs/page-0";
    let first = |message: &str| message.lines().next().unwrap_or_default().to_owned();
    let (class, message) = lab.failure("lost");
    assert_eq!((class, first(&message).as_str()), (ErrorClass::Bug, lost));
    let (class, message) = lab.failure("twice");
    assert_eq!(class, ErrorClass::Bug);
    assert!(first(&message).ends_with("refers to `blob:cover`, which was not announced"), "{message}");
    let nan = lab.run(&BOOKS.replace("how well", "how \"nan\""));
    let metric = &metrics::decode(&nan.nodes[0].record().unwrap().metrics).unwrap()[0];
    assert!(metric.value.is_nan());
}

#[test]
fn dataclasses_declare_parameters() {
    let Some(lab) = Lab::new("dataclasses_declare_parameters") else { return };
    let told = |from: &str, to: &str| lab.read(&BOOKS.replace(from, to)).err().unwrap_or_default();
    assert_eq!(
        told("indent=2", "indent=9"),
        "`style.indent` takes an integer from 0 to 8; 9 is out of range"
    );
    assert_eq!(told("how well", "how badly"), "`badly` is no choice of `how`");
    assert_eq!(told("    pages \"c\"\n", ""), "stage `second` needs `pages`");
    assert_eq!(told("how well", "title \"\""), "`first.title`: a title is not empty");
    assert_eq!(told("how well", "title \"t\""), "");
}

#[test]
fn the_kits_own_tests_pass() {
    if !python::is_here("the_kits_own_tests_pass") {
        return;
    }
    let tests = package().join("../sdk/python/tests");
    let output = std::process::Command::new("python3")
        .args(["-B", "-m", "unittest", "discover"])
        .arg(tests)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("Ran 0 tests"), "{said}");
}

/// A copy, not a link: the folder of pipelines is copied by itself.
#[test]
fn the_shipped_kit_is_the_kit() {
    let shipped = package().join("../../pipelines/plugins/qpipe_stage.py");
    assert!(!fs::symlink_metadata(&shipped).unwrap().is_symlink());
    let kit = fs::read_to_string(package().join("../sdk/python/qpipe_stage.py")).unwrap();
    let is_same = fs::read_to_string(shipped).unwrap() == kit;
    assert!(is_same, "cp engine/sdk/python/qpipe_stage.py pipelines/plugins/");
}
