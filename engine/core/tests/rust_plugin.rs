//! A plugin in Rust, with units: what holds a plugin to the protocol passes it, and the engine runs it. Its program is this
//! test's own executable.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod plugin_lab;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::ops::Deref;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use plugin_lab::PluginLab;
use qpipe_cache::KeyDoc;
use qpipe_engine::conformance::{self, Opened, Outcome as Found, Rule, Samples, Setup, Subject};
use qpipe_engine::worker::{Limits, PluginCommand, PluginStage, WorkerCommand, Workers, isolate};
use qpipe_sdk::files::Files;
use qpipe_sdk::metrics;
use qpipe_sdk::protocol::transport;
use qpipe_sdk::{
    ArtifactKind, Cancel, Context, Determinism, EventSink, Metric, NodeSpec, Outcome, OutputFile, ParamSpec,
    ParamType, Params, PortSpec, Schema, Stage, StageError, StageEvent, StageRegistry, StageSpec, UnitOutput,
    Value,
};
use serde_json::json;

/// Makes a file of parts, each a unit; or hears nothing.
struct Parts(StageSpec);

impl Parts {
    fn new() -> Self {
        let count = ParamSpec::new("count", ParamType::at_least(1), "How many parts.").default(Value::Int(4));
        let deaf = ParamSpec::new("deaf", ParamType::Bool, "Never stops.").default(Value::Bool(false));
        Self(StageSpec {
            kind: "parts",
            semantics: 1,
            doc: "Makes a file of parts.",
            inputs: Vec::new(),
            output: ArtifactKind::new(ArtifactKind::FILES),
            schema: Schema::new(vec![NodeSpec::value(count), NodeSpec::value(deaf)]),
            determinism: Determinism::Exact,
        })
    }
}

impl Stage for Parts {
    fn spec(&self) -> &StageSpec {
        &self.0
    }

    fn files(&self) -> Vec<OutputFile> {
        vec![OutputFile { name: "all".into(), doc: "The parts.".into(), required: true }]
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        if ctx.params.get("deaf") == Some(&Value::Bool(true)) {
            ctx.log("deaf");
            std::thread::sleep(Duration::from_mins(1));
        }
        let (count, mut all) = (ctx.params.int("count").unwrap_or(1), Vec::new());
        for part in 0..count {
            let unit =
                ctx.unit(&format!("part {part}"), &KeyDoc::new("parts/part", 1).param("part", part), || {
                    std::thread::sleep(Duration::from_millis(20));
                    let blob = ctx.store.put_bytes(format!("part {part}\n").as_bytes())?;
                    Ok(UnitOutput { blobs: BTreeMap::from([("b".into(), blob)]), metrics: json!(null) })
                })?;
            all.extend(ctx.store.read(&unit.outputs["b"].digest)?);
            ctx.progress(part as usize + 1, count as usize, "parts");
        }
        let all = String::from_utf8(all).map_err(StageError::bug)?;
        let artifact = Files::of_texts(ctx.store, [("all", all)])?.commit(ctx.store)?;
        let metrics = vec![Metric::new("parts", count as f64, "", qpipe_sdk::Better::Neither)];
        Ok(Outcome { artifact, metrics })
    }
}

/// Tells the sum of the numbers that another stage tells.
struct Sum(StageSpec);

impl Sum {
    fn new() -> Self {
        let kind = ArtifactKind::new(ArtifactKind::METRICS);
        let of = PortSpec { name: "of", doc: "The numbers.", kind: kind.clone(), required: true };
        Self(StageSpec {
            kind: "sum",
            semantics: 1,
            doc: "Adds numbers.",
            inputs: vec![of],
            output: kind,
            schema: Schema::new(Vec::new()),
            determinism: Determinism::Exact,
        })
    }
}

