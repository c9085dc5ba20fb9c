//! GGUF metadata → [`LlamaConfig`].

use super::{Architecture, LlamaConfig, default_head_dim};
use crate::error::FormatError;
use crate::gguf::{Gguf, GgufError};

const DOCUMENT: &str = "gguf metadata";

pub(super) fn read(gguf: &Gguf<'_>) -> Result<LlamaConfig, FormatError> {
    refuse_what_is_not_computed(gguf)?;
    let hidden_size = require(gguf, "llama.embedding_length")?;
    let num_attention_heads = require(gguf, "llama.attention.head_count")?;
    let num_key_value_heads = size(gguf, "llama.attention.head_count_kv")?.unwrap_or(num_attention_heads);
    LlamaConfig {
        architecture: Architecture::Llama,
        vocab_size: vocab_size(gguf)?,
        hidden_size,
        intermediate_size: require(gguf, "llama.feed_forward_length")?,
        num_hidden_layers: require(gguf, "llama.block_count")?,
        num_attention_heads,
        num_key_value_heads,
        head_dim: head_dim(gguf, hidden_size, num_attention_heads)?,
        max_position_embeddings: require(gguf, "llama.context_length")?,
        rms_norm_eps: as_written(require_f32(gguf, "llama.attention.layer_norm_rms_epsilon")?),
        rope_theta: gguf.f32("llama.rope.freq_base")?.map_or(10_000.0, as_written),
        tie_word_embeddings: gguf.tensor("output.weight").is_none(),
        bos_token_id: gguf.u32("tokenizer.ggml.bos_token_id")?,
        eos_token_id: gguf.u32("tokenizer.ggml.eos_token_id")?,
    }
    .validate(DOCUMENT)
}

fn refuse_what_is_not_computed(gguf: &Gguf<'_>) -> Result<(), FormatError> {
    let architecture = gguf.require_str("general.architecture")?;
    if architecture != "llama" {
        return Err(unsupported("general.architecture", architecture, "`llama`"));
    }
    if let Some(kind) = gguf.str("llama.rope.scaling.type")?.filter(|&kind| kind != "none") {
        return Err(unsupported("llama.rope.scaling.type", kind, "`none`"));
    }
    if gguf.tensor("rope_freqs.weight").is_some() {
        return Err(unsupported("rope_freqs.weight", "present", "no rope scaling"));
    }
    match gguf.u64("llama.expert_count")?.filter(|&count| count > 0) {
        Some(count) => Err(unsupported("llama.expert_count", &count.to_string(), "`0`")),
        None => Ok(()),
    }
}

/// The head width: given outright, or by division; key, value and rotated width must agree.
fn head_dim(gguf: &Gguf<'_>, hidden: usize, heads: usize) -> Result<usize, FormatError> {
    let dim = match size(gguf, "llama.attention.key_length")? {
        Some(dim) => dim,
        None => default_head_dim(DOCUMENT, hidden, heads)?,
    };
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        if let Some(other) = size(gguf, key)?.filter(|&other| other != dim) {
            return Err(unsupported(key, &other.to_string(), "the head size"));
        }
    }
    Ok(dim)
}

/// The embedding's rows say it best; older files have no `llama.vocab_size`.
fn vocab_size(gguf: &Gguf<'_>) -> Result<usize, FormatError> {
    if let Some(vocab) = size(gguf, "llama.vocab_size")? {
        return Ok(vocab);
    }
    let embedding = gguf.tensor("token_embd.weight");
    embedding.and_then(|tensor| tensor.shape.first().copied()).ok_or_else(|| missing("llama.vocab_size"))
}

fn size(gguf: &Gguf<'_>, key: &str) -> Result<Option<usize>, GgufError> {
    Ok(gguf.u64(key)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
}

fn require(gguf: &Gguf<'_>, key: &str) -> Result<usize, FormatError> {
    size(gguf, key)?.ok_or_else(|| missing(key))
}

fn require_f32(gguf: &Gguf<'_>, key: &str) -> Result<f32, FormatError> {
    gguf.f32(key)?.ok_or_else(|| missing(key))
}

/// GGUF stores an f32 where `config.json` has a decimal. The shortest decimal that names the same
/// f32 is what the converter started from (`1e-5`, not `9.99999974…e-6`), so both sources of one
/// model agree.
fn as_written(value: f32) -> f64 {
    value.to_string().parse().unwrap_or_else(|_| f64::from(value))
}

fn missing(field: &str) -> FormatError {
    FormatError::MissingField { document: DOCUMENT, field: field.to_owned() }
}

fn unsupported(field: &str, value: &str, supported: &'static str) -> FormatError {
    FormatError::Unsupported {
        document: DOCUMENT,
        field: field.to_owned(),
        value: value.to_owned(),
        supported,
    }
}
