//! `config.json` ⇄ [`LlamaConfig`].

use serde_json::{Map, Value, json};

use super::{Architecture, LlamaConfig, default_head_dim};
use crate::dtype::DType;
use crate::error::FormatError;

const DOCUMENT: &str = "config.json";

/// What the caller is able to do with the weights beside the configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Weights {
    Plain,
    MaybeQuantized,
}

pub(super) fn read(json: &[u8], weights: Weights) -> Result<LlamaConfig, FormatError> {
    let fields: Map<String, Value> = serde_json::from_slice(json)
        .map_err(|source| FormatError::Json { document: DOCUMENT.to_owned(), source })?;
    let doc = Document { fields: &fields };
    doc.refuse_what_is_not_computed(weights)?;

    let hidden_size = doc.require_size("hidden_size")?;
    let num_attention_heads = doc.require_size("num_attention_heads")?;
    let head_dim = match doc.size("head_dim")? {
        Some(dim) => dim,
        None => default_head_dim(DOCUMENT, hidden_size, num_attention_heads)?,
    };
    LlamaConfig {
        architecture: Architecture::Llama,
        vocab_size: doc.require_size("vocab_size")?,
        hidden_size,
        intermediate_size: doc.require_size("intermediate_size")?,
        num_hidden_layers: doc.require_size("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: doc.size("num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_dim,
        max_position_embeddings: doc.size("max_position_embeddings")?.unwrap_or(2048),
        rms_norm_eps: number(doc.get("rms_norm_eps"), "rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta: doc.rope_theta()?,
        tie_word_embeddings: doc.flag("tie_word_embeddings")?.unwrap_or(false),
        bos_token_id: doc.token_id("bos_token_id")?,
        eos_token_id: doc.token_id("eos_token_id")?,
    }
    .validate(DOCUMENT)
}

pub(super) fn write(config: &LlamaConfig, dtype: DType) -> Vec<u8> {
    let value = json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": false,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "mlp_bias": false,
        "model_type": "llama",
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": dtype.torch_name(),
        "vocab_size": config.vocab_size,
    });
    format!("{value:#}\n").into_bytes()
}

/// The fields of a `config.json`; an explicit `null` counts as absent, as it does in `transformers`.
struct Document<'a> {
    fields: &'a Map<String, Value>,
}

impl<'a> Document<'a> {
    fn get(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn refuse_what_is_not_computed(&self, weights: Weights) -> Result<(), FormatError> {
        let model_type = self.get("model_type").ok_or_else(|| missing("model_type"))?;
        if model_type.as_str() != Some("llama") {
            return Err(unsupported("model_type", model_type, "`llama`"));
        }
        for field in ["attention_bias", "mlp_bias"] {
            if self.flag(field)? == Some(true) {
                return Err(unsupported(field, &Value::Bool(true), "`false`"));
            }
        }
        if let Some(act) = self.get("hidden_act").filter(|act| act.as_str() != Some("silu")) {
            return Err(unsupported("hidden_act", act, "`silu`"));
        }
        for field in ["sliding_window", "num_local_experts"] {
            if let Some(value) = self.get(field) {
                return Err(unsupported(field, value, "none"));
            }
        }
        for rope in ["rope_scaling", "rope_parameters"] {
            self.refuse_rope_scaling(rope)?;
        }
        match self.get("quantization_config") {
            Some(config) if weights == Weights::Plain => {
                let method = config.get("quant_method").unwrap_or(config);
                Err(unsupported("quantization_config", method, "unquantized weights"))
            }
            _ => Ok(()),
        }
    }

    /// Rope of type `default` is plain RoPE; every other type changes the frequencies.
    fn refuse_rope_scaling(&self, field: &str) -> Result<(), FormatError> {
        let Some(rope) = self.get(field) else { return Ok(()) };
        let kind = rope.get("rope_type").or_else(|| rope.get("type"));
        let is_default = kind.and_then(Value::as_str) == Some("default");
        let is_plain = field == "rope_parameters" && kind.is_none();
        if !(is_default || is_plain) {
            return Err(unsupported(field, rope, "`null`, or rope type `default`"));
        }
        match rope.get("partial_rotary_factor").filter(|factor| factor.as_f64() != Some(1.0)) {
            Some(factor) => Err(unsupported("partial_rotary_factor", factor, "`1.0`")),
            None => Ok(()),
        }
    }

    /// `rope_theta` stands at the top or, since transformers 5, in `rope_parameters`.
    fn rope_theta(&self) -> Result<f64, FormatError> {
        let nested = self.get("rope_parameters").and_then(|rope| rope.get("rope_theta"));
        let value = nested.or_else(|| self.get("rope_theta"));
        Ok(number(value, "rope_theta")?.unwrap_or(10_000.0))
    }

    fn size(&self, field: &str) -> Result<Option<usize>, FormatError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok());
        size.map(Some).ok_or_else(|| invalid(field, value, "a whole number"))
    }

    fn require_size(&self, field: &str) -> Result<usize, FormatError> {
        self.size(field)?.ok_or_else(|| missing(field))
    }

    fn flag(&self, field: &str) -> Result<Option<bool>, FormatError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| invalid(field, value, "`true` or `false`"))
    }

    fn token_id(&self, field: &str) -> Result<Option<u32>, FormatError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let first = value.as_array().and_then(|ids| ids.first()).unwrap_or(value);
        let id = first.as_u64().and_then(|id| u32::try_from(id).ok());
        id.map(Some).ok_or_else(|| invalid(field, value, "a token id or a list of them"))
    }
}

fn number(value: Option<&Value>, field: &str) -> Result<Option<f64>, FormatError> {
    let Some(value) = value else { return Ok(None) };
    value.as_f64().map(Some).ok_or_else(|| invalid(field, value, "a number"))
}

fn missing(field: &str) -> FormatError {
    FormatError::MissingField { document: DOCUMENT, field: field.to_owned() }
}

fn invalid(field: &str, value: &Value, expected: &str) -> FormatError {
    FormatError::InvalidField {
        document: DOCUMENT,
        field: field.to_owned(),
        value: shorten(value),
        expected: expected.to_owned(),
    }
}

fn unsupported(field: &str, value: &Value, supported: &'static str) -> FormatError {
    FormatError::Unsupported { document: DOCUMENT, field: field.to_owned(), value: shorten(value), supported }
}

/// A value as a message shows it: text without quotes, at most 120 characters.
fn shorten(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
