//! int8 weights by rows, and the LLM.int8 product (Dettmers et al. 2022, arXiv 2208.07339, section 3): activations in int8
//! too, the columns of outlier activations apart in the compute dtype.
//!
//! Codes of activations are held as f16, which holds every code exactly: the same buffer feeds a product of few rows here
//! and one of many on tensor cores. Nothing is read back: which columns are outliers stays on the device.
#![allow(unsafe_code, reason = "unchecked launches: every index is bounded in the kernel")]

use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::server::Handle;
use half::f16;

use crate::MOST_ROWS;
use crate::lanes::{eight, vectors};
use crate::launch::{CUBE, Dtype, KernelError, PLANE, buffer, cubes};

/// 1 / (127 · 127), as the reference spells it.
const PER_PRODUCT_STEP: f32 = 6.200_012e-5;
/// What an int8 weight is restored with, not a division by 127.
const PER_STEP: f32 = 1.0 / 127.0;
/// Rows that one unit looks through for outliers.
const ROWS: usize = 32;

/// An int8 weight on a device.
#[derive(Clone, Copy)]
pub struct Int8Weight<'a> {
    /// `[out, inner]`, i8.
    pub codes: &'a Handle,
    /// `[out]`, f32: the largest magnitude of each row.
    pub scb: &'a Handle,
    pub out: usize,
    pub inner: usize,
}

/// Activations `[rows, inner]` as LLM.int8 multiplies them.
pub struct Int8Activations {
    /// `[rows, inner]`, f16: whole numbers of −127 to 127, 0 in outlier columns.
    pub codes: Handle,
    /// `[rows, inner]` in the activations' dtype: what lies in outlier columns, elsewhere 0.
    pub outliers: Handle,
    /// `[rows]`, f32: the largest magnitude of each row that is no outlier.
    pub sca: Handle,
    /// `[inner]`, u32: 1 for an outlier column.
    columns: Handle,
    pub rows: usize,
    pub inner: usize,
}

/// Quantizes activations; columns with a magnitude of `threshold` or more, in f16, are outliers (infinity: none is).
/// `inner` must be a multiple of 16.
///
/// # Errors
/// [`KernelError`] for a width that the kernels do not handle.
pub fn quantize_activations(
    client: &Client,
    x: &Handle,
    [rows, inner]: [usize; 2],
    threshold: f32,
    dtype: Dtype,
) -> Result<Int8Activations, KernelError> {
    if inner == 0 || !inner.is_multiple_of(16) {
        return Err(KernelError::Width { width: inner, of: 16 });
    }
    let len = rows * inner;
    let made = Int8Activations {
        codes: client.empty(len.max(1) * 2),
        outliers: client.empty(len.max(1) * dtype.size()),
        sca: client.empty(rows.max(1) * 4),
        columns: client.empty(inner * 4),
        rows,
        inner,
    };
    if rows == 0 {
        return Ok(made);
    }
    let dim = CubeDim::new_1d(CUBE as u32);
    // SAFETY: the kernels stay within the lengths of their buffers
    unsafe {
        clear::launch_unchecked(client, cubes(inner), dim, buffer(&made.columns, inner));
        let blocks = rows.div_ceil(ROWS);
        find_outliers::launch_unchecked(
            client,
            cubes(inner * blocks),
            dim,
            buffer(x, len),
            buffer(&made.columns, inner),
            rows,
            inner,
            threshold,
            dtype.elem(),
        );
        encode_rows::launch_unchecked(
            client,
            CubeCount::Static(rows as u32, 1, 1),
            dim,
            buffer(x, len),
            buffer(&made.columns, inner),
            buffer(&made.codes, len),
            buffer(&made.outliers, len),
            buffer(&made.sca, rows),
            inner,
            threshold,
            dtype.elem(),
        );
    }
    Ok(made)
}

#[cube(launch_unchecked)]
fn clear(columns: &mut [u32]) {
    if ABSOLUTE_POS < columns.len() {
        columns[ABSOLUTE_POS] = 0u32;
    }
}

