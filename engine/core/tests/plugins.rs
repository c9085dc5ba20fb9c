//! Plugins: stages in Python, over a real store; and every way in which a worker can go wrong.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "../../../tests/support/python.rs"]
mod python;

mod hows;
mod plugin_lab;

use std::fs;
use std::ops::Deref;
use std::time::{Duration, Instant};

use hows::hows;
use plugin_lab::{PluginLab, failure, told, why};
use qpipe_engine::graph::Study;
use qpipe_engine::plan::NodeState;
use qpipe_engine::run::{FailureMode, RunOptions, RunOutcome, RunResult, metrics};
use qpipe_engine::worker::{Limits, PluginCommand, PluginStage, WorkerError};
use qpipe_sdk::{Cancel, ErrorClass, StageRegistry};

struct Lab(PluginLab);

impl Deref for Lab {
    type Target = PluginLab;

    fn deref(&self) -> &PluginLab {
        &self.0
    }
}

impl Lab {
    fn new() -> Self {
        Self(PluginLab::new(&["tests/plugins/tally.py", "tests/plugins/faulty.py"]))
    }

    fn load(&self, text: &str) -> Result<(Study, StageRegistry), String> {
        let registry = self.plugins(text, &StageRegistry::default(), None).map_err(told)?;
        Ok((self.study(text, &registry).map_err(told)?, registry))
    }

    fn run_with(&self, study: &Study, registry: &StageRegistry, options: &RunOptions) -> RunResult {
        self.run_study(study, registry, options).0
    }

    fn run(&self, text: &str) -> RunResult {
        let (study, registry) = self.load(text).unwrap();
        self.run_with(&study, &registry, &RunOptions::default())
    }

    /// Why the first node must run.
    fn why(&self, text: &str) -> Vec<String> {
        let (study, registry) = self.load(text).unwrap();
        why(&self.plan(&study, &registry).nodes[0].state)
    }

    /// A registry with the faulty plugin alone.
    fn faulty(&self, args: &[&str], limits: Limits) -> Result<StageRegistry, WorkerError> {
        let plugin = PluginCommand {
            kind: "faulty".into(),
            command: Some("python3".into()),
            file: Some(self.path("faulty.py")),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            limits,
            ..PluginCommand::default()
        };
        Ok(StageRegistry::default().with(Box::new(PluginStage::start(&plugin, &self.machine)?)))
    }

    fn faulty_study(&self, registry: &StageRegistry, how: &[&str]) -> Study {
        let stage = |(at, how): (usize, &&str)| format!("faulty s{at} {{\n how \"{how}\"\n}}\n");
        let stages: String = how.iter().enumerate().map(stage).collect();
        self.study(&stages, registry).unwrap()
    }

    /// How a faulty stage fails.
    fn fault(&self, registry: &StageRegistry, how: &str) -> (ErrorClass, String) {
        failure(&self.run_with(&self.faulty_study(registry, &[how]), registry, &RunOptions::default()))
    }
}

#[test]
fn a_job_has_a_seed_of_its_key_and_a_deadline() {
    if !python::is_here("a_job_has_a_seed_of_its_key_and_a_deadline") {
        return;
    }
    let made = |limits: Limits| {
        let lab = Lab::new();
        let registry = lab.faulty(&[], limits).unwrap();
        let study = lab.faulty_study(&registry, &["seed a", "seed b"]);
        let result = lab.run_with(&study, &registry, &RunOptions::default());
        let said: Vec<String> = result.nodes.iter().map(|node| lab.output(node, "out")).collect();
        let parts = said.iter().map(|text| text.split_once(' ').unwrap());
        parts.map(|(seed, limit)| (seed.parse::<u64>().unwrap(), limit.to_owned())).collect::<Vec<_>>()
    };
    let free = made(Limits::default());
    assert!(free[0].0 != free[1].0 && free.iter().all(|(seed, limit)| seed >> 53 == 0 && limit == "None"));
    let bounded = made(Limits { job: Some(Duration::from_mins(1)), ..Limits::default() });
    // the limit is no part of a key
    assert_eq!(bounded, [(free[0].0, "60000".to_owned()), (free[1].0, "60000".to_owned())]);
}