impl Stage for Sum {
    fn spec(&self) -> &StageSpec {
        &self.0
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let read = ctx.measured("of")?;
        let doc = KeyDoc::new("sum/unit", 1).input("of", ctx.input("of")?.digest);
        ctx.unit("sum", &doc, || Ok(UnitOutput::default()))?;
        let sum = read.metrics.iter().map(|metric| metric.value).sum();
        Outcome::of_metrics(ctx.store, "sum", vec![Metric::new("sum", sum, "", qpipe_sdk::Better::Neither)])
    }
}

/// Standard output belongs to the test harness until then.
#[test]
#[ignore = "the plugin of the tests below"]
fn plugin() {
    let output = File::options().write(true).open("/dev/fd/3").unwrap();
    rustix::stdio::dup2_stdout(&output).unwrap();
    drop(output);
    let _status = qpipe_sdk::plugin::main(vec![Box::new(Parts::new()), Box::new(Sum::new())]);
}

/// What a shell is told to start the plugin.
fn args() -> Vec<String> {
    let program = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let script = "exec 3>&1 >/dev/null; exec \"$@\"";
    let args = ["-c", script, "sh", &program, "--exact", "plugin", "--ignored", "--nocapture"];
    args.map(str::to_owned).into()
}

struct Lab(PluginLab);

impl Deref for Lab {
    type Target = PluginLab;

    fn deref(&self) -> &PluginLab {
        &self.0
    }
}

impl Lab {
    fn new() -> Self {
        Self(PluginLab::new(&[]))
    }

    fn stage(&self) -> PluginStage {
        self.stage_of("parts")
    }

    fn stage_of(&self, kind: &str) -> PluginStage {
        let (kind, command) = (kind.to_owned(), Some("sh".to_owned()));
        // the shell's arguments are no files of the plugin
        let reads = vec![std::env::current_exe().unwrap()];
        let command = PluginCommand { kind, command, args: args(), reads, ..PluginCommand::default() };
        PluginStage::start(&command, &self.machine).unwrap()
    }

    /// The units that a job tells of, and the text that it makes.
    fn run(&self, stage: &dyn Stage) -> (Vec<(String, bool)>, String) {
        let (heard, params) = (Heard::default(), stage.spec().schema.effective(&Params::default()));
        let doc = KeyDoc::new("parts", 1);
        let ctx = Context {
            params: &params,
            inputs: &BTreeMap::new(),
            sources: &BTreeMap::new(),
            store: &self.store,
            events: &heard,
            cancel: &Cancel::default(),
            device: "cpu",
            doc: Some(&doc),
        };
        let artifact = stage.run(&ctx).unwrap().artifact;
        let made = tempfile::tempdir_in(self.dir.path()).unwrap();
        let to = made.path().join("made");
        Files::read(&self.store, &artifact.digest).unwrap().place(&self.store, &to).unwrap();
        (heard.0.into_inner().unwrap(), std::fs::read_to_string(to.join("all")).unwrap())
    }
}

/// Units by name, and whether they were found.
#[derive(Default)]
struct Heard(Mutex<Vec<(String, bool)>>);

impl EventSink for Heard {
    fn emit(&self, event: StageEvent) {
        if let StageEvent::Unit { name, cached } = event {
            self.0.lock().unwrap().push((name, cached));
        }
    }
}

#[test]
fn a_plugin_in_rust_passes_every_rule() {
    let lab = Lab::new();
    let subject = Subject::find("sh", &args(), lab.dir.path(), &lab.machine).unwrap();
    let limits = Limits { heartbeat: Duration::from_millis(400), ..Limits::default() };
    let opened = Opened::default();
    let setup = Setup { machine: &lab.machine, store: &lab.store, limits, device: "cpu", opened: &opened };
    let (sets, files, inputs) = (Vec::new(), Vec::new(), Vec::new());
    let report =
        conformance::check(&subject, &setup, &mut Samples { sets, files, inputs, provider: &mut |_| None });
    assert!(report.checks.iter().all(|check| check.outcome == Found::Passed), "{}", report.text());
    for rule in Rule::ALL {
        assert!(report.checks.iter().any(|check| check.rule == rule), "{rule:?}\n{}", report.text());
    }
}

