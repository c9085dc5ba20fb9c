//! Rows of a task's data, field by field. What is missing or of another type is an error that names the file, the row
//! and the field.

use qpipe_formats::rows::Row as Fields;
use qpipe_sdk::StageError;
use serde_json::Value;

/// One row of a data file.
pub(super) struct Row<'a> {
    pub(super) file: &'a str,
    /// From 0.
    pub(super) number: usize,
    pub(super) fields: &'a Fields,
}

impl Row<'_> {
    /// An error about this row.
    pub(super) fn error(&self, what: impl std::fmt::Display) -> StageError {
        StageError::config(format!("`{}`, row {}: {what}", self.file, self.number + 1))
    }

    /// The value at a path (`choices.text`).
    pub(super) fn value(&self, path: &str) -> Result<&Value, StageError> {
        let (mut names, mut fields) = (path.split('.').peekable(), self.fields);
        while let Some(name) = names.next() {
            let missing = || {
                let known: Vec<&str> = fields.keys().map(String::as_str).collect();
                self.error(format!("no field `{path}`; there are `{}`", known.join("`, `")))
            };
            let value = fields.get(name).ok_or_else(missing)?;
            match (names.peek(), value) {
                (None, _) => return Ok(value),
                (Some(_), Value::Object(inner)) => fields = inner,
                (Some(_), _) => {
                    return Err(self.error(format!("field `{name}` has no fields, `{path}` asks for one")));
                }
            }
        }
        Err(self.error("an empty field name"))
    }

    pub(super) fn text(&self, path: &str) -> Result<&str, StageError> {
        let value = self.value(path)?;
        value.as_str().ok_or_else(|| self.misfit(path, "a string", value))
    }

    pub(super) fn texts(&self, path: &str) -> Result<Vec<&str>, StageError> {
        let value = self.value(path)?;
        let misfit = || self.misfit(path, "a list of strings", value);
        value.as_array().ok_or_else(misfit)?.iter().map(|item| item.as_str().ok_or_else(misfit)).collect()
    }

    /// A whole number, as a number or in digits.
    pub(super) fn index(&self, path: &str) -> Result<usize, StageError> {
        let value = self.value(path)?;
        let number = match value {
            Value::Number(number) => number.as_u64().map(|n| n as usize),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| self.misfit(path, "a whole number", value))
    }

    /// Yes or no: a boolean, 0 or 1.
    pub(super) fn flag(&self, path: &str) -> Result<bool, StageError> {
        let value = self.value(path)?;
        match (value.as_bool(), value.as_u64()) {
            (Some(flag), _) => Ok(flag),
            (None, Some(number @ 0..=1)) => Ok(number == 1),
            _ => Err(self.misfit(path, "a boolean", value)),
        }
    }

    pub(super) fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    pub(super) fn misfit(&self, path: &str, expected: &str, found: &Value) -> StageError {
        let found: String = found.to_string().chars().take(60).collect();
        self.error(format!("field `{path}` is not {expected}: `{found}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_path_and_what_is_wrong_is_named() {
        let json = r#"{"q": "why", "choices": {"text": ["a", "b"]}, "label": "1", "yes": 1}"#;
        let fields = serde_json::from_str(json).unwrap();
        let row = Row { file: "d.jsonl", number: 2, fields: &fields };
        assert_eq!(row.texts("choices.text").unwrap(), ["a", "b"]);
        assert_eq!((row.index("label").unwrap(), row.flag("yes").unwrap()), (1, true));
        let message = |error: StageError| error.to_string();
        assert_eq!(
            message(row.text("question").unwrap_err()),
            "`d.jsonl`, row 3: no field `question`; there are `choices`, `label`, `q`, `yes`"
        );
        assert_eq!(
            message(row.flag("q").unwrap_err()),
            "`d.jsonl`, row 3: field `q` is not a boolean: `\"why\"`"
        );
        assert_eq!(
            message(row.text("q.x").unwrap_err()),
            "`d.jsonl`, row 3: field `q` has no fields, `q.x` asks for one"
        );
    }
}
