//! The metrics file: one JSON object, name → number.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use qpipe_sdk::{Better, Metric, StageError};
use serde_json::{Map, Value};

/// Longest metrics file, bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Reads `path` within `folder`. A command names its metrics on purpose, so all of them are shown.
pub(super) fn read(folder: &Path, path: &str) -> Result<Vec<Metric>, StageError> {
    let refuse = |reason: String| StageError::Config(format!("the metrics file `{path}` {reason}"));
    let mut text = Vec::new();
    let file = File::open(folder.join(path)).map_err(|e| refuse(format!("cannot be read: {e}")))?;
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(|e| refuse(format!("cannot be read: {e}")))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(refuse(format!("is longer than {MAX_BYTES} bytes")));
    }
    let object: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|e| refuse(format!("is no JSON object: {e}")))?;
    let metric = |(name, value): (&String, &Value)| {
        let number =
            value.as_f64().ok_or_else(|| refuse(format!("has `{value}` for `{name}`, not a number")))?;
        Ok(Metric::new(name.clone(), number, "", Better::Neither).headline())
    };
    object.iter().map(metric).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Vec<Metric>, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("m.json"), text).unwrap();
        read(dir.path(), "m.json").map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_become_metrics() {
        let metrics = of(r#"{"words": 12, "rate": 0.5}"#).unwrap();
        let pairs: Vec<(&str, f64)> = metrics.iter().map(|m| (m.name.as_str(), m.value)).collect();
        assert_eq!(pairs, [("rate", 0.5), ("words", 12.0)]);
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(of(r#"{"words": "many"}"#).unwrap_err().contains("has `\"many\"` for `words`, not a number"));
        assert!(of("[1]").unwrap_err().contains("is no JSON object"));
        assert!(of(&" ".repeat(2 << 20)).unwrap_err().contains("is longer than"));
    }
}
