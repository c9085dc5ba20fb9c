//! What a manifest means: cells, overrides, shared nodes.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod fake;

use std::collections::BTreeMap;

use fake::read;
use qpipe_engine::graph::{Cell, Node, Study};
use qpipe_engine::limits::Gpus;
use qpipe_engine::manifest::ManifestError;
use qpipe_sdk::Value;

/// The example of the design, without what is not supported yet.
const ABLATION: &str = include_str!("fake/ablation.kdl");

fn study(text: &str) -> Study {
    read(text, &[]).unwrap_or_else(|errors| panic!("{:#?}", errors.errors()))
}

fn set(text: &str, sets: &[(&str, &str)]) -> Study {
    read(text, sets).unwrap_or_else(|errors| panic!("{:#?}", errors.errors()))
}

fn refused(text: &str, sets: &[(&str, &str)]) -> Vec<ManifestError> {
    read(text, sets).unwrap_err().errors().to_vec()
}

fn names(study: &Study) -> Vec<&str> {
    study.cells.iter().map(|cell| cell.name.as_ref()).collect()
}

fn nodes_by_stage(study: &Study) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for node in &study.nodes {
        *counts.entry(node.stage.as_ref()).or_default() += 1;
    }
    counts
}

fn node<'s>(study: &'s Study, cell: &Cell, stage: &str) -> &'s Node {
    &study.nodes[cell.nodes.get(stage).unwrap().0]
}

fn replaced(from: &str, to: &str) -> String {
    assert!(ABLATION.contains(from), "`{from}` is not in the example");
    ABLATION.replace(from, to)
}

/// The stages of the example without its groups and report.
fn template() -> &'static str {
    &ABLATION[..ABLATION.find("ablate").unwrap()]
}

#[test]
fn the_example_has_five_cells_that_share_their_load() {
    let study = study(ABLATION);
    assert_eq!(study.name, "ablation");
    assert_eq!(
        names(&study),
        ["baseline", "scheme=fp4", "scheme=int8", "double-quant=false", "compute-dtype=bf16"]
    );
    let expected = [("base", 1), ("weights", 5), ("quality", 5), ("speed", 5)];
    assert_eq!(nodes_by_stage(&study), expected.into());
    let load = node(&study, &study.cells[0], "base");
    assert_eq!(load.cells.len(), 5);
    assert_eq!(load.label, "base");
    assert_eq!(study.report.columns, ["quality.boolq.f1", "weights.bytes"]);
}

#[test]
fn each_cell_has_the_override_it_is_named_after() {
    let study = study(ABLATION);
    let overrides: Vec<Vec<String>> = study
        .cells
        .iter()
        .map(|cell| cell.overrides.iter().map(|o| format!("{} = {}", o.path, o.value)).collect())
        .collect();
    assert_eq!(overrides[0], [""; 0]);
    assert_eq!(overrides[1], ["weights.scheme = fp4"]);
    assert_eq!(overrides[3], ["weights.scheme.double-quant = false"]);
    assert_eq!(overrides[4], ["weights.compute-dtype = bf16"]);
    assert!(study.cells[1..].iter().all(|cell| cell.baseline == Some(study.cells[0].id)));
    let span = study.cells[1].overrides[0].span;
    assert_eq!(study.sources.text_at(span.offset, span.len), "fp4");
}

#[test]
fn an_override_drops_what_it_makes_inapplicable() {
    let study = study(ABLATION);
    let baseline = node(&study, &study.cells[0], "weights");
    assert_eq!(baseline.params.int("scheme.double-block"), Some(256));
    let int8 = node(&study, &study.cells[2], "weights");
    assert_eq!(int8.label, "weights [scheme=int8]");
    assert_eq!(int8.params.0.keys().collect::<Vec<_>>(), ["compute-dtype", "scheme", "skip"]);
    let span = int8.spans.get("scheme").unwrap();
    assert_eq!(study.sources.text_at(span.offset, span.len), "int8");
    assert_eq!(baseline.label, "weights [baseline]");
    assert_eq!(node(&study, &study.cells[2], "quality").label, "quality [scheme=int8]");
}

#[test]
fn inputs_come_before_their_users() {
    let reversed = "qpipe 1 name=x\nevaluate e { model w; task perplexity }\nquantize w { model b; scheme int8 }\n\
                    load b { from embedded=tiny }";
    for text in [ABLATION, reversed] {
        let study = study(text);
        for node in &study.nodes {
            assert_eq!(study.nodes[node.id.0].id, node.id);
            assert!(node.inputs.ids().all(|input| input < node.id), "{node:#?}");
        }
    }
}

