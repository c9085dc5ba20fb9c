//! int8 weights by rows, and the LLM.int8 product (Dettmers et al. 2022, arXiv 2208.07339, section 3): activations in int8
//! too, the columns of outlier activations apart in the compute dtype.
//!
//! For few rows the product runs here, on codes held as f16, which holds each of them exactly; for many, codes are i8 and
//! the product is [`gemm`](fn@crate::gemm)'s, in integers. Nothing is read back: which columns are outliers stays on the device, where
//! they are numbered, so that only they are multiplied apart.
//!
//! Bytes of one row: the weight's, 1 each; of many, besides those of the integer product, `4·rows·out` of its sums read and
//! the result written. Reached on an H200 for 14336×4096: one row 2.5 TB/s, 58% of a copy, and 1.1 with outliers, which take
//! three kernels more; 512 rows 107 µs, 143 with outliers, of which the integer product is 70.
#![allow(unsafe_code, reason = "unchecked launches: every index is bounded in the kernel")]

use cubecl::client::Client;
use cubecl::ir::IntKind;
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
    /// `[rows, inner]`, whole numbers of −127 to 127, 0 in outlier columns.
    pub codes: Handle,
    /// `[rows]`, f32: the largest magnitude of each row that is no outlier; NaN where that is not finite.
    pub sca: Handle,
    /// The activations themselves, in their dtype, and which columns are outliers.
    outliers: Option<Outliers>,
    pub rows: usize,
    pub inner: usize,
}

struct Outliers {
    x: Handle,
    /// `[inner]`, u32: 1 for an outlier column.
    columns: Handle,
    /// `[inner + 1]`, u32: how many there are, and their numbers, ascending.
    picked: Handle,
}

/// How codes of activations are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// f16, for [`multiply_int8`].
    Half,
    /// i8, for [`gemm`](fn@crate::gemm) and [`join_int8`].
    Byte,
}

/// What stands for "no outliers" among magnitudes as bits.
const NEVER: u32 = u32::MAX;
/// Magnitudes, as bits, from here on are not finite.
const INFINITE: u32 = 0x7f80_0000;

/// Quantizes activations of `dtype`; columns with a magnitude of `threshold` or more, in f16, are outliers. `inner` must be
/// a multiple of 16.
///
/// # Errors
/// [`KernelError`] for a width that the kernels do not handle, which [`widen`] makes one that they do, or too many values.
pub fn quantize_activations(
    client: &Client,
    x: &Handle,
    [rows, inner]: [usize; 2],
    threshold: Option<f32>,
    dtype: Dtype,
    form: Codes,
) -> Result<Int8Activations, KernelError> {
    if inner == 0 || !inner.is_multiple_of(16) {
        return Err(KernelError::Width { width: inner, of: 16 });
    }
    let (len, is_narrow) = (rows * inner, form == Codes::Byte);
    told_apart(len)?;
    let outliers = threshold.map(|_| Outliers {
        x: x.clone(),
        columns: client.empty(inner * 4),
        picked: client.empty((inner + 1) * 4),
    });
    let made = Int8Activations {
        codes: client.empty((len * if is_narrow { 1 } else { 2 }).max(1)),
        sca: client.empty(rows.max(1) * 4),
        outliers,
        rows,
        inner,
    };
    if rows == 0 {
        return Ok(made);
    }
    let dim = CubeDim::new_1d(CUBE as u32);
    let limit = threshold.map_or(NEVER, f32::to_bits);
    // without outliers nothing is read there
    let columns = made.outliers.as_ref().map_or(&made.sca, |outliers| &outliers.columns);
    // SAFETY: the kernels stay within the lengths of their buffers
    unsafe {
        if let Some(Outliers { columns, picked, .. }) = &made.outliers {
            clear::launch_unchecked(client, cubes(inner), dim, buffer(columns, inner));
            find_outliers::launch_unchecked(
                client,
                cubes(inner * rows.div_ceil(ROWS)),
                dim,
                buffer(x, len),
                buffer(columns, inner),
                rows,
                inner,
                limit,
                dtype.elem(),
            );
            if is_narrow {
                let one = CubeCount::Static(1, 1, 1);
                number::launch_unchecked(
                    client,
                    one,
                    dim,
                    buffer(columns, inner),
                    buffer(picked, inner + 1),
                    inner,
                );
            }
        }
        encode_rows::launch_unchecked(
            client,
            CubeCount::Static(rows as u32, 1, 1),
            dim,
            buffer(x, len),
            buffer(columns, if threshold.is_some() { inner } else { 1 }),
            buffer(&made.codes, len),
            buffer(&made.sca, rows),
            inner,
            limit,
            threshold.is_some(),
            dtype.elem(),
            if is_narrow { ElemType::Int(IntKind::I8) } else { Dtype::F16.elem() },
        );
    }
    Ok(made)
}

