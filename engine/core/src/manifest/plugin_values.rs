//! Values of a `plugin` node's words.

use std::time::Duration;

use kdl::KdlEntry;
use qpipe_sdk::Value;

use super::error::{Errors, ManifestError};
use super::near::suggest;
use super::syntax::entry_span;
use crate::worker::Sandbox;

/// The one word of `sandbox` besides `#true` and `#false`.
const REQUIRED: &str = "required";

/// `None` after an error.
pub(super) fn sandbox(value: &Value, entry: &KdlEntry, errors: &mut Errors) -> Option<Sandbox> {
    let error = match value {
        Value::Bool(true) => return Some(Sandbox::Wall),
        Value::Bool(false) => return Some(Sandbox::Off),
        Value::Text(word) if word == REQUIRED => return Some(Sandbox::Required),
        Value::Text(word) => ManifestError::UnknownChoice {
            param: "sandbox".into(),
            value: word.clone(),
            span: entry_span(entry).into(),
            variable: None,
            help: suggest(word, "words", [REQUIRED, "#true", "#false"]),
        },
        _ => bad_value("a plugin's sandbox is `#true`, `#false` or `required`", "sandbox", entry),
    };
    errors.push(error);
    None
}

/// A value that its word does not take.
pub(super) fn bad_value(needs: &str, word: &str, entry: &KdlEntry) -> ManifestError {
    ManifestError::BadValue {
        reason: needs.into(),
        span: entry_span(entry).into(),
        help: Some(match entry.name() {
            Some(_) => format!("write `{word}={}`", example(word)),
            None => format!("write `{word} {}`", example(word)),
        }),
    }
}

/// How a word is written, after it.
pub(super) fn example(word: &str) -> &'static str {
    match word {
        "command" => "\"python3\"",
        "digest" => "\"b3:…\"",
        "semantics" => "2",
        "timeout" => "(min)30",
        "memory" => "(GiB)4",
        "transport" => "files",
        "sandbox" => REQUIRED,
        "network" => "#true",
        "args" => "\"--fast\"",
        _ => "\"FILE\"",
    }
}

pub(super) fn seconds(value: &Value) -> Option<Duration> {
    Duration::try_from_secs_f64(number(value)?).ok().filter(|limit| !limit.is_zero())
}

/// No process does with less than a MiB: a smaller number lacks its unit.
pub(super) fn bytes(value: &Value) -> Option<u64> {
    number(value).filter(|bytes| *bytes >= f64::from(1 << 20)).map(|bytes| bytes as u64)
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(int) => Some(*int as f64),
        Value::Float(float) => Some(*float),
        _ => None,
    }
}
