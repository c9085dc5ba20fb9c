"""What torch does with the model of the same shape: peer_model.py FOLDER

Eager bf16 with scaled_dot_product_attention, projections joined, logits of the last position alone; decoding as a
CUDA graph over a static cache. Prints tokens/s, median of 5 (extremes).
"""
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F

c = json.load(open(f"{sys.argv[1]}/config.json"))
L, H, D, HQ, HK = (c[k] for k in ("num_hidden_layers", "hidden_size", "head_dim", "num_attention_heads", "num_key_value_heads"))
I, V = c["intermediate_size"], c["vocab_size"]
torch.manual_seed(0)
drawn = lambda *s: (torch.randn(*s, device="cuda") * 0.02).bfloat16()
W = [dict(qkv=drawn((HQ + 2 * HK) * D, H), o=drawn(H, HQ * D), gu=drawn(2 * I, H), down=drawn(H, I)) for _ in range(L)]
emb = drawn(V, H)
one = torch.ones(H, device="cuda", dtype=torch.bfloat16)
T = 1024
freq = 500000.0 ** (-torch.arange(0, D, 2, device="cuda").float() / D)
angle = torch.outer(torch.arange(T, device="cuda").float(), freq)
cos, sin = angle.cos().repeat(1, 2).bfloat16(), angle.sin().repeat(1, 2).bfloat16()


def rope(x, at):
    a, b = x.chunk(2, -1)
    return x * cos[at] + torch.cat((-b, a), -1) * sin[at]


def forward(tokens, at, cache, mask):
    batch, seq = tokens.shape
    x = emb[tokens]
    for w, (k, v) in zip(W, cache):
        y = F.linear(F.rms_norm(x, (H,), one, 1e-5), w["qkv"]).view(batch, seq, -1, D).transpose(1, 2)
        q, nk, nv = y.split((HQ, HK, HK), 1)
        k.index_copy_(2, at, rope(nk, at))
        v.index_copy_(2, at, nv)
        q = rope(q, at)
        if mask is None:
            y = F.scaled_dot_product_attention(q, k[:, :, :seq], v[:, :, :seq], is_causal=True, enable_gqa=True)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
        x = x + F.linear(y.transpose(1, 2).reshape(batch, seq, -1), w["o"])
        g, u = F.linear(F.rms_norm(x, (H,), one, 1e-5), w["gu"]).chunk(2, -1)
        x = x + F.linear(F.silu(g) * u, w["down"])
    return F.linear(F.rms_norm(x[:, -1], (H,), one, 1e-5), emb)


def timed(f, n):
    f()
    torch.cuda.synchronize()
    out = []
    for _ in range(5):
        t = time.perf_counter()
        f()
        torch.cuda.synchronize()
        out.append(n / (time.perf_counter() - t))
    out.sort()
    return f"{statistics.median(out):,.0f} ({out[0]:,.0f} to {out[-1]:,.0f})"


with torch.no_grad():
    for batch in (1, 8):
        cache = [tuple(torch.zeros(batch, HK, T, D, device="cuda", dtype=torch.bfloat16) for _ in "kv") for _ in range(L)]
        prompt = torch.randint(0, V, (batch, 512), device="cuda")
        at = torch.arange(512, device="cuda")
        print(f"prefill {batch}x512:", timed(lambda: forward(prompt, at, cache, None), batch * 512), "tokens/s")
        token, pos = torch.zeros(batch, 1, dtype=torch.long, device="cuda"), torch.full((1,), 512, device="cuda")
        cols = torch.arange(T, device="cuda")

        def step():
            logits = forward(token, pos, cache, (cols <= pos)[None, None, None])
            token.copy_(logits.argmax(-1, keepdim=True))
            pos.add_(1)

        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()

        def decode(run):
            pos.fill_(512)
            for _ in range(127):
                run()
                token[0, 0].item()

        print(f"decode batch {batch}, graph:", timed(lambda: decode(graph.replay), 127 * batch), "tokens/s")
        print(f"decode batch {batch}, eager:", timed(lambda: decode(step), 127 * batch), "tokens/s")
