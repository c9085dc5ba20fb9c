//! Many queries in f32, on tensor cores: a factor is split into two of TF32, whose 11 bits each hold 22 of its 24, and a
//! product is three (3xTF32; Ootomo and Yokota 2022, arXiv 2203.03341). What is left out is below 2⁻²¹ of a product, so scores are
//! f32's but for their last bits. A plane holds 16 queries, as in [`super::tensor`].
//!
//! Work: three instructions of 2·16·8·8 operations where one would do in TF32, and four more to split what they take, which
//! bounds it. Reached on an H200: 32 TFLOP/s for 4 sequences of 2048 tokens, 9 heads of 64.

use cubecl::cmma::MmaDefinition;
use cubecl::prelude::*;

use crate::launch::{CUBE, PLANE};

/// Queries of a cube.
pub(super) const QUERIES: usize = 16 * CUBE / PLANE;
/// Keys in shared memory at a time.
const KEYS: usize = 32;
/// Of the rows there, so that lanes that read at once meet different banks.
const KEY_PAD: usize = 8;
const VALUE_PAD: usize = 4;

/// The leading 11 bits of a value.
#[cube]
fn high(x: f32) -> f32 {
    f32::reinterpret(u32::reinterpret(x) & 0xffff_e000u32)
}

/// A register of a fragment.
#[cube]
fn register(x: f32) -> Vector<tf32, Const<1>> {
    Vector::<tf32, Const<1>>::reinterpret(x)
}

