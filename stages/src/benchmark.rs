//! `benchmark`: how long a model takes to load, to read a prompt and to decode, and how much memory it holds. A
//! measurement of this machine, whose fingerprint is in the key. Warm-ups are not counted; every figure has its
//! repeats' range.

mod machine;

use std::time::Instant;

use qpipe_sdk::{
    Artifact, ArtifactKind, Better, Context, Determinism, Metric, NodeSpec, Outcome, ParamSpec, ParamType,
    Params, PortSpec, Resources, Schema, Stage, StageError, StageSpec, Value,
};
use serde_json::json;

use crate::evaluate::statistics::splitmix64;
use crate::model::generate::Decoder;
use crate::model::llama::Llama;
use crate::weights::load_model;

pub struct Benchmark {
    spec: StageSpec,
}

impl Default for Benchmark {
    fn default() -> Self {
        Self {
            spec: StageSpec {
                kind: "benchmark",
                semantics: 1,
                doc: "Measures loading, prefill, decoding and memory on this machine.",
                inputs: vec![PortSpec {
                    name: "model",
                    doc: "The model to measure.",
                    kind: ArtifactKind::new(ArtifactKind::MODEL),
                    required: true,
                }],
                output: ArtifactKind::new(ArtifactKind::BENCHMARK),
                schema: schema(),
                determinism: Determinism::Measurement,
            },
        }
    }
}

fn schema() -> Schema {
    let int = |name, default: i64, doc| {
        NodeSpec::value(ParamSpec::new(name, ParamType::at_least(1), doc).default(Value::Int(default)))
    };
    Schema::new(vec![
        int("prompt", 128, "Tokens of the prompt."),
        int("generate", 32, "Tokens to decode after it."),
        NodeSpec::value(
            ParamSpec::new(
                "batch",
                ParamType::list(ParamType::Int { min: 1, max: 1024 }),
                "Batch sizes, each measured.",
            )
            .default(Value::List(vec![Value::Int(1)])),
        ),
        int("repeat", 5, "Measurements of each figure."),
        int("warmup", 1, "Runs before them that do not count."),
        NodeSpec::value(
            ParamSpec::new(
                "exclusive",
                ParamType::Bool,
                "Let nothing else of the run run meanwhile, whatever `--jobs` says.",
            )
            .default(Value::Bool(true))
            .location(),
        ),
        crate::device::param(),
    ])
}

/// What is measured, from the parameters.
struct Plan {
    prompt: usize,
    generate: usize,
    batches: Vec<usize>,
    repeat: usize,
    warmup: usize,
}

impl Plan {
    fn of(params: &Params) -> Self {
        let int = |name: &str, default: usize| params.int(name).map_or(default, |n| n as usize);
        Self {
            prompt: int("prompt", 128),
            generate: int("generate", 32),
            batches: params.ints("batch").into_iter().map(|n| n as usize).collect(),
            repeat: int("repeat", 5),
            warmup: int("warmup", 1),
        }
    }
}

impl Stage for Benchmark {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn numerics(&self, params: &Params) -> Option<String> {
        let device = crate::device::of(params).ok()?;
        Some(format!("{}; {}", device.numerics(), machine::fingerprint()))
    }

