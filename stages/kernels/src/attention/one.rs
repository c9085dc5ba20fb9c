//! One query of each sequence, as decoding has them: a cube per head, all of whose planes share the keys. A lane reads eight
//! values of a key at once, so that a plane reads 4 keys of 64; what the lanes of a key have seen is merged at the end.
//!
//! Bytes: the cache's keys and values up to the position, once per head (the L2 cache serves a group's other heads). With
//! fewer heads than the device has processors, its latency and not its bandwidth is what takes the time: 8.4 µs on an H200
//! for 1024 keys of 8 heads of 64, 2 MB.

use cubecl::prelude::*;

use crate::lanes::eight;
use crate::launch::{Dtype, PLANE};

/// Units of a cube.
pub(super) const UNITS: usize = 1024;
const PLANES: usize = UNITS / PLANE;
/// Keys that a lane has in flight.
const KEYS: usize = 2;
/// Heads that lanes of eight values divide evenly among themselves.
pub(super) const DIMS: [usize; 4] = [32, 64, 128, 256];

#[cube(launch_unchecked)]
pub(super) fn mix_one<F: Float>(
    q: &[Vector<u32, Const<4>>],
    keys: &[Vector<u32, Const<4>>],
    values: &[Vector<u32, Const<4>>],
    out: &mut [F],
    start: &[u32],
    heads: usize,
    group: usize,
    capacity: usize,
    window: usize,
    scale: f32,
    #[comptime] dim: usize,
    #[comptime] dtype: Dtype,
    #[define(F)] _elem: ElemType,
) {
    let lanes = comptime!(dim / 8);
    let at_once = comptime!(PLANE / (dim / 8));
    let (plane, lane) = (UNIT_POS as usize / PLANE, UNIT_POS as usize % PLANE);
    let (slot, part) = (lane / lanes, lane % lanes);
    let end = start[0] as usize + 1;
    let mut first = 0usize;
    if end > window {
        first = end - window;
    }
    let (sequence, head) = (CUBE_POS / heads, CUBE_POS % heads);
    let kv = (sequence * (heads / group) + head / group) * capacity;
    let asked = eight(q, CUBE_POS * lanes + part, dtype);

    let (mut largest, mut total) = (f32::new(-1.0e30f32), f32::new(0.0f32));
    let mut mixed = Array::<f32>::new(8usize);
    #[unroll]
    for i in 0..8usize {
        mixed[i] = 0.0f32;
    }
    let mut key = first + plane * comptime!(KEYS * PLANE / (dim / 8)) + slot;
    // lanes of a plane leave together: they exchange their parts of a score
    while key - slot < end {
        let (mut seen, mut scores) = (Array::<Vector<f32, Const<8>>>::new(KEYS), Array::<f32>::new(KEYS));
        let mut best = largest;
        #[unroll]
        for j in 0..KEYS {
            let here = key + comptime!(j * PLANE / (dim / 8));
            let at = (kv + usize::min(here, end - 1)) * lanes + part;
            let (of_key, of_value) = (eight(keys, at, dtype), eight(values, at, dtype));
            let mut score = 0.0f32;
            #[unroll]
            for i in 0..8usize {
                score = fma(asked.extract(i), of_key.extract(i), score);
            }
            #[unroll]
            for step in 0..comptime!(lanes.ilog2() as usize) {
                score += plane_shuffle_xor(score, comptime!(1u32 << step));
            }
            seen[j] = of_value;
            scores[j] = select(here < end, score * scale, -1.0e30f32);
            best = f32::max(best, scores[j]);
        }
        let shrink = (largest - best).exp();
        total *= shrink;
        #[unroll]
        for i in 0..8usize {
            mixed[i] *= shrink;
        }
        #[unroll]
        for j in 0..KEYS {
            let here = key + comptime!(j * PLANE / (dim / 8));
            let weight = select(here < end, (scores[j] - best).exp(), 0.0f32);
            total += weight;
            #[unroll]
            for i in 0..8usize {
                mixed[i] = fma(weight, seen[j].extract(i), mixed[i]);
            }
        }
        largest = best;
        key += comptime!(PLANES * KEYS * PLANE / (dim / 8));
    }
    // the slots of a plane
    #[unroll]
    for step in 0..comptime!(at_once.ilog2() as usize) {
        let mask = comptime!((lanes << step) as u32);
        let best = f32::max(largest, plane_shuffle_xor(largest, mask));
        let shrink = (largest - best).exp();
        total *= shrink;
        total += plane_shuffle_xor(total, mask);
        #[unroll]
        for i in 0..8usize {
            let mine = mixed[i] * shrink;
            mixed[i] = mine + plane_shuffle_xor(mine, mask);
        }
        largest = best;
    }
    let mut of_planes = Shared::<[f32]>::new_slice(comptime!(PLANES * (dim + 2)));
    let mine = plane * comptime!(dim + 2);
    if slot == 0 {
        #[unroll]
        for i in 0..8usize {
            of_planes[mine + part * 8 + i] = mixed[i];
        }
        if part == 0 {
            of_planes[mine + dim] = largest;
            of_planes[mine + comptime!(dim + 1)] = total;
        }
    }
    sync_cube();
    let i = UNIT_POS as usize;
    if i < dim {
        let mut best = f32::new(-1.0e30f32);
        #[unroll]
        for p in 0..PLANES {
            best = f32::max(best, of_planes[p * comptime!(dim + 2) + dim]);
        }
        let (mut all, mut sum) = (f32::new(0.0f32), f32::new(0.0f32));
        #[unroll]
        for p in 0..PLANES {
            let at = p * comptime!(dim + 2);
            let share = (of_planes[at + dim] - best).exp();
            all = fma(of_planes[at + comptime!(dim + 1)], share, all);
            sum = fma(of_planes[at + i], share, sum);
        }
        out[CUBE_POS * dim + i] = F::cast_from(sum / all);
    }
}
