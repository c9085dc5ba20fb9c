//! Files that change while a plugin runs: what it made and said is of the content that it is filed under.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "../../../tests/support/python.rs"]
mod python;

mod plugin_lab;

use std::fs;
use std::ops::Deref;

use plugin_lab::{PluginLab, failure, told};
use qpipe_cache::Store;
use qpipe_engine::limits::{Limits as RunLimits, Retry};
use qpipe_engine::plan::NodeState;
use qpipe_engine::run::{RunEventKind, RunOptions, RunResult, run};
use qpipe_engine::worker::wall::Support;
use qpipe_sdk::{ErrorClass, StageEvent, StageRegistry};

struct Lab(PluginLab);

impl Deref for Lab {
    type Target = PluginLab;

    fn deref(&self) -> &PluginLab {
        &self.0
    }
}

impl Lab {
    /// `None` where there is no Python, after saying so.
    fn new(test: &str) -> Option<Self> {
        if !python::is_here(test) {
            return None;
        }
        let mut lab = PluginLab::new(&["tests/plugins/edits.py"]);
        // these plugins note beside themselves what they are asked
        lab.machine = lab.machine.with_walls(Support::None { why: "the test has none" });
        lab.file("helper.txt", "helps");
        lab.file("book.txt", "a");
        Some(Self(lab))
    }

    /// As `tests/plugins/edits.py` notes it, since the last time that this was asked.
    fn log(&self) -> String {
        self.taken("log")
    }

    fn text(&self, words: &str, how: &str) -> String {
        let log = self.path("log").display().to_string();
        let plugin =
            format!("plugin edits {{\n command \"python3\"\n file \"edits.py\"\n args {log:?}\n {words}\n}}");
        format!("{plugin}\nedits one {{\n book \"book.txt\"\n how {how:?}\n}}")
    }

    fn registry(&self, text: &str, store: Option<&Store>) -> Result<StageRegistry, String> {
        self.plugins(text, &StageRegistry::default(), store).map_err(told)
    }

    fn run(&self, text: &str, registry: &StageRegistry) -> (RunResult, Vec<String>) {
        let study = self.study(text, registry).unwrap();
        let limits = RunLimits {
            retry: Some(Retry { times: 0, wait: std::time::Duration::ZERO }),
            ..RunLimits::default()
        };
        let options = RunOptions { limits, ..RunOptions::default() };
        let (result, events) = self.run_study(&study, registry, &options);
        let lines = events.into_iter().filter_map(|event| match event.kind {
            RunEventKind::Stage { stage: StageEvent::Log { message }, .. } => Some(message),
            _ => None,
        });
        (result, lines.collect())
    }

    /// What the only node made.
    fn made(&self, text: &str, registry: &StageRegistry) -> String {
        let (result, _) = self.run(text, registry);
        assert!(result.nodes[0].record().is_some(), "{:?}", failure(&result));
        self.output(&result.nodes[0], "out")
    }
}

#[test]
fn no_worker_of_other_content_runs_a_job() {
    let Some(lab) = Lab::new("no_worker_of_other_content_runs_a_job") else { return };
    let text = lab.text("", "");
    for store in [Some(&lab.store), None] {
        let script = fs::read_to_string(lab.path("edits.py")).unwrap();
        // while it starts
        lab.file("edit", "script");
        let registry = lab.registry(&text, store).unwrap();
        assert_eq!(lab.made(&text, &registry), "2 helps");
        // between jobs of one process
        lab.file("edits.py", &script.replace("VERSION = 1", "VERSION = 3"));
        assert_eq!(lab.made(&text, &registry), "3 helps");
        lab.file("helper.txt", "helps more");
        assert_eq!(lab.made(&text, &registry), "3 helps more");
        lab.file("helper.txt", "helps");
        lab.file("edits.py", &(script + "#\n"));
    }
}

#[test]
fn what_was_changed_after_the_plan_is_not_run() {
    let Some(lab) = Lab::new("what_was_changed_after_the_plan_is_not_run") else { return };
    let text = lab.text("", "");
    let registry = lab.registry(&text, Some(&lab.store)).unwrap();
    let study = lab.study(&text, &registry).unwrap();
    let planned = lab.plan(&study, &registry);
    let script = fs::read_to_string(lab.path("edits.py")).unwrap();
    lab.file("edits.py", &script.replace("VERSION = 1", "VERSION = 2"));
    lab.log();
    let result = run(&study, &planned, &registry, &lab.store, &RunOptions::default(), &mut ());
    assert!(result.nodes[0].record().is_none());
    assert!(!lab.log().contains('r'));
}