#[cube(launch_unchecked)]
pub(super) fn mix_split(
    q: &[f32],
    keys: &[Vector<f32, Const<4>>],
    values: &[Vector<f32, Const<4>>],
    out: &mut [f32],
    start: &[u32],
    seq: usize,
    heads: usize,
    group: usize,
    capacity: usize,
    window: usize,
    scale: f32,
    #[comptime] dim: usize,
) {
    let (key_stride, value_stride) = (comptime!(dim + KEY_PAD), comptime!(dim + VALUE_PAD));
    let mut key_tile = Shared::<[f32]>::new_slice(comptime!(KEYS * (dim + KEY_PAD)));
    let mut value_tile = Shared::<[f32]>::new_slice(comptime!(KEYS * (dim + VALUE_PAD)));
    let mma = MmaDefinition::<tf32, tf32, f32>::new(16usize, 8usize, 8usize);
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

    // in which order products are added is free: a lane takes neighbours where the instruction has distances of four
    let steps = comptime!(dim / 8);
    let mut asked = Array::<f32>::new(comptime!(steps * 4));
    #[unroll]
    for half in 0..2usize {
        let row = usize::min(token + comptime!(half * 8) + of_eight, seq - 1);
        let at = ((sequence * seq + row) * heads + head) * dim + of_four * 2;
        #[unroll]
        for step in 0..steps {
            #[unroll]
            for i in 0..2usize {
                asked[comptime!(step * 4 + half + 2 * i)] = q[at + comptime!(step * 8 + i)] * scale;
            }
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
    let end = begin + usize::min(cube_token + QUERIES, seq);
    let mut tile = 0usize;
    if begin + cube_token + 1 > window {
        tile = begin + cube_token + 1 - window;
    }
    let fours = comptime!(dim / 4);
    while tile < end {
        let mut i = UNIT_POS as usize;
        while i < comptime!(KEYS * dim / 4) {
            let (row, column) = (i / fours, i % fours);
            let from = (kv + usize::min(tile + row, end - 1)) * fours + column;
            let (key, value) = (keys[from], values[from]);
            #[unroll]
            for k in 0..4usize {
                key_tile[row * key_stride + column * 4 + k] = key.extract(k);
                value_tile[row * value_stride + column * 4 + k] = value.extract(k);
            }
            i += CUBE;
        }
        sync_cube();
        // a plane whose queries all stand before these keys has nothing to do
        if tile < position + 16 {
            let mut scores = Array::<Vector<f32, Const<2>>>::new(comptime!(KEYS / 8 * 2));
            #[unroll]
            for i in 0..comptime!(KEYS / 8 * 2) {
                scores[i] = Vector::<f32, Const<2>>::cast_from(0.0f32);
            }
            #[unroll]
            for step in 0..steps {
                let (mut a, mut a_low) = (
                    Array::<Vector<tf32, Const<1>>>::new(4usize),
                    Array::<Vector<tf32, Const<1>>>::new(4usize),
                );
                #[unroll]
                for i in 0..4usize {
                    let value = asked[comptime!(step * 4 + i)];
                    let upper = high(value);
                    a[i] = register(upper);
                    a_low[i] = register(value - upper);
                }
                #[unroll]
                for eight in 0..comptime!(KEYS / 8) {
                    let at =
                        (comptime!(eight * 8) + of_eight) * key_stride + comptime!(step * 8) + of_four * 2;
                    let (mut b, mut b_low) = (
                        Array::<Vector<tf32, Const<1>>>::new(2usize),
                        Array::<Vector<tf32, Const<1>>>::new(2usize),
                    );
                    #[unroll]
                    for i in 0..2usize {
                        let value = key_tile[at + i];
                        let upper = high(value);
                        b[i] = register(upper);
                        b_low[i] = register(value - upper);
                    }
                    let mut part = Array::<Vector<f32, Const<2>>>::new(2usize);
                    part[0] = scores[comptime!(eight * 2)];
                    part[1] = scores[comptime!(eight * 2 + 1)];
                    mma.execute_inplace(&a_low, &b, &mut part);
                    mma.execute_inplace(&a, &b_low, &mut part);
                    mma.execute_inplace(&a, &b, &mut part);
                    scores[comptime!(eight * 2)] = part[0];
                    scores[comptime!(eight * 2 + 1)] = part[1];
                }
            }
            let mut shrink = Array::<f32>::new(2usize);
            #[unroll]
            for half in 0..2usize {
                let mut most = largest[half];
                let at = position + comptime!(half * 8) + of_eight;
                #[unroll]
                for eight in 0..comptime!(KEYS / 8) {
                    let mut pair = scores[comptime!(eight * 2 + half)];
                    #[unroll]
                    for i in 0..2usize {
                        let key = tile + comptime!(eight * 8 + i) + of_four * 2;
                        let seen = key <= at && key + window > at;
                        let score = select(seen, pair.extract(i), -2.0e30f32);
                        pair.insert(i, score);
                        most = f32::max(most, score);
                    }
                    scores[comptime!(eight * 2 + half)] = pair;
                }
                most = f32::max(most, plane_shuffle_xor(most, 1u32));
                most = f32::max(most, plane_shuffle_xor(most, 2u32));
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
            for eight in 0..comptime!(KEYS / 8) {
                // the keys of a lane's scores are the two neighbours whose values it takes
                let (mut a, mut a_low) = (
                    Array::<Vector<tf32, Const<1>>>::new(4usize),
                    Array::<Vector<tf32, Const<1>>>::new(4usize),
                );
                #[unroll]
                for half in 0..2usize {
                    let pair = scores[comptime!(eight * 2 + half)];
                    #[unroll]
                    for i in 0..2usize {
                        let value = pair.extract(i);
                        let upper = high(value);
                        a[comptime!(half + 2 * i)] = register(upper);
                        a_low[comptime!(half + 2 * i)] = register(value - upper);
                    }
                }
                let row = (comptime!(eight * 8) + of_four * 2) * value_stride + of_eight;
                #[unroll]
                for column in 0..columns {
                    let (mut b, mut b_low) = (
                        Array::<Vector<tf32, Const<1>>>::new(2usize),
                        Array::<Vector<tf32, Const<1>>>::new(2usize),
                    );
                    #[unroll]
                    for i in 0..2usize {
                        let value = value_tile[row + comptime!(i * (dim + VALUE_PAD) + column * 8)];
                        let upper = high(value);
                        b[i] = register(upper);
                        b_low[i] = register(value - upper);
                    }
                    let mut sum = Array::<Vector<f32, Const<2>>>::new(2usize);
                    sum[0] = mixed[comptime!(column * 2)];
                    sum[1] = mixed[comptime!(column * 2 + 1)];
                    mma.execute_inplace(&a_low, &b, &mut sum);
                    mma.execute_inplace(&a, &b_low, &mut sum);
                    mma.execute_inplace(&a, &b, &mut sum);
                    mixed[comptime!(column * 2)] = sum[0];
                    mixed[comptime!(column * 2 + 1)] = sum[1];
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
                    out[at + comptime!(column * 8 + i)] = pair.extract(i) / sum;
                }
            }
        }
    }
}
