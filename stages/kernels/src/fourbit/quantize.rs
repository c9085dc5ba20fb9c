//! Codes and absmax of a tensor.
//!
//! Bytes of a bf16 tensor at block 64: 2 read, ½ + 1/16 written per weight. A unit holds eight weights; the lanes of a
//! block agree on its absmax by exchanging it, so that nothing is read twice up to blocks of 256. The floor is what the device
//! copies. Reached on an H200 for 4096×14336: 1.84 TB/s, 43% of a copy.

#![allow(unsafe_code, reason = "unchecked launches: every index is bounded in the kernel")]

use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::server::Handle;
use qpipe_codecs::FourBit;

use super::{Absmax, Format4, Packed4, code_bytes, flush};
use crate::lanes::{eight, vectors};
use crate::launch::{CUBE, Dtype, PLANE, buffer, cubes};

/// Encodes `len` weights of a contiguous buffer. A block with a NaN or an infinity gets an absmax that is not finite:
/// the caller looks for one before it uses the codes.
pub fn quantize4(client: &Client, weights: &Handle, len: usize, dtype: Dtype, format: Format4) -> Packed4 {
    let block = format.block.get();
    let blocks = format.block.blocks(len);
    let values = client.empty(blocks.max(1) * 4);
    let codes = client.empty(code_bytes(len).max(16));
    let packed = Packed4 { format, len, codes, absmax: Absmax::Plain(values.clone()) };
    if len == 0 {
        return packed;
    }
    let lanes = (block / 8).min(PLANE);
    let per_lane = block.div_ceil(8 * PLANE);
    // whole planes of whole blocks; a few units more, so that the padding of the codes is written too
    let words = code_bytes(len) / 4;
    let count = cubes(words.div_ceil(PLANE * per_lane) * PLANE);
    let dim = CubeDim::new_1d(CUBE as u32);
    let (codes, absmax) = (buffer(&packed.codes, words), buffer(&values, blocks));
    let fp4 = format.kind == FourBit::Fp4;
    if len.is_multiple_of(8) {
        let weights = buffer(weights, vectors(len, dtype));
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            encode_vectors::launch_unchecked(
                client,
                count,
                dim,
                weights,
                codes,
                absmax,
                len,
                fp4,
                lanes as u32,
                per_lane,
                dtype,
            );
        }
    } else {
        let weights = buffer(weights, len);
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            encode_values::launch_unchecked(
                client,
                count,
                dim,
                weights,
                codes,
                absmax,
                len,
                fp4,
                lanes as u32,
                per_lane,
                dtype.elem(),
            );
        }
    }
    packed
}

#[cube(launch_unchecked)]
fn encode_vectors(
    weights: &[Vector<u32, Const<4>>],
    codes: &mut [u32],
    absmax: &mut [f32],
    len: usize,
    #[comptime] fp4: bool,
    #[comptime] lanes: u32,
    #[comptime] per_lane: usize,
    #[comptime] dtype: Dtype,
) {
    let mut thresholds = Shared::<[f32]>::new_slice(16usize);
    fill_thresholds(&mut thresholds, fp4);
    let (vectors, first) = (len / 8, first_word(per_lane));
    let mut values = Array::<Vector<f32, Const<8>>>::new(1usize);
    let mut largest = 0u32;
    for i in 0..per_lane {
        let at = first + i * PLANE;
        values[0] = Vector::new(0.0f32);
        if at < vectors {
            values[0] = eight(weights, at, dtype);
        }
        largest = u32::max(largest, magnitude(values[0]));
    }
    let largest = of_block(largest, lanes);
    for i in 0..per_lane {
        let at = first + i * PLANE;
        if comptime!(per_lane > 1) {
            values[0] = Vector::new(0.0f32);
            if at < vectors {
                values[0] = eight(weights, at, dtype);
            }
        }
        store(codes, absmax, at, i, values[0], largest, &thresholds, fp4, lanes);
    }
}

/// As [`encode_vectors`], for a length that is not whole vectors.
#[cube(launch_unchecked)]
fn encode_values<F: Float>(
    weights: &[F],
    codes: &mut [u32],
    absmax: &mut [f32],
    len: usize,
    #[comptime] fp4: bool,
    #[comptime] lanes: u32,
    #[comptime] per_lane: usize,
    #[define(F)] _elem: ElemType,
) {
    let mut thresholds = Shared::<[f32]>::new_slice(16usize);
    fill_thresholds(&mut thresholds, fp4);
    let first = first_word(per_lane);
    let mut largest = 0u32;
    for i in 0..per_lane {
        largest = u32::max(largest, magnitude(some::<F>(weights, first + i * PLANE, len)));
    }
    let largest = of_block(largest, lanes);
    for i in 0..per_lane {
        let at = first + i * PLANE;
        store(codes, absmax, at, i, some::<F>(weights, at, len), largest, &thresholds, fp4, lanes);
    }
}

/// The first word of this unit: words of a plane lie side by side.
#[cube]
fn first_word(#[comptime] per_lane: usize) -> usize {
    ABSOLUTE_POS / PLANE * (PLANE * per_lane) + ABSOLUTE_POS % PLANE
}

/// Eight weights, zeros beyond the end.
#[cube]
fn some<F: Float>(weights: &[F], at: usize, len: usize) -> Vector<f32, Const<8>> {
    let mut values = Vector::<f32, Const<8>>::zeroed();
    #[unroll]
    for k in 0..8usize {
        let index = at * 8 + k;
        if index < len {
            values.insert(k, f32::cast_from(weights[index]));
        }
    }
    values
}

