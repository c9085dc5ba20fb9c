//! Loops over host buffers: what a layer does beside its matrix products, each in one pass over its data on all
//! cores, vectorised for the processor at hand. Sums run in 16 lanes, so results do not depend on the instruction set.

#![expect(clippy::inline_always, reason = "the loops must be compiled for the caller's instruction set")]

mod attend;

use qpipe_codecs::Rounding;
use rayon::prelude::*;

pub(super) use attend::{Grouped, attend};

/// Values that one task handles, about.
const TASK: usize = 16 * 1024;
const LANES: usize = 16;

/// Runs `work`, compiled for the widest instruction set that this processor has.
#[inline]
fn widest<R>(work: impl FnOnce() -> R) -> R {
    macerator::AutoArch::new().dispatch(work)
}

/// Rows of `width` values that make a task.
fn rows_per_task(width: usize) -> usize {
    (TASK / width.max(1)).max(1)
}

/// `e^x`: `2^n · e^r` with |r| ≤ ln 2 / 2 and the polynomial of Cephes' `expf` (Moshier 1989); within 2 ulp, clamped to
/// finite results above the smallest normal number.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// 1.5 · 2²³: adding it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    (p * (r * r) + r + 1.0) * power
}

/// Folds values in 16 lanes.
#[inline(always)]
fn fold(row: &[f32], start: f32, f: impl Fn(f32, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let (body, tail) = row.as_chunks::<LANES>();
    for chunk in body {
        for lane in 0..LANES {
            lanes[lane] = f(lanes[lane], chunk[lane]);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(tail) {
        *lane = f(*lane, *value);
    }
    lanes.into_iter().fold(start, join)
}

/// `Σ e^(x − shift)`.
pub(super) fn sum_exp(row: &[f32], shift: f32) -> f32 {
    widest(
        #[inline(always)]
        || fold(row, 0.0, |sum, v| sum + exp(v - shift), |a, b| a + b),
    )
}

/// `x[i] += y[i]`, then rounded.
#[inline(always)]
fn add_row(x: &mut [f32], y: &[f32], rounding: Rounding) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    qpipe_codecs::round_slice(x, rounding);
}

/// `x / sqrt(mean(x²) + eps) · gain`, then rounded.
#[inline(always)]
fn norm_row(x: &[f32], gain: &[f32], eps: f32, rounding: Rounding, out: &mut [f32]) {
    let squares = fold(x, 0.0, |sum, v| sum + v * v, |a, b| a + b);
    let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
        *out = x * scale * gain;
    }
    qpipe_codecs::round_slice(out, rounding);
}

/// RMS norm of rows `x` `[rows, gain.len()]`.
pub(super) fn rms_norm(x: &[f32], gain: &[f32], eps: f32, rounding: Rounding) -> Vec<f32> {
    let width = gain.len();
    let mut out = vec![0.0; x.len()];
    let task = rows_per_task(width) * width;
    out.par_chunks_mut(task).zip(x.par_chunks(task)).for_each(|(out, x)| {
        widest(
            #[inline(always)]
            || {
                for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    norm_row(x, gain, eps, rounding, out);
                }
            },
        );
    });
    out
}

/// Adds `y` to the residual stream `x`, both `[rows, gain.len()]`, and returns the RMS norm of the sum.
pub(super) fn add_norm(x: &mut [f32], y: &[f32], gain: &[f32], eps: f32, rounding: Rounding) -> Vec<f32> {
    let width = gain.len();
    let mut out = vec![0.0; x.len()];
    let task = rows_per_task(width) * width;
    let tasks = out.par_chunks_mut(task).zip(x.par_chunks_mut(task)).zip(y.par_chunks(task));
    tasks.for_each(|((out, x), y)| {
        widest(
            #[inline(always)]
            || {
                let rows = x.chunks_exact_mut(width).zip(y.chunks_exact(width));
                for (out, (x, y)) in out.chunks_exact_mut(width).zip(rows) {
                    add_row(x, y, rounding);
                    norm_row(x, gain, eps, rounding, out);
                }
            },
        );
    });
    out
}

/// `gate = silu(gate) · up`, then rounded.
pub(super) fn swiglu(gate: &mut [f32], up: &[f32], rounding: Rounding) {
    gate.par_chunks_mut(TASK).zip(up.par_chunks(TASK)).for_each(|(gate, up)| {
        widest(
            #[inline(always)]
            || {
                gate.iter_mut().zip(up).for_each(|(g, u)| *g = *g / (1.0 + exp(-*g)) * u);
                qpipe_codecs::round_slice(gate, rounding);
            },
        );
    });
}

