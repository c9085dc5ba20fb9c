//! The architectures that are computed, one file each.
//!
//! All are decoders of one shape (pre-norm layers, grouped-query attention, rotary positions, SwiGLU). A
//! [`Description`] says in what one of them departs from Llama and how checkpoints spell it; what a single checkpoint
//! chooses (sizes, a rope scaling, the width of a window) is in [`LlamaConfig`](crate::LlamaConfig).
//!
//! Adding one: a file here with a `pub(super) const DESCRIPTION`, its line in [`REGISTRY`], and a golden model in
//! `tests/golden/architectures`.

mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Every architecture that is computed.
const REGISTRY: &[&Description] =
    &[&llama::DESCRIPTION, &mistral::DESCRIPTION, &qwen2::DESCRIPTION, &qwen3::DESCRIPTION];

/// What sets one architecture apart.
#[derive(Debug)]
pub struct Description {
    /// `model_type` of a `config.json`; also the name in a model artifact.
    pub model_type: &'static str,
    /// The class in `transformers`.
    pub class: &'static str,
    /// `general.architecture` of a GGUF; `None`: converters give it another one's.
    pub gguf: Option<&'static str>,
    /// The order of q and k rows in a GGUF.
    pub gguf_rotation: GgufRotation,
    /// Biases of the q, k and v projections.
    pub qkv_bias: Bias,
    /// Bias of the attention's output projection.
    pub output_bias: Bias,
    /// Biases of the three MLP projections.
    pub mlp_bias: Bias,
    /// RMS norms of each query and key head, before the rotation.
    pub head_norms: bool,
    /// Which layers may see only a window of past tokens.
    pub window: Window,
    /// What `transformers` assumes where a `config.json` is silent.
    pub defaults: Defaults,
}

/// How a GGUF orders the rows of the q and k projections (and of their biases).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufRotation {
    /// Permuted within each head, so that rotated pairs are neighbours.
    Neighbours,
    /// As Hugging Face has them: the two halves of a head are rotated.
    Halves,
}

/// Whether a group of projections has biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    Never,
    Always,
    /// As `attention_bias` or `mlp_bias` says; without it, none.
    Configured,
}

/// How `sliding_window` is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Not part of the architecture.
    Never,
    /// All layers, where the field is a number.
    EveryLayer,
    /// With `use_sliding_window`, the layers that `layer_types` names, or else those from `max_window_layers` on.
    SomeLayers,
}

/// Defaults of `config.json`; every further field has one default for all (see [`crate::config`]).
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    /// `None`: as many as query heads.
    pub num_key_value_heads: Option<usize>,
    /// `None`: `hidden_size / num_attention_heads`.
    pub head_dim: Option<usize>,
    pub max_position_embeddings: usize,
    pub sliding_window: Option<usize>,
}

/// One of the architectures that are computed. Serialized as its `model_type`.
#[derive(Clone, Copy)]
pub struct Architecture(&'static Description);

impl Architecture {
    /// Llama 1–3, SmolLM2 and whatever else declares `model_type: llama`.
    pub const LLAMA: Self = Self(&llama::DESCRIPTION);

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        REGISTRY.iter().map(|description| Self(description))
    }

    /// The one that a `config.json` calls `model_type`.
    pub fn from_model_type(model_type: &str) -> Option<Self> {
        Self::all().find(|a| a.model_type == model_type)
    }

    /// The one that a GGUF calls `general.architecture`.
    pub fn from_gguf(name: &str) -> Option<Self> {
        Self::all().find(|a| a.gguf == Some(name))
    }

    /// Every `model_type`, as messages list them.
    pub fn model_types() -> String {
        list(Self::all().map(|a| a.model_type))
    }

    /// Every `general.architecture`, as messages list them.
    pub fn gguf_names() -> String {
        list(Self::all().filter_map(|a| a.gguf))
    }
}

fn list(names: impl Iterator<Item = &'static str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl std::ops::Deref for Architecture {
    type Target = Description;
    fn deref(&self) -> &Description {
        self.0
    }
}

impl fmt::Debug for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type)
    }
}

impl PartialEq for Architecture {
    fn eq(&self, other: &Self) -> bool {
        self.model_type == other.model_type
    }
}

impl Eq for Architecture {}

impl Hash for Architecture {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.model_type.hash(state);
    }
}

impl Serialize for Architecture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.model_type)
    }
}

impl<'de> Deserialize<'de> for Architecture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::from_model_type(&name).ok_or_else(|| {
            let supported = Self::model_types();
            serde::de::Error::custom(format!("unknown architecture `{name}` (supported: {supported})"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for architecture in Architecture::all() {
            assert_eq!(Architecture::from_model_type(architecture.model_type), Some(architecture));
            if let Some(gguf) = architecture.gguf {
                assert_eq!(Architecture::from_gguf(gguf), Some(architecture));
            }
            let json = serde_json::to_string(&architecture).unwrap();
            assert_eq!(serde_json::from_str::<Architecture>(&json).unwrap(), architecture);
        }
        let error = serde_json::from_str::<Architecture>("\"mamba\"").unwrap_err().to_string();
        assert!(error.contains("`mamba`") && error.contains("`qwen3`"), "{error}");
    }
}
