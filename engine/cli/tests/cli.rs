//! The commands in-process, with small stages: what they print where, and how they exit.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "../../core/tests/lab/mod.rs"]
mod lab;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use lab::Lab;
use qpipe_cli::dispatch;
use qpipe_cli::exit::Exit;
use qpipe_cli::printer::Printer;

const MANIFEST: &str = "\
qpipe 1 name=lab

load base {
    text weights
}
quantize weights {
    model base
    scheme nf4
}
evaluate quality {
    model weights
    task boolq
}
ablate one-at-a-time {
    vary weights.scheme fp4 int8
}
";

/// What was written, shared with the printer.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

struct Ended {
    exit: Exit,
    out: String,
    err: String,
}

fn manifest(lab: &Lab, text: &str) -> PathBuf {
    lab.file("lab.kdl", text.as_bytes())
}

/// Runs `qpipe ARGS… --store STORE`.
fn qpipe(lab: &Lab, args: &[&str]) -> Ended {
    let (out, err) = (Sink::default(), Sink::default());
    let mut printer = Printer::new(Box::new(out.clone()), Box::new(err.clone()), 110);
    let store = lab.dir.path().join("cli-store");
    let all = ["qpipe"].iter().chain(args).map(OsString::from).chain(["--store".into(), store.into()]);
    let exit = dispatch(&lab.registry(), all, &mut printer, &|| lab.options().cancel.clone());
    drop(printer);
    Ended { exit, out: out.text(), err: err.text() }
}

fn run(lab: &Lab, more: &[&str]) -> Ended {
    let path = manifest(lab, MANIFEST);
    let args: Vec<&str> = ["run", path.to_str().unwrap()].into_iter().chain(more.iter().copied()).collect();
    qpipe(lab, &args)
}

#[test]
fn a_run_ends_with_the_table_and_a_second_one_runs_nothing() {
    let lab = Lab::new();
    let first = run(&lab, &[]);
    assert_eq!(first.exit, Exit::Ok, "{}", first.err);
    assert!(first.out.contains("scheme=fp4") && first.out.contains("boolq.f1 ↑"), "{}", first.out);
    assert!(first.err.contains("ran 7 · cached 0 · failed 0 · "), "{}", first.err);
    assert!(first.err.contains("never ran") && first.err.contains("table.md"), "{}", first.err);
    let second = run(&lab, &[]);
    assert!(second.err.contains("cached  7 of 7 nodes\nran 0 · cached 7 · failed 0 · "), "{}", second.err);
    assert_eq!((second.out, lab.runs()), (first.out, 7));
    assert!(run(&lab, &["--force"]).err.contains("ran 7"));
}

#[test]
fn a_run_by_its_ticket_tells_what_any_other_tells() {
    let lab = Lab::new();
    // a limit of a stage is checked against the study, so there is no ticket
    let (plain, limited) = (&[][..], &["--timeout", "weights=1h"][..]);
    run(&lab, plain);
    let told = |text: &str| -> Vec<String> {
        let own = |line: &&str| !line.starts_with("record") && !line.starts_with("tables");
        let untimed =
            |line: &str| line.split(" · ").filter(|part| !part.ends_with(" ms")).collect::<String>();
        text.lines().filter(own).map(untimed).collect()
    };
    let tickets = || {
        let index = std::fs::read_dir(lab.dir.path().join("cli-store/v1/index")).unwrap();
        index.filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|e| e == "ticket")).count()
    };
    let slow = run(&lab, limited);
    assert_eq!(tickets(), 0);
    run(&lab, plain);
    assert_eq!(tickets(), 1);
    let quick = run(&lab, plain);
    assert_eq!((quick.exit, &quick.out, told(&quick.err)), (slow.exit, &slow.out, told(&slow.err)));
    let events = |more: &[&str]| -> Vec<String> {
        let ended = run(&lab, &[more, &["--format", "jsonl"]].concat());
        let untimed = |line: &str| line.split_once(',').unwrap().1.to_owned();
        ended.out.lines().map(untimed).filter(|line| !line.contains("run-finished")).collect()
    };
    assert_eq!((events(plain).len(), events(plain)), (8, events(limited)));
    let shown = |id: &str| qpipe(&lab, &["runs", id]).out;
    assert_eq!(shown("ls").lines().filter(|line| line.contains("done")).count(), 7, "{}", shown("ls"));
    let latest = qpipe(&lab, &["runs", "show", "latest"]);
    assert_eq!(latest.exit, Exit::Ok, "{}", latest.err);
    assert!(latest.out.contains("scheme=fp4"), "{}", latest.out);
    assert_eq!(lab.runs(), 7);
}

