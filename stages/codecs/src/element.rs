//! The dtypes in which checkpoints hold unquantized weights.
//!
//! Codecs work in f32. Reading bf16 and f16 through a buffer of one block spares the model-sized f32 copy.

#![expect(clippy::inline_always, reason = "the loops must be compiled for the caller's instruction set")]

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// A dtype that widens to f32 without loss.
pub trait Element: Copy + Send + Sync + 'static {
    /// Widens a slice. Both have the same length.
    fn widen(src: &[Self], dst: &mut [f32]);

    /// One value, widened.
    fn value(src: &[Self], index: usize) -> f32 {
        let mut value = [0.0];
        Self::widen(&src[index..=index], &mut value);
        value[0]
    }
}

impl Element for f32 {
    #[inline(always)]
    fn widen(src: &[Self], dst: &mut [f32]) {
        dst.copy_from_slice(src);
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(src: &[Self], dst: &mut [f32]) {
        for (d, s) in dst.iter_mut().zip(src) {
            *d = f32::from_bits(u32::from(s.to_bits()) << 16);
        }
    }
}

impl Element for f16 {
    #[inline(always)]
    fn widen(src: &[Self], dst: &mut [f32]) {
        src.convert_to_f32_slice(dst);
    }
}
