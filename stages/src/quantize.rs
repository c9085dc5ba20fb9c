//! `quantize`: linear layers become packed ones, module by module, each module a unit of its own.
//!
//! | unit | key | makes |
//! |---|---|---|
//! | codes | scheme, block, the weight | `codes`, `absmax` |
//! | double quantization | the codes' blob | `absmax_codes`, `absmax_offset`, `nested_absmax` |
//! | int8 | the weight | `codes`, `scb` |
//!
//! So a scheme with and without double quantization shares its packed codes, and a killed run continues with the
//! next module. A weight is named by its blob's content and its name there.

mod units;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use qpipe_sdk::{
    ArtifactKind, Better, Context, Determinism, Metric, NodeSpec, Outcome, ParamSpec, ParamType, Params,
    PortSpec, Schema, Stage, StageError, StageSpec, Value,
};

use crate::artifact::{Encoding, ModelArtifact, Module};
use crate::weights::BlobReader;
use units::{Scheme, UnitStats};

pub struct Quantize {
    spec: StageSpec,
}

impl Default for Quantize {
    fn default() -> Self {
        Self {
            spec: StageSpec {
                kind: "quantize",
                semantics: 1,
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
    const FOUR_BIT: &[&str] = &["nf4", "fp4"];
    let scheme = ParamSpec::new(
        "scheme",
        ParamType::Choice(&["nf4", "fp4", "int8", "none"]),
        "nf4, fp4: blockwise 4-bit codes (QLoRA). int8: row-wise absolute maximum, weights only. none: leave the \
         weights as they are, for a study's full-precision cell.",
    );
    Schema::new(vec![
        NodeSpec::value(scheme.required())
            .prop(
                ParamSpec::new(
                    "block",
                    ParamType::Int { min: 32, max: 4096 },
                    "Weights per scale; a power of two.",
                )
                .default(Value::Int(64))
                .applies("scheme", FOUR_BIT),
            )
            .prop(
                ParamSpec::new(
                    "double-quant",
                    ParamType::Bool,
                    "Quantize the scales too, to 8 bits in blocks of 256.",
                )
                .default(Value::Bool(false))
                .applies("scheme", FOUR_BIT),
            ),
        NodeSpec::value(
            ParamSpec::new(
                "compute-dtype",
                ParamType::Choice(&["inherit", "f32", "f16", "bf16"]),
                "Dtype of dequantized weights and activations. `inherit`: the input model's.",
            )
            .default(Value::Text("inherit".into())),
        ),
        NodeSpec::value(ParamSpec::new(
            "skip",
            ParamType::list(ParamType::Text),
            "Modules to leave as they are: a name, the end of one (`down_proj`), or a pattern with `*`.",
        )),
    ])
}

impl Stage for Quantize {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn check(&self, params: &Params) -> Vec<(String, String)> {
        match params.int("scheme.block") {
            Some(block) if block.count_ones() != 1 => {
                vec![("scheme.block".into(), format!("a block size is a power of two, `{block}` is not"))]
            }
            _ => Vec::new(),
        }
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let mut model = ModelArtifact::read(ctx.store, ctx.input("model")?)?;
        let mut stats = BTreeMap::new();
        if let Some(scheme) = Scheme::of(ctx.params)? {
            for (name, module, errors) in quantize_all(ctx, scheme, &model)? {
                stats.insert(name.clone(), errors);
                model.modules.insert(name, module);
            }
        }
        model.compute_dtype =
            crate::weights::compute_dtype(ctx.params.text("compute-dtype"), model.compute_dtype);
        let metrics = metrics(&model, &stats);
        Ok(Outcome { artifact: model.save(ctx.store)?, metrics })
    }
}

fn quantize_all(
    ctx: &Context<'_>,
    scheme: Scheme,
    model: &ModelArtifact,
) -> Result<Vec<(String, Module, UnitStats)>, StageError> {
    let names = wanted(model, &ctx.params.texts("skip"))?;
    let (blobs, done) = (BlobReader::new(ctx.store), AtomicUsize::new(0));
    crate::parallel::map(&names, |name| {
        let module = &model.modules[name];
        if module.encoding != Encoding::Dense {
            return Err(StageError::config(format!("module `{name}` is already quantized")));
        }
        let (quantized, errors) = scheme.quantize(ctx, &blobs, name, module)?;
        ctx.progress(done.fetch_add(1, Ordering::SeqCst) + 1, names.len(), "modules");
        Ok((name.clone(), quantized, errors))
    })
}

/// The linear modules to quantize. A pattern that matches nothing is an error, since it is likely a typo; except
/// `lm_head`, which a model with tied embeddings does not have.
fn wanted(model: &ModelArtifact, skip: &[String]) -> Result<Vec<String>, StageError> {
    for pattern in skip {
        if pattern != "lm_head" && !model.modules.keys().any(|name| matches(pattern, name)) {
            return Err(StageError::config(format!("`skip {pattern}` matches no module of the model")));
        }
    }
    let skipped = |name: &str| skip.iter().any(|pattern| matches(pattern, name));
    let linear = model.modules.iter().filter(|(name, module)| module.is_linear(name) && !skipped(name));
    Ok(linear.map(|(name, _)| name.clone()).collect())
}

/// Whether a pattern names a module: wholly, by its last parts, or with `*` for any run of characters.
fn matches(pattern: &str, name: &str) -> bool {
    if !pattern.contains('*') {
        return name == pattern || name.strip_suffix(pattern).is_some_and(|rest| rest.ends_with('.'));
    }
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    for (i, part) in parts.iter().enumerate() {
        if i + 1 == parts.len() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
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
    all.push(Metric::new("mse", mean(|s| s.mse), "", Better::Lower).n(n));
    all.push(Metric::new("snr", mean(|s| s.snr_db), "dB", Better::Higher).n(n));
    for (name, s) in stats {
        all.push(Metric::new(format!("module.{name}.mse"), s.mse, "", Better::Lower));
        all.push(Metric::new(format!("module.{name}.snr"), s.snr_db, "dB", Better::Higher));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_whole_names_ends_and_stars() {
        let name = "model.layers.0.mlp.down_proj";
        for pattern in [name, "down_proj", "mlp.down_proj", "model.layers.0.*", "*mlp*", "*.down_proj"] {
            assert!(matches(pattern, name), "{pattern}");
        }
        for pattern in ["own_proj", "model.layers.1.*", "*gate*", "model"] {
            assert!(!matches(pattern, name), "{pattern}");
        }
    }
}
