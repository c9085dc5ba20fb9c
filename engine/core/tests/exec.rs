//! Commands as stages: manifests with `exec`, run over a real store.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod hows;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hows::hows;
use qpipe_cache::Store;
use qpipe_engine::exec::with_exec;
use qpipe_engine::graph::Study;
use qpipe_engine::manifest::{LoadOptions, ManifestErrors, load_study};
use qpipe_engine::plan::{PlanOptions, plan};
use qpipe_engine::run::{
    NodeResult, RunEvent, RunEventKind, RunOptions, RunOutcome, RunResult, metrics, run,
};
use qpipe_engine::worker::Machine;
use qpipe_engine::worker::files::Files;
use qpipe_sdk::{Cancel, Metric, StageEvent, StageRegistry};

fn registry() -> StageRegistry {
    let path = std::env::var_os("PATH").map(|path| ("PATH".into(), path));
    with_exec(StageRegistry::default(), &Machine::new(path, &std::env::temp_dir()))
}

fn load(path: &Path, text: &str) -> Result<Study, ManifestErrors> {
    let env = |name: &str| (name == "GREETING").then(|| "hello".to_owned());
    load_study(path, text, &LoadOptions { env: &env, ..LoadOptions::default() }, &registry())
}

struct Lab {
    dir: tempfile::TempDir,
    store: Store,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn study(&self, stages: &str) -> Study {
        let text = format!("qpipe 1 name=lab\n{stages}");
        load(&self.dir.path().join("lab.kdl"), &text).unwrap_or_else(|e| panic!("{:#?}", e.errors()))
    }

    fn run_study(&self, study: &Study, cancel: &Cancel) -> (RunResult, Vec<RunEvent>) {
        let registry = registry();
        let plan = plan(study, &registry, &self.store, &PlanOptions::default()).unwrap();
        let options = RunOptions { cancel: cancel.clone(), ..RunOptions::default() };
        let mut events = Vec::new();
        let result = run(study, &plan, &registry, &self.store, &options, &mut events);
        (result, events)
    }

    fn run(&self, stages: &str) -> RunResult {
        self.run_study(&self.study(stages), &Cancel::default()).0
    }

    /// What the only failed stage said.
    fn failure(&self, stages: &str) -> String {
        let result = self.run(stages);
        let (_, _, message) = result.failures().next().expect("it fails");
        message.to_owned()
    }

    /// An output of a node, as text.
    fn output(&self, result: &NodeResult, path: &str) -> String {
        let record = result.record().expect("it is done");
        let files = Files::read(&self.store, &record.outputs["out"].digest).unwrap();
        let (_, entry) = files.entries().find(|(known, _)| known == Path::new(path)).expect("it is there");
        String::from_utf8(self.store.read(&entry.digest).unwrap()).unwrap()
    }

    fn scratch_is_empty(&self) -> bool {
        fs::read_dir(self.dir.path().join("store/scratch")).unwrap().count() == 0
    }
}

fn metric(result: &NodeResult, name: &str) -> Metric {
    let all = metrics::decode(&result.record().unwrap().metrics).unwrap();
    all.into_iter().find(|metric| metric.name == name).unwrap()
}

const PIPELINE: &str = r#"
exec shout {
    command tr "a-z" "A-Z"
    shell #false
    input text "text.txt"
    stdout loud
}
exec both {
    command sh "-c" "cat a/loud tree/x/y >joined; mkdir -p out/deep; echo 1 >out/deep/one; echo '{\"lines\": 2}' >m.json"
    input a (stage)shout
    input tree "tree"
    output joined "joined"
    output folder "out"
    metrics "m.json"
}
"#;

#[test]
fn commands_pass_files_on_and_a_second_run_starts_none() {
    let lab = Lab::new();
    lab.file("text.txt", "ignored: `tr` reads standard input\n");
    lab.file("tree/x/y", "deep\n");
    let pipeline = PIPELINE.replace("command tr \"a-z\" \"A-Z\"", "command sh \"-c\" \"tr a-z A-Z <text\"");
    let result = lab.run(&pipeline);
    assert_eq!((result.outcome, hows(&result.nodes).as_str()), (RunOutcome::Done, "rr"), "{result:?}");
    assert_eq!(lab.output(&result.nodes[1], "joined"), "IGNORED: `TR` READS STANDARD INPUT\ndeep\n");
    assert_eq!(lab.output(&result.nodes[1], "folder/deep/one"), "1\n");
    let lines = metric(&result.nodes[1], "lines");
    assert!((lines.value - 2.0).abs() < f64::EPSILON && lines.headline);
    assert!(lab.scratch_is_empty());
    assert_eq!(hows(&lab.run(&pipeline).nodes), "cc");

    // another place, the same content
    lab.file("elsewhere/x/y", "deep\n");
    assert_eq!(hows(&lab.run(&pipeline.replace("\"tree\"", "\"elsewhere\"")).nodes), "cc");
    // other content that comes out the same stops the re-run early
    lab.file("text.txt", "IGNORED: `tr` reads standard input\n");
    assert_eq!(hows(&lab.run(&pipeline).nodes), "rc");
    lab.file("tree/x/z", "new\n");
    assert_eq!(hows(&lab.run(&pipeline).nodes), "cr");
}

