//! Many queries in 16 bits, on tensor cores (FlashAttention-2, Dao 2023, arXiv 2307.08691): a plane holds 16 queries, their
//! running maxima, sums and mixes in registers, and a cube of 8 planes goes through the keys 64 at a time, which lie in
//! shared memory. Scores and mixes are summed in f32; weights are rounded to the cache's dtype for the second product.
//!
//! Work: 4 · queries · keys · dim operations, half of that where the mask leaves half, and what the softmax takes: an
//! exponential and about ten instructions a score, which bounds it. Reached on an H200: 88 TFLOP/s for 4 sequences of 2048
//! tokens, 9 heads of 64, and 55 for 8 of 512, 32 heads; a matrix product reaches 680 there.

use cubecl::cmma::{MatrixIdent, MmaDefinition};
use cubecl::prelude::*;

use crate::launch::{CUBE, PLANE};

/// Queries of a cube.
pub(super) const QUERIES: usize = 16 * CUBE / PLANE;
/// Keys in shared memory at a time.
const KEYS: usize = 64;
/// Of the rows there, so that reading eight of them meets every bank once.
const PAD: usize = 8;

#[cube(launch_unchecked)]
pub(super) fn mix_on_tensor_cores<F: Float>(
    q: &[Vector<F, Const<2>>],
    keys: &[Vector<u32, Const<4>>],
    values: &[Vector<u32, Const<4>>],
    out: &mut [F],
    start: &[u32],
    seq: usize,
    heads: usize,
    group: usize,
    capacity: usize,
    window: usize,
    scale: f32,
    #[comptime] dim: usize,
    #[define(F)] _elem: ElemType,
) {
    let stride = comptime!(dim + PAD);
    let mut key_tile =
        Shared::<[Vector<F, Const<8>>]>::new_aligned_slice(comptime!(KEYS * (dim + PAD) / 8), 16usize);
    let mut value_tile =
        Shared::<[Vector<F, Const<8>>]>::new_aligned_slice(comptime!(KEYS * (dim + PAD) / 8), 16usize);
    let mma = MmaDefinition::<F, F, f32>::new(16usize, 8usize, 16usize);
    let (plane, lane) = (UNIT_POS as usize / PLANE, UNIT_POS as usize % PLANE);
    // of the fragments of `mma.sync`
    let (of_eight, of_four) = (lane / 4, lane % 4);

    // the last queries see most keys: they start first
    let blocks = seq.div_ceil(QUERIES);
    let block = blocks - 1 - CUBE_POS % blocks;
    let (sequence, head) = (CUBE_POS / blocks / heads, CUBE_POS / blocks % heads);
    let cube_token = block * QUERIES;
    let token = cube_token + plane * 16;
    let kv = (sequence * (heads / group) + head / group) * capacity;

    let steps = comptime!(dim / 16);
    let mut asked = Array::<Vector<F, Const<2>>>::new(comptime!(steps * 4));
    #[unroll]
    for half in 0..2usize {
        let row = usize::min(token + comptime!(half * 8) + of_eight, seq - 1);
        let at = ((sequence * seq + row) * heads + head) * comptime!(dim / 2) + of_four;
        #[unroll]
        for step in 0..steps {
            asked[comptime!(step * 4 + half)] = q[at + comptime!(step * 8)];
            asked[comptime!(step * 4 + half + 2)] = q[at + comptime!(step * 8 + 4)];
        }
    }
    let columns = comptime!(dim / 8);
    let mut mixed = Array::<Vector<f32, Const<2>>>::new(comptime!(columns * 2));
    #[unroll]
    for i in 0..comptime!(columns * 2) {
        mixed[i] = Vector::<f32, Const<2>>::cast_from(0.0f32);
    }
    let (mut largest, mut total) = (Array::<f32>::new(2usize), Array::<f32>::new(2usize));
    #[unroll]
    for half in 0..2usize {
        largest[half] = -1.0e30f32;
        total[half] = 0.0f32;
    }

    let begin = start[0] as usize;
    let position = begin + token;
    // of the cube: from the first key that its first query sees to the last that its last one sees
    let end = begin + usize::min(cube_token + QUERIES, seq);
    let mut tile = 0usize;
    if begin + cube_token + 1 > window {
        tile = begin + cube_token + 1 - window;
    }
    let fetched = comptime!(KEYS * dim / 8);
    while tile < end {
        let mut i = UNIT_POS as usize;
        while i < fetched {
            let (row, column) = (i / columns, i % columns);
            let from = (kv + usize::min(tile + row, end - 1)) * columns + column;
            let to = row * comptime!((dim + PAD) / 8) + column;
            key_tile[to] = Vector::<F, Const<8>>::reinterpret(keys[from]);
            value_tile[to] = Vector::<F, Const<8>>::reinterpret(values[from]);
            i += CUBE;
        }
        sync_cube();
        // a plane whose queries all stand before these keys has nothing to do
        if tile < position + 16 {
            let mut scores = Array::<Vector<f32, Const<2>>>::new(comptime!(KEYS / 8 * 2));
            #[unroll]
            for eight in 0..comptime!(KEYS / 8) {
                let mut part = Array::<Vector<f32, Const<2>>>::new(2usize);
                part[0] = Vector::<f32, Const<2>>::cast_from(0.0f32);
                part[1] = Vector::<f32, Const<2>>::cast_from(0.0f32);
                #[unroll]
                for two in 0..comptime!(steps / 2) {
                    // four matrices: two steps of two
                    let from =
                        (comptime!(eight * 8) + lane % 8) * stride + comptime!(two * 32) + lane / 8 * 8;
                    let row = &key_tile[from / 8..from / 8 + 1];
                    let b = mma.load_matrix::<_, Const<2>>(row, MatrixIdent::B, 4usize, false);
                    #[unroll]
                    for step in 0..2usize {
                        let (mut a, mut of) = (
                            Array::<Vector<F, Const<2>>>::new(4usize),
                            Array::<Vector<F, Const<2>>>::new(2usize),
                        );
                        #[unroll]
                        for i in 0..4usize {
                            a[i] = asked[comptime!((two * 2 + step) * 4 + i)];
                        }
                        of[0] = b[comptime!(step * 2)];
                        of[1] = b[comptime!(step * 2 + 1)];
                        mma.execute_inplace(&a, &of, &mut part);
                    }
                }
                scores[comptime!(eight * 2)] = part[0];
                scores[comptime!(eight * 2 + 1)] = part[1];
            }
            let whole = tile + KEYS <= position + 1 && tile + window > position + 15;
            let mut best = Array::<f32>::new(2usize);
            #[unroll]
            for half in 0..2usize {
                best[half] = -1.0e30f32;
                let at = position + comptime!(half * 8) + of_eight;
                #[unroll]
                for eight in 0..comptime!(KEYS / 8) {
                    let mut pair = scores[comptime!(eight * 2 + half)];
                    #[unroll]
                    for i in 0..2usize {
                        let key = tile + comptime!(eight * 8 + i) + of_four * 2;
                        let seen = whole || (key <= at && key + window > at);
                        let score = select(seen, pair.extract(i) * scale, -2.0e30f32);
                        pair.insert(i, score);
                        best[half] = f32::max(best[half], score);
                    }
                    scores[comptime!(eight * 2 + half)] = pair;
                }
            }
            let mut shrink = Array::<f32>::new(2usize);
            #[unroll]
            for half in 0..2usize {
                let mut most = best[half];
                most = f32::max(most, plane_shuffle_xor(most, 1u32));
                most = f32::max(most, plane_shuffle_xor(most, 2u32));
                most = f32::max(most, largest[half]);
                shrink[half] = (largest[half] - most).exp();
                largest[half] = most;
                let mut sum = 0.0f32;
                #[unroll]
                for eight in 0..comptime!(KEYS / 8) {
                    let mut pair = scores[comptime!(eight * 2 + half)];
                    #[unroll]
                    for i in 0..2usize {
                        let weight = (pair.extract(i) - most).exp();
                        sum += weight;
                        pair.insert(i, weight);
                    }
                    scores[comptime!(eight * 2 + half)] = pair;
                }
                total[half] = fma(total[half], shrink[half], sum);
            }
            #[unroll]
            for column in 0..columns {
                #[unroll]
                for half in 0..2usize {
                    let index = comptime!(column * 2 + half);
                    mixed[index] = mixed[index] * Vector::<f32, Const<2>>::cast_from(shrink[half]);
                }
            }
            #[unroll]
            for step in 0..comptime!(KEYS / 16) {
                let mut a = Array::<Vector<F, Const<2>>>::new(4usize);
                #[unroll]
                for i in 0..4usize {
                    a[i] = Vector::<F, Const<2>>::cast_from(scores[comptime!(step * 4 + i)]);
                }
                #[unroll]
                for two in 0..comptime!(columns / 2) {
                    let key = comptime!(step * 16) + lane % 16;
                    let from = key * stride + comptime!(two * 16) + lane / 16 * 8;
                    let row = &value_tile[from / 8..from / 8 + 1];
                    let b = mma.load_matrix::<_, Const<2>>(row, MatrixIdent::B, 4usize, true);
                    #[unroll]
                    for n in 0..2usize {
                        let (mut of, mut sum) = (
                            Array::<Vector<F, Const<2>>>::new(2usize),
                            Array::<Vector<f32, Const<2>>>::new(2usize),
                        );
                        of[0] = b[comptime!(n * 2)];
                        of[1] = b[comptime!(n * 2 + 1)];
                        let index = comptime!((two * 2 + n) * 2);
                        sum[0] = mixed[index];
                        sum[1] = mixed[comptime!(index + 1)];
                        mma.execute_inplace(&a, &of, &mut sum);
                        mixed[index] = sum[0];
                        mixed[comptime!(index + 1)] = sum[1];
                    }
                }
            }
        }
        sync_cube();
        tile += KEYS;
    }
    #[unroll]
    for half in 0..2usize {
        let mut sum = total[half];
        sum += plane_shuffle_xor(sum, 1u32);
        sum += plane_shuffle_xor(sum, 2u32);
        let row = token + comptime!(half * 8) + of_eight;
        if row < seq {
            let at = ((sequence * seq + row) * heads + head) * dim + of_four * 2;
            #[unroll]
            for column in 0..columns {
                let pair = mixed[comptime!(column * 2 + half)];
                #[unroll]
                for i in 0..2usize {
                    out[at + comptime!(column * 8 + i)] = F::cast_from(pair.extract(i) / sum);
                }
            }
        }
    }
}