#[test]
fn without_groups_there_is_one_cell() {
    let study = study(template());
    assert_eq!(names(&study), ["baseline"]);
    assert_eq!(study.nodes.len(), 4);
    assert!(study.nodes.iter().all(|node| *node.label == *node.stage));
}

#[test]
fn a_sweep_is_a_cross_product_without_what_is_excluded() {
    let sweep = "sweep sizes { axis weights.scheme nf4 fp4; axis weights.scheme.block 64 128\n\
                 exclude weights.scheme=fp4 weights.scheme.block=128 }";
    let study = study(&format!("{}{sweep}", template()));
    assert_eq!(names(&study), ["scheme=nf4,block=64", "scheme=nf4,block=128", "scheme=fp4,block=64"]);
    assert_eq!(nodes_by_stage(&study)["base"], 1);
    assert_eq!(nodes_by_stage(&study)["weights"], 3);
    assert!(study.cells.iter().all(|cell| cell.baseline.is_none() && &*cell.group == "sizes"));
}

#[test]
fn a_run_is_one_cell_by_hand() {
    let run = "run small { set weights.scheme int8; set speed.batch 1 2 4 }";
    let study = study(&format!("{}{run}", template()));
    assert_eq!(names(&study), ["small"]);
    let batch = node(&study, &study.cells[0], "speed").params.ints("batch");
    assert_eq!(batch, [1, 2, 4]);
}

#[test]
fn equal_work_of_different_groups_is_one_node() {
    let more = format!(
        "{ABLATION}sweep s {{ axis weights.scheme nf4 fp4 }}\nrun plain {{ set weights.scheme nf4 }}"
    );
    let study = study(&more);
    assert_eq!(names(&study)[5..], ["scheme=nf4", "s:scheme=fp4", "plain"]);
    assert_eq!(nodes_by_stage(&study)["weights"], 5, "no new work");
    let baseline = &study.cells[0].nodes;
    assert_eq!(&study.cells[5].nodes, baseline);
    assert_eq!(&study.cells[7].nodes, baseline);
    assert_eq!(study.cells[6].nodes, study.cells[1].nodes);
}

#[test]
fn equal_stages_of_one_cell_stay_two_nodes() {
    let twice = "load again { from embedded=tiny; dtype f16 }";
    let study = study(&format!("{}{twice}", template()));
    assert_eq!(study.nodes.len(), 5);
}

#[test]
fn an_evaluation_alone_varies_downstream_nodes_only() {
    let vary = "ablate a { vary quality.task.boolq.limit 10; vary quality.task.mmlu #true }";
    let study = study(&format!("{}{vary}", template()));
    assert_eq!(names(&study), ["baseline", "boolq.limit=10", "mmlu=true"]);
    assert_eq!(nodes_by_stage(&study), [("base", 1), ("quality", 3), ("speed", 1), ("weights", 1)].into());
}

#[test]
fn a_choice_can_be_taken_out() {
    let vary = "ablate a { vary quality.task.boolq #false }";
    let study = study(&format!("{}{vary}", template()));
    let params = &node(&study, &study.cells[1], "quality").params;
    assert_eq!(
        params.0.keys().collect::<Vec<_>>(),
        ["task.perplexity", "task.perplexity.window", "threshold"]
    );
}

#[test]
fn short_names_are_full_where_they_would_be_ambiguous() {
    let second = "quantize other { model base; scheme int8 }\nablate a { vary weights.scheme fp4 }";
    let study = study(&format!("{}{second}", template()));
    assert_eq!(names(&study), ["baseline", "weights.scheme=fp4"]);
}

#[test]
fn sets_change_variables_and_parameters() {
    let sets = [("samples", "7"), ("weights.scheme.block", "128"), ("speed.batch", "2,4")];
    let study = set(ABLATION, &sets);
    let cell = &study.cells[0];
    assert_eq!(node(&study, cell, "quality").params.int("task.boolq.limit"), Some(7));
    assert_eq!(node(&study, cell, "weights").params.int("scheme.block"), Some(128));
    assert_eq!(node(&study, &study.cells[1], "weights").params.int("scheme.block"), Some(128));
    assert_eq!(node(&study, cell, "speed").params.ints("batch"), [2, 4]);
    assert_eq!(study.overrides.len(), 3);
}

