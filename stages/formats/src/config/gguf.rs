//! GGUF metadata → [`LlamaConfig`].

use std::borrow::Cow;

use super::{Architecture, Biases, LlamaConfig, RopeScaling, SlidingWindow, Yarn, default_head_dim};
use crate::architecture::{Bias, Window};
use crate::error::FormatError;
use crate::gguf::{Gguf, GgufError};

const DOCUMENT: &str = "gguf metadata";
/// Llama 3's frequency divisors, where a converter has worked them out.
const ROPE_FACTORS: &str = "rope_freqs.weight";

pub(super) fn read(gguf: &Gguf<'_>) -> Result<LlamaConfig, FormatError> {
    let name = gguf.require_str("general.architecture")?;
    let architecture = Architecture::from_gguf(name)
        .ok_or_else(|| unsupported("general.architecture", name, Architecture::gguf_names()))?;
    let keys = Keys { gguf, prefix: name };
    keys.refuse_what_is_not_computed()?;
    let hidden_size = keys.require("embedding_length")?;
    let num_attention_heads = keys.require("attention.head_count")?;
    let num_hidden_layers = keys.require("block_count")?;
    let max_position_embeddings = keys.require("context_length")?;
    LlamaConfig {
        architecture,
        vocab_size: keys.vocab_size()?,
        hidden_size,
        intermediate_size: keys.require("feed_forward_length")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: keys.size("attention.head_count_kv")?.unwrap_or(num_attention_heads),
        head_dim: keys.head_dim(hidden_size, num_attention_heads)?,
        max_position_embeddings,
        rms_norm_eps: keys
            .number("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| missing(&keys.name("attention.layer_norm_rms_epsilon")))?,
        rope_theta: keys.number("rope.freq_base")?.unwrap_or(10_000.0),
        tie_word_embeddings: gguf.tensor("output.weight").is_none(),
        bos_token_id: gguf.u32("tokenizer.ggml.bos_token_id")?,
        eos_token_id: gguf.u32("tokenizer.ggml.eos_token_id")?,
        other_eos_token_ids: Vec::new(),
        rope_scaling: keys.rope_scaling(max_position_embeddings)?,
        sliding_window: keys.sliding_window(architecture, num_hidden_layers)?,
        biases: keys.biases(architecture)?,
    }
    .validate(DOCUMENT)
}

/// The metadata of one architecture: `{prefix}.{key}`.
struct Keys<'g, 'a> {
    gguf: &'g Gguf<'a>,
    prefix: &'a str,
}

impl Keys<'_, '_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn size(&self, key: &str) -> Result<Option<usize>, GgufError> {
        Ok(self.gguf.u64(&self.name(key))?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
    }

    fn require(&self, key: &str) -> Result<usize, FormatError> {
        self.size(key)?.ok_or_else(|| missing(&self.name(key)))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, GgufError> {
        Ok(self.gguf.f32(&self.name(key))?.map(as_written))
    }

    fn refuse_what_is_not_computed(&self) -> Result<(), FormatError> {
        match self.size("expert_count")?.filter(|&count| count > 0) {
            Some(count) => Err(unsupported(&self.name("expert_count"), &count.to_string(), "`0`")),
            None => Ok(()),
        }
    }

    /// The head width: given outright, or by division; key, value and rotated width must agree.
    fn head_dim(&self, hidden: usize, heads: usize) -> Result<usize, FormatError> {
        let dim = match self.size("attention.key_length")? {
            Some(dim) => dim,
            None => default_head_dim(DOCUMENT, hidden, heads)?,
        };
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = self.size(key)?.filter(|&other| other != dim) {
                return Err(unsupported(&self.name(key), &other.to_string(), "the head size"));
            }
        }
        Ok(dim)
    }

    /// The embedding's rows say it best; not every file has `{prefix}.vocab_size`.
    fn vocab_size(&self) -> Result<usize, FormatError> {
        if let Some(vocab) = self.size("vocab_size")? {
            return Ok(vocab);
        }
        let embedding = self.gguf.tensor("token_embd.weight");
        embedding
            .and_then(|tensor| tensor.shape.first().copied())
            .ok_or_else(|| missing(&self.name("vocab_size")))
    }

    /// A scaling in the metadata, or the divisors in a tensor; both would be two scalings.
    fn rope_scaling(&self, context: usize) -> Result<Option<RopeScaling>, FormatError> {
        let factor = match self.number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.number("rope.scale_linear")?,
        };
        let kind = self.gguf.str(&self.name("rope.scaling.type"))?;
        // a factor without a type is a linear one
        let scaling = match kind.unwrap_or(if factor.is_some() { "linear" } else { "none" }) {
            "none" => None,
            "linear" => factor.filter(|f| !is(*f, 1.0)).map(|factor| RopeScaling::Linear { factor }),
            "yarn" => Some(RopeScaling::Yarn(self.yarn(factor, context)?)),
            other => {
                return Err(unsupported(&self.name("rope.scaling.type"), other, "`none`, `linear`, `yarn`"));
            }
        };
        let Some(tensor) = self.gguf.tensor(ROPE_FACTORS) else { return Ok(scaling) };
        match scaling {
            Some(_) => Err(unsupported(ROPE_FACTORS, "present", "no further rope scaling")),
            // as many values as half a head has, which the configuration's check makes sure of
            None if tensor.shape.len() == 1 && tensor.row_len() <= 1 << 15 => {
                Ok(Some(RopeScaling::Factors { factors: tensor.dequantize() }))
            }
            None => Err(unsupported(ROPE_FACTORS, &format!("{:?}", tensor.shape), "one value per frequency")),
        }
    }

    fn yarn(&self, factor: Option<f64>, context: usize) -> Result<Yarn, FormatError> {
        for key in ["rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor"] {
            if let Some(other) = self.number(key)?.filter(|f| !is(*f, 1.0)) {
                return Err(unsupported(&self.name(key), &other.to_string(), "`1`"));
            }
        }
        if let Some(log) = self.number("rope.scaling.yarn_log_multiplier")?.filter(|f| !is(*f, 0.0)) {
            return Err(unsupported(&self.name("rope.scaling.yarn_log_multiplier"), &log.to_string(), "`0`"));
        }
        let factor = factor.ok_or_else(|| missing(&self.name("rope.scaling.factor")))?;
        Ok(Yarn {
            factor,
            attention_factor: Yarn::temperature(factor, 1.0),
            beta_fast: self.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: self.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            original_max_position_embeddings: self
                .size("rope.scaling.original_context_length")?
                .unwrap_or(context),
            truncate: true,
        })
    }

    /// A window over every layer. Files of architectures that window only some layers do not say which.
    fn sliding_window(
        &self,
        architecture: Architecture,
        layers: usize,
    ) -> Result<Option<SlidingWindow>, FormatError> {
        let Some(size) = self.size("attention.sliding_window")?.filter(|size| *size > 0) else {
            return Ok(None);
        };
        if architecture.window == Window::SomeLayers {
            return Err(unsupported(&self.name("attention.sliding_window"), &size.to_string(), "none"));
        }
        Ok(Some(SlidingWindow { size, layers: (0..layers.min(super::MAX_LAYERS)).collect() }))
    }

    /// Metadata is silent on biases: the first layer's tensors say it.
    fn biases(&self, architecture: Architecture) -> Result<Biases, FormatError> {
        let has = |bias: Bias, module: &str| match bias {
            Bias::Never => false,
            Bias::Always => true,
            Bias::Configured => self.gguf.tensor(&format!("blk.0.{module}.bias")).is_some(),
        };
        let biases = Biases {
            qkv: has(architecture.qkv_bias, "attn_q"),
            output: has(architecture.output_bias, "attn_output"),
            mlp: has(architecture.mlp_bias, "ffn_gate"),
        };
        if architecture.output_bias == Bias::Configured && biases.qkv != biases.output {
            let supported = "biases of all four attention projections, or of none";
            return Err(unsupported("blk.0.attn_output.bias", &biases.output.to_string(), supported));
        }
        Ok(biases)
    }
}

/// Whether a stored number is exactly this one.
fn is(value: f64, one: f64) -> bool {
    value.total_cmp(&one).is_eq()
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

fn unsupported(field: &str, value: &str, supported: impl Into<Cow<'static, str>>) -> FormatError {
    FormatError::Unsupported {
        document: DOCUMENT,
        field: field.to_owned(),
        value: value.to_owned(),
        supported: supported.into(),
    }
}
