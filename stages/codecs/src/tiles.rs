//! Products for many tokens: y = x · Wᵀ in tiles, where a tile of W is restored just before it is used.
//!
//! A task restores some rows of W into a buffer that stays in the cache, and multiplies them with some tokens on its
//! own thread (the `gemm` crate's kernels). So there is never a second copy of W, tasks wait for nobody, and the
//! tiles, hence the order of every sum, depend on the shape alone.

#![expect(unsafe_code, reason = "the kernels of `gemm` take pointers, and tasks write columns of one matrix")]

use std::ops::Range;

use rayon::prelude::*;

use crate::product::Shape;

/// Multiplications of one task, about: a fraction of a millisecond.
const TASK: usize = 24 << 20;
/// Tokens of one task, at most.
const TOKENS: usize = 512;
/// Rows of W in a tile are a multiple of this, but for the last.
const ROWS: usize = 32;

/// A weight `[out, k]` whose rows can be had in f32.
pub(crate) trait Rows: Sync {
    /// These rows, one after the other; in `buffer` if they are not there already.
    fn rows<'a>(&'a self, rows: Range<usize>, buffer: &'a mut Vec<f32>) -> &'a [f32];
}

/// A weight in f32.
pub(crate) struct Plain<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) k: usize,
}

impl Rows for Plain<'_> {
    fn rows<'a>(&'a self, rows: Range<usize>, _: &'a mut Vec<f32>) -> &'a [f32] {
        &self.values[rows.start * self.k..rows.end * self.k]
    }
}

/// A weight whose rows `restore(row, first column, part of the row)` writes.
pub(crate) struct Restored<F> {
    pub(crate) restore: F,
    pub(crate) k: usize,
}

impl<F: Fn(usize, usize, &mut [f32]) + Sync> Rows for Restored<F> {
    fn rows<'a>(&'a self, rows: Range<usize>, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        buffer.resize(rows.len() * self.k, 0.0);
        for (row, values) in rows.zip(buffer.chunks_exact_mut(self.k)) {
            (self.restore)(row, 0, values);
        }
        buffer
    }
}

/// `y`, to be written by several tasks, each its own part.
struct Output(*mut f32);
// SAFETY: `tiled` alone uses the pointer, and its tasks write parts of `y` that do not overlap.
unsafe impl Sync for Output {}

impl Output {
    fn at(&self, index: usize) -> *mut f32 {
        self.0.wrapping_add(index)
    }
}

/// `y[m, out] = x[m, k] · W[out, k]ᵀ`.
///
/// # Panics
/// If a slice does not have the length that the shape asks for.
pub(crate) fn tiled(shape: Shape, x: &[f32], y: &mut [f32], weight: &impl Rows) {
    let Shape { out, k, m } = shape;
    assert_eq!(x.len(), m * k, "length of `x`");
    assert_eq!(y.len(), m * out, "length of `y`");
    if k == 0 {
        y.fill(0.0);
        return;
    }
    let tokens = m.div_ceil(m.div_ceil(TOKENS).max(1)).max(1);
    let rows = (TASK / (tokens * k)).next_multiple_of(ROWS).min(out.max(1));
    let (groups, tiles) = (m.div_ceil(tokens), out.div_ceil(rows));
    let output = Output(y.as_mut_ptr());
    (0..groups * tiles).into_par_iter().with_max_len(1).for_each_init(Vec::new, |buffer, task| {
        let (tile, group) = (task / groups, task % groups);
        let rows = tile * rows..((tile + 1) * rows).min(out);
        let tokens = group * tokens..((group + 1) * tokens).min(m);
        let (first, count) = (rows.start, rows.len());
        let weights = weight.rows(rows, buffer);
        assert_eq!(weights.len(), count * k, "length of a tile");
        let x = &x[tokens.start * k..tokens.end * k];
        // SAFETY: `x` has `tokens` rows of `k` values and `weights` `count` rows of `k` values, both checked above. The
        // destination is the columns `first..first + count` of the rows `tokens` of `y`, whose length was checked; no
        // other task has this pair of ranges, and `y` is borrowed until all tasks are done.
        unsafe {
            gemm::gemm(
                tokens.len(),
                count,
                k,
                output.at(tokens.start * out + first),
                1,
                out as isize,
                false,
                x.as_ptr(),
                1,
                k as isize,
                weights.as_ptr(),
                k as isize,
                1,
                0.0_f32,
                1.0_f32,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, step: usize) -> Vec<f32> {
        (0..n).map(|i| (i * step % 31) as f32 - 15.0).collect()
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "sums of small integers are exact")]
    fn tiles_of_every_shape_are_the_whole_product() {
        for (m, k, out) in [
            (0, 3, 4),
            (1, 1, 1),
            (5, 7, 3),
            (6, 64, 33),
            (513, 48, 65),
            (1030, 16, 40),
            (3, 0, 2),
            (2, 5, 0),
        ] {
            let (x, w) = (values(m * k, 7), values(out * k, 11));
            let mut y = vec![f32::NAN; m * out];
            tiled(Shape { out, k, m }, &x, &mut y, &Plain { values: &w, k });
            for token in 0..m {
                for row in 0..out {
                    let sum: f32 = (0..k).map(|i| x[token * k + i] * w[row * k + i]).sum();
                    assert_eq!(y[token * out + row], sum, "{m}×{k}×{out}: {token}, {row}");
                }
            }
            let restore = |row: usize, column: usize, part: &mut [f32]| {
                part.copy_from_slice(&w[row * k + column..][..part.len()]);
            };
            let mut again = vec![f32::NAN; m * out];
            tiled(Shape { out, k, m }, &x, &mut again, &Restored { restore, k });
            assert_eq!(again, y);
        }
    }

    #[test]
    fn a_product_does_not_depend_on_the_number_of_threads() {
        let (m, k, out) = (300, 1000, 700);
        let (x, w) = (values(m * k, 5), values(out * k, 3));
        let x: Vec<f32> = x.iter().map(|v| v / 7.0).collect();
        let product = |threads: usize| {
            let mut y = vec![0.0; m * out];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| tiled(Shape { out, k, m }, &x, &mut y, &Plain { values: &w, k }));
            y
        };
        assert_eq!(product(1), product(3));
    }
}