const TALLY: &str = r#"
plugin tally command="python3" "tally.py"
tally words {
    text "a.txt"
    top 2
}
tally all {
    text "b.txt"
    also words
}
"#;

#[test]
fn a_plugin_s_stage_is_a_stage_like_any_other() {
    if !python::is_here("a_plugin_s_stage_is_a_stage_like_any_other") {
        return;
    }
    let lab = Lab::new();
    lab.file("a.txt", "b a b c a b");
    lab.file("b.txt", "z");
    let result = lab.run(TALLY);
    assert_eq!((result.outcome, hows(&result.nodes).as_str()), (RunOutcome::Done, "rr"), "{result:?}");
    assert_eq!(lab.output(&result.nodes[0], "table"), "b\t3\na\t2\n");
    assert_eq!(lab.output(&result.nodes[1], "table"), "a\t1\nb\t1\nz\t1\n");
    let metric = &metrics::decode(&result.nodes[0].record().unwrap().metrics).unwrap()[0];
    assert!(metric.name == "distinct" && (metric.value - 3.0).abs() < f64::EPSILON && metric.headline);

    assert_eq!(hows(&lab.run(TALLY).nodes), "cc");
    assert_eq!(hows(&lab.run(&TALLY.replace("top 2", "top 3")).nodes), "rr");
    lab.file("a.txt", "a b b a b c c");
    assert_eq!(hows(&lab.run(TALLY).nodes), "rc", "another text with the same table");
    assert!(fs::read_dir(lab.path("store/scratch")).unwrap().next().is_none());
}

#[test]
fn a_plugin_s_program_is_part_of_the_key() {
    if !python::is_here("a_plugin_s_program_is_part_of_the_key") {
        return;
    }
    let lab = Lab::new();
    lab.file("a.txt", "b a");
    lab.file("b.txt", "z");
    assert_eq!(hows(&lab.run(TALLY).nodes), "rr");
    let script = fs::read_to_string(lab.path("tally.py")).unwrap();
    lab.file("tally.py", &script.replace("[a-z]+", "[a-z]"));
    assert_eq!(lab.why(TALLY)[0], "plugin `tally` changed: tally.py");
    lab.file("tally.py", &script.replace("\"semantics\": 1", "\"semantics\": 2"));
    let raised = lab.why(TALLY);
    assert!(raised.contains(&"semantics of `tally` raised from 1 to 2".to_owned()), "{raised:?}");
}

#[test]
fn a_plugin_s_declaration_checks_the_manifest() {
    if !python::is_here("a_plugin_s_declaration_checks_the_manifest") {
        return;
    }
    let lab = Lab::new();
    lab.file("mute.py", "import sys\nprint('no words today', file=sys.stderr)\nsys.exit(3)\n");
    let told = |from: &str, to: &str| lab.load(&TALLY.replace(from, to)).err().unwrap_or_default();
    assert_eq!(told("top 2", "top 0"), "`top` takes an integer ≥ 1; 0 is out of range");
    assert_eq!(told("top 2", "tops 2"), "unknown `tops` in `tally`");
    assert_eq!(told("    text \"a.txt\"\n", ""), "stage `words` needs `text`");
    let missing = told("\"tally.py\"", "\"nowhere.py\"");
    assert!(
        missing.starts_with("plugin `tally` cannot be used: cannot read the plugin's `script` at `/"),
        "{missing}"
    );
    assert!(missing.contains("nowhere.py`: No such file"), "{missing}");
    let mute = told("\"tally.py\"", "\"mute.py\"");
    assert!(mute.starts_with("plugin `tally` cannot be used: the worker was lost: exit status 3"), "{mute}");
    assert!(mute.ends_with("no words today"), "what it said is told: {mute}");
    assert_eq!(
        told("\"python3\"", "\"no-python\""),
        "plugin `tally` cannot be used: there is no program `no-python` on the search path"
    );
    assert_eq!(
        told("plugin tally", "plugin count"),
        "plugin `count` cannot be used: the worker has no stage type `count`, only `tally`"
    );
    assert_eq!(
        told("plugin tally", "plugin vars"),
        "plugin `vars` cannot be used: a section of the language has this name"
    );
    assert!(told("command=", "comand=").contains("`plugin` has no property `comand`"));
    assert_eq!(told("\"tally.py\"", "\"tally.py\" timeout=0"), "a timeout is a number of seconds above 0");
}

