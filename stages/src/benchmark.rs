//! `benchmark`: how long a model takes to load, to read a prompt and to decode, and how much memory it holds. A
//! measurement of this machine, whose fingerprint is in the key. Warm-ups are not counted; every figure has its
//! repeats' range. `docs/measuring.md` says what each figure means.

mod energy;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(not(feature = "cuda"))]
#[path = "benchmark/no_gpu.rs"]
mod gpu;
mod instruments;
mod measure;

use std::time::Instant;

use qpipe_sdk::{
    Artifact, ArtifactKind, Better, Context, Determinism, Metric, NodeSpec, Outcome, ParamSpec, ParamType,
    Params, PortSpec, Resources, Schema, Stage, StageError, StageSpec, Value,
};
use serde_json::json;

use crate::artifact::ModelArtifact;
use crate::device::ComputeDevice;
use crate::machine;
use crate::model::cache::KvCache;
use crate::model::generate::check_context;
use crate::weights::{LoadedModel, load_model};
use instruments::Instruments;
use measure::{Shape, measure, summary};

pub struct Benchmark {
    spec: StageSpec,
}

impl Default for Benchmark {
    fn default() -> Self {
        Self {
            spec: StageSpec {
                kind: "benchmark",
                semantics: 3,
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
        NodeSpec::value(
            ParamSpec::new(
                "prompt",
                ParamType::list(ParamType::at_least(1)),
                "Lengths of prompts in tokens, each measured with each batch size.",
            )
            .default(Value::List(vec![Value::Int(128)])),
        ),
        int("generate", 32, "Tokens to decode after each prompt."),
        NodeSpec::value(
            ParamSpec::new(
                "batch",
                ParamType::list(ParamType::Int { min: 1, max: 1024 }),
                "Batch sizes: sequences decoded together.",
            )
            .default(Value::List(vec![Value::Int(1)])),
        ),
        int("repeat", 5, "Measurements of each figure."),
        int("warmup", 1, "Runs before them that do not count; the first one of a shape is its first use."),
        NodeSpec::value(ParamSpec::new(
            "price-per-hour",
            ParamType::Float { min: 0.0, max: f64::INFINITY },
            "Price of an hour of the machine in US dollars; gives the cost of a million decoded tokens.",
        )),
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
    prompts: Vec<usize>,
    batches: Vec<usize>,
    generate: usize,
    repeat: usize,
    warmup: usize,
    /// US dollars.
    price_per_hour: Option<f64>,
}

impl Plan {
    fn of(params: &Params) -> Self {
        let int = |name: &str, default: usize| params.int(name).map_or(default, |n| n as usize);
        let ints = |name: &str| params.ints(name).into_iter().map(|n| n as usize).collect();
        Self {
            prompts: ints("prompt"),
            batches: ints("batch"),
            generate: int("generate", 32),
            repeat: int("repeat", 5),
            warmup: int("warmup", 1),
            price_per_hour: params.float("price-per-hour"),
        }
    }

    /// Every batch size with every length of prompt, in the order given.
    fn shapes(&self) -> impl Iterator<Item = Shape> + '_ {
        self.batches
            .iter()
            .flat_map(|batch| self.prompts.iter().map(|prompt| Shape { batch: *batch, prompt: *prompt }))
    }

    /// Tokens of the longest sequence.
    fn positions(&self) -> usize {
        self.prompts.iter().max().copied().unwrap_or(0) + self.generate
    }
}

impl Stage for Benchmark {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn numerics(&self, params: &Params) -> Option<String> {
        let device = crate::device::of(params).ok()?;
        Some(format!("{}; {}", device.numerics(), machine::fingerprint(device)))
    }

    fn resources(&self, params: &Params, input_bytes: u64) -> Resources {
        let exclusive = params.bool("exclusive").unwrap_or(true);
        Resources { exclusive, ..crate::device::resources(params, input_bytes) }
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let device = crate::device::of_run(ctx)?;
        device.computing(|| run(ctx, device))
    }
}

fn run(ctx: &Context<'_>, device: ComputeDevice) -> Result<Outcome, StageError> {
    let plan = Plan::of(ctx.params);
    check_fits(ctx, &plan, device)?;
    device.release();
    machine::reset_peak_rss();
    let before = machine::peak_rss();
    let (loaded, mut metrics) = load(ctx, &plan, device)?;
    let instruments = Instruments::of(device);
    for (i, shape) in plan.shapes().enumerate() {
        let figures = measure(ctx, &plan, &loaded.llama, shape, &instruments)?;
        metrics.extend(figures.into_iter().map(|m| if i == 0 { shown(m) } else { m }));
    }
    metrics.push(Metric::new("weights", loaded.artifact.weight_bytes() as f64, "bytes", Better::Lower));
    if let (Some(before), Some(peak)) = (before, machine::peak_rss()) {
        metrics.push(Metric::new("host-rss.before", before as f64, "bytes", Better::Neither));
        metrics.push(Metric::new("host-rss.peak", peak as f64, "bytes", Better::Lower));
    }
    metrics.extend(device_memory(&loaded));
    let document = json!({
        "format": "qpipe.benchmark/2", "machine": machine::fingerprint(device), "metrics": metrics,
    });
    let digest = ctx.store.put_bytes(&serde_json::to_vec(&document).map_err(StageError::bug)?)?;
    Ok(Outcome { artifact: Artifact::single(ArtifactKind::BENCHMARK, digest), metrics })
}

/// What cannot work is said before anything is loaded.
fn check_fits(ctx: &Context<'_>, plan: &Plan, device: ComputeDevice) -> Result<(), StageError> {
    let config = ModelArtifact::read(ctx.store, ctx.input("model")?)?.config;
    let longest = plan.positions() - plan.generate;
    check_context(longest, plan.generate, config.max_position_embeddings).map_err(StageError::config)?;
    let batch = plan.batches.iter().max().copied().unwrap_or(1);
    if device == ComputeDevice::Cpu {
        let what = format!("the KV cache of {batch} sequences of {} tokens", plan.positions());
        machine::check_memory(&what, KvCache::bytes_for(&config, batch, plan.positions()))?;
    }
    Ok(())
}

/// Loads the model as often as asked: the first time with its files as the page cache holds them, then with all of them
/// in it.
fn load(
    ctx: &Context<'_>,
    plan: &Plan,
    device: ComputeDevice,
) -> Result<(LoadedModel, Vec<Metric>), StageError> {
    let input = ctx.input("model")?;
    let timed = || {
        ctx.checkpoint()?;
        let clock = Instant::now();
        let loaded = load_model(ctx.store, input, device, plan.positions())?;
        Ok::<_, StageError>((loaded, clock.elapsed().as_secs_f64()))
    };
    let (mut loaded, first) = timed()?;
    let mut warm = Vec::new();
    for _ in 0..plan.repeat {
        // one copy at a time: the peak is to be that of a model in use
        drop(loaded);
        let seconds;
        (loaded, seconds) = timed()?;
        warm.push(seconds);
    }
    let first = Metric::new("load.first", first, "s", Better::Lower).n(1);
    Ok((loaded, vec![first, summary("load.warm", "s", Better::Lower, &warm)]))
}

/// Of the first shape, what the study's table shows; the rest is in the record.
fn shown(metric: Metric) -> Metric {
    let headline = ["prefill.", "decode.", "cost."].iter().any(|kind| metric.name.starts_with(kind));
    if headline { metric.headline() } else { metric }
}

/// What the device's allocator holds after the measurements, and has reserved at most; absent where it does not tell.
fn device_memory(loaded: &LoadedModel) -> Vec<Metric> {
    let Some(usage) = loaded.llama.device.memory_pool_usage() else { return Vec::new() };
    let bytes = |name, value: u64| Metric::new(name, value as f64, "bytes", Better::Lower);
    vec![
        bytes("device-memory.in-use", usage.bytes_in_use),
        bytes("device-memory.reserved", usage.bytes_reserved),
    ]
}
