//! Metrics as an artifact: stages that read what others tell, and make what they tell.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "../../../tests/support/python.rs"]
mod python;

mod hows;
mod plugin_lab;

use hows::hows;
use plugin_lab::{KIT, PluginLab, failure, told, why};
use qpipe_engine::exec::with_exec;
use qpipe_engine::graph::Study;
use qpipe_engine::plan::NodeState;
use qpipe_engine::run::{NodeResult, RunOptions, RunResult, metrics};
use qpipe_sdk::metrics::Measured;
use qpipe_sdk::{
    ArtifactKind, Better, Context, Determinism, ErrorClass, Metric, NodeSpec, Outcome, ParamSpec, ParamType,
    PortSpec, Schema, Stage, StageError, StageRegistry, StageSpec, Value,
};

fn lab(test: &str) -> Option<PluginLab> {
    python::is_here(test).then(|| PluginLab::new(&["tests/plugins/numbers.py", KIT]))
}

/// A stage type of the program that doubles every number, or lies.
struct Twice(StageSpec);

impl Twice {
    fn new() -> Self {
        let lies = ParamSpec::new("lies", ParamType::Bool, "Whether it lies.").default(Value::Bool(false));
        let kind = ArtifactKind::new(ArtifactKind::METRICS);
        Self(StageSpec {
            kind: "twice",
            semantics: 1,
            doc: "Doubles numbers.",
            inputs: vec![PortSpec { name: "of", doc: "The numbers.", kind: kind.clone(), required: true }],
            output: kind,
            schema: Schema::new(vec![NodeSpec::value(lies)]),
            determinism: Determinism::Exact,
        })
    }
}

impl Stage for Twice {
    fn spec(&self) -> &StageSpec {
        &self.0
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let read = ctx.measured("of")?;
        let twice = |metric: &Metric| Metric { value: 2.0 * metric.value, ..metric.clone() };
        let outcome = Outcome::of_metrics(ctx.store, "twice", read.metrics.iter().map(twice).collect())?;
        let lies = ctx.params.get("lies") == Some(&Value::Bool(true));
        Ok(Outcome { metrics: if lies { read.metrics } else { outcome.metrics }, ..outcome })
    }
}

fn load(lab: &PluginLab, text: &str) -> Result<(Study, StageRegistry), String> {
    let own = with_exec(StageRegistry::default(), &lab.machine).with(Box::new(Twice::new()));
    let plugin = |kind: &str| format!("plugin {kind} command=\"python3\" \"numbers.py\"\n");
    let text = format!("{}{}{text}", plugin("count"), plugin("ratio"));
    let registry = lab.plugins(&text, &own, Some(&lab.store)).map_err(told)?;
    Ok((lab.study(&text, &registry).map_err(told)?, registry))
}

fn run(lab: &PluginLab, text: &str) -> RunResult {
    let (study, registry) = load(lab, text).unwrap();
    lab.run_study(&study, &registry, &RunOptions::default()).0
}

fn states(lab: &PluginLab, text: &str) -> Vec<NodeState> {
    let (study, registry) = load(lab, text).unwrap();
    lab.plan(&study, &registry).nodes.into_iter().map(|node| node.state).collect()
}

fn value(node: &NodeResult) -> f64 {
    metrics::decode(&node.record().unwrap().metrics).unwrap()[0].value
}

const STUDY: &str = r#"
count many {
    text "a b c d e f"
}
count few {
    text "a b"
}
ratio both {
    of many
    to few
    metric words
}
"#;

#[test]
fn a_stage_reads_what_two_others_tell() {
    let Some(lab) = lab("a_stage_reads_what_two_others_tell") else { return };
    let result = run(&lab, STUDY);
    assert_eq!(hows(&result.nodes), "rrr", "{result:?}");
    assert_eq!(value(&result.nodes[2]).to_bits(), 3.0_f64.to_bits());
    // what it told is what it made
    let record = result.nodes[2].record().unwrap();
    assert_eq!(record.outputs["out"].kind, "metrics");
    let made = Measured::read(&lab.store.read(&record.outputs["out"].digest).unwrap()).unwrap();
    assert_eq!(made.stage, "ratio");
    assert_eq!(made.metrics, [Metric::new("words", 3.0, "", Better::Neither).headline()]);
    assert_eq!(hows(&run(&lab, STUDY).nodes), "ccc");
    assert!(states(&lab, STUDY).iter().all(|state| matches!(state, NodeState::Hit(_))));
}

#[test]
fn equal_numbers_are_equal_inputs_and_others_are_a_reason() {
    let Some(lab) = lab("equal_numbers_are_equal_inputs_and_others_are_a_reason") else { return };
    assert_eq!(hows(&run(&lab, STUDY).nodes), "rrr");
    // other content, the same numbers
    let same = STUDY.replace("\"a b\"", "\"x y\"");
    assert_eq!(hows(&run(&lab, &same).nodes), "crc");
    assert_eq!(hows(&run(&lab, &same).nodes), "ccc");
    let fewer = STUDY.replace("\"a b\"", "\"a\"");
    let without = fewer.split("ratio").next().unwrap().to_owned();
    assert_eq!(hows(&run(&lab, &without).nodes), "cr");
    let reasons = why(&states(&lab, &fewer)[2]);
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(reasons[0].starts_with("input `to` has other content: `few` gave "), "{reasons:?}");
    let result = run(&lab, &fewer);
    assert_eq!((hows(&result.nodes).as_str(), value(&result.nodes[2])), ("ccr", 6.0));
}

#[test]
fn every_stage_has_metrics_to_read() {
    let Some(lab) = lab("every_stage_has_metrics_to_read") else { return };
    let text = r#"
exec told {
    command sh "-c" "echo '{\"words\": 10}' >m.json; echo done >out"
    output made "out"
    metrics "m.json"
}
count none {
    text ""
}
ratio plain {
    of told
    to none
    metric words
}
twice double {
    of plain
}
ratio again {
    of double
    to told
    metric words
}
"#;
    let result = run(&lab, text);
    assert_eq!(hows(&result.nodes), "rrrrr", "{result:?}");
    let values: Vec<f64> = result.nodes.iter().map(value).collect();
    assert_eq!(values, [10.0, f64::NEG_INFINITY, -0.0, -0.0, -0.0]);
    assert_eq!(hows(&run(&lab, text).nodes), "ccccc");
}

#[test]
fn what_cannot_be_read_so_is_said() {
    let Some(lab) = lab("what_cannot_be_read_so_is_said") else { return };
    let missing = run(&lab, &STUDY.replace("metric words", "metric letters"));
    let text = "`count` tells no metric `letters`, only `words`";
    assert_eq!(failure(&missing), (ErrorClass::Config, text.to_owned()));
    let lies = run(&lab, &format!("{STUDY}twice wrong {{\n of both\n lies #true\n}}"));
    let text = "`twice` returned other metrics as its artifact than it told";
    assert_eq!(failure(&lies), (ErrorClass::Bug, text.to_owned()));
    let nowhere = load(&lab, "twice wrong {\n of nobody\n}").err().unwrap();
    assert_eq!(nowhere, "unknown stage `nobody`");
}
