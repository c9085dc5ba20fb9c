//! A BPE tokenizer from GGUF metadata: byte-level (`tokenizer.ggml.model` is `gpt2`) here, sentencepiece's (`llama`) in
//! [`sentencepiece`].
//!
//! GGUF keeps the vocabulary, the merges and the *name* of the pre-tokenizer; what the name means is
//! knowledge of the reader. Getting it nearly right is worse than failing (perplexities shift by
//! tenths of a percent and nobody notices), so an unknown name is an error.
//!
//! | `tokenizer.ggml.pre` | splits before BPE |
//! |---|---|
//! | `smollm` | every digit alone, then the GPT-2 pattern |
//! | `gpt-2` | the GPT-2 pattern |
//! | `qwen2` | NFC first, then the Qwen2 pattern: Llama 3's with every digit alone |
//! | `llama-bpe` | the Llama 3 pattern; words in the vocabulary skip the merges; BOS by default |

mod sentencepiece;

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, BpeBuilder, Vocab};
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::{Gguf, GgufError};
use crate::error::{FormatError, TokenizerError};
use crate::tokenizer::{check_merge, failed};

/// The Llama 3 split pattern, as in that model's `tokenizer.json`.
pub(crate) const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The Qwen2 split pattern, as in that model's `tokenizer.json`.
const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";

/// `token_type` of control tokens (`<|im_end|>`) and of tokens that a user added.
const ADDED_TYPES: [i32; 2] = [3, 4];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pre {
    SmolLm,
    Gpt2,
    LlamaBpe,
    Qwen2,
}

/// What a GGUF file says about its tokenizer.
pub(crate) struct Rebuilt {
    pub(crate) tokenizer: tokenizers::Tokenizer,
    pub(crate) bos: Option<u32>,
    pub(crate) eos: Option<u32>,
}

pub(crate) fn rebuild(gguf: &Gguf<'_>) -> Result<Rebuilt, FormatError> {
    let model = gguf.require_str(MODEL)?;
    let tokens = gguf.strings(TOKENS).and_then(|tokens| tokens.ok_or_else(|| missing(TOKENS)));
    let (tokens, mut tokenizer, adds_bos) = match model {
        "gpt2" => {
            let pre = pre_tokenizer_name(gguf.require_str(PRE)?)?;
            let tokens = tokens?;
            (tokens, byte_level(gguf, tokens, pre)?, pre == Pre::LlamaBpe)
        }
        "llama" => {
            let tokens = tokens?;
            (tokens, sentencepiece::tokenizer(gguf, tokens)?, true)
        }
        other => return Err(unsupported(MODEL, other, "`gpt2`, `llama`").into()),
    };
    tokenizer.add_special_tokens(added_tokens(gguf, tokens)?).map_err(failed)?;

    let bos = special_id(gguf, BOS, tokens.len())?;
    let eos = special_id(gguf, EOS, tokens.len())?;
    if let Some(template) = template(gguf, adds_bos, tokens, bos, eos)? {
        tokenizer.with_post_processor(Some(template));
    }
    Ok(Rebuilt { tokenizer, bos, eos })
}

fn byte_level(gguf: &Gguf<'_>, tokens: &[&str], pre: Pre) -> Result<tokenizers::Tokenizer, FormatError> {
    let merges = gguf.strings(MERGES)?.ok_or_else(|| missing(MERGES))?;
    let merges = split_merges(merges, &ids(tokens)?)?;
    let builder = BPE::builder().ignore_merges(pre == Pre::LlamaBpe);
    let mut tokenizer = tokenizers::Tokenizer::new(byte_pairs(builder, tokens, merges)?);
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer(pre)?));
    if pre == Pre::Qwen2 {
        tokenizer.with_normalizer(Some(NFC)).map_err(failed)?;
    }
    tokenizer.with_decoder(Some(ByteLevel::new(false, false, true)));
    Ok(tokenizer)
}

fn pre_tokenizer_name(name: &str) -> Result<Pre, TokenizerError> {
    match name {
        "smollm" => Ok(Pre::SmolLm),
        "gpt-2" => Ok(Pre::Gpt2),
        "llama-bpe" => Ok(Pre::LlamaBpe),
        "qwen2" => Ok(Pre::Qwen2),
        other => Err(unsupported(PRE, other, "`smollm`, `gpt-2`, `llama-bpe`, `qwen2`")),
    }
}

fn pre_tokenizer(pre: Pre) -> Result<PreTokenizerWrapper, TokenizerError> {
    let gpt2 = ByteLevel::new(false, false, true);
    Ok(match pre {
        Pre::Gpt2 => gpt2.into(),
        Pre::SmolLm => Sequence::new(vec![Digits::new(true).into(), gpt2.into()]).into(),
        Pre::LlamaBpe => split(LLAMA3_PATTERN)?,
        Pre::Qwen2 => split(QWEN2_PATTERN)?,
    })
}

