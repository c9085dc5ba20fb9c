//! A sentencepiece BPE tokenizer (Llama 1 and 2, Mistral 7B) from GGUF metadata: pieces with scores, no merges.
//!
//! Sentencepiece joins, again and again, the two neighbours whose union has the highest score, and spells what is in
//! no piece in bytes. The same comes of merges ranked by score, which is what such a model's `tokenizer.json` holds:
//! spaces are `▁`, one stands in front of the text, nothing is split beforehand.

use std::collections::HashSet;

use tokenizers::AddedToken;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{NormalizerWrapper, Prepend, Replace, Sequence as Normalizers};

use super::{TOKENS, TYPES, byte_pairs, ids, missing, token_types, unsupported};
use crate::error::{FormatError, TokenizerError};
use crate::gguf::Gguf;
use crate::tokenizer::failed;

const SCORES: &str = "tokenizer.ggml.scores";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const REMOVE_SPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";

/// Longest piece in bytes: the ways to cut one are as many, and each is looked up.
const MAX_PIECE: usize = 4096;

/// What stands for a space in a piece.
const SPACE: &str = "▁";

/// `token_type` of ordinary pieces, and of the token for what cannot be spelled.
const NORMAL: i32 = 1;
const UNKNOWN_TYPE: i32 = 2;
/// `token_type` of `<0x00>` to `<0xFF>`.
const BYTE: i32 = 6;

pub(super) fn tokenizer(gguf: &Gguf<'_>, tokens: &[&str]) -> Result<tokenizers::Tokenizer, FormatError> {
    if gguf.bool(REMOVE_SPACES)?.unwrap_or(false) {
        return Err(unsupported(REMOVE_SPACES, "true", "`false`").into());
    }
    // no token may be there twice
    ids(tokens)?;
    if let Some(long) = tokens.iter().map(|piece| piece.len()).find(|&bytes| bytes > MAX_PIECE) {
        return Err(
            unsupported(TOKENS, &format!("a piece of {long} bytes"), "pieces of up to 4096 bytes").into()
        );
    }
    let types = token_types(gguf, tokens)?;
    let bytes = types.iter().filter(|&&kind| kind == BYTE).count();
    if bytes != 256 {
        return Err(unsupported(TYPES, &format!("{bytes} byte tokens"), "256 byte tokens").into());
    }
    let scores = gguf.f32s(SCORES)?.ok_or_else(|| missing(SCORES))?;
    if scores.len() != tokens.len() {
        let (found, expected) = (scores.len(), tokens.len());
        return Err(TokenizerError::LengthMismatch { field: SCORES, found, expected }.into());
    }
    let pieces =
        (0..).zip(tokens).filter(|&(id, _)| types[id] == NORMAL).map(|(id, &piece)| (piece, scores[id]));
    let unknown = super::special_id(gguf, UNKNOWN, tokens.len())?.map(|id| id as usize);
    let unknown = unknown.or_else(|| types.iter().position(|&kind| kind == UNKNOWN_TYPE));

    let mut builder = BPE::builder().byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = unknown {
        builder = builder.unk_token(tokens[unknown].to_owned());
    }
    let merges = merges(&pieces.collect::<Vec<_>>());
    let mut tokenizer = tokenizers::Tokenizer::new(byte_pairs(builder, tokens, merges)?);
    tokenizer.with_normalizer(Some(normalizer(gguf)?)).map_err(failed)?;
    tokenizer.with_decoder(Some(decoder()?));
    if let Some(unknown) = unknown {
        tokenizer.add_special_tokens([AddedToken::from(tokens[unknown], true)]).map_err(failed)?;
    }
    Ok(tokenizer)
}

/// Every way to join two pieces to a third, best first: by score, then, as in the `tokenizer.json` that transformers
/// makes of a sentencepiece model, the longer left part first, the longer right part, the smaller id.
fn merges(pieces: &[(&str, f32)]) -> Vec<(String, String)> {
    let known: HashSet<&str> = pieces.iter().map(|&(piece, _)| piece).collect();
    let mut ranked = Vec::with_capacity(pieces.len() * 2);
    for &(piece, score) in pieces {
        let cuts = piece.char_indices().skip(1).map(|(at, _)| piece.split_at(at));
        let joins = cuts.filter(|(left, right)| known.contains(left) && known.contains(right));
        ranked.extend(joins.map(|join| (score, join)));
    }
    let length = |part: &str| part.chars().count();
    // stable, so that the smaller id stays in front
    ranked.sort_by(|(a, (a_left, a_right)), (b, (b_left, b_right))| {
        let scores = b.total_cmp(a);
        scores.then_with(|| (length(b_left), length(b_right)).cmp(&(length(a_left), length(a_right))))
    });
    ranked.into_iter().map(|(_, (left, right))| (left.to_owned(), right.to_owned())).collect()
}

