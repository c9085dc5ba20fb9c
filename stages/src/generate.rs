//! `generate`: a model continues prompts. Each prompt is a unit of its own, keyed by the model, the prompt's token ids
//! and how tokens are picked, so a killed stage resumes and a further prompt costs only itself.
//!
//! Draws depend on the seed, the prompt's place in the list and the token's position, and on nothing else
//! ([`crate::model::sampling`]). Their probabilities are computed from logits, whose last bits depend on the numerics
//! class; it is in the key.

use std::collections::BTreeMap;

use qpipe_cache::{Digest, KeyDoc, KeyValue};
use qpipe_sdk::generation::{Generation, Sample};
use qpipe_sdk::{
    Artifact, ArtifactKind, Better, Context, Determinism, Metric, NodeSpec, Outcome, ParamSpec, ParamType,
    Params, PortSpec, Resources, Schema, Stage, StageError, StageSpec, UnitOutput, Value,
};
use serde::{Deserialize, Serialize};

use crate::artifact::ModelArtifact;
use crate::device::ComputeDevice;
use crate::model::generate::{Finish, Request, check_context, generate};
use crate::model::sampling::{Pick, Sampling};
use crate::residency;
use crate::weights::LoadedModel;

/// Raised when equal inputs may be continued otherwise than before.
const SEMANTICS: u32 = 1;

const SAMPLE: &[&str] = &["sample"];

pub struct Generate {
    spec: StageSpec,
}

impl Default for Generate {
    fn default() -> Self {
        Self {
            spec: StageSpec {
                kind: "generate",
                semantics: 2,
                doc: "Continues prompts, and keeps the texts with their token ids.",
                inputs: vec![PortSpec {
                    name: "model",
                    doc: "The model that continues them.",
                    kind: ArtifactKind::new(ArtifactKind::MODEL),
                    required: true,
                }],
                output: ArtifactKind::new(ArtifactKind::GENERATION),
                schema: schema(),
                determinism: Determinism::Seeded,
            },
        }
    }
}

fn schema() -> Schema {
    let decoding = ParamSpec::new(
        "decoding",
        ParamType::Choice(&["greedy", "sample"]),
        "greedy: the likeliest token each time. sample: a draw, which the seed makes repeatable.",
    );
    let number = |name, min, max, default, doc| {
        ParamSpec::new(name, ParamType::Float { min, max }, doc)
            .default(Value::Float(default))
            .applies("decoding", SAMPLE)
    };
    Schema::new(vec![
        NodeSpec::value(ParamSpec::new(
            "prompt",
            ParamType::list(ParamType::Text),
            "Prompts; either these or `prompts`.",
        )),
        NodeSpec::value(
            ParamSpec::new(
                "prompts",
                ParamType::File,
                "Prompts in a file: JSON lines, each with a text `prompt`.",
            )
            .location(),
        )
        .prop(ParamSpec::new("limit", ParamType::at_least(1), "Take only the first prompts.")),
        NodeSpec::value(
            ParamSpec::new("max-tokens", ParamType::at_least(1), "Most new tokens of a prompt.")
                .default(Value::Int(64)),
        ),
        NodeSpec::value(decoding.default(Value::Text("greedy".into())))
            .prop(number("temperature", 0.01, 100.0, 1.0, "What logits are divided by."))
            .prop(
                ParamSpec::new(
                    "top-k",
                    ParamType::at_least(1),
                    "Draw from so many of the likeliest tokens; without it, from all.",
                )
                .applies("decoding", SAMPLE),
            )
            .prop(number(
                "top-p",
                0.0,
                1.0,
                1.0,
                "Draw from the fewest likeliest tokens that together have this probability.",
            ))
            .prop(
                ParamSpec::new("seed", ParamType::at_least(0), "Another seed, other draws.")
                    .default(Value::Int(0))
                    .applies("decoding", SAMPLE),
            ),
        NodeSpec::value(
            ParamSpec::new("stop", ParamType::Bool, "Whether the end-of-sequence token ends a text.")
                .default(Value::Bool(true)),
        ),
        crate::device::param(),
    ])
}

