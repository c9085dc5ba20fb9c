//! WinoGrande (Sakaguchi et al. 2020, arXiv 1907.10641): whom a pronoun means. Scored partially (Trinh and Le 2018): the
//! option is put in place of `_`, and the text after it is scored under each of the two contexts.

use qpipe_sdk::StageError;

use super::choice::{self, Question};
use super::rows::Row;
use super::task::{Figures, Task};

pub(super) const TASK: Task = Task {
    figures: Figures::Accuracy,
    ..choice::task(
        "winogrande",
        "Whom or what a blank means, two options (WinoGrande): the text after the blank is scored.",
        "Rows with `sentence` (with `_` for the blank), `option1`, `option2` and `answer` (1 or 2).",
        question,
    )
};

fn question(row: &Row<'_>) -> Result<Question, StageError> {
    let sentence = row.text("sentence")?;
    let blank = || row.error("field `sentence` has no blank `_`");
    let (before, after) = sentence.split_once('_').ok_or_else(blank)?;
    let label = match row.index("answer")? {
        answer @ 1..=2 => answer - 1,
        answer => return Err(row.error(format!("field `answer` is {answer}, not 1 or 2"))),
    };
    let contexts = [format!("{before}{}", row.text("option1")?), format!("{before}{}", row.text("option2")?)];
    Ok(Question::of_contexts(contexts.to_vec(), after.trim(), label))
}
