//! The protocol of questions: each choice is a continuation of a context, and the most likely one is the answer. Strings
//! and token ids are those of lm-evaluation-harness: a space before a choice, answered examples end in an empty line.

use qpipe_sdk::StageError;
use rayon::prelude::*;

use super::classify;
use super::encode::Encoder;
use super::rows::Row;
use super::scoring::{Scoring, Subject};
use super::task::{Figures, Task, TaskResult, question_params};
use crate::model::score::Continuation;

/// Between a context and a choice.
const DELIMITER: &str = " ";
/// After an answered example.
const EXAMPLE_END: &str = "\n\n";

/// A question with its choices; a cloze has one.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// One for all choices, or one for each.
    contexts: Vec<String>,
    continuations: Vec<String>,
    /// Characters of the choices, without the delimiter.
    pub(super) lengths: Vec<usize>,
    /// The right choice; for a cloze, the only one.
    pub(super) label: usize,
    /// The question with its right answer, as an example shows it.
    answered: String,
}

impl Question {
    /// Choices that follow one context.
    pub(super) fn new(context: String, choices: &[&str], label: usize) -> Self {
        Self::delimited(context, DELIMITER, choices, label)
    }

    pub(super) fn delimited(context: String, delimiter: &str, choices: &[&str], label: usize) -> Self {
        Self {
            answered: format!("{context}{delimiter}{}", choices.get(label).unwrap_or(&"")),
            continuations: choices.iter().map(|choice| format!("{delimiter}{choice}")).collect(),
            lengths: choices.iter().map(|choice| choice.chars().count()).collect(),
            contexts: vec![context],
            label,
        }
    }

    /// One continuation after each of several contexts.
    pub(super) fn of_contexts(contexts: Vec<String>, continuation: &str, label: usize) -> Self {
        let continuations = vec![format!("{DELIMITER}{continuation}"); contexts.len()];
        Self {
            answered: format!("{}{}", contexts[label], continuations[label]),
            lengths: vec![continuation.chars().count(); contexts.len()],
            continuations,
            contexts,
            label,
        }
    }

    /// A context and its one continuation, taken as it is. (An example has the delimiter all the same, as in the
    /// harness.)
    pub(super) fn cloze(context: String, continuation: String) -> Self {
        Self {
            answered: format!("{context}{DELIMITER}{continuation}"),
            lengths: vec![continuation.chars().count()],
            continuations: vec![continuation],
            contexts: vec![context],
            label: 0,
        }
    }

    /// The question, if its label is one of its choices and no choice is empty.
    pub(super) fn checked(self, row: &Row<'_>) -> Result<Self, StageError> {
        let choices = self.continuations.len();
        if self.label >= choices {
            return Err(row.error(format!("the label is {}, but there are {choices} choices", self.label)));
        }
        if self.lengths.contains(&0) {
            return Err(row.error("a choice is empty"));
        }
        Ok(self)
    }

    /// Context and continuation of each choice, after the examples.
    pub(super) fn requests(&self, examples: &str) -> Vec<(String, &str)> {
        let context = |i: usize| self.contexts.get(i).unwrap_or(&self.contexts[0]);
        self.continuations
            .iter()
            .enumerate()
            .map(|(i, continuation)| (format!("{examples}{}", context(i)), continuation.as_str()))
            .collect()
    }

    fn encoded(&self, encoder: Encoder<'_>, examples: &str) -> Result<Vec<Continuation>, StageError> {
        if let [context] = &self.contexts[..] {
            let continuations: Vec<&str> = self.continuations.iter().map(String::as_str).collect();
            return encoder.pairs(&format!("{examples}{context}"), &continuations);
        }
        let requests = self.requests(examples);
        let pair = |(context, continuation): &(String, &str)| encoder.pairs(context, &[continuation]);
        Ok(requests.iter().map(pair).collect::<Result<Vec<_>, _>>()?.concat())
    }
}

/// The place of a label among its names (`choices.label`).
pub(super) fn by_name(row: &Row<'_>, names: &str, label: &str) -> Result<usize, StageError> {
    let known = row.texts(names)?;
    let found = known.iter().position(|name| *name == label);
    found.ok_or_else(|| row.error(format!("the label `{label}` is not among `{}`", known.join("`, `"))))
}

