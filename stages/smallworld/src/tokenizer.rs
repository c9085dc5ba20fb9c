//! The tokenizer of the small world: byte-level BPE, trained on its own documents.
//!
//! Byte-level, because a tokenizer must take any text a user types, not only the world's words. Large enough that
//! every common word of the world is one token with its leading space, because then a document is some fifty tokens
//! long, and ` yes` and ` no` are one token each. The rare words (`rains`, `grabs`, `duck`, most family names) are two
//! or three, and so are some first names where they open a passage, without a space before them.

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer, TokenizerBuilder};

use crate::corpus::{Corpus, END_OF_TEXT};
use crate::mix::MIX;

/// The tokenizer could not be made.
#[derive(Debug, thiserror::Error)]
#[error("train the tokenizer: {reason}")]
pub struct TokenizerError {
    reason: String,
}

impl From<tokenizers::Error> for TokenizerError {
    fn from(error: tokenizers::Error) -> Self {
        Self { reason: error.to_string() }
    }
}

/// Trains on the documents of `seed` and returns the text of `tokenizer.json`; the same bytes for the same seed.
pub fn train_tokenizer(seed: u64) -> Result<Vec<u8>, TokenizerError> {
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(MIX.vocabulary)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(vec![AddedToken::from(END_OF_TEXT, true)])
        .build();
    let byte_level = ByteLevel::new(false, false, true);
    let mut tokenizer = TokenizerBuilder::<BPE, tokenizers::NormalizerWrapper, _, _, _>::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(byte_level))
        .with_post_processor(Some(byte_level))
        .with_decoder(Some(byte_level))
        .build()?;
    let mix = MIX.with_residents(MIX.tokenizer_residents);
    let documents = Corpus::of_mix(seed, mix).take(MIX.tokenizer_documents);
    let stories = documents.map(|document| document.text.trim_end_matches(END_OF_TEXT).to_owned());
    tokenizer.train(&mut trainer, stories)?;
    let text = tokenizer.to_string(true)?;
    // a round trip through the parser, so that what is written is what a reader accepts
    text.parse::<Tokenizer>()?;
    Ok(text.into_bytes())
}
