//! BoolQ (Clark et al. 2019, arXiv 1905.10044): yes/no questions about a passage. A tie is no; the positive class of F1
//! is yes.

use qpipe_sdk::StageError;

use super::choice::{self, Question};
use super::rows::Row;
use super::task::{Figures, Task};
use crate::embedded;

pub(super) const TASK: Task = Task {
    embedded: Some(&embedded::TINY_QUESTIONS),
    figures: Figures::Binary,
    ..choice::task(
        "boolq",
        "Yes/no questions about a passage (BoolQ): accuracy, and F1 with yes as the positive class.",
        "Rows with `question`, `passage` and `answer` (a boolean; or `label`, 0 or 1). `tiny`: the embedded small \
         world's questions.",
        question,
    )
};

fn question(row: &Row<'_>) -> Result<Question, StageError> {
    let prompt = format!("{}\nQuestion: {}?\nAnswer:", row.text("passage")?, row.text("question")?);
    let label = if row.has("answer") { row.flag("answer")? } else { row.flag("label")? };
    Ok(Question::new(prompt, &["no", "yes"], usize::from(label)))
}