#[test]
fn a_wrong_manifest_makes_no_store() {
    let lab = Lab::new();
    let path = manifest(&lab, "qpipe 1 name=lab\nlod base {}\n");
    assert_eq!(qpipe(&lab, &["run", path.to_str().unwrap()]).exit, Exit::Manifest);
    assert!(!lab.dir.path().join("cli-store").exists());
}

#[test]
fn a_failure_has_its_exit_and_says_how_to_continue() {
    let lab = Lab::new();
    lab.switches.set(|s| &s.fp4_fails, true);
    let ended = run(&lab, &["--failure", "keep-going"]);
    assert_eq!((ended.exit, ended.exit.code()), (Exit::StageFailed, 1));
    assert!(ended.out.contains("failed"), "{}", ended.out);
    assert!(ended.err.contains("failed 1 · skipped 1"), "{}", ended.err);
    assert!(
        ended.err.contains("hint: the same command continues, finished work is kept: `"),
        "{}",
        ended.err
    );
    let listed = qpipe(&lab, &["runs", "ls"]);
    assert!(
        listed.out.lines().nth(1).is_some_and(|l| l.contains("lab") && l.contains("failed")),
        "{}",
        listed.out
    );
}

#[test]
fn a_stopped_run_exits_as_ctrl_c_does() {
    let lab = Lab::new();
    lab.switches.set(|s| &s.cancels, true);
    assert_eq!(run(&lab, &[]).exit.code(), 130);
}

#[test]
fn a_plan_names_the_changed_field_and_its_place() {
    let lab = Lab::new();
    run(&lab, &[]);
    let changed = manifest(&lab, &MANIFEST.replace("scheme nf4", "scheme nf3"));
    let plan = qpipe(&lab, &["plan", changed.to_str().unwrap()]);
    assert!(plan.out.contains("`weights.scheme` changed from `nf4` to `nf3` (lab.kdl:8:"), "{}", plan.out);
    assert_eq!((plan.exit, plan.err.as_str()), (Exit::Ok, "hit 5 · miss 1 · pending 1\n"), "{}", plan.out);
    let json = qpipe(&lab, &["plan", changed.to_str().unwrap(), "--json"]);
    let doc: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(doc["schema"], 1);
    assert_eq!(doc["nodes"].as_array().unwrap().iter().filter(|n| n["state"] == "hit").count(), 5);
}

#[test]
fn a_plan_is_of_what_a_run_with_the_same_options_would_do() {
    let lab = Lab::new();
    run(&lab, &[]);
    let changed = manifest(&lab, &MANIFEST.replace("scheme nf4", "scheme nf3"));
    let plan = |options: &[&str]| {
        let ended = qpipe(&lab, &[&["plan", changed.to_str().unwrap()], options].concat());
        (ended.exit.code(), ended.err)
    };
    let counts = |text: &str| (0, format!("{text}\n"));
    assert_eq!(plan(&["--until", "weights"]), counts("hit 3 · miss 1 · pending 0"));
    assert_eq!(plan(&["--only", "weights"]), counts("hit 3 · miss 1 · pending 0"));
    assert_eq!(plan(&["--from", "quality/baseline"]), counts("hit 1 · miss 1 · pending 1"));
    assert_eq!(plan(&["--only", "base", "--force"]), counts("hit 0 · miss 1 · pending 0"));
    assert_eq!(plan(&["--force=base"]), counts("hit 0 · miss 1 · pending 6"));
    let (code, text) = plan(&["--only", "quality"]);
    assert!(code != 0 && text.contains("qpipe::select::missing_input"), "{text}");
    assert!(plan(&["--only", "wights"]).1.contains("did you mean `weights`"));
}

#[test]
fn events_as_json_lines_are_all_that_is_on_stdout() {
    let lab = Lab::new();
    let ended = run(&lab, &["--format", "jsonl"]);
    let events: Vec<serde_json::Value> =
        ended.out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&events[0]["event"], &events[0]["schema"]), (&"run-started".into(), &1.into()));
    assert_eq!(events.last().unwrap()["event"], "run-finished");
}