/// The bits of the largest magnitude: as integers, so that NaN and infinity are not lost.
#[cube]
fn magnitude(values: Vector<f32, Const<8>>) -> u32 {
    let mut largest = 0u32;
    #[unroll]
    for k in 0..8usize {
        largest = u32::max(largest, u32::reinterpret(values.extract(k)) & 0x7fff_ffffu32);
    }
    largest
}

/// The largest of all lanes that share a block.
#[cube]
fn of_block(largest: u32, #[comptime] lanes: u32) -> u32 {
    let mut all = largest;
    #[unroll]
    for step in 0..5u32 {
        let mask = comptime!(1u32 << step);
        if comptime!(mask < lanes) {
            all = u32::max(all, plane_shuffle_xor(all, mask));
        }
    }
    all
}

#[cube]
#[allow(clippy::too_many_arguments, reason = "what two kernels share")]
fn store(
    codes: &mut [u32],
    absmax: &mut [f32],
    at: usize,
    turn: usize,
    values: Vector<f32, Const<8>>,
    largest: u32,
    thresholds: &[f32],
    #[comptime] fp4: bool,
    #[comptime] lanes: u32,
) {
    if at < codes.len() {
        let absolute = flush(f32::reinterpret(largest));
        let scale = flush(1.0f32 / absolute);
        let mut word = 0u32;
        #[unroll]
        for k in 0..8usize {
            let shift = comptime!((k / 2 * 8 + 4 * (1 - k % 2)) as u32);
            let scaled = flush(values.extract(k)) * scale;
            let code =
                if comptime!(fp4) { fp4_code(scaled, thresholds) } else { nf4_code(scaled, thresholds) };
            word |= code << shift;
        }
        codes[at] = word;
        if turn == 0 && (UNIT_POS % lanes) == 0 {
            let block = if comptime!(lanes < 32) { at / (lanes as usize) } else { ABSOLUTE_POS / PLANE };
            if block < absmax.len() {
                absmax[block] = absolute;
            }
        }
    }
}

/// The thresholds of the format, ascending, into the cube's shared memory: in different banks, so that lanes at
/// different places of the search read at once.
#[cube]
fn fill_thresholds(table: &mut [f32], #[comptime] fp4: bool) {
    if UNIT_POS < 16 {
        let threshold = if comptime!(fp4) { fp4_threshold(UNIT_POS) } else { nf4_threshold(UNIT_POS) };
        table[UNIT_POS as usize] = threshold;
    }
    sync_cube();
}

/// The constants of [`FourBit::thresholds`].
#[cube]
fn nf4_threshold(index: u32) -> f32 {
    let mut t = f32::new(-0.848_096_43f32);
    t = select(index == 1, -0.610_632_9f32, t);
    t = select(index == 2, -0.459_995_27f32, t);
    t = select(index == 3, -0.339_679_42f32, t);
    t = select(index == 4, -0.234_607_4f32, t);
    t = select(index == 5, -0.137_911_74f32, t);
    t = select(index == 6, -0.045_525_018f32, t);
    t = select(index == 7, 0.039_790_15f32, t);
    t = select(index == 8, 0.120_255_254f32, t);
    t = select(index == 9, 0.203_521_25f32, t);
    t = select(index == 10, 0.292_013_76f32, t);
    t = select(index == 11, 0.389_312_54f32, t);
    t = select(index == 12, 0.501_663_4f32, t);
    t = select(index == 13, 0.642_786_9f32, t);
    select(index == 14, 0.861_478_4f32, t)
}

#[cube]
fn fp4_threshold(index: u32) -> f32 {
    let mut t = f32::new(0.002_604_17f32);
    t = select(index == 1, 0.085_937_5f32, t);
    t = select(index == 2, 0.208_333_33f32, t);
    t = select(index == 3, 0.291_666_66f32, t);
    t = select(index == 4, 0.416_666_7f32, t);
    t = select(index == 5, 0.583_333f32, t);
    select(index == 6, 0.833_333_3f32, t)
}

/// The number of thresholds below `s`, by bisection. NaN is above none.
#[cube]
fn nf4_code(s: f32, thresholds: &[f32]) -> u32 {
    let mut code = select(s > 0.039_790_15f32, 8u32, 0u32);
    code += select(s > thresholds[(code + 3) as usize], 4u32, 0u32);
    code += select(s > thresholds[(code + 1) as usize], 2u32, 0u32);
    code + select(s > thresholds[code as usize], 1u32, 0u32)
}

/// The rank of `|s|` as its code, and 8 for a negative value that is not flushed to zero.
#[cube]
fn fp4_code(s: f32, thresholds: &[f32]) -> u32 {
    let magnitude = s.abs();
    let mut rank = select(magnitude > 0.291_666_66f32, 4u32, 0u32);
    rank += select(magnitude > thresholds[(rank + 1) as usize], 2u32, 0u32);
    rank += select(magnitude > thresholds[rank as usize], 1u32, 0u32);
    // magnitudes ascend through the codes 0, 1, 6, 7, 4, 5, 2, 3
    let code = (0x3254_7610u32 >> (rank * 4)) & 7;
    code + select(flush(s) < 0.0f32, 8u32, 0u32)
}
