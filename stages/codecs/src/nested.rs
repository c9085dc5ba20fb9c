//! Double quantization: the absmax values of a 4-bit tensor, themselves quantized to 8 bits (QLoRA, section 3).
//!
//! absmax values are all positive, so their mean is taken off first; what is left is coded in blocks of
//! [`NESTED_BLOCK`] against the 256 entries of the dynamic map. An absmax is restored as
//! `map[code] · nested_absmax + offset`.

use std::sync::LazyLock;

use rayon::prelude::*;

use crate::arith::{flush, max_magnitude, reciprocal};

/// absmax values that share one nested absmax.
pub const NESTED_BLOCK: usize = 256;

/// absmax values as 8-bit codes.
#[derive(Debug, Clone, PartialEq)]
pub struct DoubleQuantized {
    /// `[blocks]`: positions in [`dynamic_map`].
    pub codes: Vec<u8>,
    /// The mean of the absmax values.
    pub offset: f32,
    /// `[blocks / 256, rounded up]`: the largest distance from the mean in each nested block.
    pub nested_absmax: Vec<f32>,
}

/// Encodes absmax values, which must be finite.
///
/// The mean is summed in f64 in order and then rounded; the reference sums in f32 in an order of its own, so its
/// offset may differ by 2e-7 of the value.
pub fn double_quantize(absmax: &[f32]) -> DoubleQuantized {
    let sum: f64 = absmax.iter().copied().map(f64::from).sum();
    double_quantize_with_offset(absmax, (sum / absmax.len().max(1) as f64) as f32)
}

/// Encodes absmax values around a given offset.
pub fn double_quantize_with_offset(absmax: &[f32], offset: f32) -> DoubleQuantized {
    let mut codes = vec![0; absmax.len()];
    let mut nested_absmax = vec![0.0; absmax.len().div_ceil(NESTED_BLOCK)];
    absmax
        .par_chunks(NESTED_BLOCK)
        .zip(codes.par_chunks_mut(NESTED_BLOCK))
        .zip(&mut nested_absmax)
        .with_min_len(16)
        .for_each(|((absmax, codes), nested)| *nested = encode_block(absmax, offset, codes));
    DoubleQuantized { codes, offset, nested_absmax }
}

/// Restores the absmax values; product and sum are rounded one after the other.
///
/// # Panics
/// If there is not one nested absmax for every 256 codes.
pub fn double_dequantize(quantized: &DoubleQuantized) -> Vec<f32> {
    let DoubleQuantized { codes, offset, nested_absmax } = quantized;
    let blocks = codes.len().div_ceil(NESTED_BLOCK);
    assert_eq!(nested_absmax.len(), blocks, "number of nested absmax values");
    let map = dynamic_map();
    let blocks = codes.chunks(NESTED_BLOCK).zip(nested_absmax);
    blocks
        .flat_map(|(codes, &nested)| codes.iter().map(move |&q| map[q as usize] * nested + offset))
        .collect()
}

/// The 256 values of an 8-bit code, ascending: seven decades with finer steps in the larger ones, both signs, and 0
/// and 1 (Dettmers, "8-bit approximations for parallelism in deep learning", arXiv 1511.04561).
pub fn dynamic_map() -> &'static [f32; 256] {
    static MAP: LazyLock<[f32; 256]> = LazyLock::new(build_map);
    &MAP
}

/// Encodes one nested block; returns its absmax.
fn encode_block(absmax: &[f32], offset: f32, codes: &mut [u8]) -> f32 {
    let mut buffer = [0.0; NESTED_BLOCK];
    let differences = &mut buffer[..absmax.len()];
    for (d, a) in differences.iter_mut().zip(absmax) {
        *d = a - offset;
    }
    let nested = flush(f32::from_bits(max_magnitude(differences)));
    let scale = reciprocal(nested);
    let limits = dynamic_limits();
    for (code, d) in codes.iter_mut().zip(&*differences) {
        *code = nearest(limits, flush(*d) * scale);
    }
    nested
}

