//! `evaluate`: tasks over a model. Every item's score is kept, and metrics are computed from the item logs. A shard of
//! items is a unit of its own ([`shard`]), so a killed evaluation resumes and a raised limit scores only the new items.
//! With a second model at the port `against`, the same items are scored under both, and every difference is paired.
//!
//! | module | holds |
//! |---|---|
//! | [`task`] | what a task is |
//! | [`choice`] | the protocol of questions with choices: requests, few-shot examples |
//! | `boolq`, `hellaswag`, … | one task each: how a row becomes a question |
//! | [`perplexity`], [`wikitext`] | tasks over whole texts |
//! | [`custom`] | a task described in the manifest |
//! | [`encode`] | token ids, as the harness makes them |
//! | [`classify`], [`ratio`], [`divergence`] | metrics |
//! | [`data`] | where a task's rows are: a file, the embedded data, a file of the hub |
//! | [`statistics`] | standard errors and paired comparisons |
//!
//! Adding a task: one file here, one line in [`TASKS`].

mod arc;
mod boolq;
mod choice;
mod classify;
mod custom;
mod data;
mod divergence;
mod encode;
mod hellaswag;
mod lambada;
mod openbookqa;
mod perplexity;
mod piqa;
mod ratio;
mod rows;
mod scoring;
mod shard;
pub mod statistics;
mod task;
mod wikitext;
mod winogrande;

use std::collections::{BTreeMap, BTreeSet};

use qpipe_cache::{Digest, KeyValue};
use qpipe_sdk::{
    Artifact, ArtifactKind, Cancel, Context, Determinism, EventSink, Metric, NodeSpec, Outcome, ParamSpec,
    ParamType, Params, PortSpec, Resources, Schema, Source, Stage, StageError, StageSpec, Value,
};
use serde::{Deserialize, Serialize};

use encode::Bos;
pub use scoring::LoggedItem;
use scoring::{Scoring, Subject};
use statistics::paired::PORT as AGAINST;
use task::Task;

use crate::device::ComputeDevice;
use crate::hub::Hub;

/// Format of the evaluation artifact.
pub const FORMAT: &str = "qpipe.evaluation/2";

const TASKS: [Task; 11] = [
    boolq::TASK,
    hellaswag::TASK,
    arc::EASY,
    arc::CHALLENGE,
    piqa::TASK,
    winogrande::TASK,
    openbookqa::TASK,
    lambada::TASK,
    wikitext::TASK,
    perplexity::TASK,
    custom::TASK,
];

/// The evaluation artifact's document.
#[derive(Debug, Serialize, Deserialize)]
pub struct EvaluationArtifact {
    pub format: String,
    pub tasks: BTreeMap<String, TaskLog>,
}

/// One task's protocol and item logs: JSON lines of [`LoggedItem`].
#[derive(Debug, Serialize, Deserialize)]
pub struct TaskLog {
    pub protocol: String,
    pub items: Digest,
    /// The same items under the model that is compared with, where there is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Digest>,
}

pub struct Evaluate {
    spec: StageSpec,
    hub: Option<Hub>,
}

impl Evaluate {
    /// One that can take data from a hub.
    #[must_use]
    pub fn with_hub(hub: Hub) -> Self {
        Self { hub: Some(hub), ..Self::default() }
    }
}

impl Default for Evaluate {
    fn default() -> Self {
        let port = |name, doc, required| {
            let kind = ArtifactKind::new(ArtifactKind::MODEL);
            PortSpec { name, doc, kind, required }
        };
        Self {
            spec: StageSpec {
                kind: "evaluate",
                semantics: 4,
                doc: "Scores a model on tasks, keeping every item's log-likelihoods; with `against`, compares it with \
                      another model on the same items.",
                inputs: vec![
                    port("model", "The model to evaluate.", true),
                    port(
                        AGAINST,
                        "A model to compare with, item by item: differences get intervals and p-values (McNemar's exact \
                         test, paired bootstrap), texts the KL divergence and top-1 agreement of the two models' \
                         distributions.",
                        false,
                    ),
                    PortSpec {
                        name: data::PORT,
                        doc: "A command or plugin whose outputs tasks read: `data=\"stage:OUTPUT\"`, or of a folder \
                              `stage:OUTPUT/FILE`.",
                        kind: ArtifactKind::new(ArtifactKind::FILES),
                        required: false,
                    },
                ],
                output: ArtifactKind::new(ArtifactKind::EVALUATION),
                schema: schema(),
                determinism: Determinism::Seeded,
            },
            hub: None,
        }
    }
}

