//! JSON lines: one object a line, UTF-8, lines ended by `\n` or `\r\n`.

use super::{MAX_ROWS, Row, bad_row};
use crate::error::FormatError;

const MAX_LINE: usize = 64 << 20;

/// The objects of all lines that hold anything.
pub(super) fn rows<'a>(
    name: &'a str,
    bytes: &'a [u8],
) -> impl Iterator<Item = Result<Row, FormatError>> + use<'a> {
    let mut lines = bytes.split(|byte| *byte == b'\n').enumerate();
    let (mut count, mut failed) = (0, false);
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let (at, line) = lines.find(|(_, line)| !line.trim_ascii().is_empty())?;
        count += 1;
        let row = if count > MAX_ROWS {
            Err(bad_row(name, "line", at + 1, &format!("more than {MAX_ROWS} rows")))
        } else {
            object(line).map_err(|reason| bad_row(name, "line", at + 1, &reason))
        };
        failed = row.is_err();
        Some(row)
    })
}

fn object(line: &[u8]) -> Result<Row, String> {
    if line.len() > MAX_LINE {
        return Err(format!("it has {} bytes, more than {MAX_LINE}", line.len()));
    }
    let text = std::str::from_utf8(line).map_err(|_| "it is not utf-8".to_owned())?;
    if !text.trim_start().starts_with('{') {
        return Err("expected a JSON object".into());
    }
    serde_json::from_str(text).map_err(|error| {
        // the parser sees one line only, so its line number would mislead
        let words = error.to_string();
        let words = words.split(" at line ").next().unwrap_or(&words).to_owned();
        format!("{words} at column {}", error.column())
    })
}
