//! The few f32 operations whose exact definition decides codes: see the crate's page.
//!
//! All are written so that a loop over a slice of known length vectorises with the baseline instruction set.

#![expect(clippy::inline_always, reason = "the loops must be compiled for the caller's instruction set")]

/// Bits of a magnitude; as integers, magnitudes compare like numbers, with infinity and NaN above all finite ones.
pub(crate) const MAGNITUDE: u32 = 0x7fff_ffff;
/// Bits of infinity: a magnitude is finite if it is below.
pub(crate) const INFINITE: u32 = 0x7f80_0000;
/// 1.5 · 2²³. Adding it to a value of magnitude below 2²² rounds that to an integer, ties to even.
const ROUNDING_MAGIC: f32 = 12_582_912.0;

/// The value, or a positive zero if it is subnormal.
#[inline(always)]
pub(crate) fn flush(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x }
}

/// 1 / x with subnormals flushed on both sides: infinity for a (flushed) zero, zero beyond 2¹²⁶.
#[inline(always)]
pub(crate) fn reciprocal(x: f32) -> f32 {
    flush(1.0 / flush(x))
}

/// The nearest integer, ties to even, of a value in −128..=127.
#[inline(always)]
pub(crate) fn round_to_i8(x: f32) -> i8 {
    (x + ROUNDING_MAGIC).to_bits() as i8
}

/// The nearest integer, ties to even, of a value of magnitude below 2²².
#[inline(always)]
pub(crate) fn round_to_even(x: f32) -> f32 {
    (x + ROUNDING_MAGIC) - ROUNDING_MAGIC
}

/// The largest magnitude of a slice, as bits, so that infinity and NaN are not lost on the way.
#[inline(always)]
pub(crate) fn max_magnitude(x: &[f32]) -> u32 {
    let mut lanes = [0u32; 16];
    let (body, tail) = x.as_chunks::<16>();
    for chunk in body {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            // signed, because only signed comparison is a single baseline instruction
            *lane = (*lane as i32).max((v.to_bits() & MAGNITUDE) as i32) as u32;
        }
    }
    let tail = tail.iter().map(|v| v.to_bits() & MAGNITUDE).max();
    lanes.into_iter().chain(tail).max().unwrap_or(0)
}

/// The position of the first NaN or infinity.
pub(crate) fn first_non_finite(x: &[f32]) -> Option<usize> {
    x.iter().position(|v| !v.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnormals_count_as_zero() {
        assert_eq!(reciprocal(1e-40).to_bits(), f32::INFINITY.to_bits());
        assert_eq!(reciprocal(3e38).to_bits(), 0);
        assert_eq!(flush(-1e-40).to_bits(), 0);
        assert_eq!(flush(-f32::MIN_POSITIVE).to_bits(), (-f32::MIN_POSITIVE).to_bits());
    }

    #[test]
    fn rounding_to_i8_is_to_nearest_even() {
        for step in -508..=508 {
            let x = step as f32 / 4.0;
            assert_eq!(round_to_i8(x), x.round_ties_even() as i8, "{x}");
        }
    }

    #[test]
    fn magnitudes_keep_what_is_not_finite() {
        let mut x = vec![0.5f32; 100];
        x[37] = -2.0;
        assert_eq!(max_magnitude(&x), 2f32.to_bits());
        x[99] = f32::NEG_INFINITY;
        assert_eq!(max_magnitude(&x), INFINITE);
        x[3] = f32::NAN;
        assert!(max_magnitude(&x) > INFINITE);
        assert_eq!(first_non_finite(&x), Some(3));
        assert_eq!(max_magnitude(&[]), 0);
    }
}