#[test]
fn overrides_reach_the_study() {
    let lab = Lab::new();
    let path = manifest(&lab, MANIFEST);
    let plan = qpipe(&lab, &["plan", path.to_str().unwrap(), "--json", "--set", "quality.task=other"]);
    assert_eq!(plan.exit, Exit::Ok, "{}", plan.err);
    let unknown = qpipe(&lab, &["check", path.to_str().unwrap(), "--set", "quality.tusk=other"]);
    assert_eq!(unknown.exit, Exit::Manifest);
}

#[test]
fn what_is_wrong_with_a_manifest_is_told_with_its_place() {
    let lab = Lab::new();
    let path = manifest(&lab, &MANIFEST.replace("quantize", "quantise"));
    let ended = qpipe(&lab, &["check", path.to_str().unwrap()]);
    assert_eq!(ended.exit.code(), 3);
    assert!(ended.err.contains("quantise") && ended.err.contains("lab.kdl"), "{}", ended.err);
    let ended = qpipe(&lab, &["check", "absent.kdl"]);
    assert_eq!(ended.exit.code(), 3);
    let ok = manifest(&lab, MANIFEST);
    let ended = qpipe(&lab, &["check", ok.to_str().unwrap()]);
    assert_eq!(ended.err, "ok: study `lab` has 3 cells and 7 nodes\n");
}

#[test]
fn a_missing_source_exits_as_a_wrong_manifest_and_shows_where() {
    let lab = Lab::new();
    let path =
        manifest(&lab, &MANIFEST.replace("text weights", "text weights\n    from path=\"absent.bin\""));
    let ended = qpipe(&lab, &["run", path.to_str().unwrap()]);
    assert_eq!(ended.exit.code(), 3, "{}", ended.err);
    assert!(ended.err.contains("absent.bin") && ended.err.contains("qpipe::plan::source"), "{}", ended.err);
}

#[test]
fn a_damaged_store_is_found_and_has_its_exit() {
    let lab = Lab::new();
    assert_eq!(qpipe(&lab, &["cache", "verify"]).exit, Exit::Store, "no store yet, and none is made");
    run(&lab, &[]);
    let clean = qpipe(&lab, &["cache", "verify"]);
    assert_eq!((clean.exit, clean.out.as_str()), (Exit::Ok, ""), "{}", clean.err);
    assert!(qpipe(&lab, &["cache", "du"]).out.contains("records"));

    let root = lab.dir.path().join("cli-store");
    let store = qpipe_cache::Store::open(&root).unwrap();
    let digest = qpipe_cache::Digest::of_bytes(b"weights+nf4");
    let blob = store.blob_path(&digest).unwrap();
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, b"weights+nf5").unwrap();
    let damaged = qpipe(&lab, &["cache", "verify"]);
    assert_eq!(damaged.exit.code(), 6);
    assert!(damaged.out.contains(&digest.short()), "{}", damaged.out);
}

#[test]
fn a_wrong_command_line_is_usage_and_help_is_data() {
    let lab = Lab::new();
    let wrong = qpipe(&lab, &["run"]);
    assert_eq!((wrong.exit.code(), wrong.out.as_str()), (2, ""));
    let help = qpipe(&lab, &["--help"]);
    assert_eq!((help.exit, help.err.as_str()), (Exit::Ok, ""));
    assert!(help.out.contains("plan"), "{}", help.out);
}

#[test]
fn gc_keeps_pins_and_latest_runs_and_takes_the_rest() {
    let lab = Lab::new();
    let first = run(&lab, &[]);
    assert_eq!(first.exit, Exit::Ok, "{}", first.err);
    let id: serde_json::Value = serde_json::from_str(&qpipe(&lab, &["runs", "ls", "--json"]).out).unwrap();
    let id = id["runs"][0]["run"].as_str().unwrap().to_owned();
    let count = || {
        let listed: serde_json::Value =
            serde_json::from_str(&qpipe(&lab, &["cache", "ls", "--json"]).out).unwrap();
        listed["records"].as_array().unwrap().len()
    };
    let all = count();
    assert!(all > 0);
    let none = ["cache", "gc", "--grace", "0s", "--max-size", "0B", "--keep-runs"];
    let gc = |keep: &str, dry: bool| {
        let mut args = [&none[..], &[keep]].concat();
        args.extend(dry.then_some("--dry-run"));
        let ended = qpipe(&lab, &args);
        assert_eq!(ended.exit, Exit::Ok, "{}", ended.err);
        ended.err
    };
    assert!(gc("0", true).contains("would remove"));
    assert_eq!(count(), all, "a dry run removes nothing");
    gc("1", false);
    let nodes = count();
    assert!(nodes > 0 && nodes <= all, "the latest run's results stay");
    assert_eq!(qpipe(&lab, &["cache", "pin", "paper", "--run", &id]).exit, Exit::Ok);
    assert!(qpipe(&lab, &["cache", "pins"]).out.contains("paper"));
    gc("0", false);
    assert_eq!(count(), nodes, "pinned results stay");
    assert_eq!(qpipe(&lab, &["cache", "unpin", "paper"]).exit, Exit::Ok);
    assert_eq!(qpipe(&lab, &["cache", "unpin", "paper"]).exit, Exit::Usage);
    assert!(gc("0", false).contains("removed"));
    assert_eq!(count(), 0);
    let again = run(&lab, &[]);
    assert_eq!(again.exit, Exit::Ok, "{}", again.err);
    assert_eq!(count(), all);
    assert_eq!(qpipe(&lab, &["cache", "pin", "x", "--run", "../runs"]).exit, Exit::Usage);
}

