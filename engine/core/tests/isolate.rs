//! Built-in stages in worker processes of the same program, and the engine's side of the golden transcripts.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "../../sdk/tests/transcript/mod.rs"]
mod transcript;

#[path = "../../../tests/support/python.rs"]
mod python;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qpipe_cache::{Digest, KeyDoc, Store};
use qpipe_engine::limits::{Limits as RunLimits, Retry};
use qpipe_engine::manifest::{LoadOptions, load_study};
use qpipe_engine::plan::{PlanOptions, plan};
use qpipe_engine::run::{FailureMode, NodeResult, RunOptions, RunResult, metrics, run};
use qpipe_engine::worker::units::{Keeper, Units};
use qpipe_engine::worker::{
    Limits, Machine, Made, Session, Watch, WorkerCommand, WorkerError, Workers, isolate,
};
use qpipe_sdk::protocol::wire::params_from_json;
use qpipe_sdk::protocol::{Capability, FailureClass, Request, RunRequest, decode, serve};
use qpipe_sdk::{
    Artifact, ArtifactKind, Better, Cancel, Context, Determinism, ErrorClass, EventSink, GpuNeed, Metric,
    NodeSpec, Outcome, ParamSpec, ParamType, Params, Resources, Schema, Stage, StageError, StageEvent,
    StageRegistry, StageSpec, UnitOutput, Value,
};
use transcript::{Side, Transcript};

/// A stage that does what its parameter says, and tells the number of its process.
struct Fragile(StageSpec);

impl Fragile {
    fn new() -> Self {
        let mode = NodeSpec::value(ParamSpec::new("mode", ParamType::Text, "").required());
        let device = ParamSpec::new("device", ParamType::Text, "").default(Value::Text("cpu".into()));
        let device = NodeSpec::value(device.location());
        let rate = ParamSpec::new("rate", ParamType::Float { min: 0.0, max: 1.0 }, "");
        Self(StageSpec {
            kind: "fragile",
            semantics: 1,
            doc: "",
            inputs: Vec::new(),
            output: ArtifactKind::new("model"),
            schema: Schema::new(vec![mode, NodeSpec::value(rate.default(Value::Float(1.0))), device]),
            determinism: Determinism::Exact,
        })
    }
}

impl Stage for Fragile {
    fn spec(&self) -> &StageSpec {
        &self.0
    }

    fn resources(&self, params: &Params, _input_bytes: u64) -> Resources {
        let gpu = GpuNeed::of_device(params.text("device").unwrap_or("cpu"));
        Resources { gpu, ..Resources::default() }
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let mode = ctx.params.text("mode").unwrap_or_default();
        let unit = ctx.unit("half", &KeyDoc::new("fragile/half", 1).param("mode", mode), || {
            let blob = ctx.store.put_bytes(mode.as_bytes())?;
            Ok(UnitOutput { blobs: BTreeMap::from([("b".into(), blob)]), metrics: serde_json::Value::Null })
        })?;
        match mode {
            "abort" => std::process::abort(),
            "panic" => panic!("the kernel went wild"),
            "device" => return Err(StageError::Device("it is busy".into())),
            "memory" => return Err(StageError::OomHost("too much".into())),
            _ => {}
        }
        assert_eq!(ctx.params.get("rate"), Some(&Value::Float(1.0)), "a number stays a number");
        let told = |name: &str, value: f64| Metric::new(name, value, "", Better::Neither);
        let gpu = ctx.device.strip_prefix("cuda:").map_or(-1.0, |gpu| gpu.parse().unwrap());
        let metrics = vec![told("pid", f64::from(std::process::id())), told("gpu", gpu)];
        // two nodes at once are seen to be that
        std::thread::sleep(Duration::from_millis(if gpu < 0.0 { 0 } else { 50 }));
        Ok(Outcome { artifact: Artifact::single("model", unit.outputs["b"].digest), metrics })
    }
}

/// Runs as a worker process. Standard output belongs to the test harness, so the protocol's is stream 3.
#[test]
#[ignore = "the worker of the tests below"]
fn worker() {
    let registry = StageRegistry::default().with(Box::new(Fragile::new()));
    let output = File::options().write(true).open("/dev/fd/3").unwrap();
    serve(&registry, "test", io::stdin().lock(), output).unwrap();
}

