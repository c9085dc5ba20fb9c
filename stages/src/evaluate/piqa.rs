//! PIQA (Bisk et al. 2020, arXiv 1911.11641): which of two ways reaches a goal.

use qpipe_sdk::StageError;

use super::choice::{self, Question};
use super::rows::Row;
use super::task::Task;

pub(super) const TASK: Task = choice::task(
    "piqa",
    "Which of two ways reaches a goal (PIQA).",
    "Rows with `goal`, `sol1`, `sol2` and `label` (0 or 1).",
    question,
);

fn question(row: &Row<'_>) -> Result<Question, StageError> {
    let prompt = format!("Question: {}\nAnswer:", row.text("goal")?);
    Question::new(prompt, &[row.text("sol1")?, row.text("sol2")?], row.index("label")?).checked(row)
}
