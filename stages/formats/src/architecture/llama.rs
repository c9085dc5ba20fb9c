//! Llama (Touvron et al. 2023, arXiv 2302.13971) and what followed under its name: Llama 2 and 3, SmolLM2.

use super::{Bias, Defaults, Description, GgufRotation, Window};

pub(super) const DESCRIPTION: Description = Description {
    model_type: "llama",
    class: "LlamaForCausalLM",
    gguf: Some("llama"),
    gguf_rotation: GgufRotation::Neighbours,
    qkv_bias: Bias::Configured,
    output_bias: Bias::Configured,
    mlp_bias: Bias::Configured,
    head_norms: false,
    window: Window::Never,
    defaults: Defaults {
        num_key_value_heads: None,
        head_dim: None,
        max_position_embeddings: 2048,
        sliding_window: None,
    },
};
