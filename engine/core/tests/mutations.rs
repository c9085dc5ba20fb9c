//! A manifest with every construct, run once; then each field is changed in turn. Exactly the nodes that depend on
//! the field run again, and the reason names it. What means the same runs nothing.

mod lab;

use std::collections::BTreeSet;

use lab::Lab;
use qpipe_engine::graph::Study;
use qpipe_engine::manifest::{LoadOptions, load_study};
use qpipe_engine::plan::NodeState;
use qpipe_engine::run::{How, NodeResult, RunEventKind, RunOptions};

const BASE: &str = "\
qpipe 1
load base {
    text weights
}
load other {
    from path=\"data.bin\"
}
";

const MANIFEST: &str = "\
qpipe 1 name=lab
vars {
    task boolq
    spare 7
}
include \"base.kdl\"
defaults {
    failure keep-going
    quantize { scheme nf4 }
}
quantize weights {
    model base
}
quantize second {
    model other
    scheme int8
}
evaluate quality {
    model weights
    task (var)task
}
evaluate check {
    model second
    task mmlu
}
ablate one-at-a-time {
    vary weights.scheme fp4
}
sweep sizes {
    axis weights.scheme a b
    axis quality.task x y
    exclude weights.scheme=a quality.task=y
}
run by-hand {
    set second.scheme nf5
}
report { table { column \"quality.boolq.f1\" } }
";

/// The two texts of a study, and the file that one stage reads.
#[derive(Clone)]
struct Texts {
    manifest: String,
    base: String,
    data: &'static str,
}

impl Texts {
    fn original() -> Self {
        Self { manifest: MANIFEST.into(), base: BASE.into(), data: "data" }
    }

    fn manifest(from: &str, to: &str) -> Self {
        let mut texts = Self::original();
        texts.manifest = replaced(&texts.manifest, from, to);
        texts
    }

    fn base(from: &str, to: &str) -> Self {
        let mut texts = Self::original();
        texts.base = replaced(&texts.base, from, to);
        texts
    }

    fn study(&self, lab: &Lab, sets: &[(String, String)]) -> Study {
        lab.file("data.bin", self.data.as_bytes());
        lab.file("base.kdl", self.base.as_bytes());
        let files = |path: &std::path::Path| std::fs::read_to_string(path);
        let options = LoadOptions { sets, files: &files, ..LoadOptions::default() };
        let path = lab.dir.path().join("lab.kdl");
        load_study(&path, &self.manifest, &options, &lab.registry())
            .unwrap_or_else(|e| panic!("{:#?}", e.errors()))
    }
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "`{from}` is not unique in the manifest");
    text.replace(from, to)
}

/// The labels of the nodes that ran, and every reason that was given.
fn run(lab: &Lab, study: &Study) -> (BTreeSet<String>, String) {
    let (result, events) = lab.run_with(study, &lab.plan(study), &RunOptions::default());
    let ran = |(node, result): (_, &NodeResult)| {
        let node: &qpipe_engine::graph::Node = node;
        matches!(result, NodeResult::Done { how: How::Ran, .. }).then(|| node.label.clone())
    };
    let labels = study.nodes.iter().zip(&result.nodes).filter_map(ran).collect();
    let reasons: Vec<String> = events
        .iter()
        .filter_map(|event| match &event.kind {
            RunEventKind::NodeStarted { label, why, .. } => Some(format!("{label}: {}", why.join("; "))),
            _ => None,
        })
        .collect();
    (labels, reasons.join("\n"))
}

fn first_run() -> Lab {
    let lab = Lab::new();
    let study = Texts::original().study(&lab, &[]);
    let (ran, _) = run(&lab, &study);
    assert_eq!(ran.len(), lab.runs(), "{ran:?}");
    assert!(lab.plan(&study).nodes.iter().all(|node| matches!(node.state, NodeState::Hit(_))));
    lab
}

/// Changes one thing after a first run: `expected` nodes run again, and among the reasons stands `reason`.
fn changed(texts: &Texts, sets: &[(&str, &str)], expected: &[&str], reason: &str) {
    let lab = first_run();
    let sets: Vec<(String, String)> = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let (ran, reasons) = run(&lab, &texts.study(&lab, &sets));
    let expected: BTreeSet<String> = expected.iter().map(|label| (*label).to_owned()).collect();
    assert_eq!(ran, expected, "\n{reasons}");
    assert!(reasons.contains(reason), "`{reason}` is not in\n{reasons}");
}

fn unchanged(texts: &Texts) {
    let lab = first_run();
    let (ran, reasons) = run(&lab, &texts.study(&lab, &[]));
    assert_eq!(ran, BTreeSet::new(), "\n{reasons}");
}

/// Every node below `base`: the first stage's content reaches all schemes and tasks.
const WEIGHTS: [&str; 4] = [
    "weights [baseline]",
    "weights [weights.scheme=fp4]",
    "weights [weights.scheme=a]",
    "weights [weights.scheme=b]",
];

#[test]
fn a_parameter_in_an_include_reaches_all_that_depends_on_it() {
    let lab = first_run();
    let study = Texts::base("text weights", "text other").study(&lab, &[]);
    let (ran, reasons) = run(&lab, &study);
    let first: Vec<&String> = ran.iter().filter(|label| !label.starts_with("quality")).collect();
    let mut expected: Vec<&str> = WEIGHTS.into_iter().chain(["base"]).collect();
    expected.sort_unstable();
    assert_eq!(first, expected);
    assert!(
        reasons.contains("base: `base.text` changed from `weights` to `other` (base.kdl:3:10)"),
        "{reasons}"
    );
    assert!(
        reasons.contains("weights [baseline]: input `model` has other content: `base` gave "),
        "{reasons}"
    );
    assert_eq!(ran.iter().filter(|label| label.starts_with("quality")).count(), 5, "{ran:?}");
}

#[test]
fn a_default_is_the_reason_where_a_stage_takes_it() {
    let texts = Texts::manifest("quantize { scheme nf4 }", "quantize { scheme nf3 }");
    let expected = ["weights [baseline]", "quality [baseline]"];
    changed(&texts, &[], &expected, "`weights.scheme` changed from `nf4` to `nf3` (lab.kdl:9:23)");
}

#[test]
fn a_stages_own_parameter_re_runs_it_and_its_users() {
    let texts = Texts::manifest("scheme int8", "scheme int4");
    let expected = ["second [baseline]", "check [baseline]"];
    changed(&texts, &[], &expected, "`second.scheme` changed from `int8` to `int4` (lab.kdl:16:12)");
}

#[test]
fn a_variable_re_runs_what_uses_it() {
    let texts = Texts::manifest("task boolq", "task hellaswag");
    let expected = ["quality [baseline]", "quality [weights.scheme=fp4]"];
    changed(&texts, &[], &expected, "`quality.task` changed from `boolq` to `hellaswag`");
    changed(&Texts::original(), &[("task", "hellaswag")], &expected, "`quality.task` changed from `boolq`");
}

#[test]
fn a_set_parameter_re_runs_what_it_sets() {
    let expected = ["check [baseline]", "check [by-hand]"];
    changed(
        &Texts::original(),
        &[("check.task", "arc")],
        &expected,
        "`check.task` changed from `mmlu` to `arc`",
    );
}

#[test]
fn a_sources_content_re_runs_what_reads_it() {
    let texts = Texts { data: "other data", ..Texts::original() };
    let expected = ["other", "second [baseline]", "second [by-hand]", "check [baseline]", "check [by-hand]"];
    changed(&texts, &[], &expected, "source `from.path` has other content");
}

#[test]
fn a_varied_value_re_runs_its_cell_alone() {
    let texts = Texts::manifest("vary weights.scheme fp4", "vary weights.scheme fp3");
    changed(
        &texts,
        &[],
        &["weights [weights.scheme=fp3]", "quality [weights.scheme=fp3]"],
        "weights [weights.scheme=fp3]: never ran",
    );
}

#[test]
fn a_new_value_of_an_axis_runs_its_cells_alone() {
    let texts = Texts::manifest("axis quality.task x y", "axis quality.task x y z");
    let expected = ["quality [weights.scheme=a,quality.task=z]", "quality [weights.scheme=b,quality.task=z]"];
    changed(&texts, &[], &expected, "never ran");
}

#[test]
fn an_exclusion_that_is_taken_back_runs_its_cell_alone() {
    let texts = Texts::manifest("    exclude weights.scheme=a quality.task=y\n", "");
    changed(&texts, &[], &["quality [weights.scheme=a,quality.task=y]"], "never ran");
}

#[test]
fn a_cell_by_hand_re_runs_alone() {
    let texts = Texts::manifest("set second.scheme nf5", "set second.scheme nf6");
    let expected = ["second [by-hand]", "check [by-hand]"];
    changed(&texts, &[], &expected, "`second.scheme` changed from `nf5` to `nf6` (lab.kdl:35:23)");
}

#[test]
fn another_input_re_runs_its_user() {
    let texts = Texts::manifest("model second", "model weights");
    let lab = first_run();
    let (ran, reasons) = run(&lab, &texts.study(&lab, &[]));
    assert!(ran.iter().all(|label| label.starts_with("check")), "{ran:?}");
    assert!(
        reasons.contains("check [baseline]: input `model` has other content: `weights [baseline]` gave "),
        "{reasons}"
    );
}

#[test]
fn what_means_the_same_runs_nothing() {
    for (from, to) in [
        ("qpipe 1 name=lab\n", "// a comment\nqpipe 1 name=lab /* and another */\n"),
        ("    model base\n", "\n\n  model /- second base // aligned\n"),
        ("failure keep-going", "failure fail-fast"),
        ("spare 7", "spare 8"),
        ("    task (var)task\n", "    task boolq\n"),
        ("    scheme int8\n", "    scheme \"int8\"\n"),
        ("report { table { column \"quality.boolq.f1\" } }\n", ""),
        ("ablate one-at-a-time", "ablate another-name"),
        ("run by-hand", "run with-another-name"),
        ("quantize { scheme nf4 }", "quantize { scheme nf4 }; evaluate { task unused }"),
    ] {
        unchanged(&Texts::manifest(from, to));
    }
}

#[test]
fn the_studys_name_and_the_stages_names_are_in_no_key() {
    unchanged(&Texts::manifest("name=lab", "name=renamed"));
    let renamed = MANIFEST.replace("weights", "codes").replace("quality", "score");
    unchanged(&Texts { manifest: renamed, ..Texts::original() });
    let base = BASE.replace("load base", "load origin");
    let manifest = MANIFEST.replace("model base", "model origin");
    unchanged(&Texts { manifest, base, ..Texts::original() });
}

#[test]
fn order_and_layout_are_in_no_key() {
    let (stages, check) =
        (MANIFEST.find("quantize weights").unwrap(), MANIFEST.find("evaluate check").unwrap());
    let groups = MANIFEST.find("ablate").unwrap();
    let reordered =
        [&MANIFEST[..stages], &MANIFEST[check..groups], &MANIFEST[stages..check], &MANIFEST[groups..]];
    unchanged(&Texts { manifest: reordered.concat(), ..Texts::original() });
    let formatted =
        qpipe_engine::manifest::format(std::path::Path::new("lab.kdl"), &MANIFEST.replace("    ", "\t"))
            .unwrap();
    unchanged(&Texts { manifest: formatted, ..Texts::original() });
    let together = MANIFEST.replace("include \"base.kdl\"\n", BASE.strip_prefix("qpipe 1\n").unwrap());
    unchanged(&Texts { manifest: together, ..Texts::original() });
}
