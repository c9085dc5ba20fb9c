//! `y = x · Wᵀ` for few rows of `x`, on the packed bytes: what decoding a token does.
//!
//! A plane makes two or four outputs for every row of `x`, which divides what is read and widened of `x`. Its lanes read 32 codes
//! at once, 16 bytes, and add `x · level` in f32; absmax is multiplied in once per 32. So weights are not rounded to the
//! compute dtype on the way, as they are where a product restores them first: what comes out is nearer to the product
//! in f32.
//!
//! Bytes at block 64: ½ + 1/16 per weight; the floor is what the device reads. A weight costs a shift, a mask, a read
//! of shared memory and one multiply-add per row of `x`, which is about what an H100 does while it reads the codes. Reached on an H200 for one row of 4096×14336 and
//! 14336×4096: 1.90 and 1.82 TB/s, 45 and 43% of a copy.

#![allow(unsafe_code, reason = "unchecked launches: every index is bounded in the kernel")]

use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::server::Handle;
use qpipe_codecs::FourBit;

use super::{PAIR_COPIES, Packed4, code_bytes, fill_levels, fill_pairs, levels, levels_by_pairs, scale_of};
use crate::lanes::{eight, vectors};
use crate::launch::{CUBE, Dtype, KernelError, PLANE, bias_of, buffer, cubes};

/// Most rows of activations of one product.
pub const MOST_ROWS: usize = 8;

/// `x` `[rows, inner]` of `dtype`, a packed weight `[out, inner]` and a bias `[out]` in f32 → `[rows, out]` of `result`, rounded
/// once, after the bias is added. `inner` must be whole numbers of 32, `rows` at most [`MOST_ROWS`].
///
/// # Errors
/// [`KernelError`] for a shape that the kernel does not handle.
pub fn multiply4(
    client: &Client,
    x: &Handle,
    weight: &Packed4,
    bias: Option<&Handle>,
    shape: [usize; 3],
    [dtype, result]: [Dtype; 2],
) -> Result<Handle, KernelError> {
    multiply4_tiled(client, x, weight, bias, shape, [dtype, result], Tiling::of(shape))
}

/// How a product is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Outputs that a plane makes for every row of activations.
    pub outputs: usize,
    /// Planes that share the sums of an output: 1, 2, 4 or 8.
    pub split: usize,
    /// Whether levels are looked up in pairs, in a table that each cube fills first.
    pub pairs: bool,
}

impl Tiling {
    /// Planes that keep a large GPU busy.
    const PLANES: usize = 4096;
    /// Weights from which reading them, not starting the kernel, takes the time.
    const LARGE: usize = 8 << 20;

    /// What proved fastest, or close to it, of all that were measured on an H100.
    pub fn of([rows, out, inner]: [usize; 3]) -> Self {
        let large = out * inner >= Self::LARGE;
        if large && out >= Self::PLANES {
            return Self { outputs: 4, split: 2, pairs: true };
        }
        let outputs = match rows {
            1 if !large => 1,
            1 => 4,
            _ => 2,
        };
        // sums of several rows are exchanged at a cost
        let most = if rows == 1 { 8 } else { 2 };
        let mut split = 1;
        while split < most && out / outputs * split < Self::PLANES && inner / 32 >= 2 * split * PLANE {
            split *= 2;
        }
        Self { outputs, split, pairs: large }
    }
}

/// As [`multiply4`], cut in a given way: for measuring.
///
/// # Errors
/// [`KernelError`] for a shape that the kernel does not handle.
pub fn multiply4_tiled(
    client: &Client,
    x: &Handle,
    weight: &Packed4,
    bias: Option<&Handle>,
    [rows, out, inner]: [usize; 3],
    [dtype, result]: [Dtype; 2],
    Tiling { outputs, split, pairs }: Tiling,
) -> Result<Handle, KernelError> {
    if !inner.is_multiple_of(32) || inner == 0 {
        return Err(KernelError::Inner { inner });
    }
    if rows > MOST_ROWS || rows == 0 {
        return Err(KernelError::Rows { rows, most: MOST_ROWS });
    }
    let y = client.empty((rows * out).max(1) * result.size());
    if out == 0 {
        return Ok(y);
    }
    let len = out * inner;
    let (absmax, nested, group) = weight.scales();
    let (bias, is_biased) = bias_of(bias, out, &weight.codes);
    // SAFETY: the kernel stays within the lengths of its buffers
    unsafe {
        multiply::launch_unchecked(
            client,
            cubes(out.div_ceil(outputs) * split * PLANE),
            CubeDim::new_1d(CUBE as u32),
            buffer(x, vectors(rows * inner, dtype)),
            buffer(&weight.codes, code_bytes(len) / 16),
            absmax,
            nested,
            bias,
            buffer(&y, rows * out),
            out,
            inner / 32,
            1.0f32,
            rows,
            outputs,
            split,
            pairs,
            weight.format.kind == FourBit::Fp4,
            weight.format.block.get() / 32,
            group,
            is_biased,
            dtype,
            result.elem(),
        );
    }
    Ok(y)
}