#[test]
fn the_environment_is_what_the_manifest_says() {
    let lab = Lab::new();
    let stage = "exec env {\n command env\n env GREETING WHO=world\n stdout vars\n}";
    let result = lab.run(stage);
    let vars = lab.output(&result.nodes[0], "vars");
    let mut names: Vec<&str> = vars.lines().filter_map(|line| line.split('=').next()).collect();
    names.retain(|name| !["PWD", "SHLVL", "_", "OLDPWD"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["GREETING", "HOME", "LC_ALL", "PATH", "TMPDIR", "TZ", "WHO"]);
    assert!(vars.contains("GREETING=hello\n") && vars.contains("WHO=world\n"), "{vars}");
    let other = lab.run(&stage.replace("world", "moon"));
    assert_eq!(hows(&other.nodes), "r", "a variable's value is part of the key");
}

#[test]
fn a_failing_command_says_how_and_what_it_said_last() {
    let lab = Lab::new();
    let said = lab.failure("exec a {\n command sh \"-c\" \"echo one; echo two >&2; exit 3\"\n stdout x\n}");
    assert_eq!(said, "the command failed: exit status 3\ntwo");
    let silent = lab.failure("exec a {\n command sh \"-c\" \"kill -9 $$\"\n stdout x\n}");
    assert_eq!(silent, "the command failed: killed by signal 9, and said nothing");
    let nothing = lab.failure("exec a {\n command no-such-program\n stdout x\n}");
    assert_eq!(nothing, "there is no program `no-such-program` on the search path");
    assert!(lab.scratch_is_empty());
}

#[test]
fn outputs_are_looked_for_and_not_believed() {
    let lab = Lab::new();
    let missing = lab.failure("exec a {\n command \"true\"\n output table \"t.tsv\"\n}");
    assert_eq!(missing, "output `table` is missing: there is no `t.tsv`");
    let leak = lab.failure("exec a {\n command ln \"-s\" \"/etc/hostname\" t\n output table \"t\"\n}");
    assert_eq!(leak, "the path `t` of output `table` leads out of the working folder");
    let metrics = lab.failure("exec a {\n command echo x\n stdout x\n metrics \"m.json\"\n}");
    assert!(metrics.starts_with("the metrics file `m.json` cannot be read"), "{metrics}");
}

#[test]
fn what_a_command_says_is_kept_with_its_result() {
    let lab = Lab::new();
    let study = lab.study("exec a {\n command sh \"-c\" \"echo careful >&2; echo done\"\n stdout x\n}");
    let (result, events) = lab.run_study(&study, &Cancel::default());
    let logged = events.iter().find_map(|event| match &event.kind {
        RunEventKind::Stage { stage: StageEvent::Log { message }, .. } => {
            message.strip_prefix("stderr: 8 bytes, kept as blob ")
        }
        _ => None,
    });
    let digest = logged.expect("the log is announced").parse().unwrap();
    assert_eq!(lab.store.read(&digest).unwrap(), b"careful\n");
    assert!(result.nodes[0].record().unwrap().refs.contains(&digest));
}

#[test]
fn a_timeout_stops_the_command_and_its_children() {
    let lab = Lab::new();
    let started = Instant::now();
    let stage = "exec a {\n command sh \"-c\" \"sleep 1000 & sleep 1000\"\n stdout x\n timeout (ms)200\n}";
    assert_eq!(lab.failure(stage), "timed out after 0.2 s");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(lab.scratch_is_empty());
}

#[test]
fn a_request_to_stop_stops_the_command() {
    let lab = Lab::new();
    let mark = lab.dir.path().join("mark");
    let script = format!(
        "trap 'echo stopped >{0}; exit 1' TERM; echo up >{0}; while :; do sleep 0.01; done",
        mark.display()
    );
    let study = lab.study(&format!("exec a {{\n command sh \"-c\" \"{script}\"\n stdout x\n}}"));
    let cancel = Cancel::default();
    let result = std::thread::scope(|scope| {
        let running = scope.spawn(|| lab.run_study(&study, &cancel).0);
        while !mark.exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        cancel.request();
        running.join().unwrap()
    });
    assert_eq!((result.outcome, hows(&result.nodes).as_str()), (RunOutcome::Interrupted, "."));
    assert_eq!(fs::read_to_string(&mark).unwrap(), "stopped\n");
}

#[test]
fn a_manifest_s_slips_are_told() {
    let told = |stage: &str| {
        let errors = load(Path::new("/s/x.kdl"), &format!("qpipe 1 name=x\n{stage}")).unwrap_err();
        errors.errors().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        told("exec a {\n command ls\n}"),
        ["`a.output`: a command needs an output: `output NAME PATH`, or `stdout NAME`"]
    );
    assert_eq!(told("exec a {\n stdout x\n}"), ["stage `a` needs `command`"]);
    let stage = |line: &str| told(&format!("exec a {{\n command ls\n stdout x\n {line}\n}}"));
    assert_eq!(stage("input from (stage)b"), ["unknown stage `b`"]);
    assert_eq!(stage("input \"../x\" \"y\""), ["`../x` cannot be the name of an `input`"]);
    assert_eq!(stage("output y (stage)a"), ["unknown type annotation `(stage)`"]);
    assert_eq!(stage("input y"), ["`input` needs a name and a value"]);
    assert_eq!(stage("env NOWHERE"), ["the environment variable `NOWHERE` is not set"]);
    assert_eq!(stage("env A-B=\"1\""), ["`A-B` cannot be the name of a variable"]);
    assert_eq!(stage("env A=1"), ["`env.A` takes a string, not an integer"]);
    assert_eq!(stage("input y \"z\"\n input y \"z\""), ["parameter `input.y` stands twice"]);
    assert_eq!(stage("input y (stage)a\n input y (stage)a").len(), 2, "twice, and a circle");
}

#[test]
fn a_missing_input_is_found_before_anything_runs() {
    let lab = Lab::new();
    let study = lab.study("exec a {\n command ls\n input x \"nowhere\"\n stdout y\n}");
    let error = plan(&study, &registry(), &lab.store, &PlanOptions::default()).unwrap_err();
    assert!(error.errors[0].to_string().contains("cannot read `input.x`"), "{}", error.errors[0]);
    fs::create_dir(lab.dir.path().join("nowhere")).unwrap();
    let error = plan(&study, &registry(), &lab.store, &PlanOptions::default()).unwrap_err();
    assert!(error.errors[0].to_string().contains("holds no file"), "{}", error.errors[0]);
}

#[test]
fn the_page_about_commands_shows_a_manifest_that_is_read() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"));
    let path = root.join("../../docs/exec.md");
    let text = fs::read_to_string(&path).unwrap();
    let (_, block) = text.split_once("```kdl\n").unwrap();
    let study =
        load(&path, block.split_once("```").unwrap().0).unwrap_or_else(|e| panic!("{:#?}", e.errors()));
    assert_eq!(study.nodes.len(), 2);
}

#[test]
fn the_shipped_pipeline_of_commands_runs() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"));
    let path = root.join("../../pipelines/words.kdl");
    let study =
        load(&path, &fs::read_to_string(&path).unwrap()).unwrap_or_else(|e| panic!("{:#?}", e.errors()));
    let lab = Lab::new();
    let (result, _) = lab.run_study(&study, &Cancel::default());
    assert_eq!((result.outcome, hows(&result.nodes).as_str()), (RunOutcome::Done, "rrrrr"), "{result:?}");
    let shapes: Vec<&NodeResult> =
        study.nodes.iter().filter(|n| &*n.stage == "shape").map(|n| &result.nodes[n.id.0]).collect();
    let of = |at: usize, name: &str| metric(shapes[at], name).value;
    assert!(of(0, "words") > 1_000.0 && of(1, "words") < of(0, "words"), "{}", of(0, "words"));
    assert!(of(0, "distinct") > 100.0 && of(0, "zipf-slope") < -0.5);
    assert!(lab.output(shapes[0], "curve").lines().last().unwrap().ends_with("\t1.000000"));
    assert_eq!(hows(&lab.run_study(&study, &Cancel::default()).0.nodes), "ccccc");
}