    fn resources(&self, params: &Params, input_bytes: u64) -> Resources {
        let exclusive = params.bool("exclusive").unwrap_or(true);
        Resources { exclusive, ..crate::device::resources(params, input_bytes) }
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let device = crate::device::of_run(ctx)?;
        let (plan, input) = (Plan::of(ctx.params), ctx.input("model")?);
        machine::reset_peak_rss();
        let before = machine::peak_rss();
        let mut load = Vec::new();
        let loaded = loop {
            ctx.checkpoint()?;
            let clock = Instant::now();
            let loaded = load_model(ctx.store, input, device, plan.prompt + plan.generate)?;
            load.push(clock.elapsed().as_secs_f64());
            if load.len() >= plan.repeat {
                break loaded;
            }
        };
        check_context(&plan, &loaded.llama)?;
        let mut metrics = vec![summary("load", "s", Better::Lower, &load)];
        for (i, batch) in plan.batches.iter().enumerate() {
            metrics.extend(measure(ctx, &plan, &loaded.llama, *batch, i == 0)?);
        }
        metrics.push(Metric::new("weights", loaded.artifact.weight_bytes() as f64, "bytes", Better::Lower));
        if let (Some(before), Some(peak)) = (before, machine::peak_rss()) {
            metrics.push(Metric::new("host-rss.before", before as f64, "bytes", Better::Neither));
            metrics.push(Metric::new("host-rss.peak", peak as f64, "bytes", Better::Lower));
        }
        let document =
            json!({ "format": "qpipe.benchmark/1", "machine": machine::fingerprint(), "metrics": metrics });
        let digest = ctx.store.put_bytes(&serde_json::to_vec(&document).map_err(StageError::bug)?)?;
        Ok(Outcome { artifact: Artifact::single(ArtifactKind::BENCHMARK, digest), metrics })
    }
}

fn check_context(plan: &Plan, model: &Llama) -> Result<(), StageError> {
    let (needed, limit) = (plan.prompt + plan.generate, model.config.max_position_embeddings);
    if needed <= limit {
        return Ok(());
    }
    let message =
        format!("prompt and generated tokens together are {needed}, the model's context is {limit}");
    Err(StageError::Config(message))
}

/// Prefill and decode figures for one batch size.
fn measure(
    ctx: &Context<'_>,
    plan: &Plan,
    model: &Llama,
    batch: usize,
    headline: bool,
) -> Result<Vec<Metric>, StageError> {
    let prompts = prompts(batch, plan.prompt, model.config.vocab_size);
    let (mut prefill, mut decode, mut cache_bytes) = (Vec::new(), Vec::new(), 0);
    for i in 0..plan.warmup + plan.repeat {
        ctx.checkpoint()?;
        let clock = Instant::now();
        let mut decoder = Decoder::start(model, &prompts, plan.generate);
        let first_token = clock.elapsed().as_secs_f64();
        let clock = Instant::now();
        for _ in 1..plan.generate {
            decoder.step();
        }
        let rest = clock.elapsed().as_secs_f64();
        cache_bytes = decoder.cache_bytes();
        if i >= plan.warmup {
            prefill.push((batch * plan.prompt) as f64 / first_token);
            decode.push((batch * (plan.generate - 1)) as f64 / rest);
        }
        ctx.progress(i + 1, plan.warmup + plan.repeat, &format!("repeats at batch {batch}"));
    }
    let named = |name: &str, samples: &[f64]| {
        let metric = summary(&format!("{name}.b{batch}"), "tokens/s", Better::Higher, samples);
        if headline { metric.headline() } else { metric }
    };
    let mut metrics = vec![named("prefill", &prefill)];
    if plan.generate > 1 {
        metrics.push(named("decode", &decode));
    }
    metrics.push(Metric::new(format!("kv-cache.b{batch}"), cache_bytes as f64, "bytes", Better::Lower));
    Ok(metrics)
}

/// Prompts of arbitrary tokens, the same in every run.
fn prompts(batch: usize, length: usize, vocabulary: usize) -> Vec<Vec<u32>> {
    let mut state = 42;
    let mut token = || (splitmix64(&mut state) % vocabulary as u64) as u32;
    (0..batch).map(|_| (0..length).map(|_| token()).collect()).collect()
}

/// Median of the samples, with their range.
fn summary(name: &str, unit: &str, better: Better, samples: &[f64]) -> Metric {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |i: usize| sorted.get(i).copied().unwrap_or(f64::NAN);
    let (low, high) = (at(0), at(sorted.len() - 1));
    let median = f64::midpoint(at((sorted.len() - 1) / 2), at(sorted.len() / 2));
    Metric::new(name, median, unit, better).n(samples.len() as u64).range(low, high)
}
