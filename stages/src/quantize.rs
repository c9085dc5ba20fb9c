//! `quantize`: linear layers become packed ones, module by module, each module a unit of its own.
//!
//! | unit | key | makes |
//! |---|---|---|
//! | codes | scheme, block, the weight | `codes`, `absmax` |
//! | double quantization | the codes' blob, the weight | `absmax_codes`, `absmax_offset`, `nested_absmax` |
//! | int8 | the weight | `codes`, `scb` |
//! | rtn | bits, group, symmetric, the weight | `codes`, `scales`, `zeros` |
//!
//! So a scheme with and without double quantization shares its packed codes, LLM.int8 shares them with
//! int8-weight-only, and a killed run continues with the next module. A weight is named by its blob's content and its
//! name there. A unit reads the mapped checkpoint in its own dtype; no weight is ever held in f32.

mod four_bit;
mod int8;
mod rtn;
mod rules;
mod scheme;
mod unit;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use qpipe_sdk::{
    ArtifactKind, Better, Context, Determinism, Metric, Names, NodeSpec, Outcome, ParamSpec, ParamType,
    Params, PortSpec, Schema, Stage, StageError, StageSpec, Value,
};

use crate::artifact::{Encoding, ModelArtifact, Module};
use crate::weights::BlobReader;
use rules::Rules;
use scheme::Scheme;
use unit::UnitStats;

pub struct Quantize {
    spec: StageSpec,
}

impl Default for Quantize {
    fn default() -> Self {
        Self {
            spec: StageSpec {
                kind: "quantize",
                semantics: 2,
                doc: "Quantizes the linear layers of a model; embeddings and norms stay as they are.",
                inputs: vec![PortSpec {
                    name: "model",
                    doc: "The model to quantize.",
                    kind: ArtifactKind::new(ArtifactKind::MODEL),
                    required: true,
                }],
                output: ArtifactKind::new(ArtifactKind::MODEL),
                schema: schema(),
                determinism: Determinism::Exact,
            },
        }
    }
}

fn schema() -> Schema {
    let choice = |name, doc| ParamSpec::new(name, ParamType::Choice(scheme::WORDS), doc);
    let with = |node: NodeSpec, props: Vec<ParamSpec>| props.into_iter().fold(node, NodeSpec::prop);
    let rule = choice(
        rules::MODULE,
        "Another scheme for the modules that a pattern names: a name, the end of one (`down_proj`), or with `*`. The \
         longest pattern that matches a module decides.",
    );
    Schema::new(vec![
        with(NodeSpec::value(choice("scheme", scheme::DOC).required()), scheme::props("scheme")),
        with(NodeSpec::named(rule, Names::Pattern), scheme::props(rules::MODULE)),
        NodeSpec::value(ParamSpec::new(
            "skip",
            ParamType::list(ParamType::Text),
            "Modules to leave as they are, whatever else names them; patterns as for `module`.",
        )),
        NodeSpec::value(
            ParamSpec::new(
                "compute-dtype",
                ParamType::Choice(&["inherit", "f32", "f16", "bf16"]),
                "Dtype of dequantized weights and activations. `inherit`: the input model's.",
            )
            .default(Value::Text("inherit".into())),
        ),
    ])
}

impl Stage for Quantize {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn check(&self, params: &Params) -> Vec<(String, String)> {
        let schemes = std::iter::once("scheme").chain(rules::paths(params));
        schemes.flat_map(|path| scheme::check(path, params)).collect()
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let mut model = ModelArtifact::read(ctx.store, ctx.input("model")?)?;
        let mut stats = BTreeMap::new();
        for (name, module, errors) in quantize_all(ctx, &model)? {
            stats.insert(name.clone(), errors);
            model.modules.insert(name, module);
        }
        model.compute_dtype =
            crate::weights::compute_dtype(ctx.params.text("compute-dtype"), model.compute_dtype);
        let metrics = metrics(&model, &stats);
        Ok(Outcome { artifact: model.save(ctx.store)?, metrics })
    }
}

fn quantize_all(
    ctx: &Context<'_>,
    model: &ModelArtifact,
) -> Result<Vec<(String, Module, UnitStats)>, StageError> {
    let wanted: Vec<(String, Scheme)> = Rules::of(ctx.params)?.assign(model)?;
    let (blobs, done) = (BlobReader::new(ctx.store), AtomicUsize::new(0));
    crate::parallel::map(&wanted, |(name, scheme)| {
        let module = &model.modules[name];
        if module.encoding != Encoding::Dense {
            return Err(StageError::config(format!("module `{name}` is already quantized")));
        }
        let (quantized, errors) = scheme.quantize(ctx, &blobs, name, module)?;
        ctx.progress(done.fetch_add(1, Ordering::SeqCst) + 1, wanted.len(), "modules");
        Ok((name.clone(), quantized, errors))
    })
}

fn metrics(model: &ModelArtifact, stats: &BTreeMap<String, UnitStats>) -> Vec<Metric> {
    let linear =
        || model.modules.iter().filter(|(name, module)| module.is_linear(name)).map(|(_, module)| module);
    let weights: usize = linear().map(|m| m.shape.iter().product::<usize>()).sum();
    let bits = linear().map(Module::bytes).sum::<u64>() as f64 * 8.0 / weights.max(1) as f64;
    let mut all = vec![
        Metric::new("bytes", model.weight_bytes() as f64, "bytes", Better::Lower).headline(),
        Metric::new("bits-per-weight", bits, "bits", Better::Lower).n(weights as u64),
    ];
    if stats.is_empty() {
        return all;
    }
    let n = stats.len() as u64;
    let mean = |f: fn(&UnitStats) -> f64| stats.values().map(f).sum::<f64>() / n as f64;
    let largest = stats.values().map(|s| s.max_abs).fold(0.0, f64::max);
    all.push(Metric::new("mse", mean(|s| s.mse), "", Better::Lower).n(n));
    all.push(Metric::new("snr", mean(|s| s.snr_db), "dB", Better::Higher).n(n));
    all.push(Metric::new("max-error", largest, "", Better::Lower).n(n));
    all.push(Metric::new("cosine", mean(|s| s.cosine), "", Better::Higher).n(n));
    for (name, s) in stats {
        let metric = |what: &str, value, unit: &'static str, better| {
            Metric::new(format!("module.{name}.{what}"), value, unit, better)
        };
        all.push(metric("mse", s.mse, "", Better::Lower));
        all.push(metric("snr", s.snr_db, "dB", Better::Higher));
        all.push(metric("max-error", s.max_abs, "", Better::Lower));
        all.push(metric("cosine", s.cosine, "", Better::Higher));
    }
    all
}
