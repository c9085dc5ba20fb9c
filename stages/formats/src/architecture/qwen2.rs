//! Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115): biases of the q, k and v projections.

use super::{Bias, Defaults, Description, GgufRotation, Window};

pub(super) const DESCRIPTION: Description = Description {
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    gguf: Some("qwen2"),
    gguf_rotation: GgufRotation::Halves,
    qkv_bias: Bias::Always,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    head_norms: false,
    window: Window::SomeLayers,
    defaults: Defaults {
        num_key_value_heads: Some(32),
        head_dim: None,
        max_position_embeddings: 32_768,
        sliding_window: Some(4096),
    },
};
