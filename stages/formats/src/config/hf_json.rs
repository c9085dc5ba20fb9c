//! `config.json` ⇄ [`LlamaConfig`].

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::{Architecture, Biases, LlamaConfig, SlidingWindow, default_head_dim, hf_rope};
use crate::architecture::{Bias, Window};
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
    let architecture = doc.architecture()?;
    let defaults = architecture.defaults;
    doc.refuse_what_is_not_computed(weights)?;

    let hidden_size = doc.require_size("hidden_size")?;
    let num_attention_heads = doc.require_size("num_attention_heads")?;
    let num_hidden_layers = doc.require_size("num_hidden_layers")?;
    let head_dim = match doc.size("head_dim")?.or(defaults.head_dim) {
        Some(dim) => dim,
        None => default_head_dim(DOCUMENT, hidden_size, num_attention_heads)?,
    };
    let max_position_embeddings =
        doc.size("max_position_embeddings")?.unwrap_or(defaults.max_position_embeddings);
    let key_value_heads = match doc.fields.get("num_key_value_heads") {
        None => defaults.num_key_value_heads,
        Some(_) => doc.size("num_key_value_heads")?,
    };
    let (rope_theta, rope_scaling) = hf_rope::read(&doc, max_position_embeddings)?;
    let eos = doc.token_ids("eos_token_id")?;
    LlamaConfig {
        architecture,
        vocab_size: doc.require_size("vocab_size")?,
        hidden_size,
        intermediate_size: doc.require_size("intermediate_size")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: key_value_heads.unwrap_or(num_attention_heads),
        head_dim,
        max_position_embeddings,
        rms_norm_eps: doc.number("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta,
        tie_word_embeddings: doc.flag("tie_word_embeddings")?.unwrap_or(false),
        bos_token_id: doc.token_ids("bos_token_id")?.first().copied(),
        eos_token_id: eos.first().copied(),
        other_eos_token_ids: eos.iter().skip(1).copied().collect(),
        rope_scaling,
        sliding_window: doc.sliding_window(architecture, num_hidden_layers)?,
        biases: doc.biases(architecture)?,
    }
    .validate(DOCUMENT)
}

pub(super) fn write(config: &LlamaConfig, dtype: DType) -> Vec<u8> {
    let eos = match (config.eos_token_id, config.other_eos_token_ids.as_slice()) {
        (Some(first), others) if !others.is_empty() => json!([&[first], others].concat()),
        (eos, _) => json!(eos),
    };
    let mut value = json!({
        "architectures": [config.architecture.class],
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "model_type": config.architecture.model_type,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": dtype.torch_name(),
        "vocab_size": config.vocab_size,
    });
    if let Some(scaling) = &config.rope_scaling {
        value["rope_scaling"] = hf_rope::write(scaling);
    }
    for (field, bias, has) in [
        ("attention_bias", config.architecture.qkv_bias, config.biases.qkv),
        ("mlp_bias", config.architecture.mlp_bias, config.biases.mlp),
    ] {
        if bias == Bias::Configured {
            value[field] = has.into();
        }
    }
    write_window(config, &mut value);
    format!("{value:#}\n").into_bytes()
}

fn write_window(config: &LlamaConfig, value: &mut Value) {
    if config.architecture.window == Window::Never {
        return;
    }
    value["sliding_window"] = config.sliding_window.as_ref().map(|window| window.size).into();
    if config.architecture.window == Window::SomeLayers {
        let kind = |layer| if config.window(layer).is_some() { SLIDING } else { FULL };
        value["use_sliding_window"] = config.sliding_window.is_some().into();
        value["layer_types"] = (0..config.num_hidden_layers).map(kind).collect();
    }
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// The fields of a `config.json`; an explicit `null` counts as absent, as it does in `transformers`.
pub(super) struct Document<'a> {
    pub(super) fields: &'a Map<String, Value>,
}

impl<'a> Document<'a> {
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    fn architecture(&self) -> Result<Architecture, FormatError> {
        let model_type = self.get("model_type").ok_or_else(|| missing("model_type"))?;
        let found = model_type.as_str().and_then(Architecture::from_model_type);
        found.ok_or_else(|| unsupported("model_type", model_type, Architecture::model_types()))
    }

    fn refuse_what_is_not_computed(&self, weights: Weights) -> Result<(), FormatError> {
        if let Some(act) = self.get("hidden_act").filter(|act| act.as_str() != Some("silu")) {
            return Err(unsupported("hidden_act", act, "`silu`"));
        }
        for field in ["num_local_experts", "num_experts"] {
            if let Some(value) = self.get(field) {
                return Err(unsupported(field, value, "none"));
            }
        }
        match self.get("quantization_config") {
            Some(config) if weights == Weights::Plain => {
                let method = config.get("quant_method").unwrap_or(config);
                Err(unsupported("quantization_config", method, "unquantized weights"))
            }
            _ => Ok(()),
        }
    }