#[test]
fn a_set_variable_reaches_the_variables_made_of_it() {
    let text = replaced("seed 42", "limit (var)samples").replace("(var)samples\n", "(var)limit\n");
    let study = set(&text, &[("samples", "9")]);
    assert_eq!(node(&study, &study.cells[0], "quality").params.int("task.boolq.limit"), Some(9));
}

#[test]
fn a_set_that_makes_parameters_inapplicable_drops_them() {
    let study = set(template(), &[("weights.scheme", "int8")]);
    assert!(!node(&study, &study.cells[0], "weights").params.has("scheme.block"));
    let errors = refused(template(), &[("weights.scheme", "int8"), ("weights.scheme.block", "64")]);
    assert!(matches!(&errors[..], [ManifestError::BadSet { .. }]), "{errors:?}");
}

#[test]
fn a_set_equal_to_a_varied_value_is_refused() {
    let errors = refused(ABLATION, &[("weights.scheme", "fp4")]);
    assert!(matches!(&errors[..], [ManifestError::VariesNothing { .. }]), "{errors:?}");
}

#[test]
fn bad_sets_are_refused_together() {
    let sets = [
        ("sampels", "1"),
        ("weigths.scheme", "fp4"),
        ("weights.shceme", "fp4"),
        ("weights.model", "base"),
        ("weights.scheme", "fp5"),
        ("weights.scheme.block", "many"),
        ("weights.scheme.block", "1"),
    ];
    let errors = refused(ABLATION, &sets);
    let lines: Vec<String> = errors
        .iter()
        .map(|error| {
            let help =
                miette::Diagnostic::help(error).map(|help| format!("  help: {help}")).unwrap_or_default();
            format!("{error}\n{help}")
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn files_and_the_environment_come_from_outside() {
    let text = replaced("limit=(var)samples", "limit=(env)QPIPE_TEST_LIMIT data=(file)\"data/boolq.jsonl\"");
    let study = study(&text);
    let params = &node(&study, &study.cells[0], "quality").params;
    assert_eq!(params.int("task.boolq.limit"), Some(25));
    assert_eq!(params.get("task.boolq.data"), Some(&Value::File("/studies/data/boolq.jsonl".into())));
}

#[test]
fn comments_and_layout_do_not_change_the_expansion() {
    let plain = study(ABLATION);
    let other = study(&replaced(
        "    dtype f16\n",
        "    /* a comment */ dtype \\\n  f16 // more\n    /- dtype bf16\n",
    ));
    let params = |study: &Study| study.nodes.iter().map(|node| node.params.clone()).collect::<Vec<_>>();
    assert_eq!(params(&plain), params(&other));
}

#[test]
fn ten_thousand_cells_are_expanded_one_by_one() {
    let values = |count: usize| (1..=count).map(|value| value.to_string()).collect::<Vec<_>>().join(" ");
    let (fifty, four) = (values(50), values(4));
    let sweep = format!(
        "sweep large {{ axis speed.prompt {fifty}; axis speed.generate {fifty}; axis speed.repeat {four} }}"
    );
    let study = study(&format!("{}{sweep}", template()));
    assert_eq!(study.cells.len(), 10_000);
    assert_eq!(nodes_by_stage(&study)["speed"], 10_000);
    assert_eq!(nodes_by_stage(&study)["quality"], 1);
}

/// The example, its load moved to a file of its own in a folder of its own.
fn divided() -> String {
    let load = &ABLATION[ABLATION.find("load").unwrap()..ABLATION.find("quantize").unwrap()];
    let rest = ABLATION.replace(load, "include \"parts/base.kdl\"\n");
    let load = load.replace("embedded=tiny", "path=\"models/tiny\"");
    format!("{rest}\n//# parts/base.kdl\nqpipe 1 name=parts\n{load}")
}

#[test]
fn an_include_stands_for_its_nodes_and_its_paths_start_from_it() {
    let study = study(&divided());
    assert_eq!(study.cells.len(), 5);
    assert_eq!((study.name.as_str(), study.sources.includes().len()), ("ablation", 1));
    let load = node(&study, &study.cells[0], "base");
    let path = Value::File("/studies/parts/models/tiny".into());
    assert_eq!(load.params.get("from.path"), Some(&path));
    let span = load.spans.get("from.path").unwrap();
    assert_eq!(study.sources.text_at(span.offset, span.len), "path=\"models/tiny\"");
    assert_eq!(study.sources.place(span.offset), "base.kdl:3:10");
}

#[test]
fn the_digest_of_a_study_covers_its_includes() {
    let text = divided();
    let digest = |text: &str| study(text).sources.digest();
    assert_eq!(digest(&text), digest(&text));
    assert_ne!(digest(&text), digest(&text.replace("models/tiny", "models/other")));
    assert_ne!(digest(&text), digest(&text.replace("seed 42", "seed 43")));
}

#[test]
fn a_variable_with_a_path_keeps_the_folder_it_was_written_in() {
    let text = "qpipe 1 name=x\ninclude \"parts/vars.kdl\"\nload base { from path=(var)model }\n\
                //# parts/vars.kdl\nqpipe 1\nvars { model \"tiny\" }\n";
    let load = &study(text).nodes[0];
    assert_eq!(load.params.get("from.path"), Some(&Value::File("/studies/parts/tiny".into())));
}

fn with_defaults(defaults: &str) -> Study {
    study(&ABLATION.replacen("load base", &format!("defaults {{ {defaults} }}\nload base"), 1))
}

#[test]
fn defaults_fill_in_what_a_stage_does_not_say() {
    let text = replaced("    compute-dtype f16\n", "");
    let text = text.replacen("load base", "defaults { quantize { compute-dtype f32 } }\nload base", 1);
    let study = study(&text);
    let weights = node(&study, &study.cells[0], "weights");
    assert_eq!(weights.params.text("compute-dtype"), Some("f32"));
    let span = weights.spans.get("compute-dtype").unwrap();
    assert_eq!(study.sources.place(span.offset), "ablation.kdl:5:37".replace("ablation", "study"));
    let own = with_defaults("quantize { compute-dtype f32 }");
    assert_eq!(node(&own, &own.cells[0], "weights").params.text("compute-dtype"), Some("f16"));
}

#[test]
fn a_default_that_does_not_apply_is_dropped() {
    let text = "qpipe 1 name=x\ndefaults { quantize { scheme block=128 } }\nload b { from embedded=tiny }\n\
                quantize w { model b; scheme int8 }\nquantize v { model b; scheme nf4 }";
    let study = study(text);
    let params = |stage| &node(&study, &study.cells[0], stage).params;
    assert!(!params("w").has("scheme.block"));
    assert_eq!(params("v").int("scheme.block"), Some(128));
}

#[test]
fn a_group_and_a_choice_are_taken_as_the_stage_writes_them() {
    let study = with_defaults("load { from path=\"elsewhere\" }; evaluate { task mmlu; task boolq limit=3 }");
    assert!(!node(&study, &study.cells[0], "base").params.has("from.path"));
    let quality = &node(&study, &study.cells[0], "quality").params;
    assert_eq!((quality.has("task.mmlu"), quality.int("task.boolq.limit")), (false, Some(500)));
    let bare = "qpipe 1 name=x\ndefaults { load { from embedded=tiny }; evaluate { task boolq limit=3 } }\n\
                load b\nevaluate e { model b }\nevaluate f { model b; task mmlu }";
    let study = self::study(bare);
    assert_eq!(node(&study, &study.cells[0], "e").params.int("task.boolq.limit"), Some(3));
    assert!(!node(&study, &study.cells[0], "f").params.has("task.boolq"));
}

#[test]
fn defaults_say_what_a_failure_means() {
    use qpipe_engine::run::FailureMode;
    assert_eq!(study(ABLATION).failure, None);
    assert_eq!(with_defaults("failure keep-going").failure, Some(FailureMode::KeepGoing));
    assert_eq!(with_defaults("failure skip-dependents").failure, Some(FailureMode::KeepGoing));
}

#[test]
fn defaults_say_what_a_run_may_spend_on_a_node() {
    use std::time::Duration;
    let limits = with_defaults(
        "retry 3 wait=(ms)250
         timeout (min)30 quantize=(h)2 weights=(s)90
         resources { memory load=(GiB)1.5; gpus 2 0 }",
    )
    .limits;
    let retry = limits.retry.unwrap();
    assert_eq!((retry.times, retry.wait), (3, Duration::from_millis(250)));
    let timeout = |stage, kind| limits.timeout.get(stage, kind).map(|time| time.as_secs());
    assert_eq!(timeout("weights", "quantize"), Some(90));
    assert_eq!(timeout("other", "quantize"), Some(7200));
    assert_eq!(timeout("base", "load"), Some(1800));
    assert_eq!((limits.memory.get("base", "load"), limits.memory.all), (Some(3 << 29), None));
    assert_eq!(limits.gpus, Some(Gpus::These(vec![2, 0])));
    assert_eq!(with_defaults("resources { gpus all }").limits.gpus, Some(Gpus::All));
}