/// Whether a kernel's indices reach all of so many values.
fn told_apart(len: usize) -> Result<(), KernelError> {
    if u32::try_from(len).is_ok() { Ok(()) } else { Err(KernelError::Length { len }) }
}

/// What [`widen`] copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Widened {
    Activations(Dtype),
    /// i8.
    Codes,
}

/// Rows of `inner` values with zeros after them, `width` together, which change no product.
///
/// # Errors
/// [`KernelError`] for too many values.
pub fn widen(
    client: &Client,
    x: &Handle,
    [rows, inner]: [usize; 2],
    width: usize,
    what: Widened,
) -> Result<Handle, KernelError> {
    let (len, size, elem) = match what {
        Widened::Activations(dtype) => (rows * width, dtype.size(), dtype.elem()),
        Widened::Codes => (rows * width, 1, ElemType::Int(IntKind::I8)),
    };
    told_apart(len)?;
    let wide = client.empty((len * size).max(1));
    if len > 0 {
        let dim = CubeDim::new_1d(CUBE as u32);
        let (from, to) = (buffer(x, rows * inner), buffer(&wide, len));
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe { copy_rows::launch_unchecked(client, cubes(len), dim, from, to, inner, width, elem) };
    }
    Ok(wide)
}

#[cube(launch_unchecked)]
fn copy_rows<N: Numeric>(x: &[N], wide: &mut [N], inner: usize, width: usize, #[define(N)] _elem: ElemType) {
    if ABSOLUTE_POS < wide.len() {
        let (row, column) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
        if column < inner {
            wide[ABSOLUTE_POS] = x[row * inner + column];
        } else {
            wide[ABSOLUTE_POS] = N::cast_from(0u32);
        }
    }
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
    limit: u32,
    #[define(F)] _elem: ElemType,
) {
    let (column, first) = (ABSOLUTE_POS % inner, ABSOLUTE_POS / inner * ROWS);
    let mut found = false;
    for i in 0..ROWS {
        let row = first + i;
        if row < rows {
            found = found || is_outlier(magnitude(f32::cast_from(x[row * inner + column])), limit);
        }
    }
    // several units may write, all the same
    if found {
        columns[column] = 1u32;
    }
}

/// Of a value in f16, the magnitude, as bits: these order as the magnitudes do, infinity and NaN included, whatever a compiler
/// takes floating-point numbers for.
#[cube]
fn magnitude(x: f32) -> u32 {
    u32::reinterpret(half_of(x)) & 0x7fff_ffff
}

/// NaN is none.
#[cube]
fn is_outlier(magnitude: u32, limit: u32) -> bool {
    magnitude >= limit && magnitude <= INFINITE
}

