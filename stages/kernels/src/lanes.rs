//! Eight values at a time, as kernels read them.

use cubecl::prelude::*;
use half::f16;

use crate::launch::Dtype;

/// Eight values from the bytes of a buffer of `dtype`, widened. A bf16 is the upper half of an f32: shifting beats the
/// conversion, which has a quarter of the throughput.
#[cube]
pub(crate) fn eight(
    bytes: &[Vector<u32, Const<4>>],
    at: usize,
    #[comptime] dtype: Dtype,
) -> Vector<f32, Const<8>> {
    let mut out = Vector::<f32, Const<8>>::empty();
    if comptime!(dtype == Dtype::F32) {
        let (low, high) = (bytes[at * 2], bytes[at * 2 + 1]);
        #[unroll]
        for k in 0..4usize {
            out.insert(k, f32::reinterpret(low.extract(k)));
            out.insert(comptime!(k + 4), f32::reinterpret(high.extract(k)));
        }
    } else if comptime!(dtype == Dtype::Bf16) {
        let words = bytes[at];
        #[unroll]
        for k in 0..4usize {
            let word = words.extract(k);
            out.insert(comptime!(2 * k), f32::reinterpret(word << 16));
            out.insert(comptime!(2 * k + 1), f32::reinterpret(word & 0xffff_0000u32));
        }
    } else {
        out = Vector::cast_from(Vector::<f16, Const<8>>::reinterpret(bytes[at]));
    }
    out
}

/// Vectors of 16 bytes that [`eight`] reads of `len` values.
pub(crate) const fn vectors(len: usize, dtype: Dtype) -> usize {
    (len * dtype.size()).div_ceil(16)
}