#[cube(launch_unchecked)]
fn multiply<F: Float>(
    x: &[Vector<u32, Const<4>>],
    codes: &[Vector<u32, Const<4>>],
    absmax: &[f32],
    nested: &[u8],
    bias: &[f32],
    y: &mut [F],
    out: usize,
    chunks: usize,
    one: f32,
    #[comptime] rows: usize,
    #[comptime] outputs: usize,
    #[comptime] split: usize,
    #[comptime] pairs: bool,
    #[comptime] fp4: bool,
    #[comptime] chunks_per_block: usize,
    #[comptime] group: usize,
    #[comptime] is_biased: bool,
    #[comptime] dtype: Dtype,
    #[define(F)] _elem: ElemType,
) {
    let mut table = Shared::<[f32]>::new_slice(16usize);
    fill_levels(&mut table, fp4);
    let mut by_pairs =
        Shared::<[Vector<f32, Const<2>>]>::new_slice(comptime!(if pairs { 256 * PAIR_COPIES } else { 1 }));
    if comptime!(pairs) {
        fill_pairs(&mut by_pairs, &table);
    }
    // planes `part` of a group take every `split`-th turn of the same outputs
    let (plane, lane) = (ABSOLUTE_POS / PLANE, ABSOLUTE_POS % PLANE);
    let (first, part) = (plane / split * outputs, plane % split);
    let sums_len = comptime!(rows * outputs);
    let (mut sums, mut parts) = (Array::<f32>::new(sums_len), Array::<f32>::new(sums_len));
    #[unroll]
    for i in 0..sums_len {
        sums[i] = 0.0f32;
    }
    let (mut words, mut scales) = (Array::<Vector<u32, Const<4>>>::new(outputs), Array::<f32>::new(outputs));
    let mut chunk = part * PLANE + lane;
    while chunk < chunks {
        #[unroll]
        for o in 0..outputs {
            // the last plane may have fewer rows: it makes its last one twice
            let at = usize::min(first + o, out - 1) * chunks + chunk;
            words[o] = codes[at];
            scales[o] = scale_of(at / chunks_per_block, absmax, nested, one, group);
        }
        #[unroll]
        for i in 0..sums_len {
            parts[i] = 0.0f32;
        }
        #[unroll]
        for w in 0..4usize {
            let mut weights = Array::<Vector<f32, Const<8>>>::new(outputs);
            #[unroll]
            for o in 0..outputs {
                weights[o] = if comptime!(pairs) {
                    levels_by_pairs(words[o].extract(w), &by_pairs)
                } else {
                    levels(words[o].extract(w), &table)
                };
            }
            #[unroll]
            for r in 0..rows {
                let values = eight(x, (r * chunks + chunk) * 4 + w, dtype);
                #[unroll]
                for o in 0..outputs {
                    let index = comptime!(r * outputs + o);
                    let mut sum = parts[index];
                    #[unroll]
                    for k in 0..8usize {
                        sum = fma(values.extract(k), weights[o].extract(k), sum);
                    }
                    parts[index] = sum;
                }
            }
        }
        #[unroll]
        for i in 0..sums_len {
            sums[i] = fma(parts[i], scales[comptime!(i % outputs)], sums[i]);
        }
        chunk += comptime!(PLANE * split);
    }
    let planes = comptime!(CUBE / PLANE);
    let mut shares = Shared::<[f32]>::new_slice(comptime!(planes * sums_len));
    let here = UNIT_POS as usize / PLANE;
    #[unroll]
    for i in 0..sums_len {
        let total = plane_sum(sums[i]);
        if lane == 0 {
            shares[here * sums_len + i] = total;
        }
    }
    sync_cube();
    let mine = UNIT_POS as usize;
    if mine < comptime!(planes / split * sums_len) {
        let (group, i) = (mine / sums_len, mine % sums_len);
        let mut total = 0.0f32;
        #[unroll]
        for s in 0..split {
            total += shares[(group * split + s) * sums_len + i];
        }
        let row = (CUBE_POS * comptime!(planes / split) + group) * outputs + i % outputs;
        if row < out {
            if comptime!(is_biased) {
                total += bias[row];
            }
            y[i / outputs * out + row] = F::cast_from(total);
        }
    }
}