impl Stage for Generate {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn check(&self, params: &Params) -> Vec<(String, String)> {
        if params.has("prompt") != params.has("prompts") {
            return Vec::new();
        }
        vec![("prompt".into(), "exactly one of `prompt` and `prompts` gives the prompts".into())]
    }

    fn numerics(&self, params: &Params) -> Option<String> {
        crate::device::of(params).ok().map(|d| d.numerics().to_owned())
    }

    fn resources(&self, params: &Params, input_bytes: u64) -> Resources {
        crate::device::resources(params, input_bytes)
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let device = crate::device::of_run(ctx)?;
        device.computing(|| run(ctx, device))
    }
}

fn run(ctx: &Context<'_>, device: ComputeDevice) -> Result<Outcome, StageError> {
    let (prompts, max_tokens) = (prompts(ctx)?, ctx.params.int("max-tokens").unwrap_or(64) as usize);
    let input = ctx.input("model")?;
    let context = ModelArtifact::read(ctx.store, input)?.config.max_position_embeddings;
    let model = residency::model(ctx.store, input, device, context)?;
    let work = Work { ctx, model: &model, digest: input.digest, device, max_tokens };
    let ids = encode(&model, &prompts, max_tokens, context)?;
    let mut samples = Vec::with_capacity(prompts.len());
    for (i, (prompt, ids)) in prompts.into_iter().zip(ids).enumerate() {
        samples.push(work.sample(i, prompt, ids)?);
        ctx.progress(i + 1, samples.capacity(), "prompts");
    }
    model.llama.forget_steps();
    let metrics = metrics(&samples);
    let document = serde_json::to_vec(&Generation::new(samples)).map_err(StageError::bug)?;
    let digest = ctx.store.put_bytes(&document)?;
    Ok(Outcome { artifact: Artifact::single(ArtifactKind::GENERATION, digest), metrics })
}

#[derive(Deserialize)]
struct Row {
    prompt: String,
}

/// The prompts, from the manifest or the file.
fn prompts(ctx: &Context<'_>) -> Result<Vec<String>, StageError> {
    if !ctx.params.has("prompts") {
        return Ok(ctx.params.texts("prompt"));
    }
    let bytes = ctx.store.map(&ctx.source("prompts")?)?;
    let rows = qpipe_formats::rows::rows("prompts", &bytes).map_err(StageError::config)?;
    let limit = ctx.params.int("prompts.limit").map_or(usize::MAX, |n| n as usize);
    let prompt = |(i, row): (usize, Result<qpipe_formats::rows::Row, _>)| {
        let row = serde_json::Value::Object(row.map_err(StageError::config)?);
        let row: Row = serde_json::from_value(row)
            .map_err(|e| StageError::config(format!("`prompts`, row {}: {e}", i + 1)))?;
        Ok(row.prompt)
    };
    let prompts = rows.take(limit).enumerate().map(prompt).collect::<Result<Vec<_>, StageError>>()?;
    if prompts.is_empty() {
        return Err(StageError::config("`prompts` holds no prompt"));
    }
    Ok(prompts)
}

/// Token ids of all prompts, each checked against the context before any is continued.
fn encode(
    model: &LoadedModel,
    prompts: &[String],
    max_tokens: usize,
    context: usize,
) -> Result<Vec<Vec<u32>>, StageError> {
    let ids = |(i, prompt): (usize, &String)| {
        let ids = model.tokenizer.encode(prompt, true).map_err(StageError::config)?;
        check_context(ids.len(), max_tokens, context)
            .map_err(|e| StageError::config(format!("prompt {}: {e}", i + 1)))?;
        Ok(ids)
    };
    prompts.iter().enumerate().map(ids).collect()
}

/// What every prompt is continued with.
struct Work<'a> {
    ctx: &'a Context<'a>,
    model: &'a LoadedModel,
    digest: Digest,
    device: ComputeDevice,
    max_tokens: usize,
}

