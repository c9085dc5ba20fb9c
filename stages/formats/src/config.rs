//! The one model configuration type.
//!
//! A checkpoint describes its architecture either in a Hugging Face `config.json` or in GGUF
//! metadata. Both are read into [`LlamaConfig`], whose fields keep the Hugging Face names because
//! papers, checkpoints and error messages use them. Reading is strict: a field that would change the
//! computation in a way that is not implemented (a rope scaling, biases, a sliding window) is an
//! error that names it, since a model run without it would give plausible, wrong numbers.
//!
//! Fields that a `config.json` may omit take the defaults that `transformers` gives `LlamaConfig`:
//!
//! | field | default |
//! |---|---|
//! | `num_key_value_heads` | `num_attention_heads` |
//! | `head_dim` | `hidden_size / num_attention_heads` |
//! | `max_position_embeddings` | 2048 |
//! | `rms_norm_eps` | 1e-6 |
//! | `rope_theta` | 10000 |
//! | `tie_word_embeddings` | false |
//! | `hidden_act` | `silu` |

mod gguf;
mod hf_json;

use serde::{Deserialize, Serialize};

use crate::dtype::DType;
use crate::error::FormatError;
use crate::gguf::Gguf;

/// A family of models with one forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Architecture {
    /// Llama 1–3, SmolLM2 and whatever else declares `model_type: llama`.
    Llama,
}

/// What must be known to compute with a Llama checkpoint. Sizes are in elements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlamaConfig {
    /// The family.
    pub architecture: Architecture,
    /// Rows of the embedding and of the output head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; even, since RoPE rotates pairs.
    pub head_dim: usize,
    /// The longest sequence the model was trained for, in tokens.
    pub max_position_embeddings: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the RoPE frequencies.
    pub rope_theta: f64,
    /// Whether the output head is the embedding matrix itself.
    pub tie_word_embeddings: bool,
    /// Beginning-of-sequence token. Of a list, the first.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence token. Of a list (as in Llama 3), the first.
    pub eos_token_id: Option<u32>,
}

/// Largest accepted number of layers: about 30 times the deepest published Llama.
const MAX_LAYERS: usize = 4096;
/// Largest accepted width, vocabulary or context; products of two stay far below 2⁶⁴.
const MAX_SIZE: usize = 1 << 26;

impl LlamaConfig {
    /// Reads an unquantized checkpoint's `config.json`.
    ///
    /// # Errors
    /// [`FormatError::Unsupported`] names the field and lists what would work;
    /// [`FormatError::MissingField`], [`FormatError::InvalidField`] and [`FormatError::Json`] say
    /// what is wrong with the document. A `quantization_config` is unsupported here: such weights
    /// are codes, not values (see [`Self::from_quantized_hf_json`]).
    pub fn from_hf_json(json: &[u8]) -> Result<Self, FormatError> {
        hf_json::read(json, hf_json::Weights::Plain)
    }

    /// Reads a `config.json` that may describe quantized weights; the caller handles
    /// `quantization_config`.
    ///
    /// # Errors
    /// As [`Self::from_hf_json`], less the one about quantization.
    pub fn from_quantized_hf_json(json: &[u8]) -> Result<Self, FormatError> {
        hf_json::read(json, hf_json::Weights::MaybeQuantized)
    }

    /// Reads GGUF metadata of `general.architecture` `llama`.
    ///
    /// # Errors
    /// As [`Self::from_hf_json`], with metadata keys for fields.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, FormatError> {
        gguf::read(gguf)
    }

    /// A `config.json` that `transformers` reads back as this configuration, pretty-printed with
    /// sorted keys. `dtype` is the type that the weights are stored in.
    pub fn to_hf_json(&self, dtype: DType) -> Vec<u8> {
        hf_json::write(self, dtype)
    }

    /// Every tensor of the checkpoint by its Hugging Face name, with its shape (`[out, in]` for
    /// linear weights), in the order of the forward pass.
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let embedding = || vec![self.vocab_size, self.hidden_size];
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), embedding())];
        for layer in 0..self.num_hidden_layers {
            tensors.extend(self.layer_tensors(layer));
        }
        tensors.push(("model.norm.weight".to_owned(), vec![self.hidden_size]));
        if !self.tie_word_embeddings {
            tensors.push(("lm_head.weight".to_owned(), embedding()));
        }
        tensors
    }

    /// The tensors of one decoder layer, in the order of the forward pass.
    pub fn layer_tensors(&self, layer: usize) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        [
            ("input_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![q, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
            ("self_attn.o_proj", vec![hidden, q]),
            ("post_attention_layernorm", vec![hidden]),
            ("mlp.gate_proj", vec![inner, hidden]),
            ("mlp.up_proj", vec![inner, hidden]),
            ("mlp.down_proj", vec![hidden, inner]),
        ]
        .into_iter()
        .map(|(module, shape)| (format!("model.layers.{layer}.{module}.weight"), shape))
        .collect()
    }

    /// Checks what no single field shows: sizes within bounds and divisible as attention needs.
    fn validate(self, document: &'static str) -> Result<Self, FormatError> {
        let invalid = |field: &str, value: String, expected: String| FormatError::InvalidField {
            document,
            field: field.to_owned(),
            value,
            expected,
        };
        for (field, value, max) in self.sizes() {
            if value == 0 || value > max {
                return Err(invalid(field, value.to_string(), format!("1 to {max}")));
            }
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let expected = format!("a divisor of num_attention_heads = {}", self.num_attention_heads);
            return Err(invalid("num_key_value_heads", self.num_key_value_heads.to_string(), expected));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(invalid("head_dim", self.head_dim.to_string(), "an even number".to_owned()));
        }
        for (field, value) in [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)] {
            if !(value.is_finite() && value > 0.0) {
                return Err(invalid(field, value.to_string(), "a positive number".to_owned()));
            }
        }
        Ok(self)
    }

    /// `(field, value, largest accepted)` of every count.
    fn sizes(&self) -> [(&'static str, usize, usize); 8] {
        [
            ("vocab_size", self.vocab_size, MAX_SIZE),
            ("hidden_size", self.hidden_size, MAX_SIZE),
            ("intermediate_size", self.intermediate_size, MAX_SIZE),
            ("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, 1 << 16),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 16),
            ("head_dim", self.head_dim, 1 << 16),
            ("max_position_embeddings", self.max_position_embeddings, usize::MAX >> 1),
        ]
    }
}

/// `hidden_size / num_attention_heads`, the head width when a document gives none.
fn default_head_dim(document: &'static str, hidden: usize, heads: usize) -> Result<usize, FormatError> {
    if heads > 0 && hidden.is_multiple_of(heads) {
        return Ok(hidden / heads);
    }
    Err(FormatError::InvalidField {
        document,
        field: "num_attention_heads".to_owned(),
        value: heads.to_string(),
        expected: format!("a divisor of hidden_size = {hidden}, or an explicit head_dim"),
    })
}

#[cfg(test)]
mod tests;
