//! Mistral (Jiang et al. 2023, arXiv 2310.06825): a Llama whose layers may see only a window of past tokens. GGUF
//! converters call it `llama`.

use super::{Bias, Defaults, Description, GgufRotation, Window};

pub(super) const DESCRIPTION: Description = Description {
    model_type: "mistral",
    class: "MistralForCausalLM",
    gguf: None,
    gguf_rotation: GgufRotation::Neighbours,
    qkv_bias: Bias::Never,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    head_norms: false,
    window: Window::EveryLayer,
    defaults: Defaults {
        num_key_value_heads: Some(8),
        head_dim: None,
        max_position_embeddings: 131_072,
        sliding_window: Some(4096),
    },
};