#[test]
fn a_description_is_kept_of_what_was_read() {
    let Some(lab) = Lab::new("a_description_is_kept_of_what_was_read") else { return };
    let text = lab.text("", "");
    lab.file("edit", "helper");
    for _ in 0..2 {
        let registry = lab.registry(&text, Some(&lab.store)).unwrap();
        assert_eq!(registry.get("edits").unwrap().spec().doc, "helps more");
    }
    assert_eq!(lab.log(), "sdsd", "described again, once, and kept");

    // described before there is a store, changed after that, and kept with the run
    lab.file("helper.txt", "helps");
    fs::remove_dir_all(lab.path("store/plugins")).unwrap();
    let registry = lab.registry(&text, None).unwrap();
    lab.file("helper.txt", "helps more");
    assert_eq!(lab.made(&text, &registry), "1 helps more");
    let registry = lab.registry(&text, Some(&lab.store)).unwrap();
    assert_eq!(registry.get("edits").unwrap().spec().doc, "helps more");
}

#[test]
fn an_answer_is_kept_of_the_files_that_it_is_about() {
    let Some(lab) = Lab::new("an_answer_is_kept_of_the_files_that_it_is_about") else { return };
    let text = lab.text("", "");
    for store in [Some(&lab.store), None] {
        let _none = fs::remove_dir_all(lab.path("store/plugins"));
        lab.file("book.txt", "a");
        lab.file("edit", "book");
        let registry = lab.registry(&text, store).unwrap();
        lab.study(&text, &registry).unwrap();
        lab.file("book.txt", "a");
        lab.log();
        let registry = lab.registry(&text, Some(&lab.store)).unwrap();
        let study = lab.study(&text, &registry).unwrap();
        assert!(lab.log().ends_with('k'), "what was said of another book is no answer");
        let planned = lab.plan(&study, &registry);
        assert!(matches!(planned.nodes[0].state, NodeState::Miss { .. }));
        lab.registry(&text, Some(&lab.store)).unwrap();
        assert_eq!(lab.log(), "");
    }
}

#[test]
fn a_pipe_among_a_plugin_s_files_is_an_error() {
    let Some(lab) = Lab::new("a_pipe_among_a_plugin_s_files_is_an_error") else { return };
    let fifo = |name: &str| {
        let _none = fs::remove_file(lab.path(name));
        assert!(std::process::Command::new("mkfifo").arg(lab.path(name)).status().unwrap().success());
    };
    fifo("pipe");
    let declared = lab.registry(&lab.text("files \"pipe\"", ""), Some(&lab.store)).err().unwrap();
    assert!(declared.contains("`file:pipe`") && declared.contains("it is not a file"), "{declared}");
    let script = fs::read_to_string(lab.path("edits.py")).unwrap();
    lab.file("edits.py", &script.replace("str(HELPER)", "str(HERE / 'pipe')"));
    for store in [Some(&lab.store), None] {
        let told = lab.registry(&lab.text("", ""), store).err().unwrap();
        assert!(told.contains("`source:helper`") && told.contains("it is not a file"), "{told}");
    }
}

#[test]
fn a_job_that_overwrites_its_input_is_a_bug() {
    let Some(lab) = Lab::new("a_job_that_overwrites_its_input_is_a_bug") else { return };
    let text = lab.text("", "overwrite");
    let registry = lab.registry(&text, Some(&lab.store)).unwrap();
    let (result, _) = lab.run(&text, &registry);
    let (class, message) = failure(&result);
    assert_eq!(class, ErrorClass::Bug);
    assert!(message.starts_with("it changed its input `book`"), "{message}");
    lab.file("book.txt", "a");
    let (result, _) = lab.run(&text, &registry);
    assert!(result.nodes[0].record().is_none(), "nothing was kept");
}

#[test]
fn what_is_printed_is_log_and_a_traceback_is_shown() {
    let Some(lab) = Lab::new("what_is_printed_is_log_and_a_traceback_is_shown") else { return };
    let text = lab.text("", "");
    let registry = lab.registry(&text, Some(&lab.store)).unwrap();
    assert_eq!(lab.run(&text, &registry).1, ["about to work"]);
    let text = lab.text("", "raise");
    let (result, lines) = lab.run(&text, &registry);
    let trace = ["about to raise", "Traceback (most recent call last):", "  here"];
    assert_eq!(lines, trace, "what an earlier job printed is not told again");
    assert_eq!(failure(&result), (ErrorClass::Bug, format!("ValueError: no\n{}", trace.join("\n"))));
}