#[test]
fn a_worker_that_is_killed_costs_one_node() {
    if !python::is_here("a_worker_that_is_killed_costs_one_node") {
        return;
    }
    let lab = Lab::new();
    let registry = lab.faulty(&[], Limits::default()).unwrap();
    let study = lab.faulty_study(&registry, &["fine", "kill", "well", "exit"]);
    let options = RunOptions { failure: FailureMode::KeepGoing, ..RunOptions::default() };
    let result = lab.run_with(&study, &registry, &options);
    assert_eq!(hows(&result.nodes), "rFrF", "{result:?}");
    let failures: Vec<_> = result.failures().map(|(_, class, message)| (class, message)).collect();
    assert_eq!(failures[0], (ErrorClass::Transient, "the worker was lost: killed by signal 9\nabout to go"));
    assert_eq!(failures[1], (ErrorClass::Transient, "the worker was lost: exit status 1\nno device"));
    let (class, message) = lab.fault(&registry, "orphan");
    assert_eq!((class, message.as_str()), (ErrorClass::Transient, "the worker was lost: killed by signal 9"));
}

#[test]
fn a_worker_is_used_again() {
    if !python::is_here("a_worker_is_used_again") {
        return;
    }
    let lab = Lab::new();
    let registry = lab.faulty(&[], Limits::default()).unwrap();
    let study = lab.faulty_study(&registry, &["one", "two"]);
    let result = lab.run_with(&study, &registry, &RunOptions::default());
    assert_eq!(
        lab.output(&result.nodes[0], "out"),
        lab.output(&result.nodes[1], "out"),
        "one process did both"
    );
}

#[test]
fn what_breaks_the_protocol_is_a_typed_error() {
    if !python::is_here("what_breaks_the_protocol_is_a_typed_error") {
        return;
    }
    let lab = Lab::new();
    let registry = lab.faulty(&[], Limits::default()).unwrap();
    let bug = |how: &str| {
        let (class, message) = lab.fault(&registry, how);
        assert_eq!(class, ErrorClass::Bug, "{message}");
        message
    };
    assert!(
        bug("garbage").starts_with("the worker broke the protocol: this is no JSON: `Loading weights: 100%`")
    );
    assert_eq!(bug("long"), "the worker broke the protocol: a line is longer than 1048576 bytes");
    assert_eq!(bug("unknown"), "the worker broke the protocol: there is no message of type `dance`");
    assert!(bug("job").starts_with("the worker broke the protocol: it spoke of job "));
    assert_eq!(bug("undeclared"), "the worker made the output `surprise`, which it never declared");
    assert_eq!(bug("twice"), "the worker made the output `out` twice");
    assert_eq!(bug("missing"), "the worker ended its job without the output `out`");
    assert_eq!(bug("absent"), "output `out` is missing: there is no `out`");
    assert!(bug("outside").contains("leads out of the working folder"));
}

#[test]
fn the_classes_of_failures_arrive() {
    if !python::is_here("the_classes_of_failures_arrive") {
        return;
    }
    let lab = Lab::new();
    let registry = lab.faulty(&[], Limits::default()).unwrap();
    assert_eq!(lab.fault(&registry, "config"), (ErrorClass::Config, "a case of config".into()));
    assert_eq!(lab.fault(&registry, "transient"), (ErrorClass::Transient, "a case of transient".into()));
    assert_eq!(lab.fault(&registry, "bug"), (ErrorClass::Bug, "a case of bug".into()));
    assert!(lab.fault(&registry, "oom-device").1.contains("a case of oom-device"));
    assert_eq!(lab.fault(&registry, "oom-host").0, ErrorClass::OomHost);
}

