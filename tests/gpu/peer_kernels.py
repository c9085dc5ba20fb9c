"""bitsandbytes and cuBLAS on matrices of an 8B model: peer_kernels.py

Microseconds a call, median of 9 replays of a graph over several copies of the weights; "eager": as launched from
Python, where a graph cannot hold it.
"""
import statistics

import bitsandbytes as bnb
import bitsandbytes.functional as BF
import torch
import torch.nn.functional as F

torch.manual_seed(0)


def timed(run, calls):
    out = []
    for _ in range(9):
        a, b = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        a.record()
        run()
        b.record()
        torch.cuda.synchronize()
        out.append(a.elapsed_time(b) * 1e3 / calls)
    return statistics.median(out)


def eager(f, calls):
    def run():
        for i in range(calls):
            f(i)
    run()
    torch.cuda.synchronize()
    return timed(run, calls)


def graphed(f, calls):
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for i in range(calls):
            f(i)
    torch.cuda.synchronize()
    graph, keep = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        for i in range(calls):
            keep.append(f(i))
    graph.replay()
    torch.cuda.synchronize()
    return timed(graph.replay, calls)


with torch.no_grad():
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "bitsandbytes", bnb.__version__)
    a = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    print(f"copy {2 * a.numel() / eager(lambda i: b.copy_(a), 4) / 1e3:.0f} GB/s read and written")
    del a, b
    W = [torch.randn(4096, 14336, device="cuda", dtype=torch.bfloat16) * 0.02 for _ in range(8)]
    print(f"NF4 quantize 4096x14336 {eager(lambda i: BF.quantize_4bit(W[i % 8], blocksize=64, quant_type='nf4'), 8):.1f}")
    P = [BF.quantize_4bit(w, blocksize=64, quant_type="nf4") for w in W]
    o = torch.empty_like(W[0])
    print(f"NF4 dequantize 4096x14336 {eager(lambda i: BF.dequantize_4bit(*P[i % 8], out=o), 8):.1f}")
    del W, P, o
    for n, k in ((14336, 4096), (4096, 14336)):
        W = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * 0.02 for _ in range(16)]
        P = [BF.quantize_4bit(w, blocksize=64, quant_type="nf4") for w in W]
        for m in (1, 16, 64, 512):
            x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
            four = graphed(lambda i: bnb.matmul_4bit(x, P[i % 16][0], quant_state=P[i % 16][1]), 16)
            dense = graphed(lambda i: F.linear(x, W[i % 16]), 16)
            print(f"{n}x{k}, {m} rows: NF4 {four:.1f}, bf16 {dense:.1f}")
        Q = [BF.int8_vectorwise_quant(w.half()) for w in W[:8]]
        for m in (1, 512):
            x = torch.randn(m, k, device="cuda", dtype=torch.float16)

            def int8(i, threshold):
                s = bnb.MatmulLtState()
                s.threshold, s.has_fp16_weights, s.is_training = threshold, False, False
                s.CB, s.SCB = Q[i % 8][:2]
                return bnb.matmul(x, s.CB, state=s)

            print(f"{n}x{k}, {m} rows: LLM.int8 eager, threshold 6 {eager(lambda i: int8(i, 6.0), 32):.1f},"
                  f" 0 {eager(lambda i: int8(i, 0.0), 32):.1f}")
        del W, P, Q