/// The number of limits below `s`, by a search without branches. NaN, as in a block of equal values, is code 0.
fn nearest(limits: &[f32; 255], s: f32) -> u8 {
    let mut code = 0;
    for step in [128, 64, 32, 16, 8, 4, 2, 1] {
        code = if s > limits[code + step - 1] { code + step } else { code };
    }
    code as u8
}

/// `limits[i]` is the largest value whose code is at most `i`.
///
/// A value in the middle of two entries belongs to the one at the even position: that is where the reference's
/// binary search starts its last comparison from, on either side.
pub fn dynamic_limits() -> &'static [f32; 255] {
    static LIMITS: LazyLock<[f32; 255]> = LazyLock::new(|| {
        let map = dynamic_map();
        std::array::from_fn(|i| {
            let middle = map[i].midpoint(map[i + 1]);
            if i % 2 == 0 { middle } else { middle.next_down() }
        })
    });
    &LIMITS
}

/// For every decade i in 0..7 the middles of 2^i equal parts of [0.1, 1], times 10^(i − 6), with both signs.
fn build_map() -> [f32; 256] {
    let mut values = vec![0.0, 1.0];
    for decade in 0..7 {
        let edges = linspace(0.1, 1.0, (1 << decade) + 1);
        let scale = 10f64.powi(decade - 6) as f32;
        let middles = edges.windows(2).map(|edge| edge[0].midpoint(edge[1]) * scale);
        values.extend(middles.flat_map(|m| [m, -m]));
    }
    values.sort_by(f32::total_cmp);
    let mut map = [0.0; 256];
    map.copy_from_slice(&values);
    map
}

/// `n` equally spaced values from `first` to `last`, in f32 with fused steps, counted from the nearer end.
fn linspace(first: f32, last: f32, n: usize) -> Vec<f32> {
    let step = (last - first) / (n - 1) as f32;
    let value =
        |i| if i < n / 2 { step.mul_add(i as f32, first) } else { (-step).mul_add((n - 1 - i) as f32, last) };
    (0..n).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of [`nearest`], entry by entry.
    fn nearest_entry(s: f32) -> usize {
        let map = dynamic_map();
        let above = map.partition_point(|&v| v < s).min(255);
        let below = above.saturating_sub(1);
        let middle = map[below].midpoint(map[above]);
        match s.total_cmp(&middle) {
            std::cmp::Ordering::Less => below,
            std::cmp::Ordering::Greater => above,
            std::cmp::Ordering::Equal => below + below % 2,
        }
    }

    #[test]
    fn the_search_finds_the_nearest_entry() {
        let map = dynamic_map();
        let middles = map.windows(2).map(|w| w[0].midpoint(w[1]));
        let around = map.iter().copied().chain(middles).flat_map(|v| [v.next_down(), v, v.next_up()]);
        let grid = (-1000..=1000).map(|i| i as f32 / 1000.0);
        for s in around.chain(grid).filter(|s| s.abs() <= 1.0 && *s >= map[0]) {
            assert_eq!(usize::from(nearest(dynamic_limits(), s)), nearest_entry(s), "{s}");
        }
        assert_eq!(nearest(dynamic_limits(), -1.0), 0);
        assert_eq!(nearest(dynamic_limits(), f32::NAN), 0);
    }

    #[test]
    fn equal_values_are_restored_exactly() {
        let quantized = double_quantize(&[0.25; 300]);
        assert_eq!(quantized.nested_absmax, [0.0, 0.0]);
        assert_eq!(double_dequantize(&quantized), vec![0.25; 300]);
        assert_eq!(double_dequantize(&double_quantize(&[])), Vec::<f32>::new());
    }

    #[test]
    fn restored_values_are_near() {
        let absmax: Vec<f32> = (0..1000).map(|i| 0.1 + 0.05 * (i as f32 * 0.7).sin()).collect();
        let quantized = double_quantize(&absmax);
        let widest = dynamic_map().windows(2).map(|w| w[1] - w[0]).fold(0.0, f32::max) / 2.0;
        for (i, (a, b)) in absmax.iter().zip(double_dequantize(&quantized)).enumerate() {
            let bound = widest * quantized.nested_absmax[i / NESTED_BLOCK] * 1.0001 + 1e-7;
            assert!((a - b).abs() <= bound, "{i}: {a} {b}");
        }
    }
}