#[cube(launch_unchecked)]
fn find_outliers<F: Float>(
    x: &[F],
    columns: &mut [u32],
    rows: usize,
    inner: usize,
    threshold: f32,
    #[define(F)] _elem: ElemType,
) {
    let (column, first) = (ABSOLUTE_POS % inner, ABSOLUTE_POS / inner * ROWS);
    let mut largest = 0.0f32;
    for i in 0..ROWS {
        let row = first + i;
        if row < rows {
            largest = f32::max(largest, half_of(f32::cast_from(x[row * inner + column])).abs());
        }
    }
    // several units may write, all the same
    if largest >= threshold {
        columns[column] = 1u32;
    }
}

/// The value in f16.
#[cube]
fn half_of(x: f32) -> f32 {
    f32::cast_from(f16::cast_from(x))
}

/// The nearest whole number, ties to even, of a magnitude below 2²². Nothing is added to `x` itself: the compiler would
/// fuse the product that it is with the sum, and a tie of the rounded product be none.
#[cube]
fn nearest(x: f32) -> f32 {
    let below = x.floor();
    let half = below + 0.5f32;
    let odd = i32::cast_from(below) & 1;
    let up = x > half || (x == half && odd != 0);
    below + select(up, 1.0f32, 0.0f32)
}

#[cube(launch_unchecked)]
fn encode_rows<F: Float>(
    x: &[F],
    columns: &[u32],
    codes: &mut [f16],
    outliers: &mut [F],
    sca: &mut [f32],
    inner: usize,
    threshold: f32,
    #[define(F)] _elem: ElemType,
) {
    let start = CUBE_POS * inner;
    let planes = comptime!(CUBE / PLANE);
    let mut largest = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < inner {
        let magnitude = half_of(f32::cast_from(x[start + at])).abs();
        largest = f32::max(largest, select(magnitude < threshold, magnitude, 0.0f32));
        at += CUBE;
    }
    let mut shared = Shared::<[f32]>::new_slice(planes);
    let of_plane = plane_max(largest);
    if UNIT_POS as usize % PLANE == 0 {
        shared[UNIT_POS as usize / PLANE] = of_plane;
    }
    sync_cube();
    let mut scale = 0.0f32;
    #[unroll]
    for p in 0..planes {
        scale = f32::max(scale, shared[p]);
    }
    if UNIT_POS == 0 {
        sca[CUBE_POS] = scale;
    }
    // a row of zeros has codes 0 whatever it is scaled with
    let per_code = 1.0f32 / select(scale > 0.0f32, scale, 1.0f32) * 127.0f32;
    let mut at = UNIT_POS as usize;
    while at < inner {
        let value = x[start + at];
        let apart = columns[at] != 0;
        let code = nearest(half_of(f32::cast_from(value)) * per_code);
        codes[start + at] = f16::cast_from(select(apart, 0.0f32, code));
        outliers[start + at] = F::cast_from(select(apart, f32::cast_from(value), 0.0f32));
        at += CUBE;
    }
}

/// The LLM.int8 product of at most [`MOST_ROWS`] rows: `[rows, out]` of `result`, rounded to f16 and to `dtype`, the
/// compute dtype, as the reference does. `threshold` says whether there can be outliers.
///
/// # Errors
/// [`KernelError`] for a shape that the kernel does not handle.
pub fn multiply_int8(
    client: &Client,
    x: &Int8Activations,
    weight: Int8Weight<'_>,
    has_outliers: bool,
    dtype: Dtype,
    result: Dtype,
) -> Result<Handle, KernelError> {
    let Int8Weight { out, inner, .. } = weight;
    if x.rows > MOST_ROWS || x.rows == 0 {
        return Err(KernelError::Rows { rows: x.rows, most: MOST_ROWS });
    }
    let y = client.empty((x.rows * out).max(1) * result.size());
    if out > 0 {
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            multiply::launch_unchecked(
                client,
                cubes(out * PLANE),
                CubeDim::new_1d(CUBE as u32),
                buffer(&x.codes, vectors(x.rows * inner, Dtype::F16)),
                buffer(&x.outliers, vectors(x.rows * inner, dtype)),
                buffer(&x.sca, x.rows),
                buffer(&x.columns, inner / 4),
                buffer(weight.codes, out * inner / 16),
                buffer(weight.scb, out),
                buffer(&y, x.rows * out),
                out,
                inner / 16,
                x.rows,
                has_outliers,
                dtype,
                dtype.elem(),
                result.elem(),
            );
        }
    }
    Ok(y)
}