/// A task whose rows are questions with choices, normalized by length.
pub(super) const fn task(
    name: &'static str,
    doc: &'static str,
    data: &'static str,
    question: fn(&Row<'_>) -> Result<Question, StageError>,
) -> Task {
    Task {
        name,
        doc,
        data,
        embedded: None,
        params: question_params,
        figures: Figures::Normalized,
        question,
        run: |scoring, task| run(scoring, task.figures, &task.question),
    }
}

/// How a row is read as a question.
type Read<'a> = &'a (dyn Fn(&Row<'_>) -> Result<Question, StageError> + Sync);

/// Scores the questions of the task's data and measures.
pub(super) fn run(scoring: &Scoring<'_>, figures: Figures, read: Read<'_>) -> Result<TaskResult, StageError> {
    let sheet = Sheet::read(scoring, read)?;
    let scored = scoring.scored(&sheet.ids, &|subject| sheet.encoded(subject, scoring))?;
    let labels: Vec<Option<usize>> =
        sheet.questions.iter().map(|q| (figures != Figures::Cloze).then_some(q.label)).collect();
    let (items, against) = scoring.log(&sheet.ids, &labels, &scored)?;
    let metrics = classify::metrics(figures, &sheet.questions, &scored);
    let shots = if sheet.shots == 0 { "zero-shot".to_owned() } else { format!("{}-shot", sheet.shots) };
    let protocol =
        format!("{}, lm-evaluation-harness requests, {shots}, {}", scoring.task, scoring.suffix(&scored));
    Ok(TaskResult { protocol, items, against, metrics })
}

/// The questions to score, with the examples before each.
struct Sheet {
    /// Row numbers in the data.
    ids: Vec<usize>,
    questions: Vec<Question>,
    examples: String,
    shots: usize,
}

impl Sheet {
    fn read(scoring: &Scoring<'_>, read: Read<'_>) -> Result<Self, StageError> {
        let shots = scoring.int("shots").unwrap_or(0);
        let apart = scoring.has("shots-data");
        let skipped = if apart { 0 } else { shots };
        let most = scoring.int("limit").unwrap_or(usize::MAX).saturating_add(skipped);
        let mut questions = scoring.questions("data", most, read)?;
        let examples = if apart {
            scoring.questions("shots-data", shots, read)?
        } else {
            questions.drain(..shots.min(questions.len())).collect()
        };
        if examples.len() < shots {
            let found = examples.len();
            return Err(
                scoring.error(format!("`shots={shots}`, but there are only {found} rows to take them from"))
            );
        }
        if questions.is_empty() {
            return Err(scoring.error("the data holds no items"));
        }
        let examples = as_examples(&examples);
        Ok(Self { ids: (skipped..skipped + questions.len()).collect(), questions, examples, shots })
    }

    fn encoded(
        &self,
        subject: &Subject<'_>,
        scoring: &Scoring<'_>,
    ) -> Result<Vec<Vec<Continuation>>, StageError> {
        let encoder = subject.encoder(scoring.bos);
        self.questions.par_iter().map(|question| question.encoded(encoder, &self.examples)).collect()
    }
}

/// Answered questions, each with what ends it.
fn as_examples(questions: &[Question]) -> String {
    questions.iter().flat_map(|question| [question.answered.as_str(), EXAMPLE_END]).collect()
}

#[cfg(test)]
mod tests {
    use super::super::TASKS;
    use super::*;
    use serde_json::{Map, Value, json};

    fn golden() -> Value {
        let text = include_str!("../../../tests/golden/evaluation/prompts.json");
        serde_json::from_str(text).unwrap()
    }

    fn questions(name: &str, rows: &[Value]) -> Vec<Question> {
        let task = TASKS.iter().find(|task| task.name == name).unwrap();
        let question = |(number, row): (usize, &Value)| {
            let fields: &Map<String, Value> = row.as_object().unwrap();
            (task.question)(&Row { file: "golden", number, fields }).unwrap()
        };
        rows.iter().enumerate().map(question).collect()
    }

    fn check(name: &str, questions: &[Question], examples: &str, items: &[Value]) {
        assert_eq!(questions.len(), items.len());
        for (question, item) in questions.iter().zip(items) {
            let requests: Vec<[String; 2]> =
                question.requests(examples).into_iter().map(|(a, b)| [a, b.to_owned()]).collect();
            assert_eq!(json!(requests), item["requests"], "{name}");
            if let Some(gold) = item["gold"].as_u64() {
                assert_eq!(question.label as u64, gold, "{name}");
            }
            if name != "winogrande" && name != "lambada_openai" {
                assert_eq!(json!(question.lengths), item["lengths"], "{name}");
            }
        }
    }

    #[test]
    fn requests_and_labels_are_the_harnesss_byte_for_byte() {
        let golden = golden();
        let tasks = golden.as_object().unwrap().iter().filter(|(name, _)| *name != "wikitext");
        let mut checked = 0;
        for (name, entry) in tasks {
            let questions = questions(name, entry["rows"].as_array().unwrap());
            check(name, &questions, "", entry["items"].as_array().unwrap());
            let shots = entry["shots"].as_array().unwrap();
            let (shown, asked) = questions.split_at(questions.len() - shots.len());
            check(name, asked, &as_examples(shown), shots);
            checked += 1;
        }
        assert_eq!(checked, 8);
    }

    #[test]
    fn labels_outside_the_choices_and_unknown_names_are_refused() {
        let fields = json!({ "choices": { "label": ["A", "B"] } });
        let row = Row { file: "d", number: 4, fields: fields.as_object().unwrap() };
        let error = by_name(&row, "choices.label", "C").unwrap_err().to_string();
        assert_eq!(error, "`d`, row 5: the label `C` is not among `A`, `B`");
        let error = Question::new("q".into(), &["a", "b"], 2).checked(&row).unwrap_err().to_string();
        assert_eq!(error, "`d`, row 5: the label is 2, but there are 2 choices");
        assert!(Question::new("q".into(), &["a", ""], 0).checked(&row).is_err());
    }
}