fn isolated(dir: &tempfile::TempDir, alone: &[&str]) -> StageRegistry {
    let program = std::env::current_exe().unwrap();
    let script = "exec 3>&1 >/dev/null; exec \"$@\"";
    let mut args: Vec<std::ffi::OsString> = ["-c", script, "sh"].map(Into::into).into();
    args.push(program.into());
    args.extend(["--exact", "worker", "--ignored", "--nocapture"].map(Into::into));
    let command = move |_: Option<&str>| {
        let (program, args) = ("/bin/sh".into(), args.clone());
        WorkerCommand { program, args, env: Vec::new() }
    };
    let machine = Machine::new(None, &dir.path().join("temp"));
    let workers = Arc::new(Workers::new(command, machine, Limits::default()));
    workers.warm("cuda:1");
    isolate(&StageRegistry::default().with(Box::new(Fragile::new())), alone, &workers)
}

/// Runs stages of these modes with more words each, on a machine with such GPUs.
fn run_modes(dir: &tempfile::TempDir, alone: &[&str], gpus: &[usize], modes: &[(&str, &str)]) -> RunResult {
    let store = Store::open(&dir.path().join("store")).unwrap();
    let registry = isolated(dir, alone);
    let stage = |(at, (mode, more)): (usize, &(&str, &str))| {
        format!("fragile s{at} {{\n mode \"{mode}\"\n rate 1.0\n {more}\n}}\n")
    };
    let stages: String = modes.iter().enumerate().map(stage).collect();
    let text = format!("qpipe 1 name=lab\n{stages}");
    let study = load_study(&dir.path().join("i.kdl"), &text, &LoadOptions::default(), &registry).unwrap();
    let plan = plan(&study, &registry, &store, &PlanOptions::default()).unwrap();
    let limits = RunLimits { retry: Some(Retry { times: 0, ..Retry::default() }), ..RunLimits::default() };
    let failure = FailureMode::KeepGoing;
    let options = RunOptions { failure, limits, gpus: gpus.to_vec(), ..RunOptions::default() };
    run(&study, &plan, &registry, &store, &options, &mut ())
}

/// The process that a node ran in, and the GPU that it had.
fn place(result: &NodeResult) -> (u32, Option<usize>) {
    let told = metrics::decode(&result.record().expect("done").metrics).unwrap();
    (told[0].value as u32, (told[1].value >= 0.0).then_some(told[1].value as usize))
}

#[test]
fn a_crash_in_a_worker_costs_one_node_and_keeps_its_units() {
    let dir = tempfile::tempdir().unwrap();
    let modes = ["one", "two", "abort", "panic", "memory", "device", "last"].map(|mode| (mode, ""));
    let result = run_modes(&dir, &["fragile"], &[], &modes);
    let pid = |node: usize| place(&result.nodes[node]).0;
    assert_eq!(pid(0), pid(1), "a sound worker is used again");
    assert_ne!(pid(1), std::process::id());
    assert_ne!(pid(1), pid(6), "a broken one is not");
    let failures: Vec<(ErrorClass, &str)> = result.failures().map(|(_, class, text)| (class, text)).collect();
    assert_eq!(failures.len(), 4);
    assert_eq!(failures[0].0, ErrorClass::Transient);
    assert!(failures[0].1.starts_with("the worker was lost: killed by signal 6"), "{}", failures[0].1);
    assert_eq!((failures[1].0, failures[2].0), (ErrorClass::Bug, ErrorClass::OomHost));
    assert!(failures[1].1.starts_with("panicked: the kernel went wild"), "{}", failures[1].1);
    assert_eq!(failures[3], (ErrorClass::Device, "it is busy"));
    let store = Store::open(&dir.path().join("store")).unwrap();
    let unit = KeyDoc::new("fragile/half", 1).param("mode", "abort").key();
    assert!(matches!(store.lookup(&unit), qpipe_cache::Lookup::Hit(_)), "what it had committed is kept");
}

