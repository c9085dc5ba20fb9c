//! OpenBookQA (Mihaylov et al. 2018, arXiv 1809.02789): elementary science facts, without the book.

use qpipe_sdk::StageError;

use super::choice::{self, Question};
use super::rows::Row;
use super::task::Task;

pub(super) const TASK: Task = choice::task(
    "openbookqa",
    "Elementary science facts, four choices (OpenBookQA).",
    "Rows with `question_stem`, `choices` (`text` and `label`) and `answerKey`.",
    question,
);

fn question(row: &Row<'_>) -> Result<Question, StageError> {
    let label = choice::by_name(row, "choices.label", row.text("answerKey")?.trim_start())?;
    Question::new(row.text("question_stem")?.to_owned(), &row.texts("choices.text")?, label).checked(row)
}
