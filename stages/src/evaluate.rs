//! `evaluate`: tasks over a model. Every item's score is kept; metrics are computed from the item logs. A shard of
//! items is a unit of its own, keyed by the model and the items' token ids, so a killed evaluation resumes and a
//! raised limit scores only the new shards.
//!
//! Adding a task: one file here with its parameters, items and metrics, one line in [`TASKS`].

mod boolq;
mod perplexity;
mod shard;
pub mod statistics;

use std::collections::{BTreeMap, BTreeSet};

use qpipe_cache::Digest;
use qpipe_formats::Tokenizer;
use qpipe_sdk::{
    Artifact, ArtifactKind, Context, Determinism, KeyedChoice, Metric, NodeSpec, Outcome, ParamSpec,
    ParamType, Params, PortSpec, Resources, Schema, Source, SourceData, Stage, StageError, StageSpec, Value,
};
use serde::{Deserialize, Serialize};

use crate::device::ComputeDevice;
use crate::embedded;
use crate::model::llama::Llama;
use crate::weights::{LoadedModel, load_model};

/// Format of the evaluation artifact.
pub const FORMAT: &str = "qpipe.evaluation/1";

/// A task: how it is declared and how it runs.
struct Task {
    name: &'static str,
    choice: fn() -> KeyedChoice,
    /// The embedded data behind `data=tiny`.
    embedded: &'static embedded::EmbeddedFile,
    run: fn(&Scoring<'_>) -> Result<TaskResult, StageError>,
}

const TASKS: [Task; 2] = [
    Task { name: "boolq", choice: boolq::choice, embedded: &embedded::TINY_QUESTIONS, run: boolq::run },
    Task {
        name: "perplexity",
        choice: perplexity::choice,
        embedded: &embedded::TINY_STORIES,
        run: perplexity::run,
    },
];

/// The parameter every task has.
fn data_param(doc: &'static str) -> ParamSpec {
    ParamSpec::new("data", ParamType::FileOr(&["tiny"]), doc).required().location()
}

/// What a task's `run` works with.
struct Scoring<'a> {
    ctx: &'a Context<'a>,
    model: &'a LoadedModel,
    model_digest: Digest,
    numerics: &'static str,
    bos: Bos,
    /// The task's name; its parameters are `task.NAME.*`, its data the source `task.NAME.data`.
    task: &'static str,
}

/// What a task gives back.
struct TaskResult {
    /// Protocol, in words a report can print.
    protocol: String,
    /// Item log blobs, in order; each is JSON lines.
    items: Vec<Digest>,
    metrics: Vec<Metric>,
}

/// The evaluation artifact's document.
#[derive(Debug, Serialize, Deserialize)]
pub struct EvaluationArtifact {
    pub format: String,
    pub tasks: BTreeMap<String, TaskLog>,
}

/// One task's protocol and item logs.
#[derive(Debug, Serialize, Deserialize)]
pub struct TaskLog {
    pub protocol: String,
    pub items: Vec<Digest>,
}

/// Whether a beginning-of-sequence token is put in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bos {
    /// As the tokenizer does by itself.
    Tokenizer,
    Always,
    Never,
}

impl Bos {
    fn of(params: &Params) -> Self {
        match params.text("bos") {
            Some("always") => Self::Always,
            Some("never") => Self::Never,
            _ => Self::Tokenizer,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::Always => "always",
            Self::Never => "never",
        }
    }

    /// Token ids of a text under this policy; never two BOS in a row.
    fn encode(self, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>, StageError> {
        let mut ids = tokenizer.encode(text, self == Self::Tokenizer).map_err(StageError::config)?;
        if self == Self::Always {
            let bos = tokenizer.bos_token_id().or(tokenizer.eos_token_id());
            let bos =
                bos.ok_or_else(|| StageError::config("`bos always`, but the tokenizer names no such token"))?;
            if ids.first() != Some(&bos) {
                ids.insert(0, bos);
            }
        }
        Ok(ids)
    }
}

impl Scoring<'_> {
    fn int(&self, name: &str) -> Option<usize> {
        self.ctx.params.int(&self.param(name)).map(|n| n as usize)
    }

    fn param(&self, name: &str) -> String {
        format!("task.{}.{name}", self.task)
    }

    /// The task's data as text.
    fn data(&self) -> Result<String, StageError> {
        let bytes = self.ctx.store.map(&self.ctx.source(&self.param("data"))?)?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|e| StageError::config(format!("task `{}`: {e}", self.task)))?;
        Ok(text.to_owned())
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, StageError> {
        self.bos.encode(&self.model.tokenizer, text)
    }

