"""Writes a Llama-shaped checkpoint of random bf16 weights: model.py FOLDER TOKENIZER.json [1b|8b|biased]

Speed does not depend on the values. 1b: Llama 3.2 1B (2.5 GB, embedding tied); 8b: Llama 3.1 8B (16 GB); biased: a small one
in the shape of Qwen2, whose queries, keys and values have biases.
"""
import json
import os
import shutil
import sys

import torch

SHAPES = {
    "1b": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
               num_key_value_heads=8, head_dim=64, vocab_size=128256, tie_word_embeddings=True),
    "8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
               num_key_value_heads=8, head_dim=128, vocab_size=128256, tie_word_embeddings=False),
    "biased": dict(hidden_size=512, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=8,
                   num_key_value_heads=2, head_dim=64, vocab_size=1024, tie_word_embeddings=True),
}

folder, tokenizer, shape = sys.argv[1], sys.argv[2], SHAPES[sys.argv[3] if len(sys.argv) > 3 else "1b"]
os.makedirs(folder, exist_ok=True)
biased = shape is SHAPES["biased"]
kind = ["Qwen2ForCausalLM", "qwen2"] if biased else ["LlamaForCausalLM", "llama"]
config = dict(architectures=kind[:1], model_type=kind[1], rms_norm_eps=1e-5, rope_theta=500000.0,
              max_position_embeddings=8192, bos_token_id=0, eos_token_id=0, torch_dtype="bfloat16",
              hidden_act="silu", **shape)
json.dump(config, open(f"{folder}/config.json", "w"))
shutil.copy(tokenizer, f"{folder}/tokenizer.json")

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
hidden, inner = shape["hidden_size"], shape["intermediate_size"]
kv = shape["num_key_value_heads"] * shape["head_dim"]
drawn = lambda *size: (torch.randn(*size, device=device, dtype=torch.float32) * 0.02).bfloat16().cpu()
ones = lambda: torch.ones(hidden, dtype=torch.bfloat16)
index, total = {}, 0


def save(name, tensors):
    global total
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for tensor, values in tensors.items():
        end = at + values.numel() * 2
        header[tensor] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [at, end]}
        at = end
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with open(f"{folder}/{name}", "wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for values in tensors.values():
            file.write(values.view(torch.int16).numpy())
    index.update({tensor: name for tensor in tensors})
    total += sum(tensor.numel() * 2 for tensor in tensors.values())


ends = {"model.embed_tokens.weight": drawn(shape["vocab_size"], hidden), "model.norm.weight": ones()}
if not shape["tie_word_embeddings"]:
    ends["lm_head.weight"] = drawn(shape["vocab_size"], hidden)
save("model-ends.safetensors", ends)
for first in range(0, shape["num_hidden_layers"], 8):
    tensors = {}
    for layer in range(first, min(first + 8, shape["num_hidden_layers"])):
        at = f"model.layers.{layer}"
        for name, size in [("self_attn.q_proj", (hidden, hidden)), ("self_attn.k_proj", (kv, hidden)),
                           ("self_attn.v_proj", (kv, hidden)), ("self_attn.o_proj", (hidden, hidden)),
                           ("mlp.gate_proj", (inner, hidden)), ("mlp.up_proj", (inner, hidden)),
                           ("mlp.down_proj", (hidden, inner))]:
            tensors[f"{at}.{name}.weight"] = drawn(*size)
            if biased and name[-6] in "qkv":
                tensors[f"{at}.{name}.bias"] = drawn(size[0]) * 10
        tensors[f"{at}.input_layernorm.weight"] = ones()
        tensors[f"{at}.post_attention_layernorm.weight"] = ones()
    save(f"model-{first:02}.safetensors", tensors)
json.dump({"metadata": {"total_size": total}, "weight_map": index},
          open(f"{folder}/model.safetensors.index.json", "w"))
print(f"{total / 1e9:.2f} GB in {folder}")
