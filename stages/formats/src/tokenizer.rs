//! Text ⇄ token ids.
//!
//! [`Tokenizer`] wraps the `tokenizers` library with three promises that a measurement needs:
//!
//! * the same ids as the model's own tokenizer, special tokens in the text included;
//! * no hidden state in the file: truncation and padding, which a `tokenizer.json` may carry along
//!   from someone's training run, are dropped, and dropout is refused;
//! * long texts take time proportional to their length, on all cores, with the very ids that the
//!   whole text would give (see the module `split`).

mod json;
mod split;

use std::sync::Arc;

use rayon::prelude::*;
use tokenizers::{Encoding, Token};

use crate::error::{FormatError, TokenizerError};
use crate::gguf::Gguf;
use crate::gguf::tokenizer::rebuild;

pub(crate) use json::check_merge;
use split::Splitter;

/// A model's tokenizer. Threads may share it, and copies share its tables; reading one takes some 100 ms.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<tokenizers::Tokenizer>,
    splitter: Option<Arc<Splitter>>,
    bos: Option<u32>,
    eos: Option<u32>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json` of a byte-pair model. BOS and EOS ids are not in that file: give them
    /// with [`Self::with_special_ids`], from the model's configuration.
    ///
    /// # Errors
    /// [`TokenizerError::Invalid`] if the file does not parse, [`TokenizerError::Unsupported`] for
    /// other model types, unknown normalizers and post-processors, and dropout, [`TokenizerError::BadMerge`] for inconsistent merges.
    pub fn from_json_bytes(json: &[u8]) -> Result<Self, TokenizerError> {
        let inner = serde_json::from_value(json::checked(json)?);
        let inner = inner.map_err(|error| TokenizerError::Invalid { reason: error.to_string() })?;
        Self::new(inner, None, None)
    }

    /// Rebuilds the tokenizer that a GGUF file describes, with its BOS and EOS ids.
    ///
    /// # Errors
    /// [`TokenizerError::Unsupported`] for a model or pre-tokenizer not known here, and the errors
    /// of missing or inconsistent metadata.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, FormatError> {
        let rebuilt = rebuild(gguf)?;
        Ok(Self::new(rebuilt.tokenizer, rebuilt.bos, rebuilt.eos)?)
    }

    /// The same tokenizer with these BOS and EOS ids.
    ///
    /// # Errors
    /// [`TokenizerError::SpecialIdOutOfRange`].
    pub fn with_special_ids(mut self, bos: Option<u32>, eos: Option<u32>) -> Result<Self, TokenizerError> {
        let vocab_size = self.vocab_size();
        for (field, id) in [("bos_token_id", bos), ("eos_token_id", eos)] {
            if let Some(id) = id.filter(|&id| self.inner.id_to_token(id).is_none()) {
                return Err(TokenizerError::SpecialIdOutOfRange { field, id, vocab_size });
            }
        }
        (self.bos, self.eos) = (bos, eos);
        Ok(self)
    }

    /// The tokenizer as a `tokenizer.json`: compact, vocabulary by id, merges by rank, so equal
    /// tokenizers give equal bytes and the bytes can be a content key.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] if the library cannot serialize a part of it.
    pub fn to_json_bytes(&self) -> Result<Vec<u8>, TokenizerError> {
        self.inner.to_string(false).map(String::into_bytes).map_err(failed)
    }

    /// Token ids of a text. Special tokens written in the text (`<|im_end|>`) are recognized;
    /// `add_special` adds those that the tokenizer puts around a sequence (BOS, for some models).
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] with the library's reason.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        let ids = match &self.splitter {
            Some(splitter) => self.encode_pieces(&splitter.pieces(text))?,
            None => self.encode_plain(text)?,
        };
        if add_special { self.add_special(&ids) } else { Ok(ids) }
    }

    /// [`Self::encode`] of many texts, in parallel; the order is kept.
    ///
    /// # Errors
    /// [`TokenizerError::Failed`] of one text that failed.
    pub fn encode_batch<T: AsRef<str> + Sync>(
        &self,
        texts: &[T],
        add_special: bool,
    ) -> Result<Vec<Vec<u32>>, TokenizerError> {
        texts.par_iter().map(|text| self.encode(text.as_ref(), add_special)).collect()
    }

    /// The text of these ids, special tokens written out. Ids that do not end on a character's
    /// boundary give U+FFFD there.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.decode_ids(ids, false)
    }

    /// The text of these ids without special tokens.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownId`].
    pub fn decode_without_special(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.decode_ids(ids, true)
    }

    /// The number of tokens, special ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token by its exact text in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Beginning-of-sequence id, if given.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.bos
    }

    /// End-of-sequence id, if given.
    pub fn eos_token_id(&self) -> Option<u32> {
        self.eos
    }

    fn new(
        mut inner: tokenizers::Tokenizer,
        bos: Option<u32>,
        eos: Option<u32>,
    ) -> Result<Self, TokenizerError> {
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        let splitter = Splitter::for_tokenizer(&inner).map(Arc::new);
        Ok(Self { inner: inner.into(), splitter, bos, eos })
    }

    fn encode_pieces(&self, pieces: &[&str]) -> Result<Vec<u32>, TokenizerError> {
        if let [text] = pieces {
            return self.encode_plain(text);
        }
        let ids: Vec<Vec<u32>> =
            pieces.par_iter().map(|piece| self.encode_plain(piece)).collect::<Result<_, _>>()?;
        Ok(ids.concat())
    }

    fn encode_plain(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        Ok(self.inner.encode_fast(text, false).map_err(failed)?.get_ids().to_vec())
    }

    /// Puts the post-processor's special tokens around `ids`. The post-processor runs on a single
    /// stand-in token, and the ids replace it: a text of millions of tokens is not copied through it.
    fn add_special(&self, ids: &[u32]) -> Result<Vec<u32>, TokenizerError> {
        const STAND_IN: u32 = u32::MAX;
        let token = Token::new(STAND_IN, String::new(), (0, 0));
        let encoding = Encoding::from_tokens(vec![token], 0);
        let processed = self.inner.post_process(encoding, None, true).map_err(failed)?;
        let around = processed.get_ids();
        let Some(at) = around.iter().position(|&id| id == STAND_IN) else {
            return Err(TokenizerError::Failed { reason: "post-processor drops the text".to_owned() });
        };
        Ok([&around[..at], ids, &around[at + 1..]].concat())
    }

    fn decode_ids(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        // the library drops unknown ids without a word
        if let Some(&id) = ids.iter().find(|&&id| self.inner.id_to_token(id).is_none()) {
            return Err(TokenizerError::UnknownId { id, vocab_size: self.vocab_size() });
        }
        self.inner.decode(ids, skip_special).map_err(failed)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(crate) fn failed(error: tokenizers::Error) -> TokenizerError {
    TokenizerError::Failed { reason: error.to_string() }
}

#[cfg(test)]
mod tests;