#[test]
fn fmt_checks_and_formats_and_keeps_comments() {
    let lab = Lab::new();
    let path = manifest(&lab, "qpipe   1 name=lab // the lab\nload base{\n text weights\n}\n");
    let path = path.to_str().unwrap();
    let check = qpipe(&lab, &["fmt", "--check", path]);
    assert_eq!(check.exit, Exit::Manifest);
    assert!(check.err.contains("not_formatted") && check.err.contains("lab.kdl"), "{}", check.err);
    assert_eq!(qpipe(&lab, &["fmt", path]).exit, Exit::Ok);
    let text = std::fs::read_to_string(path).unwrap();
    assert_eq!(text, "qpipe 1 name=lab // the lab\nload base {\n    text weights\n}\n");
    assert_eq!(qpipe(&lab, &["fmt", "--check", path]).exit, Exit::Ok);
    let broken = manifest(&lab, "qpipe 1 name=lab\nload base {");
    assert_eq!(qpipe(&lab, &["fmt", broken.to_str().unwrap()]).exit, Exit::Manifest);
}

#[test]
fn codes_are_explained() {
    let lab = Lab::new();
    let page = qpipe(&lab, &["explain", "varies_many"]);
    assert!(page.out.starts_with("qpipe::manifest::varies_many\n\nA cell of an `ablate`"), "{}", page.out);
    assert!(qpipe(&lab, &["explain"]).out.lines().count() > 50);
    let unknown = qpipe(&lab, &["explain", "varies_may"]);
    assert_eq!(unknown.exit, Exit::Usage);
    assert!(unknown.err.contains("varies_many"), "{}", unknown.err);
}

#[test]
fn schemas_come_in_three_formats() {
    let lab = Lab::new();
    let text = qpipe(&lab, &["schema", "quantize"]);
    assert!(text.out.contains("scheme: a string"), "{}", text.out);
    let json = qpipe(&lab, &["schema", "--format", "json"]);
    let doc: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&doc["schema"], doc["stages"].as_array().unwrap().len()), (&1.into(), 3));
    assert!(qpipe(&lab, &["schema", "load", "--format", "md"]).out.starts_with("## `load`"));
    let unknown = qpipe(&lab, &["schema", "quantise"]);
    assert_eq!(unknown.exit, Exit::Usage);
    assert!(unknown.err.contains("did you mean `quantize`?"), "{}", unknown.err);
    let none = qpipe(&lab, &["schema", "no-such-type-anywhere"]);
    assert!(none.exit == Exit::Usage && none.err.contains("--study FILE"), "{}", none.err);
    let path = manifest(&lab, MANIFEST);
    let with = qpipe(&lab, &["schema", "load", "--study", path.to_str().unwrap()]);
    assert!(with.out.starts_with("load: "), "{}{}", with.out, with.err);
}

#[test]
fn graphs_are_collapsed_by_cell() {
    let lab = Lab::new();
    let path = manifest(&lab, MANIFEST);
    let graph = |format| qpipe(&lab, &["graph", path.to_str().unwrap(), "--format", format]).out;
    let text = "base (load, 1 node)\nweights (quantize, 3 nodes) ← model base\n\
                quality (evaluate, 3 nodes) ← model weights\n";
    assert_eq!(graph("text"), text);
    assert!(graph("dot").contains("\"base\" -> \"weights\" [label=\"model\"];"));
    assert!(graph("mermaid").contains("s0 -->|model| s1"));
    let svg = graph("svg");
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.matches("<rect").count() == 3);
}

