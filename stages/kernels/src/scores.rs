//! What is asked of rows of logits, without reading them back: 4 bytes of a row in 200,000 are wanted.
//!
//! Bytes: the logits, once; the floor is what the device reads. Reached on an H200 for 1024 rows of 128256 logits: 1.34 TB/s,
//! 31% of a copy, for scores, which go over a row twice and take an exponential of each logit; 3.03 TB/s, 71%, for the
//! likeliest. A single row keeps a 132nd of the device busy in [`log_softmax_at`] (74 µs), and 32 cubes in [`pick_and_advance`]
//! (5.1 µs), which is why decoding uses that one.
#![allow(unsafe_code, reason = "unchecked launches: every index is bounded in the kernel")]

use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::launch::{CUBE, PLANE, buffer};

/// Values per row of [`log_softmax_at`].
pub const SCORES: usize = 4;

/// Of each row of `logits` `[rows, vocabulary]` in f32: its largest logit, the logarithm of the sum of
/// `exp(logit − largest)`, the logit of the token in `targets` (`[rows]`, u32), and the position of the largest, the first
/// of equal ones, as the bits of a u32. `[rows, 4]`, f32.
pub fn log_softmax_at(
    client: &Client,
    logits: &Handle,
    targets: &Handle,
    [rows, vocabulary]: [usize; 2],
) -> Handle {
    let out = client.empty((rows * SCORES).max(1) * 4);
    if rows > 0 && vocabulary > 0 {
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            scores::launch_unchecked(
                client,
                CubeCount::Static(rows as u32, 1, 1),
                CubeDim::new_1d(CUBE as u32),
                buffer(logits, rows * vocabulary),
                buffer(targets, rows),
                buffer(&out, rows * SCORES),
                vocabulary,
            );
        }
    }
    out
}

#[cube(launch_unchecked)]
fn scores(logits: &[f32], targets: &[u32], out: &mut [f32], vocabulary: usize) {
    let start = CUBE_POS * vocabulary;
    let (largest, winner) = likeliest(logits, start, vocabulary);
    let total = cube_sum(sum_exp(logits, start, vocabulary, largest));
    if UNIT_POS == 0 {
        let row = CUBE_POS * comptime!(SCORES);
        out[row] = largest;
        out[row + 1] = total.ln();
        out[row + 2] = logits[start + targets[CUBE_POS] as usize];
        out[row + 3] = f32::reinterpret(winner);
    }
}

/// Values per row of [`divergence`].
pub const DIVERGENCE: usize = 2;

/// How far the distributions of `variant` are from those of `base`, both rows of logits `[rows, vocabulary]` in f32: of each row
/// `Σ p (ln p − ln q)`, nats, in f32 (a hair below 0 where they are equal but for rounding), and 1 where both hold the same
/// token likeliest, the first of equal ones, else 0. `[rows, 2]`, f32.
pub fn divergence(
    client: &Client,
    base: &Handle,
    variant: &Handle,
    [rows, vocabulary]: [usize; 2],
) -> Handle {
    let out = client.empty((rows * DIVERGENCE).max(1) * 4);
    if rows > 0 && vocabulary > 0 {
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            divergences::launch_unchecked(
                client,
                CubeCount::Static(rows as u32, 1, 1),
                CubeDim::new_1d(CUBE as u32),
                buffer(base, rows * vocabulary),
                buffer(variant, rows * vocabulary),
                buffer(&out, rows * DIVERGENCE),
                vocabulary,
            );
        }
    }
    out
}

#[cube(launch_unchecked)]
fn divergences(base: &[f32], variant: &[f32], out: &mut [f32], vocabulary: usize) {
    let start = CUBE_POS * vocabulary;
    let (p_largest, p_likeliest) = likeliest(base, start, vocabulary);
    let (q_largest, q_likeliest) = likeliest(variant, start, vocabulary);
    let p_log = cube_sum(sum_exp(base, start, vocabulary, p_largest)).ln();
    let q_log = cube_sum(sum_exp(variant, start, vocabulary, q_largest)).ln();
    let mut sum = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < vocabulary {
        let log_p = base[start + at] - p_largest - p_log;
        let log_q = variant[start + at] - q_largest - q_log;
        let p = log_p.exp();
        // a token that the base rules out counts nothing, whatever the variant says
        if p != 0.0f32 {
            sum += p * (log_p - log_q);
        }
        at += CUBE;
    }
    let total = cube_sum(sum);
    if UNIT_POS == 0 {
        out[CUBE_POS * 2] = total;
        out[CUBE_POS * 2 + 1] = select(p_likeliest == q_likeliest, 1.0f32, 0.0f32);
    }
}

