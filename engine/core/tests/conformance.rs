//! `qpipe plugin test`: sound plugins pass, and each defect is found and named.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "../../../tests/support/python.rs"]
mod python;

mod plugin_lab;

use std::fs;
use std::io::Write;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use plugin_lab::{KIT, PluginLab};
use qpipe_cache::Store;
use qpipe_engine::conformance::{self, Check, Opened, Outcome, Report, Samples, Setup, Subject};
use qpipe_engine::worker::{Limits, Sandbox};
use qpipe_sdk::Artifact;

/// What a test asks for besides.
#[derive(Default)]
struct Asked {
    sets: Vec<(String, String)>,
    files: Vec<(String, PathBuf)>,
    inputs: Vec<(String, PathBuf)>,
    artifact: Option<Artifact>,
    opened: Opened,
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
        let own = ["tally.py", "broken.py", "shelf.py", "binding.py", "numbers.py"];
        let own = own.map(|name| format!("tests/plugins/{name}"));
        let mut files: Vec<&str> = own.iter().map(String::as_str).collect();
        files.extend([KIT, "../../pipelines/plugins/prune.py"]);
        Self(PluginLab::new(&files))
    }

    fn test(&self, program: &str, args: &[&str], asked: Asked) -> Report {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let subject = Subject::find(program, &args, self.dir.path(), &self.machine).unwrap();
        // short where time has to run out
        let short = |defects: &[&str], short: u64, long: u64| {
            Duration::from_millis(if defects.iter().any(|defect| args == [*defect]) { short } else { long })
        };
        let limits = Limits {
            hello: short(&["no-hello"], 1000, 30_000),
            answer: short(&["ignores-unknown-type"], 1000, 30_000),
            heartbeat: short(&["no-heartbeat", "silent-job"], 100, 400),
            job: Some(Duration::from_secs(30)),
            grace: short(&["ignores-cancel", "ignores-end"], 700, 5000),
            ..Limits::default()
        };
        let Asked { sets, files, inputs, artifact, opened } = asked;
        let (machine, store) = (&self.machine, &self.store);
        let setup = Setup { machine, store, limits, device: "cpu", opened: &opened };
        let mut provider = |_: &str| artifact.clone();
        conformance::check(&subject, &setup, &mut Samples { sets, files, inputs, provider: &mut provider })
    }
}

/// The check of a rule that tells most.
fn of_rule<'r>(report: &'r Report, rule: &str) -> &'r Check {
    let mut checks: Vec<&Check> = report.checks.iter().filter(|check| check.rule.name() == rule).collect();
    checks.sort_by_key(|check| check.outcome == Outcome::Passed);
    checks.first().unwrap_or_else(|| panic!("`{rule}` was not checked\n{}", report.text()))
}

/// The broken plugin fails this rule, and says why.
fn found(defects: &[(&str, &str, &str)]) {
    if !python::is_here("conformance") {
        return;
    }
    let lab = Lab::new();
    let told = |(defect, rule, says): &(&str, &str, &str)| {
        let report = lab.test("broken.py", &[defect], Asked::default());
        let check = of_rule(&report, rule);
        let Outcome::Failed(why) = &check.outcome else { panic!("{defect}: {check:?}\n{}", report.text()) };
        assert!(why.contains(says), "{defect}: {why}\n{}", report.text());
        assert!(report.failed());
    };
    defects.iter().for_each(told);
}

#[test]
fn a_sound_plugin_passes_every_rule() {
    if !python::is_here("a_sound_plugin_passes_every_rule") {
        return;
    }
    let report = Lab::new().test("broken.py", &["none"], Asked::default());
    assert_eq!(report.worker.as_deref(), Some("shout 1.0"));
    assert!(report.checks.iter().all(|check| check.outcome == Outcome::Passed), "{}", report.text());
    for rule in conformance::Rule::ALL {
        of_rule(&report, rule.name());
    }
}

