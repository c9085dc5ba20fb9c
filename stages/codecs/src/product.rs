//! Products straight on stored codes: y = x · Wᵀ without a dequantized W.
//!
//! Few tokens: a thread restores a strip of one row at a time into a buffer that stays in the first-level cache, and
//! takes its dot product with every token. More tokens: tiles of rows ([`crate::tiles`]). Either way an output is
//! summed in an order that depends on the shape alone, so it is the same for any number of threads.

use rayon::prelude::*;

use crate::int8::restore_row;
use crate::tiles::{Plain, Restored, tiled};
use crate::{BlockSize, FourBit, Packed4, Rounding, round_slice};

/// Up to this many tokens a weight is read once and used at once; beyond, tiles of it are used again and again.
pub(crate) const FEW_TOKENS: usize = 4;
/// Weights restored at a time.
const STRIP: usize = 1024;
/// Weights of one parallel task, at least; a task has whole rows.
const TASK: usize = 1 << 15;
/// Independent partial sums of a dot product.
const LANES: usize = 16;

/// `y[m, out] = x[m, k] · W[out, k]ᵀ` on f32 weights.
///
/// # Panics
/// If a slice does not have the length that the shape asks for.
pub fn matmul(weights: &[f32], out: usize, k: usize, x: &[f32], m: usize, y: &mut [f32]) {
    assert_eq!(weights.len(), out * k, "length of `weights`");
    let shape = Shape { out, k, m };
    if m > FEW_TOKENS {
        tiled(shape, x, y, &Plain { values: weights, k });
    } else {
        strips(shape, x, y, |row, column, strip| {
            strip.copy_from_slice(&weights[row * k + column..][..strip.len()]);
        });
    }
}

/// `y[m, out] = x[m, k] · W[out, k]ᵀ` on 4-bit codes; a weight is level · absmax, then rounded to `round`.
///
/// # Panics
/// If a slice does not have the length that the shape asks for.
#[expect(clippy::too_many_arguments, reason = "the parts of a stored tensor, and the shape of a product")]
pub fn matmul_packed4(
    kind: FourBit,
    packed: &[u8],
    absmax: &[f32],
    block: BlockSize,
    out: usize,
    k: usize,
    x: &[f32],
    m: usize,
    round: Rounding,
    y: &mut [f32],
) {
    let weights = match Packed4::new(kind, packed, absmax, block, out * k) {
        Ok(weights) => weights,
        Err(error) => panic!("{error}"),
    };
    weights.matmul(Shape { out, k, m }, x, round, y);
}

/// `y[m, out] = x[m, k] · W[out, k]ᵀ` on int8 codes; a weight is (code · scb) / 127, then rounded to `round`.
///
/// # Panics
/// If a slice does not have the length that the shape asks for.
#[expect(clippy::too_many_arguments, reason = "the parts of a stored tensor, and the shape of a product")]
pub fn matmul_int8(
    codes: &[i8],
    scb: &[f32],
    out: usize,
    k: usize,
    x: &[f32],
    m: usize,
    round: Rounding,
    y: &mut [f32],
) {
    assert_eq!(codes.len(), out * k, "length of `codes`");
    assert_eq!(scb.len(), out, "length of `scb`");
    product(Shape { out, k, m }, x, y, |row, column, strip| {
        restore_row(&codes[row * k + column..], scb[row], strip);
        round_slice(strip, round);
    });
}

/// The sizes of a product `[m, k] · [out, k]ᵀ`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) out: usize,
    pub(crate) k: usize,
    pub(crate) m: usize,
}

impl Packed4<'_> {
    fn matmul(&self, shape: Shape, x: &[f32], round: Rounding, y: &mut [f32]) {
        product(shape, x, y, |row, column, strip| {
            self.dequantize_range(row * shape.k + column, strip);
            round_slice(strip, round);
        });
    }
}

/// The product with weights of which `restore(row, first column, part)` writes a part of a row.
pub(crate) fn product(
    shape: Shape,
    x: &[f32],
    y: &mut [f32],
    restore: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    if shape.m > FEW_TOKENS {
        tiled(shape, x, y, &Restored { restore, k: shape.k });
    } else {
        strips(shape, x, y, restore);
    }
}

/// The product for few tokens.
fn strips(shape: Shape, x: &[f32], y: &mut [f32], restore: impl Fn(usize, usize, &mut [f32]) + Sync) {
    let Shape { out, k, m } = shape;
    assert_eq!(x.len(), m * k, "length of `x`");
    assert_eq!(y.len(), m * out, "length of `y`");
    match m {
        0 => {}
        1 => rows(shape, x, y, restore),
        _ => {
            let mut by_row = vec![0.0; y.len()];
            rows(shape, x, &mut by_row, restore);
            transpose(&by_row, m, y);
        }
    }
}

/// The transposed product `[out, m]`, row by row.
fn rows(shape: Shape, x: &[f32], y: &mut [f32], restore: impl Fn(usize, usize, &mut [f32]) + Sync) {
    let Shape { k, m, .. } = shape;
    let rows_per_task = TASK.div_ceil(k.max(1));
    y.par_chunks_mut(rows_per_task * m).enumerate().for_each(|(task, y)| {
        let mut strip = [0.0; STRIP];
        for (i, y) in y.chunks_mut(m).enumerate() {
            let row = task * rows_per_task + i;
            y.fill(0.0);
            for column in (0..k).step_by(STRIP) {
                let strip = &mut strip[..STRIP.min(k - column)];
                restore(row, column, strip);
                for (y, x) in y.iter_mut().zip(x.chunks(k)) {
                    *y += dot(strip, &x[column..column + strip.len()]);
                }
            }
        }
    });
}

/// `[out, m]` to `[m, out]`.
pub(crate) fn transpose(by_row: &[f32], m: usize, y: &mut [f32]) {
    let out = y.len() / m;
    for (token, y) in y.chunks_mut(out.max(1)).enumerate() {
        for (y, row) in y.iter_mut().zip(by_row.chunks(m)) {
            *y = row[token];
        }
    }
}

/// A dot product in 16 interleaved partial sums, which are then added in halves.
#[inline]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (a_body, a_tail) = a.as_chunks::<LANES>();
    let (b_body, b_tail) = b.as_chunks::<LANES>();
    for (a, b) in a_body.iter().zip(b_body) {
        for i in 0..LANES {
            sums[i] += a[i] * b[i];
        }
    }
    for (sum, (a, b)) in sums.iter_mut().zip(a_tail.iter().zip(b_tail)) {
        *sum += a * b;
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for i in 0..width {
            sums[i] += sums[i + width];
        }
    }
    sums[0]
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these results are exact")]
mod tests {
    use super::*;

    #[test]
    fn dot_products_of_every_length() {
        for n in 0..70 {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let expected: usize = (0..n).map(|i| i * i).sum();
            assert_eq!(dot(&a, &a), expected as f32);
        }
    }

    #[test]
    fn empty_shapes() {
        let block = BlockSize::default();
        matmul_packed4(FourBit::Nf4, &[], &[], block, 0, 8, &[0.0; 16], 2, Rounding::None, &mut []);
        let mut y = [1.0; 6];
        matmul_packed4(FourBit::Nf4, &[], &[], block, 3, 0, &[], 2, Rounding::None, &mut y);
        assert_eq!(y, [0.0; 6]);
        matmul_int8(&[1; 6], &[1.0; 3], 3, 2, &[], 0, Rounding::None, &mut []);
    }
}