    fn biases(&self, architecture: Architecture) -> Result<Biases, FormatError> {
        let read = |field: &str, bias: Bias| {
            let asked = self.flag(field)?;
            match (bias, asked) {
                (Bias::Configured, _) => Ok(asked.unwrap_or(false)),
                (Bias::Never, Some(true)) => Err(unsupported(field, &Value::Bool(true), "`false`")),
                (Bias::Always, Some(false)) => Err(unsupported(field, &Value::Bool(false), "`true`")),
                (Bias::Never, _) => Ok(false),
                (Bias::Always, _) => Ok(true),
            }
        };
        let qkv = read("attention_bias", architecture.qkv_bias)?;
        let output = architecture.output_bias == Bias::Configured && qkv;
        Ok(Biases { qkv, output, mlp: read("mlp_bias", architecture.mlp_bias)? })
    }

    fn sliding_window(
        &self,
        architecture: Architecture,
        layers: usize,
    ) -> Result<Option<SlidingWindow>, FormatError> {
        let stated = match self.fields.get("sliding_window") {
            None => architecture.defaults.sliding_window,
            Some(_) => self.size("sliding_window")?,
        };
        let (size, sliding) = match (architecture.window, stated) {
            (Window::Never, Some(size)) => return Err(unsupported("sliding_window", &size.into(), "none")),
            (Window::EveryLayer, Some(size)) => (size, (0..layers.min(super::MAX_LAYERS)).collect()),
            (Window::SomeLayers, Some(size)) if self.flag("use_sliding_window")? == Some(true) => {
                (size, self.sliding_layers(layers)?)
            }
            _ => return self.refuse_sliding_layers().map(|()| None),
        };
        Ok(Some(SlidingWindow { size, layers: sliding }).filter(|window| !window.layers.is_empty()))
    }

    /// The layers that `layer_types` names, or else those from `max_window_layers` on.
    fn sliding_layers(&self, layers: usize) -> Result<Vec<usize>, FormatError> {
        let Some(types) = self.get("layer_types") else {
            let first = self.size("max_window_layers")?.unwrap_or(28);
            return Ok((first..layers.min(super::MAX_LAYERS)).collect());
        };
        let list = types.as_array().filter(|list| list.len() == layers);
        let list = list.ok_or_else(|| invalid("layer_types", types, "one type per layer"))?;
        let mut sliding = Vec::new();
        for (layer, kind) in list.iter().enumerate() {
            match kind.as_str() {
                Some(FULL) => {}
                Some(SLIDING) => sliding.push(layer),
                _ => return Err(unsupported("layer_types", kind, format!("`{FULL}`, `{SLIDING}`"))),
            }
        }
        Ok(sliding)
    }

    /// Without a window, every layer must see everything.
    fn refuse_sliding_layers(&self) -> Result<(), FormatError> {
        let types = self.get("layer_types").and_then(Value::as_array).into_iter().flatten();
        match types.into_iter().find(|kind| kind.as_str() != Some(FULL)) {
            Some(kind) => Err(unsupported("layer_types", kind, format!("`{FULL}` without a window"))),
            None => Ok(()),
        }
    }

    pub(super) fn size(&self, field: &str) -> Result<Option<usize>, FormatError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let size = value.as_u64().and_then(|n| usize::try_from(n).ok());
        size.map(Some).ok_or_else(|| invalid(field, value, "a whole number"))
    }

    fn require_size(&self, field: &str) -> Result<usize, FormatError> {
        self.size(field)?.ok_or_else(|| missing(field))
    }

    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>, FormatError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| invalid(field, value, "`true` or `false`"))
    }

    /// A token or a list of them; none where the field is missing.
    fn token_ids(&self, field: &str) -> Result<Vec<u32>, FormatError> {
        let Some(value) = self.get(field) else { return Ok(Vec::new()) };
        let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let ids: Option<Vec<u32>> = ids.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect();
        let ids = ids.filter(|ids| !ids.is_empty());
        ids.ok_or_else(|| invalid(field, value, "a token id or a list of them"))
    }

    pub(super) fn number(&self, field: &str) -> Result<Option<f64>, FormatError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| invalid(field, value, "a number"))
    }
}

pub(super) fn missing(field: &str) -> FormatError {
    FormatError::MissingField { document: DOCUMENT, field: field.to_owned() }
}

pub(super) fn invalid(field: &str, value: &Value, expected: &str) -> FormatError {
    FormatError::InvalidField {
        document: DOCUMENT,
        field: field.to_owned(),
        value: shorten(value),
        expected: expected.to_owned(),
    }
}

pub(super) fn unsupported(
    field: &str,
    value: &Value,
    supported: impl Into<Cow<'static, str>>,
) -> FormatError {
    FormatError::Unsupported {
        document: DOCUMENT,
        field: field.to_owned(),
        value: shorten(value),
        supported: supported.into(),
    }
}

/// A value as a message shows it: text without quotes, at most 120 characters.
fn shorten(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
