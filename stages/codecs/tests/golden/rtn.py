# Round-to-nearest integers in groups of a row, by the formula, in numpy.
import numpy as np
from safetensors.numpy import save_file
rng = np.random.default_rng(7)
w = (rng.standard_normal((6, 200)) * 0.05).astype(np.float32)
w[1, 64:128] = 0.0                      # a group of zeros
w[2] = np.abs(w[2]) + 0.1               # all positive: the range still includes 0
w[3, 5] = 3.0                           # an outlier
w[4] *= 1e-6                            # scales that are subnormal in f16
w[5] = np.repeat(np.float32([0.5, -0.25, 0.125, 1.0]), 50)
out = {"w": w}

def pack(q, bits):
    q = q.astype(np.uint8)
    if bits == 8: return q
    if q.shape[1] % 2: q = np.pad(q, ((0, 0), (0, 1)))
    return q[:, 0::2] | q[:, 1::2] << 4

for bits in (4, 8):
    top, mid = np.float32(2**bits - 1), np.float32(2**(bits - 1))
    for group in (-1, 64, 128):
        g = w.shape[1] if group == -1 else group
        for sym in (True, False):
            codes, scales, zeros, restored = [], [], [], np.zeros_like(w)
            for at in range(0, w.shape[1], g):
                x = w[:, at:at + g]
                lo, hi = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
                span = 2 * np.maximum(hi, -lo) if sym else hi - lo
                span = np.abs(span)     # of zeros: no negative zero
                s16 = (span / top).astype(np.float16)
                s = s16.astype(np.float32)
                safe = np.where(s == 0, np.float32(1), s)
                z = np.full(len(x), mid) if sym else np.where(s == 0, 0, np.clip(np.rint(-lo / safe), 0, top))
                q = np.clip(np.rint(x / safe[:, None]) + z[:, None], 0, top)
                q = np.where(s[:, None] == 0, z[:, None], q)
                restored[:, at:at + g] = (q.astype(np.float32) - z[:, None].astype(np.float32)) * s[:, None]
                codes.append(q); scales.append(s16); zeros.append(z)
            name = f"w{bits}.g{group}.{'sym' if sym else 'asym'}"
            out[f"{name}.codes"] = pack(np.concatenate(codes, 1), bits)
            out[f"{name}.scales"] = np.stack(scales, 1)
            if not sym: out[f"{name}.zeros"] = pack(np.stack(zeros, 1), bits)

            if group == 64: out[f"{name}.restored"] = restored
save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, "tests/golden/rtn_f32_6x200.safetensors")
