//! Products of f32 with many rows on tensor cores: each value is the sum of two that TF32 holds (11 significant bits each), and
//! the three products of them that matter are taken as one of three times the length, `[xʰ xʰ xˡ] · [wʰ wˡ wʰ]ᵀ`, with sums in
//! f32. What is left out is less than 2⁻²¹ of each product; a sum loses up to a last bit at every eight products, since these
//! cores cut off where f32 units round. An f32 unit has an eighth of their throughput.
//!
//! Reached on an H200: 103 to 117 TFLOP/s, counted as the one product that they are, where f32 units reach 38 to 50; 74 for few
//! outputs. Bytes besides the product's: 4 read and 12 written per value of either operand, so it does not pay for few rows
//! ([`LEAST_GEMM_F32_ROWS`]). The weight is taken in pieces, whose parts fill at most [`MOST_BYTES`].
#![allow(unsafe_code, reason = "unchecked launches: every index is bounded in the kernel")]

use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::blas::{BlasError, Gemm, Operands, gemm_into};
use crate::launch::{CUBE, buffer, cubes};

/// From so many rows on it is faster than f32 units are.
pub const LEAST_GEMM_F32_ROWS: usize = 256;
/// Bytes of a piece of the weight's parts.
const MOST_BYTES: usize = 768 << 20;

/// `x` `[rows, inner]` and a weight `[out, inner]`, both f32 → `[rows, out]` f32. `inner` must be whole numbers of 4.
///
/// # Errors
/// [`BlasError`] where there is no cuBLASLt, or no algorithm for the shape.
pub fn gemm_f32(
    client: &Client,
    x: &Handle,
    weight: &Handle,
    [rows, out, inner]: [usize; 3],
) -> Result<Handle, BlasError> {
    if !inner.is_multiple_of(4) || u32::try_from(3 * rows * inner).is_err() {
        return Err(BlasError::NoAlgorithm(format!("{rows}×{out}×{inner} in parts of TF32")));
    }
    let y = client.empty((rows * out * 4).max(1));
    let x = parts(client, x, [rows, inner], false);
    // pieces begin where vectors of 16 bytes do
    let piece = (MOST_BYTES / (12 * inner).max(1)).max(4) / 4 * 4;
    for first in (0..out).step_by(piece) {
        let some = piece.min(out - first);
        let weight = weight.clone().offset_start((first * inner * 4) as u64);
        let weight = parts(client, &weight, [some, inner], true);
        let linear = Gemm::linear([rows, some, 3 * inner], Operands::Tf32);
        let [of_x, of_weight, _] = linear.row_strides;
        let product = Gemm { row_strides: [of_x, of_weight, out], ..linear };
        gemm_into(client, [&x, &weight, &y.clone().offset_start((first * 4) as u64)], product)?;
    }
    Ok(y)
}

/// `[rows, inner]` → `[rows, 3 · inner]`: high, high, low parts, or of a second operand high, low, high.
fn parts(client: &Client, x: &Handle, [rows, inner]: [usize; 2], is_second: bool) -> Handle {
    let vectors = rows * inner / 4;
    let made = client.empty((vectors * 48).max(1));
    if vectors > 0 {
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            split::launch_unchecked(
                client,
                cubes(vectors),
                CubeDim::new_1d(CUBE as u32),
                buffer(x, vectors),
                buffer(&made, 3 * vectors),
                vectors,
                inner / 4,
                is_second,
            );
        }
    }
    made
}

#[cube(launch_unchecked)]
fn split(
    x: &[Vector<f32, Const<4>>],
    parts: &mut [Vector<f32, Const<4>>],
    len: usize,
    vectors: usize,
    #[comptime] is_second: bool,
) {
    if ABSOLUTE_POS < len {
        let (row, at) = (ABSOLUTE_POS / vectors, ABSOLUTE_POS % vectors);
        let value = x[ABSOLUTE_POS];
        let (mut high, mut low) = (Vector::<f32, Const<4>>::empty(), Vector::<f32, Const<4>>::empty());
        #[unroll]
        for k in 0..4usize {
            let whole = value.extract(k);
            let part = in_tf32(whole);
            high.insert(k, part);
            // exact
            low.insert(k, in_tf32(whole - part));
        }
        let first = row * 3 * vectors + at;
        parts[first] = high;
        if comptime!(is_second) {
            parts[first + vectors] = low;
            parts[first + 2 * vectors] = high;
        } else {
            parts[first + vectors] = high;
            parts[first + 2 * vectors] = low;
        }
    }
}

/// The nearest value of 11 significant bits, ties away from zero; what is not finite, or nearly so, stays.
#[cube]
fn in_tf32(x: f32) -> f32 {
    let bits = u32::reinterpret(x);
    let rounded = (bits + 0x1000u32) & 0xffff_e000u32;
    f32::reinterpret(select((bits & 0x7fff_ffffu32) >= 0x7f7f_f000u32, bits & 0xffff_e000u32, rounded))
}
