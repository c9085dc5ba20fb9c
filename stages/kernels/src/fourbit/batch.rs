//! `y = x · Wᵀ` for a small batch of rows of `x`, on the packed bytes and on tensor cores.
//!
//! A weight's codes are looked up two at a time, in the activations' dtype, and go from there into `mma.sync` as the
//! instruction's 16 rows; rows of `x` are its 8 columns, so a weight is widened once for up to 32 of them. Sums of a
//! block are in f32, and are multiplied with the block's absmax in f32. Levels, and nothing else, are rounded to the
//! activations' dtype.
//!
//! Bytes at block 64: ½ + 1/16 per weight, as in [`super::product`]; the floor is what the device reads. Two weights
//! cost a shift, a mask and a read of shared memory. Reached on an H200: 1.26 TB/s, 30% of a copy, for up to 8 rows of
//! 14336×4096, 0.9 for 16.

#![allow(unsafe_code, reason = "unchecked launches: every index is bounded in the kernel")]

use cubecl::client::Client;
use cubecl::cmma::MmaDefinition;
use cubecl::prelude::*;
use cubecl::server::Handle;
use qpipe_codecs::FourBit;

use super::{Packed4, code_bytes, fill_levels, scale_of};
use crate::launch::{CUBE, Dtype, KernelError, PLANE, bias_of, buffer, has_tensor_cores};

/// Most rows of activations of one product.
pub const MOST_BATCH_ROWS: usize = 64;
/// Rows that one pass through the weights serves.
const PASS: usize = 32;
/// Outputs of a cube: two tiles of 16 for each of its planes, which share the sums.
const OUTPUTS: usize = 32;
const PLANES: usize = CUBE / PLANE;
/// Weights of a row that a plane takes at once: four steps of 16.
const CHUNK: usize = 64;
/// Copies of the table of pairs, so that lanes seldom want the same bank.
const COPIES: usize = 16;

/// `x` `[rows, inner]` of `dtype`, a packed weight `[out, inner]` and a bias `[out]` in f32 → `[rows, out]` of `result`, rounded
/// once, after the bias is added. `inner` must be whole numbers of 64, blocks at least 64 long, `dtype` of 16 bits, `rows` at most [`MOST_BATCH_ROWS`].
///
/// # Errors
/// [`KernelError`] for a shape that the kernel does not handle.
pub fn multiply4_batch(
    client: &Client,
    x: &Handle,
    weight: &Packed4,
    bias: Option<&Handle>,
    [rows, out, inner]: [usize; 3],
    [dtype, result]: [Dtype; 2],
) -> Result<Handle, KernelError> {
    let block = weight.format.block.get();
    if !inner.is_multiple_of(CHUNK) || inner == 0 || block < CHUNK {
        return Err(KernelError::Inner { inner });
    }
    if dtype == Dtype::F32 || !has_tensor_cores(client, dtype) {
        return Err(KernelError::Dtype { dtype });
    }
    if rows > MOST_BATCH_ROWS || rows == 0 {
        return Err(KernelError::Rows { rows, most: MOST_BATCH_ROWS });
    }
    let y = client.empty((rows * out).max(1) * result.size());
    if out == 0 {
        return Ok(y);
    }
    let len = out * inner;
    for first in (0..rows).step_by(PASS) {
        let here = PASS.min(rows - first);
        let part = x.clone().offset_start((first * inner * dtype.size()) as u64);
        let to = y.clone().offset_start((first * out * result.size()) as u64);
        let (absmax, nested, group) = weight.scales();
        let (bias, is_biased) = bias_of(bias, out, &weight.codes);
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            multiply::launch_unchecked(
                client,
                CubeCount::Static(out.div_ceil(OUTPUTS) as u32, 1, 1),
                CubeDim::new_1d(CUBE as u32),
                buffer(&part, here * inner / 8),
                buffer(&weight.codes, code_bytes(len) / 8),
                absmax,
                nested,
                bias,
                buffer(&to, here * out),
                here,
                out,
                inner / CHUNK,
                1.0f32,
                here.div_ceil(8),
                weight.format.kind == FourBit::Fp4,
                block / CHUNK,
                group,
                is_biased,
                dtype.elem(),
                result.elem(),
            );
        }
    }
    Ok(y)
}

