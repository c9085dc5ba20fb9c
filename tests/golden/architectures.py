"""Makes tests/golden/architectures: tiny random models of each architecture and transformers' f32 logits.

python tests/golden/architectures.py OUT    (torch, transformers, safetensors; CPU)
"""
import json, sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

SIZES = dict(vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
CASES = {
    "llama-llama3-rope": ("llama", dict(rope_scaling=LLAMA3, rope_theta=100.0, tie_word_embeddings=True)),
    "llama-linear-rope-biases": ("llama", dict(rope_scaling=dict(rope_type="linear", factor=2.5), rope_theta=10000.0,
                                               attention_bias=True, mlp_bias=True)),
    "llama-yarn-rope": ("llama", dict(rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32),
                                      rope_theta=100.0, tie_word_embeddings=True)),
    "mistral-window": ("mistral", dict(sliding_window=7, rope_theta=10000.0)),
    "qwen2": ("qwen2", dict(use_sliding_window=True, sliding_window=9, max_window_layers=1, rope_theta=1000000.0,
                            tie_word_embeddings=True)),
    "qwen3": ("qwen3", dict(head_dim=16, rope_theta=1000000.0, tie_word_embeddings=True)),
}


def main(out):
    for seed, (name, (model_type, fields)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        fields = SIZES | fields
        config = AutoConfig.for_model(model_type, **fields)
        config._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                # spread wide enough that positions, biases and norms all show in the logits
                noise = torch.randn_like(parameter)
                centre = 1.0 if "norm" in parameter_name else 0.0
                parameter.copy_((centre + noise * (0.3 if parameter.dim() == 1 else 0.25)).to(torch.bfloat16).float())
            ids = torch.randint(3, SIZES["vocab_size"], (2, 40))
            logits = model(ids, use_cache=False).logits
        folder = Path(out) / name
        folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
        if config.tie_word_embeddings:
            weights.pop("lm_head.weight", None)
        save_file(weights, folder / "model.safetensors")
        save_file({"input_ids": ids, "logits": logits.contiguous()}, folder / "logits.safetensors")
        # alternately in the old form of rope fields and as transformers 5 writes them
        document = dict(model_type=model_type, **fields) if seed % 2 == 0 else config.to_diff_dict() | dict(model_type=model_type)
        document.pop("dtype", None)
        (folder / "config.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


main(sys.argv[1])
