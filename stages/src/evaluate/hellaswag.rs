//! HellaSwag (Zellers et al. 2019, arXiv 1905.07830): which of four endings a story has.

use qpipe_sdk::StageError;

use super::choice::{self, Question};
use super::rows::Row;
use super::task::Task;

pub(super) const TASK: Task = choice::task(
    "hellaswag",
    "Which of four endings a story has (HellaSwag).",
    "Rows with `activity_label`, `ctx_a`, `ctx_b`, `endings` and `label`.",
    question,
);

fn question(row: &Row<'_>) -> Result<Question, StageError> {
    let context = format!("{} {}", row.text("ctx_a")?, capitalized(row.text("ctx_b")?));
    let prompt = preprocessed(&format!("{}: {context}", row.text("activity_label")?));
    let endings: Vec<String> = row.texts("endings")?.into_iter().map(preprocessed).collect();
    let endings: Vec<&str> = endings.iter().map(String::as_str).collect();
    Question::new(prompt, &endings, row.index("label")?).checked(row)
}

/// First letter large, all others small, as Python's `str.capitalize`.
fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().collect::<String>() + &letters.as_str().to_lowercase()
    })
}

/// The harness's cleaning: ` [title]` becomes a stop, other brackets go (unless they span lines), double spaces become
/// one, once.
fn preprocessed(text: &str) -> String {
    without_brackets(&text.trim().replace(" [title]", ". ")).replace("  ", " ")
}

fn without_brackets(text: &str) -> String {
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(open) = rest.find('[') {
        let inner = &rest[open + 1..];
        let closed = inner.find([']', '\n']).filter(|end| inner[*end..].starts_with(']'));
        // without its end on the same line, a bracket is a letter like any other
        let (kept_to, goes_on) = closed.map_or((open + 1, inner), |end| (open, &inner[end + 1..]));
        kept.push_str(&rest[..kept_to]);
        rest = goes_on;
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_go_unless_they_span_lines() {
        assert_eq!(without_brackets("a [b] c [d"), "a  c [d");
        assert_eq!(without_brackets("a [b\nc] [d]"), "a [b\nc] ");
        assert_eq!(without_brackets("[[x] y"), " y");
        assert_eq!(capitalized("the OLDER Girl"), "The older girl");
        assert_eq!(preprocessed(" Fill. [title] Lift  it "), "Fill. . Lift it".replace(". .", ".."));
    }
}