#[cube(launch_unchecked)]
fn multiply<F: Float, R: Float>(
    x: &[Vector<u32, Const<4>>],
    codes: &[Vector<u32, Const<2>>],
    absmax: &[f32],
    nested: &[u8],
    bias: &[f32],
    y: &mut [R],
    rows: usize,
    out: usize,
    chunks: usize,
    one: f32,
    #[comptime] columns: usize,
    #[comptime] fp4: bool,
    #[comptime] chunks_per_block: usize,
    #[comptime] group: usize,
    #[comptime] is_biased: bool,
    #[define(F)] _elem: ElemType,
    #[define(R)] _result: ElemType,
) {
    let mut table = Shared::<[f32]>::new_slice(16usize);
    fill_levels(&mut table, fp4);
    let mut pairs = Shared::<[Vector<F, Const<2>>]>::new_slice(comptime!(256 * COPIES));
    let byte = UNIT_POS as usize;
    let mut pair = Vector::<F, Const<2>>::empty();
    pair.insert(0usize, F::cast_from(table[byte / 16]));
    pair.insert(1usize, F::cast_from(table[byte % 16]));
    #[unroll]
    for i in 0..COPIES {
        // units write to different banks
        pairs[byte * COPIES + (i + byte) % COPIES] = pair;
    }
    sync_cube();

    let mma = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
    let (plane, lane) = (UNIT_POS as usize / PLANE, UNIT_POS as usize % PLANE);
    // of the fragments of `mma.sync`: rows and columns `of_eight`, pairs along the sums `of_four`
    let (of_eight, of_four) = (lane / 4, lane % 4);
    let copy = UNIT_POS & 15;
    let first = CUBE_POS * OUTPUTS;
    let tiles = comptime!(2 * columns);
    let (mut sums, mut parts) = (
        Array::<Vector<f32, Const<2>>>::new(comptime!(2 * tiles)),
        Array::<Vector<f32, Const<2>>>::new(2usize),
    );
    #[unroll]
    for i in 0..comptime!(2 * tiles) {
        sums[i] = Vector::<f32, Const<2>>::cast_from(0.0f32);
    }
    // planes take neighbouring runs of chunks
    let share = chunks.div_ceil(PLANES);
    let mut chunk = plane * share;
    let end = usize::min(chunk + share, chunks);
    while chunk < end {
        let mut words = Array::<Vector<u32, Const<2>>>::new(4usize);
        let mut scales = Array::<f32>::new(4usize);
        #[unroll]
        for i in 0..4usize {
            // the last cube may have fewer outputs: it makes its last one again
            let row = usize::min(first + comptime!(i * 8) + of_eight, out - 1);
            let at = row * chunks + chunk;
            words[i] = codes[at * 4 + of_four];
            scales[i] = scale_of(at / chunks_per_block, absmax, nested, one, group);
        }
        // a lane's weights of a row and its values of `x` are 16 neighbours; in which order sums are taken is free
        let mut weights = Array::<Vector<F, Const<2>>>::new(32usize);
        #[unroll]
        for step in 0..4usize {
            #[unroll]
            for i in 0..4usize {
                let word = words[i].extract(comptime!(step / 2));
                #[unroll]
                for half in 0..2usize {
                    let byte = comptime!(step % 2 * 2 + half);
                    let moved = if comptime!(byte == 0) {
                        word << 4
                    } else {
                        word >> comptime!((byte.max(1) * 8 - 4) as u32)
                    };
                    weights[comptime!(step * 8 + i * 2 + half)] = pairs[((moved & 0xff0) | copy) as usize];
                }
            }
        }
        #[unroll]
        for column in 0..columns {
            let row = usize::min(comptime!(column * 8) + of_eight, rows - 1);
            let at = (row * chunks + chunk) * 8 + of_four * 2;
            let (low, high) = (x[at], x[at + 1]);
            #[unroll]
            for tile in 0..2usize {
                parts[0] = Vector::<f32, Const<2>>::cast_from(0.0f32);
                parts[1] = Vector::<f32, Const<2>>::cast_from(0.0f32);
                #[unroll]
                for step in 0..4usize {
                    let mut a = Array::<Vector<F, Const<2>>>::new(4usize);
                    #[unroll]
                    for half in 0..2usize {
                        a[comptime!(2 * half)] = weights[comptime!(step * 8 + tile * 4 + half)];
                        a[comptime!(2 * half + 1)] = weights[comptime!(step * 8 + tile * 4 + 2 + half)];
                    }
                    let mut b = Array::<Vector<F, Const<2>>>::new(2usize);
                    #[unroll]
                    for half in 0..2usize {
                        let word = if comptime!(step < 2) {
                            low.extract(comptime!(step % 2 * 2 + half))
                        } else {
                            high.extract(comptime!(step % 2 * 2 + half))
                        };
                        b[half] = Vector::<F, Const<2>>::reinterpret(word);
                    }
                    mma.execute_inplace(&a, &b, &mut parts);
                }
                #[unroll]
                for half in 0..2usize {
                    let index = comptime!((tile * columns + column) * 2 + half);
                    let scale = scales[comptime!(tile * 2 + half)];
                    let (part, mut sum) = (parts[half], sums[index]);
                    #[unroll]
                    for i in 0..2usize {
                        sum.insert(i, fma(part.extract(i), scale, sum.extract(i)));
                    }
                    sums[index] = sum;
                }
            }
        }
        chunk += 1;
    }
    let width = comptime!(8 * columns);
    let mut shares = Shared::<[f32]>::new_slice(comptime!(PLANES * OUTPUTS * 8 * columns));
    #[unroll]
    for tile in 0..2usize {
        #[unroll]
        for column in 0..columns {
            #[unroll]
            for half in 0..2usize {
                let sum = sums[comptime!((tile * columns + column) * 2 + half)];
                let output = comptime!(tile * 16 + half * 8) + of_eight;
                #[unroll]
                for i in 0..2usize {
                    let row = comptime!(column * 8 + i) + of_four * 2;
                    shares[(plane * width + row) * OUTPUTS + output] = sum.extract(i);
                }
            }
        }
    }
    sync_cube();
    let mut i = UNIT_POS as usize;
    while i < comptime!(8 * columns * OUTPUTS) {
        let mut total = 0.0f32;
        #[unroll]
        for p in 0..PLANES {
            total += shares[p * comptime!(8 * columns * OUTPUTS) + i];
        }
        let (row, output) = (i / OUTPUTS, first + i % OUTPUTS);
        if row < rows && output < out {
            if comptime!(is_biased) {
                total += bias[output];
            }
            y[row * out + output] = R::cast_from(total);
        }
        i += CUBE;
    }
}