    fn llama(&self) -> &Llama {
        &self.model.llama
    }
}

/// The objects of a JSON-lines text; an error names the line.
fn json_lines<T: serde::de::DeserializeOwned>(task: &str, text: &str) -> Result<Vec<T>, StageError> {
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|e| StageError::config(format!("task `{task}`, line {}: {e}", i + 1)))
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}

pub struct Evaluate {
    spec: StageSpec,
}

impl Default for Evaluate {
    fn default() -> Self {
        Self {
            spec: StageSpec {
                kind: "evaluate",
                semantics: 1,
                doc: "Scores a model on tasks, keeping every item's log-likelihoods.",
                inputs: vec![PortSpec {
                    name: "model",
                    doc: "The model to evaluate.",
                    kind: ArtifactKind::new(ArtifactKind::MODEL),
                    required: true,
                }],
                output: ArtifactKind::new(ArtifactKind::EVALUATION),
                schema: schema(),
                determinism: Determinism::Seeded,
            },
        }
    }
}

fn schema() -> Schema {
    let choices = TASKS.iter().map(|t| (t.choice)()).collect();
    Schema::new(vec![
        NodeSpec::keyed("task", "A task to score; one line each.", true, choices),
        NodeSpec::value(
            ParamSpec::new(
                "bos",
                ParamType::Choice(&["tokenizer", "always", "never"]),
                "Whether a beginning-of-sequence token is put in front; `tokenizer`: as the tokenizer does.",
            )
            .default(Value::Text("tokenizer".into())),
        ),
        crate::device::param(),
    ])
}

impl Stage for Evaluate {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn sources(&self, params: &Params) -> Result<Vec<Source>, StageError> {
        let mut sources = Vec::new();
        for task in TASKS.iter().filter(|t| params.has(&format!("task.{}", t.name))) {
            let name = format!("task.{}.data", task.name);
            let data = match params.get(&name) {
                Some(Value::File(path)) => SourceData::File(path.clone()),
                Some(Value::Text(_)) => SourceData::Embedded(task.embedded.bytes),
                _ => return Err(StageError::config(format!("`{name}` is missing"))),
            };
            sources.push(Source { name, data });
        }
        Ok(sources)
    }

    fn numerics(&self, params: &Params) -> Option<String> {
        crate::device::of(params).ok().map(|d| d.numerics().to_owned())
    }

    fn resources(&self, params: &Params, input_bytes: u64) -> Resources {
        crate::device::resources(params, input_bytes)
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let device = crate::device::of_run(ctx)?;
        let input = ctx.input("model")?;
        let model = load_model(ctx.store, input, device, positions(ctx.store, input)?)?;
        let (mut tasks, mut metrics, mut refs) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        for task in TASKS.iter().filter(|t| ctx.params.has(&format!("task.{}", t.name))) {
            let result = (task.run)(&scoring(ctx, &model, input, device, task.name))?;
            refs.extend(result.items.iter().copied());
            let prefixed = |m: Metric| Metric { name: format!("{}.{}", task.name, m.name), ..m };
            metrics.extend(result.metrics.into_iter().map(prefixed));
            tasks.insert(task.name.to_owned(), TaskLog { protocol: result.protocol, items: result.items });
        }
        let document = EvaluationArtifact { format: FORMAT.into(), tasks };
        let digest = ctx.store.put_bytes(&serde_json::to_vec(&document).map_err(StageError::bug)?)?;
        refs.insert(digest);
        let kind = ArtifactKind::new(ArtifactKind::EVALUATION);
        Ok(Outcome { artifact: Artifact { kind, digest, refs }, metrics })
    }
}

fn scoring<'a>(
    ctx: &'a Context<'a>,
    model: &'a LoadedModel,
    input: &Artifact,
    device: ComputeDevice,
    task: &'static str,
) -> Scoring<'a> {
    Scoring {
        ctx,
        model,
        model_digest: input.digest,
        numerics: device.numerics(),
        bos: Bos::of(ctx.params),
        task,
    }
}

/// The longest sequence that evaluation feeds the model.
fn positions(store: &qpipe_cache::Store, model: &Artifact) -> Result<usize, StageError> {
    Ok(crate::artifact::ModelArtifact::read(store, model)?.config.max_position_embeddings)
}