/// Pieces by a pattern, then bytes.
fn split(pattern: &str) -> Result<PreTokenizerWrapper, TokenizerError> {
    let pattern = SplitPattern::Regex(pattern.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
    Ok(Sequence::new(vec![split.into(), ByteLevel::new(false, false, false).into()]).into())
}

/// Every token's id; no token has two.
fn ids<'a>(tokens: &[&'a str]) -> Result<HashMap<&'a str, u32>, TokenizerError> {
    let mut ids: HashMap<&str, u32> = HashMap::with_capacity(tokens.len());
    for (id, &token) in (0..).zip(tokens) {
        if let Some(first) = ids.insert(token, id) {
            return Err(TokenizerError::DuplicateToken { token: token.to_owned(), first, second: id });
        }
    }
    Ok(ids)
}

fn byte_pairs(
    builder: BpeBuilder,
    tokens: &[&str],
    merges: Vec<(String, String)>,
) -> Result<BPE, TokenizerError> {
    let vocab: Vocab = tokens.iter().map(|&token| token.to_owned()).zip(0..).collect();
    builder.vocab_and_merges(vocab, merges).build().map_err(failed)
}

fn split_merges(merges: &[&str], ids: &HashMap<&str, u32>) -> Result<Vec<(String, String)>, TokenizerError> {
    let mut pairs = Vec::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let bad = |reason| TokenizerError::BadMerge { rank, merge: (*merge).to_owned(), reason };
        let (left, right) = merge.split_once(' ').ok_or_else(|| bad("it has no space"))?;
        check_merge(left, right, |token| ids.contains_key(token)).map_err(bad)?;
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(pairs)
}

fn added_tokens(gguf: &Gguf<'_>, tokens: &[&str]) -> Result<Vec<AddedToken>, FormatError> {
    let types = token_types(gguf, tokens)?;
    let added = tokens.iter().zip(types).filter(|(_, kind)| ADDED_TYPES.contains(kind));
    Ok(added.map(|(&token, _)| AddedToken::from(token, true)).collect())
}

/// Every token's type.
fn token_types<'g>(gguf: &'g Gguf<'_>, tokens: &[&str]) -> Result<&'g [i32], FormatError> {
    let types = gguf.i32s(TYPES)?.ok_or_else(|| missing(TYPES))?;
    if types.len() != tokens.len() {
        let (found, expected) = (types.len(), tokens.len());
        return Err(TokenizerError::LengthMismatch { field: TYPES, found, expected }.into());
    }
    Ok(types)
}

fn special_id(gguf: &Gguf<'_>, field: &'static str, vocab_size: usize) -> Result<Option<u32>, FormatError> {
    match gguf.u32(field)? {
        Some(id) if id as usize >= vocab_size => {
            Err(TokenizerError::SpecialIdOutOfRange { field, id, vocab_size }.into())
        }
        id => Ok(id),
    }
}

/// The post-processor that adds BOS and EOS, where the file asks for them. A file that does not say gets BOS if
/// `adds_bos`, and no EOS.
fn template(
    gguf: &Gguf<'_>,
    adds_bos: bool,
    tokens: &[&str],
    bos: Option<u32>,
    eos: Option<u32>,
) -> Result<Option<TemplateProcessing>, FormatError> {
    let add_bos = gguf.bool(ADD_BOS)?.unwrap_or(adds_bos);
    let add_eos = gguf.bool(ADD_EOS)?.unwrap_or(false);
    let bos = wanted(add_bos, bos, BOS)?;
    let eos = wanted(add_eos, eos, EOS)?;
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    let mut pieces = Vec::new();
    let mut special_tokens = Vec::new();
    for (label, id) in [("<bos>", bos), ("$A", None), ("<eos>", eos)] {
        if let Some(id) = id {
            let text = vec![tokens[id as usize].to_owned()];
            special_tokens.push(SpecialToken::new(label.to_owned(), vec![id], text).map_err(failed)?);
        } else if label != "$A" {
            continue;
        }
        pieces.push(label);
    }
    let mut builder = TemplateProcessing::builder();
    builder.try_single(pieces).map_err(invalid_template)?;
    builder.special_tokens(special_tokens);
    builder.build().map(Some).map_err(|error| invalid_template(error.to_string()).into())
}

fn wanted(add: bool, id: Option<u32>, key: &str) -> Result<Option<u32>, GgufError> {
    match (add, id) {
        (false, _) => Ok(None),
        (true, Some(id)) => Ok(Some(id)),
        (true, None) => Err(missing(key)),
    }
}

fn missing(key: &str) -> GgufError {
    GgufError::MissingKey { key: key.to_owned() }
}

fn unsupported(field: &'static str, value: &str, supported: &'static str) -> TokenizerError {
    TokenizerError::Unsupported { field, value: value.to_owned(), supported }
}

fn invalid_template(reason: String) -> TokenizerError {
    TokenizerError::Failed { reason }
}