#[test]
fn every_gpu_has_a_worker_and_a_crash_there_costs_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let on = |mode, words| (mode, words);
    let modes = [
        on("here", ""),
        on("a", "device auto"),
        on("b", "device auto"),
        on("c", "device auto"),
        on("d", "device auto"),
        on("abort", "device \"cuda:0\""),
        on("e", "device \"cuda:0\""),
        on("f", "device \"cuda:1\""),
    ];
    let result = run_modes(&dir, &[], &[0, 1], &modes);
    assert_eq!(place(&result.nodes[0]), (std::process::id(), None), "no GPU, no worker");
    let failed: Vec<_> = result.failures().map(|(_, class, _)| class).collect();
    assert_eq!(failed, [ErrorClass::Transient]);
    let places: Vec<(u32, Option<usize>)> =
        [1, 2, 3, 4, 6, 7].map(|node| place(&result.nodes[node])).to_vec();
    let of = |gpu: usize| places.iter().filter(move |place| place.1 == Some(gpu)).map(|place| place.0);
    assert!(of(0).count() >= 2 && of(1).count() >= 2, "both are used: {places:?}");
    assert!(places.iter().all(|place| place.0 != std::process::id()));
    let second: BTreeSet<u32> = of(1).collect();
    assert_eq!(second.len(), 1, "one process for everything on a GPU");
    let first: Vec<u32> = of(0).collect();
    let (last, before) = first.split_last().unwrap();
    assert!(before.iter().all(|pid| pid == &before[0]), "{first:?}");
    assert!(last != &before[0] && !second.contains(last), "a new one after the crash");
}

/// Keeps events.
#[derive(Default)]
struct Heard(Mutex<Vec<StageEvent>>);

impl EventSink for Heard {
    fn emit(&self, event: StageEvent) {
        self.0.lock().unwrap().push(event);
    }
}

struct Stage1 {
    transcript: Transcript,
    scaled: Digest,
}