/// Sixteen i8 as two vectors, the first or the second eight of them.
#[cube]
fn of_bytes(words: Vector<u32, Const<4>>, #[comptime] second: bool) -> Vector<f32, Const<8>> {
    let mut out = Vector::<f32, Const<8>>::empty();
    #[unroll]
    for k in 0..8usize {
        let word = words.extract(comptime!(if second { k / 4 + 2 } else { k / 4 }));
        let shift = comptime!((24 - 8 * (k % 4)) as u32);
        out.insert(k, f32::cast_from(i32::reinterpret(word << shift) >> 24));
    }
    out
}

#[cube(launch_unchecked)]
fn multiply<F: Float, R: Float>(
    x: &[Vector<u32, Const<4>>],
    outliers: &[Vector<u32, Const<4>>],
    sca: &[f32],
    columns: &[Vector<u32, Const<4>>],
    codes: &[Vector<u32, Const<4>>],
    scb: &[f32],
    y: &mut [R],
    out: usize,
    chunks: usize,
    #[comptime] rows: usize,
    #[comptime] has_outliers: bool,
    #[comptime] dtype: Dtype,
    #[define(F)] _elem: ElemType,
    #[define(R)] _result: ElemType,
) {
    let (row, lane) = (ABSOLUTE_POS / PLANE, ABSOLUTE_POS % PLANE);
    if row < out {
        let (mut sums, mut aparts) = (Array::<f32>::new(rows), Array::<f32>::new(rows));
        #[unroll]
        for r in 0..rows {
            sums[r] = 0.0f32;
            aparts[r] = 0.0f32;
        }
        let of_row = scb[row];
        let mut chunk = lane;
        while chunk < chunks {
            let words = codes[row * chunks + chunk];
            #[unroll]
            for part in 0..2usize {
                let weights = of_bytes(words, comptime!(part == 1));
                #[unroll]
                for r in 0..rows {
                    let values = eight(x, (r * chunks + chunk) * 2 + part, comptime!(Dtype::F16));
                    let mut sum = sums[r];
                    #[unroll]
                    for k in 0..8usize {
                        sum = fma(values.extract(k), weights.extract(k), sum);
                    }
                    sums[r] = sum;
                }
                if comptime!(has_outliers) {
                    let (a, b) = (columns[chunk * 4 + part * 2], columns[chunk * 4 + part * 2 + 1]);
                    let mut any = 0u32;
                    #[unroll]
                    for k in 0..4usize {
                        any = any | a.extract(k) | b.extract(k);
                    }
                    if any != 0 {
                        let restored = weights * Vector::new(of_row) * Vector::new(PER_STEP);
                        let restored =
                            Vector::<f32, Const<8>>::cast_from(Vector::<F, Const<8>>::cast_from(restored));
                        #[unroll]
                        for r in 0..rows {
                            let values = eight(outliers, (r * chunks + chunk) * 2 + part, dtype);
                            let mut sum = aparts[r];
                            #[unroll]
                            for k in 0..8usize {
                                sum = fma(values.extract(k), restored.extract(k), sum);
                            }
                            aparts[r] = sum;
                        }
                    }
                }
            }
            chunk += PLANE;
        }
        #[unroll]
        for r in 0..rows {
            let total = plane_sum(sums[r]);
            let apart = plane_sum(aparts[r]);
            if lane == 0 {
                y[r * out + row] = R::cast_from(joined::<F>(total, apart, sca[r], of_row, has_outliers));
            }
        }
    }
}