/// One continued prompt, as a unit keeps it.
#[derive(Serialize, Deserialize)]
struct Continued {
    tokens: Vec<u32>,
    finish: Finish,
}

impl Work<'_> {
    fn sample(&self, index: usize, prompt: String, ids: Vec<u32>) -> Result<Sample, StageError> {
        let doc = self.key(index, &ids);
        let record = self.ctx.unit(&format!("prompt {}", index + 1), &doc, || {
            let bytes = serde_json::to_vec(&self.continued(index, &ids)?).map_err(StageError::bug)?;
            let digest = self.ctx.store.put_bytes(&bytes)?;
            Ok(UnitOutput { blobs: BTreeMap::from([("text".to_owned(), digest)]), ..UnitOutput::default() })
        })?;
        let blob = record.outputs.get("text").ok_or_else(|| StageError::bug("a unit lacks its text"))?.digest;
        let Continued { tokens, finish } =
            serde_json::from_slice(&self.ctx.store.read(&blob)?).map_err(StageError::bug)?;
        let text = self.model.tokenizer.decode(&tokens).map_err(StageError::config)?;
        let finish = match finish {
            Finish::Eos => "eos",
            Finish::Length => "length",
        };
        Ok(Sample { prompt, text, prompt_tokens: ids, tokens, finish: finish.into() })
    }

    /// A prompt's place in the list is part of its key only where draws depend on it.
    fn key(&self, index: usize, ids: &[u32]) -> KeyDoc {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let params = &self.ctx.params.0;
        let picked = params.iter().filter(|(path, _)| path.starts_with("decoding") || *path == "stop");
        let doc = KeyDoc::new("generate/prompt", SEMANTICS)
            .input("model", self.digest)
            .input("prompt", Digest::of_bytes(&bytes))
            .param("max-tokens", self.max_tokens as i64)
            .numerics(self.device.numerics());
        let doc = picked
            .filter_map(|(path, value)| Some((path.as_str(), value.to_key()?)))
            .fold(doc, |doc, (path, value): (&str, KeyValue)| doc.param(path, value));
        match self.pick() {
            Pick::Greedy => doc,
            Pick::Sample(_) => doc.param("sequence", index as i64),
        }
    }

    fn pick(&self) -> Pick {
        let params = self.ctx.params;
        if params.text("decoding") != Some("sample") {
            return Pick::Greedy;
        }
        Pick::Sample(Sampling {
            temperature: params.float("decoding.temperature").unwrap_or(1.0),
            top_k: params.int("decoding.top-k").map(|k| k as usize),
            top_p: params.float("decoding.top-p").unwrap_or(1.0),
            seed: params.int("decoding.seed").unwrap_or(0) as u64,
        })
    }

    fn continued(&self, index: usize, ids: &[u32]) -> Result<Continued, StageError> {
        let llama = &self.model.llama;
        let stop = self.ctx.params.bool("stop").unwrap_or(true);
        let first = llama.config.eos_token_id.or(self.model.tokenizer.eos_token_id());
        let eos = if stop {
            first.into_iter().chain(llama.config.other_eos_token_ids.clone()).collect()
        } else {
            Vec::new()
        };
        let request = Request { max_tokens: self.max_tokens, pick: self.pick(), sequence: index as u64, eos };
        let (tokens, finish) = generate(llama, ids, &request, &mut |_| self.ctx.checkpoint())?;
        Ok(Continued { tokens, finish })
    }
}

fn metrics(samples: &[Sample]) -> Vec<Metric> {
    let n = samples.len() as u64;
    let tokens: usize = samples.iter().map(|sample| sample.tokens.len()).sum();
    let ended = samples.iter().filter(|sample| sample.finish == "eos").count();
    vec![
        Metric::new("tokens", tokens as f64, "", Better::Neither).n(n),
        Metric::new("ended", ended as f64 / n.max(1) as f64, "", Better::Neither).n(n),
    ]
}
