//! Cutting a long text into pieces whose ids, concatenated, are the whole text's ids.
//!
//! The library works on one text with one thread, at somewhat more than a megabyte per second, so a
//! corpus joined into one string leaves all other cores idle. A text may be cut where the tokenizer
//! itself always cuts, whatever stands left and right. **Claim:** between a non-whitespace character `y` and a single
//! ASCII space that a non-whitespace character `x` follows, all pre-tokenizers listed in
//! [`Pattern`] have a boundary, and neither side's other boundaries depend on the other side.
//!
//! Proof, by the alternatives of the GPT-2 and Llama 3 patterns. (1) *No match spans the cut*: in
//! each alternative a space is either the optional first character, or within a run of whitespace
//! only, or excluded; so no match holds `y` followed by the space. (2) *The left side is unchanged*:
//! only `\s+(?!\S)` looks beyond its match; the last match of the left side contains `y`, hence is
//! none of the whitespace runs, and a run further left sees the same characters as before. (3) *The
//! right side is unchanged*: matching resumes at a boundary without memory of what came before.
//! `Digits` isolates single characters and knows no neighbours. BPE never crosses a pre-token.
//!
//! Special tokens are found before the pattern runs. A cut must not fall inside one, so tokenizers
//! with an added token that holds whitespace, or that looks at its neighbours (`lstrip`, `rstrip`,
//! `single_word`), are not cut at all; neither are those with a normalizer or a pre-tokenizer that
//! is not listed.

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::gguf::tokenizer::LLAMA3_PATTERN;

/// Shortest piece in bytes: long enough that starting a task is nothing beside encoding the piece.
const PIECE: usize = 16 << 10;

/// Cuts texts for one tokenizer; exists only where the claim above holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Splitter(());

/// The pre-tokenizers that the proof covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    Gpt2,
    DigitsThenGpt2,
    Llama3,
}

impl Splitter {
    pub(super) fn for_tokenizer(tokenizer: &Tokenizer) -> Option<Self> {
        let is_plain = tokenizer.get_normalizer().is_none()
            && tokenizer.get_added_tokens_decoder().values().all(|token| {
                let looks_around = token.lstrip || token.rstrip || token.single_word;
                !looks_around && !token.content.contains(char::is_whitespace)
            });
        let pre = serde_json::to_value(tokenizer.get_pre_tokenizer()?).ok()?;
        (is_plain && pattern(&pre).is_some()).then_some(Self(()))
    }

    /// The text in order, in pieces of at least [`PIECE`] bytes (the last may be shorter, and a piece
    /// is longer where the text offers no cut).
    #[expect(clippy::unused_self, reason = "that a `Splitter` exists is the proof that cutting is allowed")]
    pub(super) fn pieces(self, text: &str) -> Vec<&str> {
        pieces_of(text, PIECE)
    }
}

fn pieces_of(text: &str, shortest: usize) -> Vec<&str> {
    let mut pieces = Vec::with_capacity(text.len() / shortest.max(1) + 1);
    let mut rest = text;
    while let Some(at) = next_cut(rest, shortest) {
        let (piece, tail) = rest.split_at(at);
        pieces.push(piece);
        rest = tail;
    }
    pieces.push(rest);
    pieces
}

/// The first cut at byte `from` or later: a space between two non-whitespace characters.
fn next_cut(text: &str, from: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    let spaces = (from.max(1)..text.len()).filter(|&at| bytes[at] == b' ');
    spaces.into_iter().find(|&at| {
        let solid = |c: Option<char>| c.is_some_and(|c| !c.is_whitespace());
        solid(text[..at].chars().next_back()) && solid(text[at + 1..].chars().next())
    })
}

fn pattern(pre_tokenizer: &Value) -> Option<Pattern> {
    match pre_tokenizer["type"].as_str()? {
        "ByteLevel" => is_byte_level(pre_tokenizer, true).then_some(Pattern::Gpt2),
        "Sequence" => match pre_tokenizer["pretokenizers"].as_array()?.as_slice() {
            [first, second] if is_digits(first) => {
                is_byte_level(second, true).then_some(Pattern::DigitsThenGpt2)
            }
            [first, second] if is_llama3_split(first) => {
                is_byte_level(second, false).then_some(Pattern::Llama3)
            }
            _ => None,
        },
        _ => None,
    }
}

fn is_byte_level(value: &Value, use_regex: bool) -> bool {
    value["type"] == "ByteLevel" && value["add_prefix_space"] == false && value["use_regex"] == use_regex
}

fn is_digits(value: &Value) -> bool {
    *value == json!({"type": "Digits", "individual_digits": true})
}

fn is_llama3_split(value: &Value) -> bool {
    let pattern = json!({"Regex": LLAMA3_PATTERN});
    *value == json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
}

#[cfg(test)]
mod tests;
