//! Checks of a `tokenizer.json` before the library sees it.
//!
//! The library trusts the file in places: a merge whose result is longer than every token, an id near
//! 2³², a template that names a token it does not define, or JSON that is malformed inside the decoder
//! makes it panic or loop. These checks make all of them typed errors, and refuse what would make
//! token ids depend on chance. The library then gets the checked value, not the bytes, so that both see
//! the same thing where a key is given twice.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use crate::error::TokenizerError;

/// Largest accepted id: 2²⁶, far above any vocabulary.
const MAX_ID: u32 = 1 << 26;

/// Normalizers that the library builds without panicking on a malformed description.
const NORMALIZERS: [&str; 10] =
    ["Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "Prepend", "Replace"];

#[derive(Deserialize)]
struct ModelType {
    model: Tag,
}

#[derive(Deserialize)]
struct Tag {
    #[serde(rename = "type")]
    name: Option<String>,
}

#[derive(Deserialize)]
struct File {
    model: Bpe,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Bpe {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
}

/// A merge as written now, and as written before 2024.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

/// The file as a value that the library can be given.
pub(super) fn checked(json: &[u8]) -> Result<Value, TokenizerError> {
    // as a whole, since skipping over a field does not look inside its strings
    let file: Value = serde_json::from_slice(json).map_err(invalid)?;
    let tag = ModelType::deserialize(&file).map_err(invalid)?.model.name;
    if tag.as_deref() != Some("BPE") {
        let value = tag.unwrap_or_else(|| "none".to_owned());
        return Err(TokenizerError::Unsupported { field: "model.type", value, supported: "`BPE`" });
    }
    let File { model, added_tokens } = File::deserialize(&file).map_err(invalid)?;
    if let Some(dropout) = model.dropout.filter(|&dropout| dropout != 0.0) {
        let value = dropout.to_string();
        return Err(TokenizerError::Unsupported { field: "model.dropout", value, supported: "`null`" });
    }
    let ids = model.vocab.values().copied().chain(added_tokens.iter().map(|added| added.id));
    if let Some(id) = ids.max().filter(|&id| id > MAX_ID) {
        return Err(TokenizerError::Invalid { reason: format!("token id {id} is above {MAX_ID}") });
    }
    check_merges(&model)?;
    check_normalizer(&file["normalizer"])?;
    check_post_processor(&file["post_processor"])?;
    Ok(file)
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn invalid(error: serde_json::Error) -> TokenizerError {
    TokenizerError::Invalid { reason: error.to_string() }
}

fn check_normalizer(normalizer: &Value) -> Result<(), TokenizerError> {
    if normalizer.is_null() {
        return Ok(());
    }
    let kind = normalizer["type"].as_str().unwrap_or("none");
    if !NORMALIZERS.contains(&kind) {
        let supported = "`Sequence`, `NFC`, `NFD`, `NFKC`, `NFKD`, `Lowercase`, `Strip`, `StripAccents`, `Prepend`, `Replace`";
        return Err(TokenizerError::Unsupported {
            field: "normalizer.type",
            value: kind.to_owned(),
            supported,
        });
    }
    normalizer["normalizers"].as_array().into_iter().flatten().try_for_each(check_normalizer)
}

fn check_post_processor(processor: &Value) -> Result<(), TokenizerError> {
    match processor["type"].as_str() {
        None if processor.is_null() => Ok(()),
        Some("ByteLevel") => Ok(()),
        Some("TemplateProcessing") => check_template(processor),
        Some("Sequence") => {
            processor["processors"].as_array().into_iter().flatten().try_for_each(check_post_processor)
        }
        kind => Err(TokenizerError::Unsupported {
            field: "post_processor.type",
            value: kind.unwrap_or("none").to_owned(),
            supported: "`ByteLevel`, `TemplateProcessing`, `Sequence`",
        }),
    }
}

/// A single text's template holds the text as `A`, and special tokens that the template defines.
fn check_template(template: &Value) -> Result<(), TokenizerError> {
    for piece in template["single"].as_array().into_iter().flatten() {
        let is_text = piece["Sequence"]["id"] == "A";
        let token = piece["SpecialToken"]["id"].as_str();
        let is_defined = token.is_some_and(|id| template["special_tokens"].get(id).is_some());
        if !(is_text || is_defined) {
            let reason = format!("the template's piece `{piece}` is not defined");
            return Err(TokenizerError::Invalid { reason });
        }
    }
    Ok(())
}

fn check_merges(model: &Bpe) -> Result<(), TokenizerError> {
    let prefix = model.continuing_subword_prefix.as_deref().unwrap_or_default();
    for (rank, merge) in model.merges.iter().enumerate() {
        let bad = |reason| TokenizerError::BadMerge { rank, merge: merge.text(), reason };
        if matches!(merge, Merge::Line(line) if line.starts_with("#version")) {
            continue;
        }
        let (left, right) = merge.parts().ok_or_else(|| bad("it has no space"))?;
        check_prefixed_merge(left, right, prefix, |token| model.vocab.contains_key(token)).map_err(bad)?;
    }
    Ok(())
}

/// Checks that both parts of a merge and their concatenation are tokens.
pub(crate) fn check_merge(
    left: &str,
    right: &str,
    is_token: impl Fn(&str) -> bool,
) -> Result<(), &'static str> {
    check_prefixed_merge(left, right, "", is_token)
}

fn check_prefixed_merge(
    left: &str,
    right: &str,
    prefix: &str,
    is_token: impl Fn(&str) -> bool,
) -> Result<(), &'static str> {
    if !is_token(left) || !is_token(right) {
        return Err("a part is not in the vocabulary");
    }
    let Some(tail) = right.get(prefix.len()..) else {
        return Err("the right part is shorter than the subword prefix");
    };
    if is_token(&[left, tail].concat()) { Ok(()) } else { Err("the result is not in the vocabulary") }
}

impl Merge {
    fn parts(&self) -> Option<(&str, &str)> {
        match self {
            Merge::Pair(left, right) => Some((left, right)),
            Merge::Line(line) => line.split_once(' '),
        }
    }

    fn text(&self) -> String {
        match self {
            Merge::Pair(left, right) => format!("{left} {right}"),
            Merge::Line(line) => line.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(model: &str) -> Vec<u8> {
        format!(r#"{{"version":"1.0","added_tokens":[],"model":{model}}}"#).into_bytes()
    }

    #[test]
    fn accepts_both_spellings_of_merges() {
        for merges in [r#"["a b"]"#, r#"[["a","b"]]"#, r##"["#version: 0.2","a b"]"##] {
            let model = format!(r#"{{"type":"BPE","vocab":{{"a":0,"b":1,"ab":2}},"merges":{merges}}}"#);
            checked(&file(&model)).unwrap();
        }
    }

    #[test]
    fn refuses_what_would_panic_or_roll_dice() {
        let cases = [
            (r#"{"type":"BPE","vocab":{"a":0},"merges":["a a"]}"#, "the result is not in the vocabulary"),
            (r#"{"type":"BPE","vocab":{"a":4294967295},"merges":[]}"#, "token id 4294967295"),
            (r#"{"type":"BPE","vocab":{},"merges":[],"dropout":0.1}"#, "`model.dropout` = `0.1`"),
            (r#"{"type":"Unigram","vocab":[["a",0.5]]}"#, "`model.type` = `Unigram`"),
            (
                r#"{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"],"continuing_subword_prefix":"@@"}"#,
                "shorter than the subword prefix",
            ),
        ];
        for (model, message) in cases {
            let error = checked(&file(model)).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn refuses_parts_that_the_library_would_panic_on() {
        let model = r#"{"type":"BPE","vocab":{"a":0},"merges":[]}"#;
        let part = |field: &str, value: &str| {
            let json = format!(r#"{{"version":"1.0","added_tokens":[],"model":{model},"{field}":{value}}}"#);
            checked(json.as_bytes()).map(|_| ()).unwrap_err().to_string()
        };
        let template = |piece: &str| {
            format!(r#"{{"type":"TemplateProcessing","single":[{piece}],"pair":[],"special_tokens":{{}}}}"#)
        };
        let undefined = template(r#"{"SpecialToken":{"id":"<s>","type_id":0}}"#);
        assert!(part("post_processor", &undefined).contains("<s>"));
        let pair = template(r#"{"Sequence":{"id":"B","type_id":0}}"#);
        assert!(part("post_processor", &pair).contains("is not defined"));
        let nested = format!(r#"{{"type":"Sequence","processors":[{undefined}]}}"#);
        assert!(part("post_processor", &nested).contains("<s>"));
        assert!(part("post_processor", r#"{"type":"BertProcessing"}"#).contains("`BertProcessing`"));
        let precompiled = r#"{"type":"Sequence","normalizers":[{"type":"Precompiled"}]}"#;
        assert!(part("normalizer", precompiled).contains("`Precompiled`"));
    }
}