/// Puts projected heads `[batch · seq, heads · dim]` behind `at` positions of `into` `[batch, heads, capacity, dim]`;
/// `write` makes a token's row from its stored one.
pub(super) fn split_heads(
    x: &[f32],
    [seq, heads, dim]: [usize; 3],
    into: &mut [f32],
    at: usize,
    write: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) {
    let capacity = into.len() * seq / x.len().max(1);
    let per_task = rows_per_task(seq * dim);
    into.par_chunks_mut(capacity * dim).with_min_len(per_task).enumerate().for_each(|(index, rows)| {
        let (sequence, head) = (index / heads, index % heads);
        widest(
            #[inline(always)]
            || {
                for (token, row) in rows[at * dim..].chunks_exact_mut(dim).take(seq).enumerate() {
                    let from = ((sequence * seq + token) * heads + head) * dim;
                    write(token, &x[from..from + dim], row);
                }
            },
        );
    });
}

/// Rotates a head by its position's cosines and sines (half a head each) into `out`.
#[inline(always)]
pub(super) fn rotate(head: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
    let (a, b) = head.split_at(cos.len());
    let (first, second) = out.split_at_mut(cos.len());
    let angles = || cos.iter().zip(sin);
    for ((out, (a, b)), (cos, sin)) in first.iter_mut().zip(a.iter().zip(b)).zip(angles()) {
        *out = a * cos - b * sin;
    }
    for ((out, (a, b)), (cos, sin)) in second.iter_mut().zip(a.iter().zip(b)).zip(angles()) {
        *out = b * cos + a * sin;
    }
}

/// Causal softmax in place. `scores`: rows of `keys` values, of `len` consecutive queries over and over; the first
/// query stands at key `first`, and a query sees the last `window` keys up to its own.
fn causal_softmax(scores: &mut [f32], keys: usize, len: usize, first: usize, window: usize) {
    widest(
        #[inline(always)]
        || {
            for (index, row) in scores.chunks_exact_mut(keys).enumerate() {
                let end = first + index % len + 1;
                let start = end.saturating_sub(window);
                row[..start].fill(0.0);
                row[end..].fill(0.0);
                softmax_row(&mut row[start..end]);
            }
        },
    );
}

#[inline(always)]
fn softmax_row(row: &mut [f32]) {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let max = fold(row, f32::NEG_INFINITY, larger, larger);
    for v in row.iter_mut() {
        *v = exp(*v - max);
    }
    let scale = 1.0 / fold(row, 0.0, |sum, v| sum + v, |a, b| a + b);
    for v in row.iter_mut() {
        *v *= scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let (ours, exact) = (f64::from(exp(x)), f64::from(x).exp());
            let relative = ((ours - exact) / exact).abs();
            assert!(relative < 2.0 * f64::from(f32::EPSILON), "{x}: {relative}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(-1000.0) < 1e-37 && exp(1000.0) > 1e38);
    }

    #[test]
    fn softmax_sees_the_window_up_to_its_own_key() {
        let (keys, len, first, window) = (7, 3, 2, 2);
        let mut scores: Vec<f32> = (0..2 * len * keys).map(|i| (i * 37 % 11) as f32).collect();
        let before = scores.clone();
        causal_softmax(&mut scores, keys, len, first, window);
        for (index, row) in scores.chunks(keys).enumerate() {
            let query = first + index % len;
            let weight = |key: usize| f64::from(before[index * keys + key]).exp();
            let total: f64 = (query - 1..=query).map(weight).sum();
            for (key, value) in row.iter().enumerate() {
                let seen = key <= query && query - key < window;
                let expected = if seen { weight(key) / total } else { 0.0 };
                assert!((f64::from(*value) - expected).abs() < 1e-6, "row {index}, key {key}");
            }
        }
    }

    #[test]
    fn heads_are_split_behind_what_is_there() {
        let (seq, heads, dim, capacity, at) = (5, 3, 2, 9, 2);
        let x: Vec<f32> = (0..2 * seq * heads * dim).map(|i| i as f32).collect();
        let mut into = vec![-1.0; 2 * heads * capacity * dim];
        split_heads(&x, [seq, heads, dim], &mut into, at, |_, from, to| to.copy_from_slice(from));
        for (index, value) in into.iter().enumerate() {
            let (column, position) = (index % dim, index / dim % capacity);
            let (head, sequence) = (index / dim / capacity % heads, index / dim / capacity / heads);
            let token = position.checked_sub(at).filter(|token| *token < seq);
            let expected = token.map_or(-1.0, |t| x[((sequence * seq + t) * heads + head) * dim + column]);
            assert_eq!(value.to_bits(), expected.to_bits(), "{index}");
        }
    }
}
