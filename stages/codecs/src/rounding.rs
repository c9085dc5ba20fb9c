//! Rounding of restored weights to the compute dtype, with the result kept in f32.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// The dtype that a restored weight is rounded to, to nearest with ties to even.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rounding {
    /// f32: the restored value itself.
    None,
    /// IEEE half precision; magnitudes from 65520 become infinite.
    F16,
    /// bfloat16.
    Bf16,
}

/// Rounds every value in place. NaN stays NaN.
pub fn round_slice(x: &mut [f32], rounding: Rounding) {
    match rounding {
        Rounding::None => {}
        Rounding::F16 => round_f16(x),
        Rounding::Bf16 => x.iter_mut().for_each(|v| *v = round_bf16(*v)),
    }
}

/// Drops 16 bits of the significand. Integer carries do what the format needs: the next exponent, then infinity.
#[inline]
fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let kept = if x.is_nan() { bits | 0x0040_0000 } else { rounded };
    f32::from_bits(kept & 0xffff_0000)
}

fn round_f16(x: &mut [f32]) {
    let mut buffer = [f16::ZERO; 256];
    for chunk in x.chunks_mut(buffer.len()) {
        let half = &mut buffer[..chunk.len()];
        half.convert_from_f32_slice(chunk);
        half.convert_to_f32_slice(chunk);
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these results are exact")]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    fn rounded(bits: &[u32], rounding: Rounding) -> Vec<f32> {
        let mut x: Vec<f32> = bits.iter().copied().map(f32::from_bits).collect();
        round_slice(&mut x, rounding);
        x
    }

    #[test]
    fn limits() {
        let bits = [f32::MAX, 65519.0, 65520.0, f32::NAN, -0.0, f32::INFINITY].map(f32::to_bits);
        let half = rounded(&bits, Rounding::F16);
        assert_eq!(half[..3], [f32::INFINITY, 65504.0, f32::INFINITY]);
        let brain = rounded(&bits, Rounding::Bf16);
        assert_eq!(brain[..3], [f32::INFINITY, 65536.0, 65536.0]);
        for x in [half, brain] {
            assert!(x[3].is_nan());
            assert_eq!(x[4].to_bits(), (-0f32).to_bits());
            assert_eq!(x[5], f32::INFINITY);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_conversion_one_by_one(bits in prop::collection::vec(any::<u32>(), 1..600)) {
            let half = rounded(&bits, Rounding::F16);
            let brain = rounded(&bits, Rounding::Bf16);
            for (i, x) in bits.iter().copied().map(f32::from_bits).enumerate() {
                prop_assert_eq!(half[i].is_nan(), x.is_nan());
                prop_assert_eq!(brain[i].is_nan(), x.is_nan());
                if !x.is_nan() {
                    prop_assert_eq!(half[i].to_bits(), f16::from_f32(x).to_f32().to_bits());
                    prop_assert_eq!(brain[i].to_bits(), bf16::from_f32(x).to_f32().to_bits());
                }
            }
        }
    }
}
