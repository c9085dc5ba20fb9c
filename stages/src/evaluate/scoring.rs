//! What a task works with: its parameters and data, the model to score and the one to compare with, both loaded only
//! when something is not in the cache yet.

use std::sync::Arc;

use once_cell::unsync::OnceCell;
use qpipe_cache::Digest;
use qpipe_formats::Tokenizer;
use qpipe_sdk::protocol::wire::Number;
use qpipe_sdk::{Artifact, Context, StageError};
use serde::{Deserialize, Serialize};

use super::choice::Question;
use super::encode::{Bos, Encoder};
use super::rows::Row;
use super::shard::{self, ItemScore};
use crate::artifact::ModelArtifact;
use crate::device::ComputeDevice;
use crate::model::llama::Llama;
use crate::model::score::{Continuation, Plan};
use crate::residency;
use crate::weights::LoadedModel;

/// A model under evaluation.
pub(super) struct Subject<'a> {
    ctx: &'a Context<'a>,
    pub(super) artifact: &'a Artifact,
    document: ModelArtifact,
    /// Whether its scores of one item depend on what else is in the batch.
    pub(super) is_batch_dependent: bool,
    pub(super) device: ComputeDevice,
    pub(super) tokenizer: Tokenizer,
    loaded: OnceCell<Arc<LoadedModel>>,
}

impl<'a> Subject<'a> {
    pub(super) fn open(ctx: &'a Context<'a>, port: &str, device: ComputeDevice) -> Result<Self, StageError> {
        let artifact = ctx.input(port)?;
        let document = ModelArtifact::read(ctx.store, artifact)?;
        let (bos, eos) = (document.config.bos_token_id, document.config.eos_token_id);
        let tokenizer = crate::tokenizers::tokenizer(ctx.store, &document.tokenizer)?;
        let tokenizer = tokenizer.with_special_ids(bos, eos).map_err(StageError::config)?;
        Ok(Self {
            ctx,
            artifact,
            is_batch_dependent: document.batch_dependent(),
            document,
            device,
            tokenizer,
            loaded: OnceCell::new(),
        })
    }

    pub(super) fn llama(&self) -> Result<&Llama, StageError> {
        let load = || residency::model(self.ctx.store, self.artifact, self.device, self.context_len());
        Ok(&self.loaded.get_or_try_init(load)?.llama)
    }

    /// The longest sequence that it is fed.
    pub(super) fn context_len(&self) -> usize {
        self.document.config.max_position_embeddings
    }

    pub(super) fn encoder(&self, bos: Bos) -> Encoder<'_> {
        Encoder { tokenizer: &self.tokenizer, bos }
    }

    pub(super) fn has_tokenizer_of(&self, other: &Self) -> bool {
        self.document.tokenizer == other.document.tokenizer
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.artifact.digest == other.artifact.digest
    }
}

/// What a task's `run` works with.
pub(super) struct Scoring<'a> {
    pub(super) ctx: &'a Context<'a>,
    pub(super) model: &'a Subject<'a>,
    pub(super) against: Option<&'a Subject<'a>>,
    pub(super) bos: Bos,
    /// Tokens of one forward pass.
    pub(super) batch_tokens: usize,
    /// The task's name; its parameters are `task.NAME.*`, its data the source `task.NAME.data`.
    pub(super) task: &'static str,
}

/// The scores of a task's items.
pub(super) struct Scored {
    pub(super) model: Vec<ItemScore>,
    pub(super) against: Against,
    /// Continuations whose context lost its beginning.
    truncated: usize,
}

/// The same items under the model that is compared with.
pub(super) enum Against {
    Nothing,
    /// The model itself.
    Itself,
    Model(Vec<ItemScore>),
}

/// One line of the item log.
#[derive(Debug, Serialize, Deserialize)]
pub struct LoggedItem {
    /// Row of the data, window or page, from 0.
    pub id: usize,
    /// Of every choice, or every part of a text; nats.
    pub log_likelihoods: Vec<Number>,
    /// Scored tokens of each.
    pub tokens: Vec<usize>,
    /// Whether greedy decoding would have produced each.
    pub greedy: Vec<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<usize>,
}

