//! The two 4-bit data types: their levels, and the thresholds between them.
//!
//! The thresholds are the reference's own constants, given by their bits, since four NF4 thresholds and several FP4
//! ones are not the f32 midpoints of their neighbours (the reference wrote them as short decimals).

#![expect(clippy::inline_always, reason = "the loops must be compiled for the caller's instruction set")]

use crate::arith::flush;

/// A 4-bit data type. A weight's code is decided by `s = weight · (1 / absmax)`, which lies in [−1, 1].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FourBit {
    /// Quantiles of a normal distribution, with an exact zero (QLoRA, arXiv 2305.14314, appendix E).
    Nf4,
    /// Sign, two bits of exponent, one of mantissa, scaled so that the largest level is 1.
    Fp4,
}

/// A byte of codes as its two levels, high nibble first.
pub(crate) type LevelPairs = [[f32; 2]; 256];

static NF4_PAIRS: LevelPairs = pairs(&NF4_LEVELS);
static FP4_PAIRS: LevelPairs = pairs(&signed_zero(FP4_LEVELS));

impl FourBit {
    /// Both types.
    pub const ALL: [Self; 2] = [Self::Nf4, Self::Fp4];

    /// `nf4` or `fp4`, as checkpoints and manifests spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
        }
    }

    /// The value of each code relative to absmax, as checkpoints store it (`quant_map`).
    ///
    /// FP4 has two zeros, codes 0 and 8; the stored table has a positive zero for both, and restoring code 8 gives a
    /// negative one.
    pub const fn levels(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4_LEVELS,
            Self::Fp4 => &FP4_LEVELS,
        }
    }

    /// Ascending limits between codes: of `s` for NF4 (15), of `|s|` for FP4 (7). A limit belongs to the side below.
    pub const fn thresholds(self) -> &'static [f32] {
        match self {
            Self::Nf4 => &NF4_THRESHOLDS,
            Self::Fp4 => &FP4_THRESHOLDS,
        }
    }

    /// The code of one scaled value; 0 for NaN, which a block with absmax 0 makes of its zeros.
    pub fn code(self, s: f32) -> u8 {
        match self {
            Self::Nf4 => nf4_code(s) as u8,
            Self::Fp4 => fp4_code(s) as u8,
        }
    }

    /// The largest distance of a scaled value from the level of its code.
    pub fn max_error(self) -> f32 {
        let mut sorted = *self.levels();
        sorted.sort_by(f32::total_cmp);
        sorted.windows(2).map(|w| w[1] - w[0]).fold(0.0, f32::max) / 2.0
    }

    /// The table that restores a byte of codes.
    #[inline]
    pub(crate) fn pairs(self) -> &'static LevelPairs {
        match self {
            Self::Nf4 => &NF4_PAIRS,
            Self::Fp4 => &FP4_PAIRS,
        }
    }
}

impl std::fmt::Display for FourBit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The number of thresholds below `s`. Comparisons with NaN are false: code 0.
#[inline(always)]
pub(crate) fn nf4_code(s: f32) -> u32 {
    let mut code = 0;
    for t in NF4_THRESHOLDS {
        code += u32::from(s > t);
    }
    code
}

/// The rank of `|s|` among the levels, as its code, and 8 for a negative value that is not flushed to zero.
#[inline(always)]
pub(crate) fn fp4_code(s: f32) -> u32 {
    let magnitude = s.abs();
    let mut code = 0;
    for (t, step) in FP4_THRESHOLDS.into_iter().zip(FP4_CODE_STEPS) {
        code = if magnitude > t { code ^ step } else { code };
    }
    code + if flush(s) < 0.0 { 8 } else { 0 }
}

const fn pairs(levels: &[f32; 16]) -> LevelPairs {
    let mut table = [[0.0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = [levels[byte >> 4], levels[byte & 15]];
        byte += 1;
    }
    table
}

const fn signed_zero(mut levels: [f32; 16]) -> [f32; 16] {
    levels[8] = -0.0;
    levels
}

const fn floats<const N: usize>(bits: [u32; N]) -> [f32; N] {
    let mut out = [0.0; N];
    let mut i = 0;
    while i < N {
        out[i] = f32::from_bits(bits[i]);
        i += 1;
    }
    out
}

const NF4_LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Codes 0–7 are 0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4; codes 8–15 the same with a minus sign.
const FP4_LEVELS: [f32; 16] = [
    0.0,
    1.0 / 192.0,
    2.0 / 3.0,
    1.0,
    1.0 / 3.0,
    0.5,
    1.0 / 6.0,
    0.25,
    0.0,
    -1.0 / 192.0,
    -2.0 / 3.0,
    -1.0,
    -1.0 / 3.0,
    -0.5,
    -1.0 / 6.0,
    -0.25,
];

const NF4_THRESHOLDS: [f32; 15] = floats([
    0xbf59_1cd9,
    0xbf1c_5270,
    0xbeeb_8480,
    0xbead_ea76,
    0xbe70_3cec,
    0xbe0d_38bc,
    0xbd3a_7871,
    0x3d22_faff,
    0x3df6_4863,
    0x3e50_67e0,
    0x3e95_82d4,
    0x3ec7_53f9,
    0x3f00_6d03,
    0x3f24_8daf,
    0x3f5c_89d9,
]);

const FP4_THRESHOLDS: [f32; 7] =
    floats([0x3b2a_aab9, 0x3db0_0000, 0x3e55_5555, 0x3e95_5555, 0x3ed5_5556, 0x3f15_5550, 0x3f55_5555]);

/// Magnitudes ascend through the codes 0, 1, 6, 7, 4, 5, 2, 3; these are the differences, by exclusive or.
const FP4_CODE_STEPS: [u32; 7] = [1, 1 ^ 6, 6 ^ 7, 7 ^ 4, 4 ^ 5, 5 ^ 2, 2 ^ 3];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_its_own_code() {
        for (code, &level) in NF4_LEVELS.iter().enumerate() {
            assert_eq!(usize::from(FourBit::Nf4.code(level)), code);
        }
        for (code, &level) in FP4_LEVELS.iter().enumerate().filter(|&(code, _)| code != 8) {
            assert_eq!(usize::from(FourBit::Fp4.code(level)), code);
        }
    }

    #[test]
    fn a_threshold_belongs_to_the_side_below() {
        for (rank, &t) in NF4_THRESHOLDS.iter().enumerate() {
            assert_eq!(usize::from(FourBit::Nf4.code(t)), rank);
            assert_eq!(usize::from(FourBit::Nf4.code(t.next_up())), rank + 1);
        }
        for (rank, &t) in FP4_THRESHOLDS.iter().enumerate() {
            let codes = [0, 1, 6, 7, 4, 5, 2, 3];
            assert_eq!(FourBit::Fp4.code(t), codes[rank]);
            assert_eq!(FourBit::Fp4.code(-t.next_up()), codes[rank + 1] + 8);
        }
    }

    #[test]
    fn nan_and_zeros_have_documented_codes() {
        assert_eq!(FourBit::ALL.map(|k| k.code(f32::NAN)), [0, 0]);
        assert_eq!(FourBit::ALL.map(|k| k.code(-0.0)), [7, 0]);
        assert_eq!(FourBit::Fp4.code(-1e-40), 0);
        assert_eq!(FourBit::Fp4.code(-1e-30), 8);
    }
}