/// A row's largest logit and its place, the first of equal ones; every unit of the cube gets both.
#[cube]
fn likeliest(logits: &[f32], start: usize, vocabulary: usize) -> (f32, u32) {
    let planes = comptime!(CUBE / PLANE);
    let (plane, lane) = (UNIT_POS as usize / PLANE, UNIT_POS as usize % PLANE);
    let mut best = f32::new(-3.0e38f32);
    let mut place = NOWHERE.runtime();
    let mut at = UNIT_POS as usize;
    while at < vocabulary {
        let value = logits[start + at];
        if value > best {
            best = value;
            place = at as u32;
        }
        at += CUBE;
    }
    let mut bests = Shared::<[f32]>::new_slice(planes);
    let mut places = Shared::<[u32]>::new_slice(planes);
    let of_plane = plane_max(best);
    let first = plane_min(select(best == of_plane, place, NOWHERE));
    if lane == 0 {
        bests[plane] = of_plane;
        places[plane] = first;
    }
    sync_cube();
    let mut largest = bests[0];
    #[unroll]
    for p in 1..planes {
        largest = f32::max(largest, bests[p]);
    }
    let mut winner = NOWHERE.runtime();
    #[unroll]
    for p in 0..planes {
        winner = u32::min(winner, select(bests[p] == largest, places[p], NOWHERE));
    }
    (largest, winner)
}

/// A unit's share of the sum of `exp(logit − largest)`.
#[cube]
fn sum_exp(logits: &[f32], start: usize, vocabulary: usize, largest: f32) -> f32 {
    let mut sum = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < vocabulary {
        sum += (logits[start + at] - largest).exp();
        at += CUBE;
    }
    sum
}

/// The sum over the units of a cube; every unit gets it.
#[cube]
fn cube_sum(share: f32) -> f32 {
    let planes = comptime!(CUBE / PLANE);
    let mut sums = Shared::<[f32]>::new_slice(planes);
    let sum = plane_sum(share);
    if UNIT_POS as usize % PLANE == 0 {
        sums[UNIT_POS as usize / PLANE] = sum;
    }
    sync_cube();
    let mut total = 0.0f32;
    #[unroll]
    for p in 0..planes {
        total += sums[p];
    }
    total
}

/// Cubes that look through one row of logits.
const SHARES: usize = 32;

/// Greedy decoding's end of a step: puts the position of the largest logit of each row of `[rows, vocabulary]`, f32, the
/// first of equal ones, into `tokens` (`[rows]`, u32), and adds 1 to the number in `start` (`[1]`, u32).
pub fn pick_and_advance(
    client: &Client,
    logits: &Handle,
    [rows, vocabulary]: [usize; 2],
    tokens: &Handle,
    start: &Handle,
) {
    if rows == 0 || vocabulary == 0 {
        return;
    }
    let (values, places) = (client.empty(rows * SHARES * 4), client.empty(rows * SHARES * 4));
    let dim = CubeDim::new_1d(CUBE as u32);
    // SAFETY: the kernels stay within the lengths of their buffers
    unsafe {
        best_of_shares::launch_unchecked(
            client,
            CubeCount::Static((rows * SHARES) as u32, 1, 1),
            dim,
            buffer(logits, rows * vocabulary),
            buffer(&values, rows * SHARES),
            buffer(&places, rows * SHARES),
            vocabulary,
        );
        best_of_rows::launch_unchecked(
            client,
            CubeCount::Static(rows as u32, 1, 1),
            CubeDim::new_1d(PLANE as u32),
            buffer(&values, rows * SHARES),
            buffer(&places, rows * SHARES),
            buffer(tokens, rows),
            buffer(start, 1),
        );
    }
}

/// What stands for no position.
const NOWHERE: u32 = 0xffff_ffff;

#[cube(launch_unchecked)]
fn best_of_shares(logits: &[f32], values: &mut [f32], places: &mut [u32], vocabulary: usize) {
    let planes = comptime!(CUBE / PLANE);
    let (row, share) = (CUBE_POS / SHARES, CUBE_POS % SHARES);
    let size = vocabulary.div_ceil(SHARES);
    let end = usize::min((share + 1) * size, vocabulary);
    let mut best = f32::new(-3.0e38f32);
    let mut place = NOWHERE.runtime();
    let mut at = share * size + UNIT_POS as usize;
    while at < end {
        let value = logits[row * vocabulary + at];
        if value > best {
            best = value;
            place = at as u32;
        }
        at += CUBE;
    }
    let mut bests = Shared::<[f32]>::new_slice(planes);
    let mut firsts = Shared::<[u32]>::new_slice(planes);
    let of_plane = plane_max(best);
    let first = plane_min(select(best == of_plane, place, NOWHERE));
    if UNIT_POS as usize % PLANE == 0 {
        bests[UNIT_POS as usize / PLANE] = of_plane;
        firsts[UNIT_POS as usize / PLANE] = first;
    }
    sync_cube();
    if UNIT_POS == 0 {
        let (mut best, mut place) = (bests[0], firsts[0]);
        #[unroll]
        for p in 1..planes {
            if bests[p] > best || (bests[p] == best && firsts[p] < place) {
                best = bests[p];
                place = firsts[p];
            }
        }
        values[CUBE_POS] = best;
        places[CUBE_POS] = place;
    }
}

#[cube(launch_unchecked)]
fn best_of_rows(values: &[f32], places: &[u32], tokens: &mut [u32], start: &mut [u32]) {
    let at = CUBE_POS * SHARES + UNIT_POS as usize;
    let best = plane_max(values[at]);
    let place = plane_min(select(values[at] == best, places[at], NOWHERE));
    if UNIT_POS == 0 {
        // a row without any number has none
        tokens[CUBE_POS] = select(place == NOWHERE, 0u32, place);
        if CUBE_POS == 0 {
            start[0] += 1;
        }
    }
}