#[test]
fn a_plugin_without_the_kit_passes() {
    if !python::is_here("a_plugin_without_the_kit_passes") {
        return;
    }
    let lab = Lab::new();
    let file = lab.path("mine.txt");
    fs::write(&file, "one two two").unwrap();
    lab.file("more/a.txt", "three");
    let asked = Asked {
        sets: vec![("tally.top".into(), "2".into())],
        files: vec![("text".into(), file.clone())],
        inputs: vec![("also".into(), lab.path("more"))],
        ..Asked::default()
    };
    let report = lab.test("tally.py", &[], asked);
    insta::assert_snapshot!(report.text(), @r"
    ok    hello: starts in the environment that it will have, and says `hello` first, in time
    ok    version: takes a protocol version that was offered
    ok    describe: describes at least one stage type
    ok    same-description: says the same when asked again, and in a second process
    ok    schema: every description is understood
    ok    documented: every stage type, input, output and parameter says what it is
    ok    unknown-fields: ignores fields that it does not know
    ok    unknown-type: refuses a message whose type it does not know
    ok    unknown-stage: refuses a stage type that it has not, and goes on
    ok    tally sample: parameters and inputs for a job can be made
    ok    tally run: a job ends with `done`, once
    ok    tally events: what it says during a job is about the job, and progress stays within its total
    ok    tally metrics: every metric has a name and a number, or its spelling
    ok    tally inputs: leaves what it reads as it was
    ok    tally scratch: writes nothing outside scratch; HOME, TMPDIR and the test's folder are watched
    ok    tally outputs: outputs are declared, announced once, complete, and within scratch
    ok    tally again: does a second job in the same process
    ok    tally unknown-fields: ignores fields that it does not know
    ok    tally exact: equal inputs give equal bytes, in another process as well
    ok    tally engine: the engine runs it and takes what it made
    ok    end-of-input: ends when its standard input ends
    ok    processes: leaves no process behind
    ok    messages: writes nothing but messages to standard output
    23 ok, 0 failed, 0 warned, 0 skipped
    ");
    assert_eq!(fs::read_to_string(file).unwrap(), "one two two");
}

#[test]
fn plugins_on_the_kit_pass() {
    if !python::is_here("plugins_on_the_kit_pass") {
        return;
    }
    let lab = Lab::new();
    let report = lab.test("shelf.py", &[], Asked::default());
    assert!(!report.failed(), "{}", report.text());
    assert_eq!(of_rule(&report, "exact").stage.as_deref(), Some("bind"));
    let skipped = of_rule(&report, "sample");
    let why = "its input `book` takes book, and there is none here, so no job was tried";
    assert_eq!((skipped.stage.as_deref(), &skipped.outcome), (Some("read"), &Outcome::Skipped(why.into())));

    let asked = Asked { artifact: Some(model(&lab.store)), ..Asked::default() };
    let report = lab.test("prune.py", &[], asked);
    assert!(report.checks.iter().all(|check| check.outcome == Outcome::Passed), "{}", report.text());
    of_rule(&report, "cancel");
}

#[test]
fn a_plugin_that_reads_metrics_is_given_some() {
    if !python::is_here("a_plugin_that_reads_metrics_is_given_some") {
        return;
    }
    let lab = Lab::new();
    let report = lab.test("numbers.py", &[], Asked::default());
    assert!(!report.failed(), "{}", report.text());
    let passed = |kind: &str, rule: &str| {
        let is_it = |check: &&Check| check.stage.as_deref() == Some(kind) && check.rule.name() == rule;
        report.checks.iter().filter(is_it).all(|check| check.outcome == Outcome::Passed)
            && report.checks.iter().any(|check| is_it(&check))
    };
    for rule in ["outputs", "exact", "engine"] {
        assert!(passed("ratio", rule), "{rule}\n{}", report.text());
    }
    // the numbers of one's own
    let own = lab.path("own.json");
    fs::write(&own, r#"{"format":"qpipe.metrics/1","stage":"a","metrics":[{"name":"sample","value":0}]}"#)
        .unwrap();
    let asked = |file: &Path| Asked { inputs: vec![("to".into(), file.to_owned())], ..Asked::default() };
    let by_zero = lab.test("numbers.py", &[], asked(&own));
    let Outcome::Failed(why) = &of_rule(&by_zero, "run").outcome else { panic!("{}", by_zero.text()) };
    assert!(why.contains("ZeroDivisionError"), "{why}");
    let none = lab.test("numbers.py", &[], asked(&lab.path("numbers.py")));
    let Outcome::Failed(why) = &of_rule(&none, "sample").outcome else { panic!("{}", none.text()) };
    assert!(why.contains("it is no JSON"), "{why}");
}

/// A model of one layer.
fn model(store: &Store) -> Artifact {
    let header = br#"{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#;
    let values: Vec<u8> = [1.0_f32, -2.0, 3.0, -4.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let weights = [&(header.len() as u64).to_le_bytes()[..], header, &values].concat();
    let weights = store.put_bytes(&weights).unwrap();
    let document = serde_json::json!({ "modules": { "model.layer": {
        "shape": [2, 2], "encoding": { "scheme": "dense" }, "parts": { "weight": { "blob": weights, "name": "w", "dtype": "F32" } }
    } } });
    let root = store.put_bytes(document.to_string().as_bytes()).unwrap();
    let mut model = Artifact::single("model", root);
    model.refs.insert(weights);
    model
}

#[test]
fn what_goes_wrong_before_any_job_is_named() {
    found(&[
        ("no-hello", "hello", "it said nothing within 1 s"),
        ("beats-first", "hello", "it said `heartbeat` where `hello` was due"),
        ("floods", "hello", "it cannot be listened to any longer: 1000 lines are no messages"),
        ("environment", "hello", "KeyError: 'SHOUT_HOME'"),
        ("wrong-version", "version", "it took version 7; only 1 was offered"),
        ("dies-at-describe", "describe", "it ended: exit status 1\nno such library"),
        ("no-stages", "describe", "it describes no stage type"),
        ("bad-type", "describe", "the message `description` is malformed: unknown variant `colour`"),
        ("unstable-description", "same-description", "a second process describes itself otherwise"),
        ("bad-name", "schema", "`Two Words` cannot be the name of a stage type"),
        ("keyed-by-moon", "schema", "`keyed_by` is none of `nothing`, `params` and `machine`"),
        ("strict", "unknown-fields", "`hello` with fields that it does not know: it ended: exit status 1"),
        ("ignores-unknown-type", "unknown-type", "it neither says `error` nor ends"),
        ("any-stage", "unknown-stage", "it said `keyed` where `error` was due"),
        ("random-key", "key", "the same process has another answer"),
        ("key-of-process", "key", "another process has other `numerics` for the same parameters"),
        ("relative-source", "sources", "source `self` has the path `broken.py`, which is not absolute"),
        ("lost-source", "sources", "source `lost`: there is no file `/no/such/file`"),
    ]);
}

#[test]
fn what_a_job_says_wrong_is_named() {
    found(&[
        ("dies-at-run", "run", "it ended: exit status 4\nno device"),
        ("breaks", "run", "it failed (bug): hoarse"),
        ("two-ends", "run", "after the job's end it said `done`"),
        ("wrong-id", "events", "its `done` has the id "),
        ("key-in-job", "events", "it said `keyed` during a job"),
        ("progress-overrun", "events", "`progress` says 5 of 4"),
        ("spelled-out", "metrics", "`\"infinite\"` is no number"),
        ("bare-nan", "messages", "this is no JSON: `{\"type\": \"metric\""),
        ("noise", "messages", "this is no JSON: `Loading weights: 100%`"),
        ("not-utf8", "messages", "a line is not UTF-8"),
        ("huge-line", "messages", "a line is longer than 1048576 bytes"),
        ("last-words", "messages", "this is no JSON: `bye`"),
    ]);
}

#[test]
fn what_a_job_does_wrong_is_named() {
    found(&[
        ("undeclared-output", "outputs", "output `quiet` is not declared"),
        ("output-twice", "outputs", "output `loud` was announced twice"),
        ("missing-output", "outputs", "output `loud` was not announced, and is required"),
        ("not-there", "outputs", "output `loud` is missing: there is no `quiet.txt`"),
        ("absolute", "outputs", "of output `loud` leads out of the working folder"),
        ("outside", "outputs", "the path `../loud.txt` of output `loud` leads out of the working folder"),
        ("stray-digest", "outputs", "its document names 0123456789abcdef"),
        ("stray-digest", "outputs", "at `/texts/0/blob`, which the job neither made nor was given"),
        ("outside", "scratch", "it wrote `loud.txt`, outside scratch"),
        ("writes-home", "scratch", "it wrote `home/result.txt`, outside scratch"),
        ("writes-inputs", "inputs", "it changed source `text`, which must only be read"),
        ("writes-folders", "inputs", "it changed `inputs/more/new`, which must only be read"),
        ("dies-quietly", "again", "exit status 3; before it was asked this, it had written:\nwarming up"),
        ("one-job", "again", "it ended: exit status 137\nout of memory"),
        ("not-exact", "exact", "the same process has made other bytes of the same: output `loud`"),
        ("home-in-output", "exact", "another process has made other bytes of the same: output `loud`"),
    ]);
}

#[test]
fn capabilities_that_are_not_there_are_named() {
    found(&[
        ("no-heartbeat", "heartbeat", "asked for one every 0.1 s, 0 came, then none for 0.5 s"),
        ("silent-job", "heartbeat", " s during a job"),
        ("ignores-cancel", "cancel", "asked to stop, the job has no end within 0.7 s"),
        ("deaf-after-cancel", "cancel", "asked to stop, it went: it ended: exit status 0"),
        ("redoes-units", "resume", "given 4 of 4 units: it made unit `part-0` anew"),
        ("hides-units", "resume", "given 4 of 4 units: it does not say that it found unit `part-0`"),
        ("changes-unit", "resume", "unit `part-0` was changed or removed after it was announced"),
        ("other-with-units", "resume", "given 4 of 4 units: it made other bytes than without: output `loud`"),
        ("ignores-end", "end-of-input", "it still runs 0.7 s after its standard input ended"),
        ("orphan", "processes", "left the process group, and outlived it: sleep 60"),
    ]);
}

#[test]
fn what_is_allowed_but_not_good_is_a_warning_and_what_cannot_be_tried_is_said() {
    if !python::is_here("what_is_allowed_but_not_good_is_a_warning_and_what_cannot_be_tried_is_said") {
        return;
    }
    let lab = Lab::new();
    let outcome = |defect: &str, rule: &str| {
        let report = lab.test("broken.py", &[defect], Asked::default());
        assert!(!report.failed(), "{}", report.text());
        of_rule(&report, rule).outcome.clone()
    };
    let warned = |text: &str| Outcome::Warned(text.into());
    assert_eq!(outcome("no-doc", "documented"), warned("without a doc: parameter `shout.text`"));
    let cached = "it wrote `home/.cache/shout`; what a later job reads there is in no key";
    assert_eq!(outcome("writes-cache", "scratch"), warned(cached));
    let refused = "it refuses the sample (no such voice); `--set`, `--file` and `--input` give it another";
    assert_eq!(outcome("refuses", "run"), Outcome::Skipped(refused.into()));
    let problem = "it refuses the sample (`text`: too quiet), so no job was tried; `--set` gives it another";
    assert_eq!(outcome("problems", "sample"), Outcome::Skipped(problem.into()));
}

#[test]
fn a_plugin_is_tested_behind_the_wall_that_it_will_have() {
    let test = "a_plugin_is_tested_behind_the_wall_that_it_will_have";
    if !python::is_here(test) {
        return;
    }
    let lab = Lab::new();
    if let Some(why) = lab.machine.walls().note() {
        let _unseen = writeln!(std::io::stderr(), "skipped: {test}: {why}");
        return;
    }
    let hidden = lab.dir.path().join(".hidden");
    fs::write(&hidden, "").unwrap();
    let hello = |opened: Opened| {
        let report = lab.test("broken.py", &["peeks"], Asked { opened, ..Asked::default() });
        of_rule(&report, "hello").outcome.clone()
    };
    let Outcome::Failed(why) = hello(Opened::default()) else { panic!("it reads what is hidden") };
    assert!(why.contains("PermissionError"), "{why}");
    assert_eq!(hello(Opened { reads: vec![hidden], ..Opened::default() }), Outcome::Passed);
    assert_eq!(hello(Opened { sandbox: Sandbox::Off, ..Opened::default() }), Outcome::Passed);
}

#[test]
fn a_sample_that_does_not_fit_is_refused() {
    if !python::is_here("a_sample_that_does_not_fit_is_refused") {
        return;
    }
    let lab = Lab::new();
    let refused = |name: &str, value: &str| {
        let asked = Asked { sets: vec![(name.into(), value.into())], ..Asked::default() };
        let report = lab.test("tally.py", &[], asked);
        let Outcome::Failed(why) = &of_rule(&report, "sample").outcome else { panic!("{}", report.text()) };
        why.clone()
    };
    assert_eq!(refused("tpo", "1"), "no stage type has a parameter `tpo`");
    assert_eq!(refused("top", "0"), "`top` takes an integer ≥ 1, not `0`");
    assert_eq!(refused("top", "many"), "`top` takes an integer ≥ 1, not `\"many\"`");
}

#[test]
fn a_program_that_is_no_plugin_is_told_so() {
    let report = Lab::new().test("cat", &[], Asked::default());
    let Outcome::Failed(why) = &of_rule(&report, "hello").outcome else { panic!("{}", report.text()) };
    assert_eq!(why, "it writes back what it is told: it does not speak qstage");
    let report = Lab::new().test("true", &[], Asked::default());
    let Outcome::Failed(why) = &of_rule(&report, "hello").outcome else { panic!("{}", report.text()) };
    assert_eq!(why, "it said nothing, and it ended: exit status 0");
}

#[test]
fn programs_are_found_as_a_shell_finds_them() {
    let lab = Lab::new();
    let find = |program: &str| Subject::find(program, &["x".into()], lab.dir.path(), &lab.machine);
    let shell = find("sh").unwrap();
    assert_eq!(
        (shell.program.file_name(), shell.args.as_slice()),
        (Some("sh".as_ref()), &["x".to_owned()][..])
    );
    assert!(find("nowhere.py").unwrap_err().to_string().contains("there is no program `nowhere.py`"));
    assert!(find("./nowhere").is_err());
    if python::is_here("programs_are_found_as_a_shell_finds_them") {
        let python = find("tally.py").unwrap();
        assert!(python.program.ends_with("python3"));
        assert_eq!(Path::new(&python.args[0]), lab.path("tally.py"));
    }
}
