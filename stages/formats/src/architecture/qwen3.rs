//! Qwen3, the dense models (arXiv 2505.09388): RMS norms of query and key heads in place of biases, and heads whose
//! width does not follow from the hidden size.

use super::{Bias, Defaults, Description, GgufRotation, Window};

pub(super) const DESCRIPTION: Description = Description {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    gguf: Some("qwen3"),
    gguf_rotation: GgufRotation::Halves,
    qkv_bias: Bias::Configured,
    output_bias: Bias::Configured,
    mlp_bias: Bias::Never,
    head_norms: true,
    window: Window::SomeLayers,
    defaults: Defaults {
        num_key_value_heads: Some(32),
        head_dim: Some(128),
        max_position_embeddings: 32_768,
        sliding_window: Some(4096),
    },
};
