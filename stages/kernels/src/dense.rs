//! `y = x · Wᵀ` for few rows of `x` and a weight that is not packed: decoding a token is bound by reading the weight, which
//! happens once whatever the rows.
//!
//! Bytes: the weight's, once; the floor is what the device reads. Reached on an H200: 3.93 TB/s, 92% of a copy, for one row of
//! 14336×4096 in bf16; 2.35 TB/s over a whole decoding step of a model of 2.47 GB, everything between the products included.
#![allow(unsafe_code, reason = "unchecked launches: every index is bounded in the kernel")]

use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::MOST_ROWS;
use crate::lanes::{eight, vectors};
use crate::launch::{CUBE, Dtype, KernelError, PLANE, bias_of, buffer, cubes};

/// `x` `[rows, inner]` and a weight `[out, inner]`, both of `dtype`, and a bias `[out]` in f32 → `[rows, out]` of `result`,
/// rounded once, after the bias is added. `inner` must be whole numbers of 8, `rows` at most [`MOST_ROWS`].
///
/// # Errors
/// [`KernelError`] for a shape that the kernel does not handle.
pub fn multiply_dense(
    client: &Client,
    x: &Handle,
    weight: &Handle,
    bias: Option<&Handle>,
    [rows, out, inner]: [usize; 3],
    [dtype, result]: [Dtype; 2],
) -> Result<Handle, KernelError> {
    if !inner.is_multiple_of(8) || inner == 0 {
        return Err(KernelError::Width { width: inner, of: 8 });
    }
    if rows > MOST_ROWS || rows == 0 {
        return Err(KernelError::Rows { rows, most: MOST_ROWS });
    }
    let y = client.empty((rows * out).max(1) * result.size());
    if out > 0 {
        let (bias, is_biased) = bias_of(bias, out, weight);
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            multiply::launch_unchecked(
                client,
                cubes(out * PLANE),
                CubeDim::new_1d(CUBE as u32),
                buffer(x, vectors(rows * inner, dtype)),
                buffer(weight, vectors(out * inner, dtype)),
                bias,
                buffer(&y, rows * out),
                out,
                inner / 8,
                rows,
                is_biased,
                dtype,
                result.elem(),
            );
        }
    }
    Ok(y)
}

#[cube(launch_unchecked)]
fn multiply<F: Float>(
    x: &[Vector<u32, Const<4>>],
    weight: &[Vector<u32, Const<4>>],
    bias: &[f32],
    y: &mut [F],
    out: usize,
    inner: usize,
    #[comptime] rows: usize,
    #[comptime] is_biased: bool,
    #[comptime] dtype: Dtype,
    #[define(F)] _elem: ElemType,
) {
    let (row, lane) = (ABSOLUTE_POS / PLANE, ABSOLUTE_POS % PLANE);
    if row < out {
        let mut sums = Array::<f32>::new(rows);
        #[unroll]
        for r in 0..rows {
            sums[r] = 0.0f32;
        }
        let mut at = lane;
        while at < inner {
            let weights = eight(weight, row * inner + at, dtype);
            #[unroll]
            for r in 0..rows {
                let values = eight(x, r * inner + at, dtype);
                let mut sum = sums[r];
                #[unroll]
                for k in 0..8usize {
                    sum = fma(values.extract(k), weights.extract(k), sum);
                }
                sums[r] = sum;
            }
            at += PLANE;
        }
        #[unroll]
        for r in 0..rows {
            let mut total = plane_sum(sums[r]);
            if lane == 0 {
                if comptime!(is_biased) {
                    total += bias[row];
                }
                y[r * out + row] = F::cast_from(total);
            }
        }
    }
}