fn transcript(name: &str) -> Stage1 {
    let scaled = Digest::of_bytes(b"scaled");
    let names = BTreeMap::from([
        ("ENGINE", concat!("qpipe ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("STORE", "/store".into()),
        ("SCRATCH", "/scratch".into()),
        ("INPUT", "/input".into()),
        ("NOWHERE", "/nowhere".into()),
        ("WEIGHTS", Digest::of_bytes(b"weights").to_string()),
        ("SCALED", scaled.to_string()),
    ]);
    Stage1 { transcript: Transcript::read(name, &names), scaled }
}

impl Stage1 {
    /// Talks to a worker that says the transcript's lines and checks ours.
    fn talk(&self, engine: impl FnOnce(Session)) {
        let (their_input, our_output) = io::pipe().unwrap();
        let (our_input, mut their_output) = io::pipe().unwrap();
        std::thread::scope(|scope| {
            let worker = scope.spawn(move || {
                self.transcript.play(Side::Worker, &mut BufReader::new(their_input), &mut their_output);
            });
            engine(Session::begin(BufReader::new(our_input), our_output, Limits::default()).unwrap());
            worker.join().unwrap();
        });
    }

    /// The transcript's jobs.
    fn jobs(&self) -> Vec<RunRequest> {
        let said = self.transcript.0.iter().filter(|(side, _)| *side == Side::Engine);
        let requests = said.map(|(_, json)| decode::<Request>(json.to_string().as_bytes()).unwrap());
        requests.filter_map(|r| if let Request::Run(job) = r { Some(job) } else { None }).collect()
    }
}

fn params(factor: i64) -> BTreeMap<String, serde_json::Value> {
    BTreeMap::from([("factor".to_owned(), factor.into())])
}

#[test]
fn the_engine_keeps_to_the_transcript_of_work() {
    let stage = transcript("work.txt");
    stage.talk(|mut session| {
        assert!(session.can(Capability::Store) && !session.can(Capability::Estimate));
        let described = session.describe().unwrap().stages[0].understand().unwrap();
        assert_eq!(described.spec.inputs[0].name, "model");
        assert!(params_from_json(&described.spec.schema, &params(3)).is_ok());
        assert_eq!(session.key("scale", params(3)).unwrap().numerics.as_deref(), Some("cpu"));
        let (heard, cancel) = (Heard::default(), Cancel::default());
        let watch = Watch { events: &heard, cancel: &cancel, outputs: None, has_blobs: false, units: None };
        let done = session.run(stage.jobs()[0].clone(), &watch, &mut ()).unwrap();
        assert_eq!(done.artifact, Some(Artifact::single("model", stage.scaled)));
        assert_eq!(done.metrics[1].range, Some((0.0, f64::INFINITY)));
        let unit = StageEvent::Unit { name: "scaled".into(), cached: false };
        assert_eq!(heard.0.lock().unwrap()[1], unit);
    });
}

#[test]
fn the_engine_keeps_to_the_transcript_of_a_cancelled_job() {
    /// Asks to stop at the first progress.
    struct Stop(Cancel);
    impl EventSink for Stop {
        fn emit(&self, _event: StageEvent) {
            self.0.request();
        }
    }
    let stage = transcript("cancel.txt");
    stage.talk(|mut session| {
        let cancel = Cancel::default();
        let stop = Stop(cancel.clone());
        let watch = Watch { events: &stop, cancel: &cancel, outputs: None, has_blobs: false, units: None };
        let ended = session.run(stage.jobs()[0].clone(), &watch, &mut ()).unwrap_err();
        assert!(matches!(ended, WorkerError::Cancelled), "{ended}");
        session.key("scale", params(1)).unwrap();
    });
}

#[test]
fn the_engine_keeps_to_the_transcript_of_failures() {
    let stage = transcript("failure.txt");
    stage.talk(|mut session| {
        assert_eq!(session.key("scale", params(7)).unwrap().problems[0].message, "7 is no factor");
        let class = |error| if let WorkerError::Failed { class, .. } = error { Some(class) } else { None };
        assert_eq!(class(session.key("scale", params(10)).unwrap_err()), Some(FailureClass::Config));
        let (cancel, jobs) = (Cancel::default(), stage.jobs());
        let watch = Watch { events: &(), cancel: &cancel, outputs: None, has_blobs: false, units: None };
        let of =
            |session: &mut Session, job: &RunRequest| session.run(job.clone(), &watch, &mut ()).unwrap_err();
        assert_eq!(class(of(&mut session, &jobs[0])), Some(FailureClass::OomHost));
        assert_eq!(class(of(&mut session, &jobs[1])), Some(FailureClass::Config));
    });
}

#[test]
fn the_engine_keeps_to_the_transcript_of_a_plugin() {
    let stage = transcript("plugin.txt");
    stage.talk(|mut session| {
        assert_eq!(session.describe().unwrap().stages[0].understand().unwrap().files[0].name, "table");
        let (cancel, jobs) = (Cancel::default(), stage.jobs());
        let watch =
            Watch { events: &(), cancel: &cancel, outputs: Some(&["table"]), has_blobs: false, units: None };
        let done = session.run(jobs[0].clone(), &watch, &mut ()).unwrap();
        assert_eq!(done.outputs["table"], Made::Path("table.tsv".into()));
        assert!(session.run(jobs[1].clone(), &watch, &mut ()).is_err());
    });
}

/// The texts of the units of `units.txt`, and the files as the worker has left them.
fn parts(scratch: &std::path::Path) -> Vec<String> {
    let texts: Vec<String> = (0..4).map(|number| format!("1:{number}\n")).collect();
    for (number, text) in texts.iter().enumerate() {
        std::fs::write(scratch.join(format!("part-{number}")), text).unwrap();
    }
    std::fs::write(scratch.join("page"), "words\n").unwrap();
    std::fs::write(scratch.join("root"), "{}").unwrap();
    texts
}

/// Names in a transcript with units that are kept in a store.
fn unit_names(store: &Store, scratch: &std::path::Path) -> BTreeMap<&'static str, String> {
    let texts = parts(scratch);
    let kept: Vec<Digest> = texts.iter().map(|text| store.put_bytes(text.as_bytes()).unwrap()).collect();
    let path = |digest| store.blob_path(digest).unwrap().to_str().unwrap().to_owned();
    BTreeMap::from([
        ("ENGINE", concat!("qpipe ", env!("CARGO_PKG_VERSION")).to_owned()),
        ("SCRATCH", scratch.to_str().unwrap().to_owned()),
        ("UNIT0", kept[0].to_string()),
        ("UNIT1", kept[1].to_string()),
        ("KEPT0", path(&kept[0])),
        ("KEPT1", path(&kept[1])),
    ])
}

#[test]
fn the_engine_keeps_to_the_transcripts_of_units() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let names = unit_names(&store, dir.path());
    let (heard, cancel) = (Heard::default(), Cancel::default());
    let run = |session: &mut Session, job: &RunRequest, doc: &KeyDoc, outputs: &[&str], has_blobs: bool| {
        let ctx = Context {
            params: &qpipe_sdk::Params::default(),
            inputs: &BTreeMap::new(),
            sources: &BTreeMap::new(),
            store: &store,
            events: &heard,
            cancel: &cancel,
            device: "auto",
            doc: Some(doc),
        };
        let keeper = Keeper::start(Units::find(&ctx), dir.path(), 0);
        let (outputs, units) = (Some(outputs), Some(&keeper));
        let watch = Watch { events: &heard, cancel: &cancel, outputs, has_blobs, units };
        session.run(RunRequest { units: BTreeMap::new(), ..job.clone() }, &watch, &mut ()).unwrap()
    };
    let doc = KeyDoc::new("steps", 1);
    let stage = Stage1 { transcript: Transcript::read("units.txt", &names), scaled: Digest::of_bytes(b"") };
    stage.talk(|mut session| {
        assert!(session.can(Capability::Resume));
        session.describe().unwrap();
        let jobs = stage.jobs();
        let first = run(&mut session, &jobs[0], &doc, &["all", "last"], false);
        let is_last =
            |made: &Made| matches!(made, Made::Unit(kept) if kept.digest == Digest::of_bytes(b"1:3\n"));
        assert_eq!(first.outputs["all"], Made::Path("all".into()));
        assert!(is_last(&first.outputs["last"]));
        // as if the first try had ended after two
        for record in store.ls().unwrap() {
            let qpipe_cache::Lookup::Hit(unit) = store.lookup(&record.key) else { panic!("it is there") };
            if unit.outputs.contains_key("part/2") || unit.outputs.contains_key("part/3") {
                let hex = record.key.to_string();
                let path = format!("store/v1/actions/{}/{hex}.json", &hex[..2]);
                std::fs::remove_file(dir.path().join(path)).unwrap();
            }
        }
        let second = run(&mut session, &jobs[1], &doc, &["all", "last"], false);
        assert!(is_last(&second.outputs["last"]));
        assert_eq!(store.ls().unwrap().len(), 4);
    });
    let stage =
        Stage1 { transcript: Transcript::read("documents.txt", &names), scaled: Digest::of_bytes(b"") };
    stage.talk(|mut session| {
        let done = run(&mut session, &stage.jobs()[0], &KeyDoc::new("sheet", 1), &["out"], true);
        assert!(done.outputs.values().all(|made| matches!(made, Made::Unit(_))) && done.outputs.len() == 2);
    });
    let told = heard.0.lock().unwrap();
    let cached = told.iter().filter(|event| matches!(event, StageEvent::Unit { cached: true, .. })).count();
    assert_eq!((told.len(), cached), (10, 2));
}

