//! The one model configuration type.
//!
//! A checkpoint describes its architecture either in a Hugging Face `config.json` or in GGUF
//! metadata. Both are read into [`LlamaConfig`], whose fields keep the Hugging Face names because
//! papers, checkpoints and error messages use them. Reading is strict: a field that would change the
//! computation in a way that is not implemented (experts, a rope scaling that depends on the length) is
//! an error that names it, since a model run without it would give plausible, wrong numbers.
//!
//! Fields that a `config.json` may omit take the defaults that `transformers` gives the architecture
//! (see [`Defaults`](crate::architecture::Defaults)), or these, which all share:
//!
//! | field | default |
//! |---|---|
//! | `rms_norm_eps` | 1e-6 |
//! | `rope_theta` | 10000 |
//! | `tie_word_embeddings`, `attention_bias`, `mlp_bias`, `use_sliding_window` | false |
//! | `max_window_layers` | 28 |
//! | `hidden_act` | `silu` |
//!
//! What only some models have is left out of the serialized form where it is absent, so that a plain Llama's
//! artifact has the bytes it always had.

mod gguf;
mod hf_json;
mod hf_rope;
mod rope;

use serde::{Deserialize, Serialize};

pub use self::rope::{RopeFrequencies, RopeScaling, Yarn};
pub use crate::architecture::Architecture;
use crate::dtype::DType;
use crate::error::FormatError;
use crate::gguf::Gguf;

/// Which projections have biases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Biases {
    /// `q_proj`, `k_proj` and `v_proj`.
    pub qkv: bool,
    /// `o_proj`.
    pub output: bool,
    /// `gate_proj`, `up_proj` and `down_proj`.
    pub mlp: bool,
}

impl Biases {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the projection `module` (`self_attn.q_proj`) has one.
    pub fn of(self, module: &str) -> bool {
        match module {
            "self_attn.q_proj" | "self_attn.k_proj" | "self_attn.v_proj" => self.qkv,
            "self_attn.o_proj" => self.output,
            "mlp.gate_proj" | "mlp.up_proj" | "mlp.down_proj" => self.mlp,
            _ => false,
        }
    }
}

/// Layers in which a query sees only the last `size` keys, its own included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlidingWindow {
    /// In tokens.
    pub size: usize,
    /// The layers, ascending; the others see every past key.
    pub layers: Vec<usize>,
}

/// What must be known to compute with a checkpoint of the Llama family. Sizes are in elements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlamaConfig {
    /// Which one of the family.
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
    /// Width of one head; even, since RoPE rotates pairs. Not always `hidden_size / num_attention_heads`.
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
    /// The other end-of-sequence tokens of a list: any of them ends a generated text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_eos_token_ids: Vec<u32>,
    /// A scaling of the RoPE frequencies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// Layers that see only a window of past tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<SlidingWindow>,
    /// Biases of projections.
    #[serde(default, skip_serializing_if = "Biases::is_empty")]
    pub biases: Biases,
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

    /// Reads the metadata of a GGUF of one of the architectures, and its `rope_freqs.weight`.
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

    /// The tensors of one decoder layer, in the order of the forward pass; a bias follows its weight.
    pub fn layer_tensors(&self, layer: usize) -> Vec<(String, Vec<usize>)> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        let mut modules = vec![
            ("input_layernorm", vec![hidden]),
            ("self_attn.q_proj", vec![q, hidden]),
            ("self_attn.k_proj", vec![kv, hidden]),
            ("self_attn.v_proj", vec![kv, hidden]),
        ];
        if self.architecture.head_norms {
            modules.extend(["self_attn.q_norm", "self_attn.k_norm"].map(|norm| (norm, vec![self.head_dim])));
        }
        modules.extend([
            ("self_attn.o_proj", vec![hidden, q]),
            ("post_attention_layernorm", vec![hidden]),
            ("mlp.gate_proj", vec![inner, hidden]),
            ("mlp.up_proj", vec![inner, hidden]),
            ("mlp.down_proj", vec![hidden, inner]),
        ]);
        let mut tensors = Vec::with_capacity(modules.len());
        for (module, shape) in modules {
            let bias = self.biases.of(module).then(|| vec![shape[0]]);
            tensors.push((format!("model.layers.{layer}.{module}.weight"), shape));
            tensors.extend(bias.map(|shape| (format!("model.layers.{layer}.{module}.bias"), shape)));
        }
        tensors
    }

    /// The rotary frequencies of its heads.
    pub fn rope(&self) -> RopeFrequencies {
        RopeFrequencies::new(self.rope_theta, self.head_dim, self.rope_scaling.as_ref())
    }

    /// How many keys, its own included, a query of this layer sees; `None`: all past ones.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let window = self.sliding_window.as_ref()?;
        window.layers.contains(&layer).then_some(window.size)
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
        if let Some((field, value, expected)) =
            self.rope_scaling.as_ref().and_then(|s| s.fault(self.head_dim))
        {
            return Err(invalid(field, value, expected.to_owned()));
        }
        match &self.sliding_window {
            Some(window) if window.size == 0 => {
                Err(invalid("sliding_window", "0".to_owned(), "at least 1".to_owned()))
            }
            _ => Ok(self),
        }
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