#[test]
fn two_runs_are_compared_in_inputs_and_results() {
    let lab = Lab::new();
    run(&lab, &[]);
    let first = qpipe(&lab, &["runs", "ls"]).out;
    let first = first.lines().nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let shown = qpipe(&lab, &["runs", "show", &first]);
    assert!(shown.out.contains("weights [scheme=fp4]") && shown.out.contains("ran 7"), "{}", shown.out);
    let changed = manifest(&lab, &MANIFEST.replace("scheme nf4", "scheme nf3"));
    assert_eq!(qpipe(&lab, &["run", changed.to_str().unwrap(), "--set", "quality.task=b"]).exit, Exit::Ok);
    let diff = qpipe(&lab, &["runs", "diff", &first, "latest"]);
    assert!(diff.out.contains("`weights.scheme` changed from `nf4` to `nf3`"), "{}", diff.out);
    assert!(diff.out.contains("`quality.task` changed from `boolq` to `b`"), "{}", diff.out);
    assert!(
        diff.out.contains("--set quality.task") && diff.out.contains("quality.boolq.f1 [baseline]"),
        "{}",
        diff.out
    );
    assert!(diff.out.lines().all(|line| !line.starts_with("base ")), "{}", diff.out);
    let same = qpipe(&lab, &["runs", "diff", "latest", "latest"]);
    assert_eq!(same.out, "");
    assert!(same.err.starts_with("inputs: 0 differ, 9 equal"), "{}", same.err);
    assert_eq!(qpipe(&lab, &["runs", "show", "1999"]).exit, Exit::Usage);
    let json = qpipe(&lab, &["runs", "diff", &first, "latest", "--json"]);
    let doc: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(doc["inputs"][0]["how"]["change"], "key", "{}", json.out);
}

#[test]
fn an_include_is_read_beside_the_manifest_and_kept_in_the_record() {
    let lab = Lab::new();
    lab.file("base.kdl", b"qpipe 1\ndefaults { failure keep-going }\nload base { text weights }\n");
    let text = MANIFEST.replace("load base {\n    text weights\n}", "include \"base.kdl\"");
    let path = manifest(&lab, &text);
    lab.switches.set(|s| &s.fp4_fails, true);
    let ended = qpipe(&lab, &["run", path.to_str().unwrap()]);
    assert_eq!(ended.exit, Exit::StageFailed, "{}", ended.err);
    assert!(ended.err.contains("ran 5 · cached 0 · failed 1 · skipped 1"), "{}", ended.err);
    let shown = qpipe(&lab, &["runs", "show", "latest", "--json"]);
    let doc: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(doc["includes"][0]["file"], "include-1-base.kdl");
    assert_eq!(doc["sources_digest"].as_str().unwrap().len(), 64);
    std::fs::remove_file(lab.dir.path().join("base.kdl")).unwrap();
    let missing = qpipe(&lab, &["check", path.to_str().unwrap()]);
    assert!(missing.err.contains("unreadable_include"), "{}", missing.err);
}

#[test]
fn a_part_of_a_study_can_be_run_and_run_again() {
    let lab = Lab::new();
    let first = run(&lab, &["--until", "weights/scheme=fp4"]);
    assert!(first.err.contains("ran 2 · cached 0 · failed 0 · not selected 5 · "), "{}", first.err);
    let only = run(&lab, &["--only", "quality/scheme=int8"]);
    assert_eq!(only.exit, Exit::Usage, "{}", only.err);
    assert!(
        only.err.contains("qpipe::select::missing_input") && only.err.contains("`--until`"),
        "{}",
        only.err
    );
    assert!(run(&lab, &[]).err.contains("ran 5 · cached 2"));
    let forced = run(&lab, &["--force=weights/scheme=fp4"]);
    assert!(forced.err.contains("ran 1 · cached 6"), "equal bytes stop it there: {}", forced.err);
    let nothing = run(&lab, &["--from", "quality", "--until", "base"]);
    assert_eq!((nothing.exit, nothing.exit.code()), (Exit::Nothing, 5), "{}", nothing.err);
}

#[test]
fn the_summary_says_how_to_go_on() {
    let lab = Lab::new();
    lab.switches.set(|s| &s.fp4_fails, true);
    let ended = run(&lab, &[]);
    assert!(ended.err.contains("finished work is kept: `qpipe run "), "{}", ended.err);
    assert!(ended.err.contains(" · stopped 2 · "), "{}", ended.err);
}