#[test]
fn the_python_plugins_keep_to_the_transcripts_of_units() {
    if !python::is_here("the_python_plugins_keep_to_the_transcripts_of_units") {
        return;
    }
    let root = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    let script = std::path::Path::new(&root).join("tests/plugins/steps.py");
    for name in ["units.txt", "documents.txt"] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let transcript = Transcript::read(name, &unit_names(&store, dir.path()));
        std::fs::copy(&script, dir.path().join("steps.py")).unwrap();
        let mut plugin = Command::new("python3");
        let plugin = plugin.arg(dir.path().join("steps.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut plugin = plugin.spawn().unwrap();
        let (mut input, output) = (plugin.stdin.take().unwrap(), plugin.stdout.take().unwrap());
        transcript.play(Side::Engine, &mut BufReader::new(output), &mut input);
        drop(input);
        assert!(plugin.wait().unwrap().success());
        let made = std::fs::read_to_string(dir.path().join("all")).unwrap_or_default();
        assert_eq!(made, if name == "units.txt" { "1:0\n1:1\n1:2\n1:3\n" } else { "" });
    }
}

#[test]
fn the_python_plugin_keeps_to_the_transcript() {
    if !python::is_here("the_python_plugin_keeps_to_the_transcript") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(dir.path().join("input"), "weights").unwrap();
    let names = BTreeMap::from([
        ("ENGINE", "qpipe".to_owned()),
        ("SCRATCH", path("")),
        ("INPUT", path("input")),
        ("NOWHERE", path("nowhere")),
        ("WEIGHTS", Digest::of_bytes(b"weights").to_string()),
    ]);
    let transcript = Transcript::read("plugin.txt", &names);
    let root = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    let script = std::path::Path::new(&root).join("tests/plugins/tally.py");
    let mut plugin = Command::new("python3");
    let mut plugin = plugin.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, output) = (plugin.stdin.take().unwrap(), plugin.stdout.take().unwrap());
    transcript.play(Side::Engine, &mut BufReader::new(output), &mut input);
    drop(input);
    assert!(plugin.wait().unwrap().success(), "a plugin ends when the engine hangs up");
    assert_eq!(std::fs::read_to_string(dir.path().join("table.tsv")).unwrap(), "weights\t1\n");
}