fn normalizer(gguf: &Gguf<'_>) -> Result<NormalizerWrapper, FormatError> {
    let spaces = Replace::new(" ", SPACE).map_err(failed)?;
    Ok(if gguf.bool(SPACE_PREFIX)?.unwrap_or(true) {
        Normalizers::new(vec![Prepend::new(SPACE.to_owned()).into(), spaces.into()]).into()
    } else {
        spaces.into()
    })
}

fn decoder() -> Result<DecoderWrapper, TokenizerError> {
    let spaces = Replace::new(SPACE, " ").map_err(failed)?;
    let parts: Vec<DecoderWrapper> =
        vec![spaces.into(), ByteFallback::new().into(), Fuse::new().into(), Strip::new(' ', 1, 0).into()];
    Ok(Decoders::new(parts).into())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::gguf::testing::Builder;
    use crate::tokenizer::Tokenizer;

    /// What sentencepiece trained and gives.
    #[derive(Deserialize)]
    struct Golden {
        tokens: Vec<String>,
        scores: Vec<f32>,
        types: Vec<i32>,
        bos: u32,
        eos: u32,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../../../../../tests/golden/spm.json")).unwrap()
    }

    fn file(golden: &Golden) -> Builder {
        Builder::new()
            .str("tokenizer.ggml.model", "llama")
            .strings("tokenizer.ggml.tokens", &golden.tokens)
            .f32s("tokenizer.ggml.scores", &golden.scores)
            .i32s("tokenizer.ggml.token_type", &golden.types)
            .u32("tokenizer.ggml.bos_token_id", golden.bos)
            .u32("tokenizer.ggml.eos_token_id", golden.eos)
    }

    fn read(file: &Builder) -> Result<Tokenizer, FormatError> {
        Tokenizer::from_gguf(&Gguf::parse(&file.build()).unwrap())
    }

    #[test]
    fn ids_are_those_of_sentencepiece() {
        let golden = golden();
        let built = read(&file(&golden)).unwrap();
        let saved = Tokenizer::from_json_bytes(&built.to_json_bytes().unwrap()).unwrap();
        assert!(golden.cases.len() > 40);
        for Case { text, ids } in &golden.cases {
            assert_eq!(&built.encode(text, false).unwrap(), ids, "{text:?}");
            assert_eq!(&saved.encode(text, false).unwrap(), ids, "{text:?}");
            // sentencepiece has one sign for both
            assert_eq!(built.decode(ids).unwrap(), text.replace('▁', " "), "{text:?}");
            assert_eq!(built.encode(text, true).unwrap(), [&[golden.bos][..], ids].concat(), "{text:?}");
        }
    }

    #[test]
    fn special_tokens_are_found_and_each_text_between_gets_its_space() {
        let golden = golden();
        let tokenizer = read(&file(&golden)).unwrap();
        let ids = |text: &str| tokenizer.encode(text, false).unwrap();
        assert_eq!(ids("the</s>the"), [ids("the"), vec![golden.eos], ids("the")].concat());
        assert_eq!(ids("<s>"), [golden.bos]);
        let bare = read(&file(&golden).bool("tokenizer.ggml.add_space_prefix", false)).unwrap();
        assert_eq!(bare.encode(" the", false).unwrap(), ids("the"));
        assert_ne!(bare.encode("the", false).unwrap(), ids("the"));
        assert_eq!(bare.encode("", true).unwrap(), [golden.bos]);
    }

    #[test]
    fn what_would_change_ids_is_refused() {
        let golden = golden();
        let message = |file: Builder| read(&file).unwrap_err().to_string();
        let spaces = file(&golden).bool("tokenizer.ggml.remove_extra_whitespaces", true);
        assert!(message(spaces).contains("`tokenizer.ggml.remove_extra_whitespaces` = `true`"));
        let mut long = self::golden();
        long.tokens[500] = "x".repeat(4097);
        assert!(message(file(&long)).contains("`a piece of 4097 bytes`"), "{}", message(file(&long)));
        let mut fewer = self::golden();
        fewer.types[7] = NORMAL;
        assert!(message(file(&fewer)).contains("`255 byte tokens`"), "{}", message(file(&fewer)));
        let mut short = self::golden();
        short.scores.pop();
        assert!(message(file(&short)).contains("699 entries for 700 tokens"), "{}", message(file(&short)));
    }
}