#[test]
fn a_hang_is_noticed() {
    if !python::is_here("a_hang_is_noticed") {
        return;
    }
    let lab = Lab::new();
    let short = Duration::from_millis(300);
    let clock = Instant::now();
    let bounded = lab.faulty(&[], Limits { job: Some(short), ..Limits::default() }).unwrap();
    let (class, message) = lab.fault(&bounded, "hang");
    assert_eq!((class, message.as_str()), (ErrorClass::Timeout, "timed out after 0.3 s"));

    // a worker that beats is lost when it stops beating, however long its jobs may take
    let heartbeat = Duration::from_millis(20);
    let beating =
        lab.faulty(&["alive"], Limits { silence: Duration::from_secs(1), heartbeat, ..Limits::default() });
    let beating = beating.unwrap();
    let (class, message) = lab.fault(&beating, "freeze");
    assert_eq!(
        (class, message.as_str()),
        (ErrorClass::Transient, "the worker was lost: no sign of life for 1 s")
    );
    assert!(clock.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_worker_that_does_not_say_hello_is_none() {
    if !python::is_here("a_worker_that_does_not_say_hello_is_none") {
        return;
    }
    let lab = Lab::new();
    let limits = Limits { hello: Duration::from_millis(300), ..Limits::default() };
    let mute = lab.faulty(&["mute"], limits).err().unwrap();
    assert!(matches!(mute, WorkerError::NoAnswer { question: "hello", .. }), "{mute}");
    let newer = lab.faulty(&["newer"], Limits::default()).err().unwrap();
    assert!(matches!(newer, WorkerError::Version { found: 2 }), "{newer}");
}

#[test]
fn a_worker_s_word_on_keys_and_needs_is_heard() {
    if !python::is_here("a_worker_s_word_on_keys_and_needs_is_heard") {
        return;
    }
    let lab = Lab::new();
    let registry = lab.faulty(&["knowing"], Limits::default()).unwrap();
    let study = lab.faulty_study(&registry, &["fine"]);
    let stage = registry.get("faulty").unwrap();
    let params = &study.nodes[0].params;
    assert_eq!(stage.resources(params, 0).memory, 5 << 30);
    let planned = lab.plan(&study, &registry);
    let NodeState::Miss { doc, .. } = &planned.nodes[0].state else { panic!("a hit") };
    assert_eq!(doc.numerics.as_deref(), Some("abacus"));
    assert!(doc.inputs.contains_key("source:told:self"), "{:?}", doc.inputs);
    let errors = lab.study("faulty a {\n how badly\n}", &registry).unwrap_err();
    assert_eq!(told(errors), "`a.how`: not like this");
}

#[test]
fn a_request_to_die_is_obeyed_at_once() {
    if !python::is_here("a_request_to_die_is_obeyed_at_once") {
        return;
    }
    let lab = Lab::new();
    let limits = Limits { grace: Duration::from_hours(1), ..Limits::default() };
    let registry = lab.faulty(&[], limits).unwrap();
    let study = lab.faulty_study(&registry, &["deaf"]);
    let (cancel, clock) = (Cancel::default(), Instant::now());
    let options = RunOptions { cancel: cancel.clone(), ..RunOptions::default() };
    let result = std::thread::scope(|scope| {
        let running = scope.spawn(|| lab.run_with(&study, &registry, &options));
        std::thread::sleep(Duration::from_millis(500));
        cancel.kill();
        running.join().unwrap()
    });
    assert_eq!(hows(&result.nodes), ".");
    assert!(clock.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_request_to_stop_ends_a_job_also_of_a_worker_that_will_not() {
    if !python::is_here("a_request_to_stop_ends_a_job_also_of_a_worker_that_will_not") {
        return;
    }
    for how in ["hang", "deaf"] {
        let lab = Lab::new();
        let limits = Limits { grace: Duration::from_millis(300), ..Limits::default() };
        let registry = lab.faulty(&[], limits).unwrap();
        let study = lab.faulty_study(&registry, &[how]);
        let (cancel, clock) = (Cancel::default(), Instant::now());
        let options = RunOptions { cancel: cancel.clone(), ..RunOptions::default() };
        let result = std::thread::scope(|scope| {
            let running = scope.spawn(|| lab.run_with(&study, &registry, &options));
            std::thread::sleep(Duration::from_millis(500));
            cancel.request();
            running.join().unwrap()
        });
        assert_eq!((result.outcome, hows(&result.nodes).as_str()), (RunOutcome::Interrupted, "."), "{how}");
        assert!(clock.elapsed() < Duration::from_secs(20));
    }
}
