//! What a task is: its declaration for the manifest, and how it runs.

use qpipe_cache::Digest;
use qpipe_sdk::{KeyedChoice, Metric, ParamSpec, ParamType, StageError, Value};

use super::choice::Question;
use super::rows::Row;
use super::scoring::Scoring;
use crate::embedded::EmbeddedFile;

/// The parameter that says where a task's rows are.
pub(super) const DATA: &str = "data";
/// The parameter that says where the rows of its examples are.
pub(super) const SHOTS_DATA: &str = "shots-data";

/// A task. Those of a shared protocol differ in how a row becomes a [`Question`].
#[derive(Clone, Copy)]
pub(super) struct Task {
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    /// Which fields the rows of `data` have.
    pub(super) data: &'static str,
    /// The embedded data behind `data=tiny`.
    pub(super) embedded: Option<&'static EmbeddedFile>,
    /// Parameters beside those of every task.
    pub(super) params: fn() -> Vec<ParamSpec>,
    pub(super) figures: Figures,
    pub(super) question: fn(&Row<'_>) -> Result<Question, StageError>,
    pub(super) run: fn(&Scoring<'_>, &Task) -> Result<TaskResult, StageError>,
}

/// What is measured of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figures {
    /// Accuracy alone.
    Accuracy,
    /// Accuracy, and accuracy with log-likelihoods divided by the choices' lengths in characters.
    Normalized,
    /// Accuracy, F1 (the second choice is the positive class), and the mean margin between the two choices.
    Binary,
    /// Accuracy of greedy decoding, and perplexity of the one continuation.
    Cloze,
}

/// What a task gives back.
pub(super) struct TaskResult {
    /// Protocol, in words a report can print.
    pub(super) protocol: String,
    /// The item log: JSON lines.
    pub(super) items: Digest,
    /// The same items' log of the model compared with.
    pub(super) against: Option<Digest>,
    pub(super) metrics: Vec<Metric>,
}

impl Task {
    /// The task as a choice of the manifest's `task`.
    pub(super) fn choice(&self) -> KeyedChoice {
        let place = super::data::place(self.embedded.is_some());
        let mut props = vec![ParamSpec::new(DATA, place, self.data).required().location()];
        props.extend((self.params)());
        KeyedChoice { name: self.name, doc: self.doc, props }
    }

    /// One of its parameters, by its whole name.
    pub(super) fn param(&self, name: &str) -> String {
        format!("task.{}.{name}", self.name)
    }
}

/// `limit`, which raised scores only the new items.
pub(super) fn limit(doc: &'static str) -> ParamSpec {
    ParamSpec::new("limit", ParamType::at_least(1), doc)
}

/// Parameters of tasks that ask questions.
pub(super) fn question_params() -> Vec<ParamSpec> {
    vec![
        limit("Score only the first items. Raising it scores only the new ones."),
        ParamSpec::new(
            "shots",
            ParamType::Int { min: 0, max: 1000 },
            "Answered examples in front of every question: the first rows of `shots-data`, or of the data itself, which \
             are then not scored (lm-evaluation-harness with the sampler `first_n`).",
        )
        .default(Value::Int(0)),
        ParamSpec::new(
            SHOTS_DATA,
            super::data::place(false),
            "Rows to take the examples from, in the form of `data`: usually the training split.",
        )
        .location(),
    ]
}

/// How many units of a text are compared distribution by distribution.
pub(super) fn kl(doc: &'static str) -> ParamSpec {
    ParamSpec::new("kl", ParamType::at_least(0), doc)
}
