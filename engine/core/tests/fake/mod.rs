//! Stage types that look like the built-in ones and do nothing: manifests are read against declarations alone.

#![allow(dead_code, reason = "each test uses its own part")]

use std::path::Path;

use qpipe_engine::graph::Study;
use qpipe_engine::manifest::{LoadOptions, ManifestErrors, load_study};
use qpipe_sdk::{
    ArtifactKind, Context, Determinism, KeyedChoice, NodeSpec, Outcome, ParamSpec, ParamType, Params,
    PortSpec, Schema, Stage, StageError, StageRegistry, StageSpec, Value,
};

struct Fake {
    spec: StageSpec,
    rules: fn(&Params) -> Vec<(String, String)>,
}

impl Stage for Fake {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn check(&self, params: &Params) -> Vec<(String, String)> {
        (self.rules)(params)
    }

    fn run(&self, _ctx: &Context<'_>) -> Result<Outcome, StageError> {
        Err(StageError::Bug("a fake stage cannot run".into()))
    }
}

fn fake(
    kind: &'static str,
    inputs: &[(&'static str, &'static str, bool)],
    output: &str,
    nodes: Vec<NodeSpec>,
    rules: fn(&Params) -> Vec<(String, String)>,
) -> Box<dyn Stage> {
    let port = |(name, of, required): &(&'static str, &'static str, bool)| PortSpec {
        name,
        doc: "the model it works on",
        kind: ArtifactKind::new(*of),
        required: *required,
    };
    let spec = StageSpec {
        kind,
        semantics: 1,
        doc: "",
        inputs: inputs.iter().map(port).collect(),
        output: ArtifactKind::new(output),
        schema: Schema::new(nodes),
        determinism: Determinism::Exact,
    };
    Box::new(Fake { spec, rules })
}

fn text(word: &str) -> Value {
    Value::Text(word.into())
}

const DTYPES: ParamType = ParamType::Choice(&["f16", "bf16", "f32"]);

fn load() -> Box<dyn Stage> {
    let from = NodeSpec::group("from", "where the model comes from")
        .prop(ParamSpec::new("embedded", ParamType::Choice(&["tiny"]), "a model inside the program"))
        .prop(ParamSpec::new("path", ParamType::File, "a folder with a checkpoint").location());
    let dtype = NodeSpec::value(ParamSpec::new("dtype", DTYPES, "type of the weights").default(text("f16")));
    fake("load", &[], "model", vec![from, dtype], |params| {
        if params.has("from.embedded") == params.has("from.path") {
            vec![("from".into(), "exactly one of `embedded`, `path` is needed".into())]
        } else {
            Vec::new()
        }
    })
}

fn quantize() -> Box<dyn Stage> {
    const BLOCKWISE: &[&str] = &["nf4", "fp4"];
    let scheme = ParamType::Choice(&["nf4", "fp4", "int8", "gptq"]);
    let scheme = NodeSpec::value(ParamSpec::new("scheme", scheme, "the number format").required())
        .prop(
            ParamSpec::new("block", ParamType::Int { min: 32, max: 4096 }, "block size")
                .default(Value::Int(64))
                .applies("scheme", BLOCKWISE),
        )
        .prop(
            ParamSpec::new("double-quant", ParamType::Bool, "quantize the scales too")
                .default(Value::Bool(false))
                .applies("scheme", BLOCKWISE),
        )
        .prop(
            ParamSpec::new("double-block", ParamType::at_least(1), "block size of the scales")
                .default(Value::Int(256))
                .applies("scheme.double-quant", &["true"]),
        )
        .prop(
            ParamSpec::new("calibration", ParamType::FileOr(&["synthetic"]), "calibration set")
                .required()
                .applies("scheme", &["gptq"]),
        );
    let compute = ParamSpec::new("compute-dtype", DTYPES, "type of the activations").default(text("f16"));
    let skip = ParamSpec::new("skip", ParamType::list(ParamType::Text), "modules to leave alone");
    let nodes = vec![scheme, NodeSpec::value(compute), NodeSpec::value(skip)];
    fake("quantize", &[("model", "model", true)], "model", nodes, |params| {
        match (params.int("scheme.block"), params.int("scheme.double-block")) {
            (Some(block), Some(double)) if double < block => {
                vec![("scheme.double-block".into(), "it must not be smaller than `block`".into())]
            }
            _ => Vec::new(),
        }
    })
}

