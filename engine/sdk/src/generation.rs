//! Texts that a stage generated, as its artifact of kind `generation` holds them: one JSON document, which the engine
//! reads to show samples to people.

use serde::{Deserialize, Serialize};

/// The document's format and version.
pub const FORMAT: &str = "qpipe.generation/1";

/// The artifact's root blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// [`FORMAT`].
    pub format: String,
    /// In the order of the prompts.
    pub samples: Vec<Sample>,
}

/// One prompt and how it was continued.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub prompt: String,
    /// The new text alone.
    pub text: String,
    pub prompt_tokens: Vec<u32>,
    /// The new tokens.
    pub tokens: Vec<u32>,
    /// Why it ended: `eos` or `length`.
    pub finish: String,
}

impl Generation {
    /// Of these samples, in the present format.
    pub fn new(samples: Vec<Sample>) -> Self {
        Self { format: FORMAT.to_owned(), samples }
    }

    /// Reads a document; `None` if it is none of this format.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok().filter(|found: &Self| found.format == FORMAT)
    }
}