/// Numbers the outlier columns: a unit of the one cube goes through a run of them.
#[cube(launch_unchecked)]
fn number(columns: &[u32], picked: &mut [u32], inner: usize) {
    let mut counts = Shared::<[u32]>::new_slice(CUBE);
    let run = inner.div_ceil(CUBE);
    let (first, last) =
        (usize::min(UNIT_POS as usize * run, inner), usize::min((UNIT_POS as usize + 1) * run, inner));
    let mut count = 0u32;
    for column in first..last {
        count += columns[column];
    }
    counts[UNIT_POS as usize] = count;
    sync_cube();
    let mut at = 0u32;
    for unit in 0..UNIT_POS {
        at += counts[unit as usize];
    }
    if UNIT_POS as usize == comptime!(CUBE - 1) {
        picked[0] = at + count;
    }
    for column in first..last {
        if columns[column] != 0 {
            at += 1;
            picked[at as usize] = column as u32;
        }
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
fn encode_rows<F: Float, C: Numeric>(
    x: &[F],
    columns: &[u32],
    codes: &mut [C],
    sca: &mut [f32],
    inner: usize,
    limit: u32,
    #[comptime] has_outliers: bool,
    #[define(F)] _elem: ElemType,
    #[define(C)] _code: ElemType,
) {
    let start = CUBE_POS * inner;
    let planes = comptime!(CUBE / PLANE);
    let mut largest = 0u32;
    let mut at = UNIT_POS as usize;
    while at < inner {
        let magnitude = magnitude(f32::cast_from(x[start + at]));
        largest = u32::max(largest, select(is_outlier(magnitude, limit), 0u32, magnitude));
        at += CUBE;
    }
    let mut shared = Shared::<[u32]>::new_slice(planes);
    let of_plane = plane_max(largest);
    if UNIT_POS as usize % PLANE == 0 {
        shared[UNIT_POS as usize / PLANE] = of_plane;
    }
    sync_cube();
    let mut bits = 0u32;
    #[unroll]
    for p in 0..planes {
        bits = u32::max(bits, shared[p]);
    }
    let scale = f32::reinterpret(bits);
    if UNIT_POS == 0 {
        sca[CUBE_POS] = f32::reinterpret(select(bits >= INFINITE, 0x7fc0_0000u32, bits));
    }
    // a row of zeros has codes 0 whatever it is scaled with
    let per_code = 1.0f32 / select(bits > 0, scale, 1.0f32) * 127.0f32;
    let mut at = UNIT_POS as usize;
    while at < inner {
        let mut code = nearest(half_of(f32::cast_from(x[start + at])) * per_code);
        if comptime!(has_outliers) {
            code = select(columns[at] != 0, 0.0f32, code);
        }
        codes[start + at] = C::cast_from(code);
        at += CUBE;
    }
}

/// The LLM.int8 product, which reads the weight once for every [`MOST_ROWS`] rows: `[rows, out]` of `result`, rounded to f16 and to `dtype`, the
/// compute dtype, as the reference does.
///
/// # Errors
/// [`KernelError`] for a shape that the kernel does not handle.
pub fn multiply_int8(
    client: &Client,
    x: &Int8Activations,
    weight: Int8Weight<'_>,
    dtype: Dtype,
    result: Dtype,
) -> Result<Handle, KernelError> {
    let Int8Weight { out, inner, .. } = weight;
    told_apart(out * inner)?;
    let y = client.empty((x.rows * out).max(1) * result.size());
    if x.rows * out == 0 {
        return Ok(y);
    }
    // without outliers nothing is read there
    let (given, columns) = x.outliers.as_ref().map_or((&x.codes, &x.codes), |o| (&o.x, &o.columns));
    for first in (0..x.rows).step_by(MOST_ROWS) {
        let rows = MOST_ROWS.min(x.rows - first);
        let from = |handle: &Handle, bytes: usize| handle.clone().offset_start((first * bytes) as u64);
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            multiply::launch_unchecked(
                client,
                cubes(out * PLANE),
                CubeDim::new_1d(CUBE as u32),
                buffer(&from(&x.codes, inner * 2), vectors(rows * inner, Dtype::F16)),
                buffer(
                    &from(given, if x.outliers.is_some() { inner * dtype.size() } else { 0 }),
                    vectors(rows * inner, dtype),
                ),
                buffer(&from(&x.sca, 4), rows),
                buffer(columns, inner / 4),
                buffer(weight.codes, out * inner / 16),
                buffer(weight.scb, out),
                buffer(&from(&y, out * result.size()), rows * out),
                out,
                inner / 16,
                rows,
                x.outliers.is_some(),
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
                        let mut restored =
                            Vector::<f32, Const<8>>::cast_from(Vector::<F, Const<8>>::cast_from(restored));
                        #[unroll]
                        for k in 0..8usize {
                            let flag = if comptime!(k < 4) {
                                a.extract(comptime!(k % 4))
                            } else {
                                b.extract(comptime!(k % 4))
                            };
                            restored.insert(k, select(flag != 0, restored.extract(k), 0.0f32));
                        }
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
            // a lane's own sum is exact, whole and below 2²⁴ up to 33,000 columns; from here on as integers
            let total = f32::cast_from(plane_sum(i32::cast_from(sums[r])));
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

/// The weight `[out, inner]` itself, code · scb / 127, rounded to `dtype`.
///
/// # Errors
/// [`KernelError`] for too many values.
pub fn dequantize_int8(client: &Client, weight: Int8Weight<'_>, dtype: Dtype) -> Result<Handle, KernelError> {
    let len = weight.out * weight.inner;
    told_apart(len)?;
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
                dtype.elem(),
            );
        }
    }
    Ok(out)
}

#[cube(launch_unchecked)]
fn restore<F: Float>(
    codes: &[u32],
    scb: &[f32],
    out: &mut [F],
    len: usize,
    inner: usize,
    #[define(F)] _elem: ElemType,
) {
    if ABSOLUTE_POS < codes.len() {
        let word = codes[ABSOLUTE_POS];
        #[unroll]
        for k in 0..4usize {
            let at = ABSOLUTE_POS * 4 + k;
            if at < len {
                let shift = comptime!((24 - 8 * k) as u32);
                let value = f32::cast_from(i32::reinterpret(word << shift) >> 24);
                out[at] = F::cast_from(value * scb[at / inner] * PER_STEP);
            }
        }
    }
}

/// From sums of products of codes, `[rows, out]` in i32, to the product: scaled, with what outlier columns add, `[rows, out]`
/// of `result`.
///
/// # Errors
/// [`KernelError`] for too many values.
pub fn join_int8(
    client: &Client,
    sums: &Handle,
    x: &Int8Activations,
    weight: Int8Weight<'_>,
    dtype: Dtype,
    result: Dtype,
) -> Result<Handle, KernelError> {
    let Int8Weight { out, inner, .. } = weight;
    let len = x.rows * out;
    told_apart(len)?;
    told_apart(out * inner)?;
    let y = client.empty(len.max(1) * result.size());
    if len == 0 {
        return Ok(y);
    }
    let dim = CubeDim::new_1d(CUBE as u32);
    // without outliers nothing is read there
    let apart = x.outliers.as_ref().map(|outliers| (client.empty(out * inner * dtype.size()), outliers));
    let (restored, given, picked) =
        apart.as_ref().map_or((&x.codes, &x.codes, &x.codes), |(restored, o)| (restored, &o.x, &o.picked));
    // SAFETY: the kernels stay within the lengths of their buffers
    unsafe {
        if apart.is_some() {
            gather::launch_unchecked(
                client,
                cubes(out),
                dim,
                buffer(weight.codes, out * inner),
                buffer(weight.scb, out),
                buffer(picked, inner + 1),
                buffer(restored, out * inner),
                out,
                inner,
                dtype.elem(),
            );
        }
        join::launch_unchecked(
            client,
            cubes(len),
            dim,
            buffer(sums, len),
            buffer(given, x.rows * inner),
            buffer(picked, inner + 1),
            buffer(restored, out * inner),
            buffer(&x.sca, x.rows),
            buffer(weight.scb, out),
            buffer(&y, len),
            out,
            inner,
            apart.is_some(),
            dtype.elem(),
            result.elem(),
        );
    }
    Ok(y)
}

/// The outlier columns of a weight, restored, one after the other: `[outliers, out]`.
#[cube(launch_unchecked)]
fn gather<F: Float>(
    codes: &[i8],
    scb: &[f32],
    picked: &[u32],
    restored: &mut [F],
    out: usize,
    inner: usize,
    #[define(F)] _elem: ElemType,
) {
    let row = ABSOLUTE_POS;
    if row < out {
        let scale = scb[row];
        for i in 0..picked[0] {
            let code = codes[row * inner + picked[(i + 1) as usize] as usize];
            restored[i as usize * out + row] = F::cast_from(f32::cast_from(code) * scale * PER_STEP);
        }
    }
}

#[cube(launch_unchecked)]
fn join<F: Float, R: Float>(
    sums: &[i32],
    x: &[F],
    picked: &[u32],
    restored: &[F],
    sca: &[f32],
    scb: &[f32],
    y: &mut [R],
    out: usize,
    inner: usize,
    #[comptime] has_outliers: bool,
    #[define(F)] _elem: ElemType,
    #[define(R)] _result: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < y.len() {
        let (row, column) = (at / out, at % out);
        let mut apart = 0.0f32;
        if comptime!(has_outliers) {
            for i in 0..picked[0] {
                let value = f32::cast_from(x[row * inner + picked[(i + 1) as usize] as usize]);
                apart = fma(value, f32::cast_from(restored[i as usize * out + column]), apart);
            }
        }
        let sum = f32::cast_from(sums[at]);
        y[at] = R::cast_from(joined::<F>(sum, apart, sca[row], scb[column], has_outliers));
    }
}