fn evaluate() -> Box<dyn Stage> {
    let limit = || ParamSpec::new("limit", ParamType::at_least(1), "most items");
    let choice = |name, props| KeyedChoice { name, doc: "", props };
    let window = ParamSpec::new("window", ParamType::at_least(2), "tokens").default(Value::Int(2048));
    let tasks = vec![
        choice("boolq", vec![limit(), ParamSpec::new("data", ParamType::File, "items")]),
        choice("mmlu", vec![limit()]),
        choice("perplexity", vec![window]),
    ];
    let threshold = ParamType::Float { min: 0.0, max: 1.0 };
    let threshold = ParamSpec::new("threshold", threshold, "a gate").default(Value::Float(0.5));
    let nodes = vec![NodeSpec::keyed("task", "", true, tasks), NodeSpec::value(threshold)];
    let ports = [("model", "model", true), ("against", "model", false)];
    fake("evaluate", &ports, "evaluation", nodes, |_| Vec::new())
}

fn benchmark() -> Box<dyn Stage> {
    measured("benchmark", &[("model", "model", true)])
}

/// A benchmark of nothing: the same parameters without an input.
pub(crate) fn probe() -> Box<dyn Stage> {
    measured("probe", &[])
}

fn measured(kind: &'static str, inputs: &[(&'static str, &'static str, bool)]) -> Box<dyn Stage> {
    let count = |name, default| {
        NodeSpec::value(ParamSpec::new(name, ParamType::at_least(1), "").default(Value::Int(default)))
    };
    let batch = ParamSpec::new("batch", ParamType::list(ParamType::at_least(1)), "batch sizes")
        .default(Value::List(vec![Value::Int(1)]));
    let exclusive =
        ParamSpec::new("exclusive", ParamType::Bool, "alone on its device").default(Value::Bool(true));
    let nodes = vec![
        count("prompt", 128),
        count("generate", 32),
        NodeSpec::value(batch),
        count("repeat", 3),
        NodeSpec::value(exclusive),
    ];
    fake(kind, inputs, "benchmark", nodes, |_| Vec::new())
}

pub(crate) fn registry() -> StageRegistry {
    StageRegistry::default().with(load()).with(quantize()).with(evaluate()).with(benchmark())
}

/// Reads a manifest as `/studies/study.kdl`, with overrides. The texts that it includes stand in the same text, each
/// after a line `//# PATH`.
pub(crate) fn read(text: &str, sets: &[(&str, &str)]) -> Result<Study, ManifestErrors> {
    let mut parts = text.split("//# ");
    let text = parts.next().unwrap_or_default();
    let others: Vec<(&Path, &str)> =
        parts.filter_map(|part| part.split_once('\n')).map(|(path, text)| (Path::new(path), text)).collect();
    let files = |path: &Path| {
        let within = path.strip_prefix("/studies").unwrap_or(path);
        let found = others.iter().find(|(known, _)| *known == within).map(|(_, text)| (*text).to_owned());
        found.ok_or_else(|| std::io::Error::other("there is no such file"))
    };
    let sets: Vec<(String, String)> = sets.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let env = |name: &str| (name == "QPIPE_TEST_LIMIT").then(|| "25".to_owned());
    let options = LoadOptions { sets: &sets, sets_folder: None, env: &env, files: &files };
    load_study(Path::new("/studies/study.kdl"), text, &options, &registry())
}
