//! What a ticket says.
//!
//! ```text
//! content = u32 length of the note ++ note (JSON) ++ keys (32 bytes each, in the order of the nodes)
//! ```

use std::path::PathBuf;

use qpipe_cache::{ActionKey, Digest};
use serde::{Deserialize, Serialize};

use super::probe::Probe;
use crate::manifest::LoadOptions;
use crate::record::{Model, RunHead};
use crate::report::Overview;

const DIGEST: usize = 32;

/// A ticket's content.
pub(super) struct Content {
    pub(super) note: Note,
    pub(super) keys: Vec<ActionKey>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    /// What the manifest includes, in order.
    pub(super) texts: Vec<(PathBuf, Digest)>,
    pub(super) env: Vec<(String, Option<String>)>,
    pub(super) probes: Vec<Probe>,
    /// [`qpipe_cache::Store::memory_stamp`]
    pub(super) memory: Digest,
    /// [`qpipe_cache::Store::confirm`]
    pub(super) results: Digest,
    pub(super) cells: usize,
    pub(super) head: RunHead,
    pub(super) model: Model,
    pub(super) overview: Overview,
}

impl Content {
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let note = serde_json::to_vec(&self.note).ok()?;
        let mut bytes = Vec::with_capacity(4 + note.len() + DIGEST * self.keys.len());
        bytes.extend(u32::try_from(note.len()).ok()?.to_le_bytes());
        bytes.extend(note);
        self.keys.iter().for_each(|key| bytes.extend(key.digest().as_bytes()));
        Some(bytes)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (len, rest) = bytes.split_first_chunk()?;
        let (note, keys) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        let (keys, left) = keys.as_chunks::<DIGEST>();
        left.is_empty().then_some(())?;
        let keys = keys.iter().map(|key| ActionKey::from_digest(Digest::from_bytes(*key)));
        Some(Self { note: serde_json::from_slice(note).ok()?, keys: keys.collect() })
    }
}

impl Note {
    /// The texts of the includes, if they and the environment are what they were.
    pub(super) fn texts_again(&self, options: &LoadOptions<'_>) -> Option<Vec<String>> {
        let same_env = self.env.iter().all(|(name, value)| (options.env)(name) == *value);
        same_env.then_some(())?;
        let again = |(path, digest): &(PathBuf, Digest)| {
            let text = (options.files)(path).ok()?;
            (Digest::of_bytes_here(text.as_bytes()) == *digest).then_some(text)
        };
        self.texts.iter().map(again).collect()
    }
}