fn schema() -> Schema {
    Schema::new(vec![
        NodeSpec::keyed("task", "A task to score; one line each. `data` and `shots-data` are paths, or name a file of a data set on the hub: \
             `hub:ORG/NAME/PATH`, with `@REVISION` after the name if it is not `main`; `run` downloads it once. `stage:OUTPUT` is an output of the stage \
             at the port `data`.", true, TASKS.iter().map(Task::choice).collect()),
        NodeSpec::value(
            ParamSpec::new(
                "bos",
                ParamType::Choice(&["tokenizer", "always", "never"]),
                "Whether a beginning-of-sequence token is put in front of a text. `tokenizer`: as the tokenizer does by \
                 itself. A text that begins with one gets none added.",
            )
            .default(Value::Text("tokenizer".into())),
        ),
        NodeSpec::value(
            ParamSpec::new(
                "batch-tokens",
                ParamType::Int { min: 1, max: 1 << 24 },
                "Tokens of one forward pass, padding included. Changes results by rounding alone (more for a model whose \
                 products depend on what else is in the batch): varied, it shows a study's noise floor.",
            )
            .default(Value::Int(4096)),
        ),
        crate::device::param(),
    ])
}

/// The tasks that are asked for.
fn asked(params: &Params) -> impl Iterator<Item = &'static Task> {
    TASKS.iter().filter(|task| params.has(&format!("task.{}", task.name)))
}

impl Stage for Evaluate {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn check(&self, params: &Params) -> Vec<(String, String)> {
        let mut wrong = custom::check(params);
        wrong.extend(data::check(params));
        for task in asked(params) {
            let path = |name: &str| format!("task.{}.{name}", task.name);
            let shots = params.int(&path("shots")).unwrap_or(0);
            if params.has(&path("shots-data")) && shots == 0 {
                wrong.push((path("shots-data"), "`shots-data` has no effect without `shots`".into()));
            }
        }
        wrong
    }

    fn fetch(&self, params: &Params, events: &dyn EventSink, cancel: &Cancel) -> Result<(), StageError> {
        data::fetch(params, self.hub.as_ref(), events, cancel)
    }

    fn sources(&self, params: &Params) -> Result<Vec<Source>, StageError> {
        data::sources(params, self.hub.as_ref())
    }

    fn numerics(&self, params: &Params) -> Option<String> {
        crate::device::of(params).ok().map(|d| d.numerics().to_owned())
    }

    fn key_entries(&self, params: &Params) -> BTreeMap<String, KeyValue> {
        data::key_entries(params)
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
    let model = Subject::open(ctx, "model", device)?;
    let against =
        ctx.inputs.contains_key(AGAINST).then(|| Subject::open(ctx, AGAINST, device)).transpose()?;
    let (mut tasks, mut metrics, mut refs) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
    for task in asked(ctx.params) {
        let scoring = Scoring {
            ctx,
            model: &model,
            against: against.as_ref(),
            bos: Bos::of(ctx.params),
            batch_tokens: ctx.params.int("batch-tokens").unwrap_or(4096) as usize,
            task: task.name,
        };
        let result = (task.run)(&scoring, task)?;
        refs.extend([result.items].into_iter().chain(result.against));
        let prefixed = |m: Metric| Metric { name: format!("{}.{}", task.name, m.name), ..m };
        metrics.extend(result.metrics.into_iter().map(prefixed));
        let log = TaskLog { protocol: result.protocol, items: result.items, against: result.against };
        tasks.insert(task.name.to_owned(), log);
    }
    let document = EvaluationArtifact { format: FORMAT.into(), tasks };
    let digest = ctx.store.put_bytes(&serde_json::to_vec(&document).map_err(StageError::bug)?)?;
    refs.insert(digest);
    let kind = ArtifactKind::new(ArtifactKind::EVALUATION);
    Ok(Outcome { artifact: Artifact { kind, digest, refs }, metrics })
}
