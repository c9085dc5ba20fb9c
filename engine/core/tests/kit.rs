//! Plugins on the Python kit (`engine/sdk/python`), over a real store; and documents with blobs.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "../../../tests/support/python.rs"]
mod python;

mod hows;
mod plugin_lab;

use std::fs;

use hows::hows;
use plugin_lab::{KIT, PluginLab, failure, package, told, why};
use qpipe_engine::graph::Study;
use qpipe_engine::run::{RunOptions, RunOutcome, RunResult, metrics};
use qpipe_sdk::{ErrorClass, StageRegistry};

struct Lab(PluginLab);

impl Lab {
    /// `None` where there is no Python, after saying so.
    fn new(test: &str) -> Option<Self> {
        let files = ["tests/plugins/shelf.py", "tests/plugins/binding.py", KIT];
        python::is_here(test).then(|| Self(PluginLab::new(&files)))
    }

    fn read(&self, text: &str) -> Result<(Study, StageRegistry), String> {
        let plugin = |kind: &str| format!("plugin {kind} command=\"python3\" \"shelf.py\"\n");
        let text = format!("{}{}{text}", plugin("bind"), plugin("read"));
        let registry = self.0.plugins(&text, &StageRegistry::default(), None).map_err(told)?;
        Ok((self.0.study(&text, &registry).map_err(told)?, registry))
    }

    fn run(&self, text: &str) -> RunResult {
        let (study, registry) = self.read(text).unwrap();
        self.0.run_study(&study, &registry, &RunOptions::default()).0
    }

    fn failure(&self, how: &str) -> (ErrorClass, String) {
        failure(&self.run(&BOOKS.replace("how well", &format!("how \"{how}\""))))
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
    assert_eq!(lab.0.output(&result.nodes[2], "text"), "A\nB\n  C\n");
    let book = &result.nodes[1].record().unwrap().outputs["out"];
    let document: serde_json::Value =
        serde_json::from_slice(&lab.0.store.read(&book.digest).unwrap()).unwrap();
    let pages: Vec<&str> =
        document["pages"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert_eq!((pages.len(), &document["title"]), (3, &serde_json::Value::Null));
    for page in pages {
        assert!(lab.0.store.read(&page.parse().unwrap()).unwrap().ends_with(b"\n"), "{page}");
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
    lab.0.file("binding.py", "def bound(text):\n    return text\n");
    let (study, registry) = lab.read(BOOKS).unwrap();
    let planned = lab.0.plan(&study, &registry);
    assert_eq!(why(&planned.nodes[0].state), ["plugin `bind` changed: binding.py"]);
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
    let tests = package("../sdk/python/tests");
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
    let shipped = package("../../pipelines/plugins/qpipe_stage.py");
    assert!(!fs::symlink_metadata(&shipped).unwrap().is_symlink());
    let kit = fs::read_to_string(package(KIT)).unwrap();
    let is_same = fs::read_to_string(shipped).unwrap() == kit;
    assert!(is_same, "cp engine/sdk/python/qpipe_stage.py pipelines/plugins/");
}