/// How the requests of a task are made for a model.
type Requests<'a> = &'a dyn Fn(&Subject<'_>) -> Result<Vec<Vec<Continuation>>, StageError>;

impl Scoring<'_> {
    pub(super) fn param(&self, name: &str) -> String {
        format!("task.{}.{name}", self.task)
    }

    pub(super) fn int(&self, name: &str) -> Option<usize> {
        self.ctx.params.int(&self.param(name)).map(|n| n as usize)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.ctx.params.text(&self.param(name))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.ctx.params.has(&self.param(name))
    }

    /// An error about this task.
    pub(super) fn error(&self, what: impl std::fmt::Display) -> StageError {
        StageError::config(format!("task `{}`: {what}", self.task))
    }

    pub(super) fn plan(&self, subject: &Subject<'_>) -> Plan {
        Plan { tokens: self.batch_tokens, share_prefixes: !subject.is_batch_dependent }
    }

    /// The name of a data parameter's file, for messages, and its bytes.
    pub(super) fn data(&self, param: &str) -> Result<(String, qpipe_cache::Mapped), StageError> {
        let (file, digest) = super::data::content(self.ctx, &self.param(param))?;
        Ok((file, self.ctx.store.map(&digest)?))
    }

    /// The first rows of a data parameter's file, read as questions.
    pub(super) fn questions(
        &self,
        param: &str,
        most: usize,
        read: &dyn Fn(&Row<'_>) -> Result<Question, StageError>,
    ) -> Result<Vec<Question>, StageError> {
        let (file, bytes) = self.data(param)?;
        let rows = qpipe_formats::rows::rows(&file, &bytes).map_err(|e| self.error(e))?;
        let question = |(number, row): (usize, Result<_, _>)| {
            let fields = row.map_err(|e| self.error(e))?;
            read(&Row { file: &file, number, fields: &fields }).map_err(|e| self.error(e))
        };
        rows.take(most).enumerate().map(question).collect()
    }

    /// Scores every item's requests under the model, and under the one it is compared with.
    pub(super) fn scored(&self, ids: &[usize], requests: Requests<'_>) -> Result<Scored, StageError> {
        let asked = requests(self.model)?;
        let truncated = self.check(self.model, ids, &asked)?;
        let model = shard::scores(self, self.model, &asked)?;
        let against = match self.against {
            None => Against::Nothing,
            Some(other) if other.is(self.model) => Against::Itself,
            Some(other) => {
                let same =
                    other.has_tokenizer_of(self.model) && other.context_len() == self.model.context_len();
                let theirs = if same { asked } else { requests(other)? };
                self.check(other, ids, &theirs)?;
                Against::Model(shard::scores(self, other, &theirs)?)
            }
        };
        Ok(Scored { model, against, truncated })
    }

    /// How many requests lose the beginning of their context; an error for one that cannot be scored at all.
    fn check(
        &self,
        subject: &Subject<'_>,
        ids: &[usize],
        asked: &[Vec<Continuation>],
    ) -> Result<usize, StageError> {
        let most = subject.context_len();
        let mut truncated = 0;
        for (id, requests) in ids.iter().zip(asked) {
            for request in requests {
                let tokens = request.continuation.len();
                if tokens == 0 {
                    return Err(self.error(format!("item {id}: a continuation adds no token to its context")));
                }
                if tokens > most {
                    return Err(self.error(format!(
                        "item {id}: a continuation has {tokens} tokens, the model's context only {most}"
                    )));
                }
                truncated += usize::from(request.context.len() + tokens > most + 1);
            }
        }
        if truncated > 0 {
            self.ctx.log(format!(
                "task `{}`: {truncated} contexts are longer than the model's {most} tokens and lose their beginnings",
                self.task
            ));
        }
        Ok(truncated)
    }

    /// What all protocols end with.
    pub(super) fn suffix(&self, scored: &Scored) -> String {
        let truncated = match scored.truncated {
            0 => String::new(),
            count => format!(", {count} contexts cut from the left"),
        };
        format!("bos {}{truncated}", self.bos.name())
    }

    /// Writes the item logs: the model's, and that of the model it is compared with.
    pub(super) fn log(
        &self,
        ids: &[usize],
        labels: &[Option<usize>],
        scored: &Scored,
    ) -> Result<(Digest, Option<Digest>), StageError> {
        let model = self.write_log(ids, labels, &scored.model)?;
        let against = match &scored.against {
            Against::Model(items) => Some(self.write_log(ids, labels, items)?),
            Against::Nothing | Against::Itself => None,
        };
        Ok((model, against))
    }

    fn write_log(
        &self,
        ids: &[usize],
        labels: &[Option<usize>],
        items: &[ItemScore],
    ) -> Result<Digest, StageError> {
        let mut lines = Vec::new();
        for ((id, label), item) in ids.iter().zip(labels).zip(items) {
            let logged = LoggedItem {
                id: *id,
                log_likelihoods: item.log_likelihoods.clone(),
                tokens: item.tokens.clone(),
                greedy: item.greedy.clone(),
                prediction: label.map(|_| item.most_likely()),
                label: *label,
            };
            serde_json::to_writer(&mut lines, &logged).map_err(StageError::bug)?;
            lines.push(b'\n');
        }
        Ok(self.ctx.store.put_bytes(&lines)?)
    }
}
