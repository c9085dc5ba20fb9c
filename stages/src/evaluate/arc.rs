//! ARC, the AI2 Reasoning Challenge (Clark et al. 2018, arXiv 1803.05457): grade-school science questions, in an easy
//! and a challenging set.

use qpipe_sdk::StageError;

use super::choice::{self, Question};
use super::rows::Row;
use super::task::Task;

const DATA: &str = "Rows with `question`, `choices` (`text` and `label`) and `answerKey`.";

pub(super) const EASY: Task =
    choice::task("arc_easy", "Grade-school science questions, the easy set (ARC).", DATA, question);

pub(super) const CHALLENGE: Task =
    choice::task("arc_challenge", "Grade-school science questions, the challenge set (ARC).", DATA, question);

fn question(row: &Row<'_>) -> Result<Question, StageError> {
    let prompt = format!("Question: {}\nAnswer:", row.text("question")?);
    let label = choice::by_name(row, "choices.label", row.text("answerKey")?)?;
    Question::new(prompt, &row.texts("choices.text")?, label).checked(row)
}
