//! LAMBADA (Paperno et al. 2016, arXiv 1606.06031) in OpenAI's form: the last word of a passage, which only the whole
//! passage tells. Right where greedy decoding gives every token of it.

use qpipe_sdk::StageError;

use super::choice::{self, Question};
use super::rows::Row;
use super::task::{Figures, Task};

pub(super) const TASK: Task = Task {
    figures: Figures::Cloze,
    ..choice::task(
        "lambada_openai",
        "The last word of a passage (LAMBADA, OpenAI's text): accuracy of greedy decoding, and perplexity of the word.",
        "Rows with `text`; the word after the last space is scored.",
        question,
    )
};

fn question(row: &Row<'_>) -> Result<Question, StageError> {
    let text = row.text("text")?;
    let (context, word) = text.rsplit_once(' ').unwrap_or(("", text));
    Ok(Question::cloze(context.to_owned(), format!(" {word}")))
}
