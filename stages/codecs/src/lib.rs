//! Quantization codecs on the CPU: the arithmetic that every other implementation of a format is held to.
//!
//! | format | encode | decode | product on codes |
//! |---|---|---|---|
//! | NF4, FP4 in blocks | [`quantize4`] | [`dequantize4`] | [`matmul_packed4`] |
//! | double quantization of absmax | [`double_quantize`] | [`double_dequantize`] | – |
//! | int8 by rows | [`quantize_int8`] | [`dequantize_int8`] | [`matmul_int8`], [`int8_linear`] |
//! | 4- and 8-bit integers in groups | [`quantize_rtn`] | [`PackedRtn::dequantize`] | [`PackedRtn::matmul`] |
//!
//! Two definitions hold for all of them and live in one place each:
//!
//! - **The reciprocal.** A value is scaled by *multiplying with a reciprocal*, never by dividing. Ours is the IEEE-754
//!   quotient `1 / absmax` with subnormals flushed to zero on both sides (`arith::reciprocal`). The reference's CUDA
//!   kernels use `rcp.approx.ftz.f32`, whose result differs from it in the last place for 13% of the mantissas. NF4
//!   codes agree on every value seen; FP4 and int8 codes may differ by one step where a value lies within one ulp of
//!   a threshold (at most 2 in 10,000).
//! - **Rounding to the compute dtype.** A weight is restored in f32 and then rounded ([`Rounding`], to nearest, ties
//!   to even), as the reference does for the dtype of its output.
//!
//! Everything here is a pure function of its arguments: no result depends on the number of threads, since work is
//! cut at fixed places and sums are taken in a fixed order.
//!
//! Edge cases, decided once:
//!
//! - NaN and infinity are a typed error that names the first such element ([`CodecError::NonFinite`]).
//! - Magnitudes below 2⁻¹²⁶ (f32 subnormals) count as zero, in weights, absmax and restored values alike.
//! - An all-zero block has absmax 0 and codes 0; whatever a code means, times absmax 0 it restores to (plus or
//!   minus) zero. Under double quantization its absmax comes back as a small number instead, and NF4's code 0 then
//!   restores to minus that number: the reference does the same.
//! - The last byte of an odd number of weights has the code of 0.0 in its low nibble (NF4 7, FP4 0).

mod arith;
mod block;
mod blockwise;
mod element;
mod error;
mod fourbit;
mod int8;
mod llm_int8;
mod nested;
mod packed;
mod product;
mod rounding;
mod rtn;
mod simd;
mod stats;
mod strided;
mod tiles;

pub use block::BlockSize;
pub use blockwise::{Quantized4, dequantize4, measure4, quantize4, quantize4_measured};
pub use element::Element;
pub use error::CodecError;
pub use fourbit::FourBit;
pub use int8::{QuantizedInt8, dequantize_int8, quantize_int8, quantize_int8_measured};
pub use llm_int8::{OutlierThreshold, QuantizedActivations, int8_linear, quantize_activations};
pub use nested::{
    DoubleQuantized, NESTED_BLOCK, double_dequantize, double_quantize, double_quantize_with_offset,
    dynamic_limits, dynamic_map,
};
pub use packed::Packed4;
pub use product::{matmul, matmul_int8, matmul_packed4};
pub use rounding::{Rounding, round_slice};
pub use rtn::{GroupSize, PackedRtn, QuantizedRtn, RtnBits, RtnFormat, Symmetry, quantize_rtn};
pub use stats::{ErrorStats, error_stats};
pub use strided::{Strided, multiply};