/// A sum of products of codes as a value, and what outliers add.
#[cube]
fn joined<F: Float>(sum: f32, apart: f32, sca: f32, scb: f32, #[comptime] has_outliers: bool) -> f32 {
    let scaled = half_of(sum * sca * scb * PER_PRODUCT_STEP);
    let mut value = f32::cast_from(F::cast_from(scaled));
    if comptime!(has_outliers) {
        value = f32::cast_from(F::cast_from(value + apart));
    }
    value
}

/// The codes of a weight as f16, `[out, inner]`: for a product on tensor cores.
pub fn widen_int8(client: &Client, weight: Int8Weight<'_>) -> Handle {
    restored(client, weight, Dtype::F16, true)
}

/// The weight `[out, inner]` itself, code · scb / 127, rounded to `dtype`.
pub fn dequantize_int8(client: &Client, weight: Int8Weight<'_>, dtype: Dtype) -> Handle {
    restored(client, weight, dtype, false)
}

fn restored(client: &Client, weight: Int8Weight<'_>, dtype: Dtype, only_codes: bool) -> Handle {
    let len = weight.out * weight.inner;
    let out = client.empty(len.max(1) * dtype.size());
    if len > 0 {
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            restore::launch_unchecked(
                client,
                cubes(len.div_ceil(4)),
                CubeDim::new_1d(CUBE as u32),
                buffer(weight.codes, len.div_ceil(4)),
                buffer(weight.scb, weight.out),
                buffer(&out, len),
                len,
                weight.inner,
                only_codes,
                dtype.elem(),
            );
        }
    }
    out
}

#[cube(launch_unchecked)]
fn restore<F: Float>(
    codes: &[u32],
    scb: &[f32],
    out: &mut [F],
    len: usize,
    inner: usize,
    #[comptime] only_codes: bool,
    #[define(F)] _elem: ElemType,
) {
    if ABSOLUTE_POS < codes.len() {
        let word = codes[ABSOLUTE_POS];
        #[unroll]
        for k in 0..4usize {
            let at = ABSOLUTE_POS * 4 + k;
            if at < len {
                let shift = comptime!((24 - 8 * k) as u32);
                let mut value = f32::cast_from(i32::reinterpret(word << shift) >> 24);
                if comptime!(!only_codes) {
                    value = value * scb[at / inner] * PER_STEP;
                }
                out[at] = F::cast_from(value);
            }
        }
    }
}

/// From sums of products of codes `[rows, out]` in f32, and what outliers add (`[rows, out]`, f32), to the product.
pub fn join_int8(
    client: &Client,
    [sums, apart]: [&Handle; 2],
    x: &Int8Activations,
    weight: Int8Weight<'_>,
    has_outliers: bool,
    dtype: Dtype,
    result: Dtype,
) -> Handle {
    let len = x.rows * weight.out;
    let y = client.empty(len.max(1) * result.size());
    if len > 0 {
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            join::launch_unchecked(
                client,
                cubes(len),
                CubeDim::new_1d(CUBE as u32),
                buffer(sums, len),
                buffer(apart, len),
                buffer(&x.sca, x.rows),
                buffer(weight.scb, weight.out),
                buffer(&y, len),
                weight.out,
                has_outliers,
                dtype.elem(),
                result.elem(),
            );
        }
    }
    y
}

#[cube(launch_unchecked)]
fn join<F: Float, R: Float>(
    sums: &[f32],
    apart: &[f32],
    sca: &[f32],
    scb: &[f32],
    y: &mut [R],
    out: usize,
    #[comptime] has_outliers: bool,
    #[define(F)] _elem: ElemType,
    #[define(R)] _result: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < y.len() {
        let (a, b) = (sca[at / out], scb[at % out]);
        y[at] = R::cast_from(joined::<F>(sums[at], apart[at], a, b, has_outliers));
    }
}