#[test]
fn metrics_are_read_and_made() {
    let lab = Lab::new();
    let numbers = [0.5, f64::INFINITY].map(|value| Metric::new("a", value, "", qpipe_sdk::Better::Lower));
    let given = metrics::keep(&lab.store, "given", &numbers).unwrap();
    let ctx = Context {
        params: &Params::default(),
        inputs: &BTreeMap::from([("of".to_owned(), given)]),
        sources: &BTreeMap::new(),
        store: &lab.store,
        events: &(),
        cancel: &Cancel::default(),
        device: "cpu",
        doc: None,
    };
    let (here, there) = (Sum::new().run(&ctx).unwrap(), lab.stage_of("sum").run(&ctx).unwrap());
    assert_eq!((&here.artifact, &here.metrics), (&there.artifact, &there.metrics));
    assert!(there.metrics[0].value.is_infinite());
}

#[test]
fn units_are_found_by_the_names_that_they_were_kept_under() {
    let lab = Lab::new();
    let stage = lab.stage();
    let (made, text) = lab.run(&stage);
    assert_eq!(text, "part 0\npart 1\npart 2\npart 3\n");
    assert!(made.iter().all(|(name, cached)| name.starts_with("u-part-") && !cached), "{made:?}");
    let found: Vec<_> = made.into_iter().map(|(name, _)| (name, true)).collect();
    assert_eq!(lab.run(&stage), (found, text));
}

#[test]
fn a_plugin_s_stage_is_not_isolated_again() {
    let lab = Lab::new();
    let program = "/nowhere";
    let nobody =
        |_: Option<&str>| WorkerCommand { program: program.into(), args: Vec::new(), env: Vec::new() };
    let workers = Arc::new(Workers::new(nobody, lab.machine.clone(), Limits::default()));
    let registry = StageRegistry::default().with(Box::new(lab.stage()));
    let registry = isolate(&registry, &["parts"], &workers);
    assert_eq!(lab.run(registry.get("parts").unwrap()).0.len(), 4);
}

/// What is said to a plugin before its job hears nothing any more.
fn deafen(scratch: &Path, mut lines: impl BufRead, mut say: impl FnMut(serde_json::Value)) {
    say(json!({"type": "hello", "protocol": {"min": 1, "max": 1}, "engine": "e", "heartbeat_ms": 50}));
    say(json!({"type": "run", "id": 1, "stage": "parts", "params": {"count": 1, "deaf": true}, "inputs": {},
        "sources": {}, "scratch": scratch, "device": "cpu"}));
    let mut line = String::new();
    while !line.contains("deaf") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "it hung up");
    }
}

fn ends(mut child: Child) {
    let clock = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if clock.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            panic!("it runs on");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_program_ends_with_its_input_whatever_its_job_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = Command::new("sh");
    let program = program.args(args()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = program.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    deafen(dir.path(), output, |message| writeln!(input, "{message}").unwrap());
    drop(input);
    ends(child);
}

#[test]
fn a_program_ends_at_bye_whatever_its_job_does() {
    let dir = tempfile::tempdir().unwrap();
    let talk = dir.path().join("talk");
    std::fs::create_dir(&talk).unwrap();
    let files = transport::Talk::create(&talk).unwrap();
    let mut program = Command::new("sh");
    let program =
        program.args(args()).env(transport::FOLDER, &talk).stdin(Stdio::null()).stdout(Stdio::null());
    let child = program.spawn().unwrap();
    let (input, mut output) = transport::engine_ends(files, || false);
    let mut say = |message: serde_json::Value| output.write_all(format!("{message}\n").as_bytes()).unwrap();
    deafen(dir.path(), input, &mut say);
    say(json!({"type": "bye"}));
    ends(child);
}
