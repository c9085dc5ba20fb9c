//! Codes of four bits, one absmax per block of the flattened tensor.

pub(crate) mod batch;
pub(crate) mod dequantize;
pub(crate) mod nested;
pub(crate) mod product;
pub(crate) mod quantize;

use cubecl::prelude::*;
use cubecl::server::Handle;
use qpipe_codecs::{BlockSize, FourBit};

use crate::launch::buffer;

/// A data type of four bits and its block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format4 {
    pub kind: FourBit,
    pub block: BlockSize,
}

/// A packed tensor of `len` weights on a device.
#[derive(Clone)]
pub struct Packed4 {
    pub format: Format4,
    pub len: usize,
    /// Bytes of two codes, the first in the high nibble; padded to whole units of 16 bytes.
    pub codes: Handle,
    /// Of `len / block` blocks, rounded up.
    pub absmax: Absmax,
}

/// The absmax values of blocks.
#[derive(Clone)]
pub enum Absmax {
    /// In f32.
    Plain(Handle),
    /// Double quantization: a code each.
    Nested(Nested),
}

/// absmax values in codes of 8 bits.
#[derive(Clone)]
pub struct Nested {
    /// `[blocks]`, u8.
    pub codes: Handle,
    /// In f32: the 256 values that codes stand for, then for every `group` blocks what they are multiplied with, and what
    /// is added.
    pub table: Handle,
    /// A power of two, at most 256.
    pub group: usize,
}

impl Packed4 {
    /// What kernels read of absmax: the arguments of [`scale_of`], whose last but one is 1.
    pub(crate) fn scales(&self) -> (BufferArg, BufferArg, usize) {
        let blocks = self.format.block.blocks(self.len);
        match &self.absmax {
            // nothing is read of the second
            Absmax::Plain(values) => (buffer(values, blocks), buffer(values, blocks), 0),
            Absmax::Nested(Nested { codes, table, group }) => {
                (buffer(table, 256 + 2 * blocks.div_ceil(*group)), buffer(codes, blocks), *group)
            }
        }
    }
}

/// The absmax of a block. `one` is 1, which the compiler does not know: without it the product would be fused with the sum,
/// and not be rounded first.
#[cube]
pub(crate) fn scale_of(
    block: usize,
    absmax: &[f32],
    codes: &[u8],
    one: f32,
    #[comptime] group: usize,
) -> f32 {
    if comptime!(group == 0) {
        absmax[block]
    } else {
        let pair = 256 + block / group * 2;
        absmax[codes[block] as usize] * absmax[pair] * one + absmax[pair + 1]
    }
}

/// Bytes of a buffer of codes.
pub(crate) const fn code_bytes(len: usize) -> usize {
    len.div_ceil(32) * 16
}

/// A level by its code, into the cube's shared memory: the sixteen lie in different banks, so that lanes with different
/// codes read at once.
#[cube]
pub(crate) fn fill_levels(table: &mut [f32], #[comptime] fp4: bool) {
    if UNIT_POS < 16 {
        let level = if comptime!(fp4) { fp4_level(UNIT_POS) } else { nf4_level(UNIT_POS) };
        table[UNIT_POS as usize] = level;
    }
    sync_cube();
}

#[cube]
fn nf4_level(code: u32) -> f32 {
    let mut level = f32::new(-1.0f32);
    level = select(code == 1, -0.696_192_8f32, level);
    level = select(code == 2, -0.525_073_05f32, level);
    level = select(code == 3, -0.394_917_5f32, level);
    level = select(code == 4, -0.284_441_38f32, level);
    level = select(code == 5, -0.184_773_43f32, level);
    level = select(code == 6, -0.091_050_036f32, level);
    level = select(code == 7, 0.0f32, level);
    level = select(code == 8, 0.079_580_3f32, level);
    level = select(code == 9, 0.160_930_2f32, level);
    level = select(code == 10, 0.246_112_3f32, level);
    level = select(code == 11, 0.337_915_24f32, level);
    level = select(code == 12, 0.440_709_83f32, level);
    level = select(code == 13, 0.562_617f32, level);
    level = select(code == 14, 0.722_956_84f32, level);
    select(code == 15, 1.0f32, level)
}

#[cube]
fn fp4_level(code: u32) -> f32 {
    let low = code & 7;
    let mut level = 0.0f32;
    level = select(low == 1, 0.005_208_333_5f32, level);
    level = select(low == 2, 0.666_666_7f32, level);
    level = select(low == 3, 1.0f32, level);
    level = select(low == 4, 0.333_333_34f32, level);
    level = select(low == 5, 0.5f32, level);
    level = select(low == 6, 0.166_666_67f32, level);
    level = select(low == 7, 0.25f32, level);
    // code 8 is a negative zero
    f32::reinterpret(u32::reinterpret(level) | ((code & 8) << 28))
}

/// The eight levels of a word of codes, in the order of its weights: bytes ascend, high nibbles come first.
#[cube]
pub(crate) fn levels(word: u32, table: &[f32]) -> Vector<f32, Const<8>> {
    // four codes at once, as offsets in bytes: what is left for each is to pick its byte
    let (low, high) = ((word & 0x0f0f_0f0fu32) << 2, (word >> 2) & 0x3c3c_3c3cu32);
    let mut out = Vector::<f32, Const<8>>::empty();
    #[unroll]
    for byte in 0..4usize {
        let shift = comptime!((byte * 8) as u32);
        out.insert(comptime!(2 * byte), table[(((high >> shift) & 0xfc) >> 2) as usize]);
        out.insert(comptime!(2 * byte + 1), table[(((low >> shift) & 0xfc) >> 2) as usize]);
    }
    out
}

/// Copies of the table of [`fill_pairs`], one for each of the lanes that shared memory serves at a time: whatever they look
/// up, no two want the same bank.
pub(crate) const PAIR_COPIES: usize = 16;

/// Both levels of every byte of codes, `[256, copies]`, from the table of levels; a unit of a cube of 256 fills one byte's.
#[cube]
pub(crate) fn fill_pairs(pairs: &mut [Vector<f32, Const<2>>], table: &[f32]) {
    let byte = UNIT_POS as usize;
    let mut pair = Vector::<f32, Const<2>>::empty();
    pair.insert(0usize, table[byte / 16]);
    pair.insert(1usize, table[byte % 16]);
    #[unroll]
    for i in 0..PAIR_COPIES {
        // units write to different banks
        pairs[byte * PAIR_COPIES + (i + byte) % PAIR_COPIES] = pair;
    }
    sync_cube();
}

/// As [`levels`], two at a time.
#[cube]
pub(crate) fn levels_by_pairs(word: u32, pairs: &[Vector<f32, Const<2>>]) -> Vector<f32, Const<8>> {
    let copy = UNIT_POS & 15;
    let mut out = Vector::<f32, Const<8>>::empty();
    #[unroll]
    for byte in 0..4usize {
        let moved =
            if comptime!(byte == 0) { word << 4 } else { word >> comptime!((byte.max(1) * 8 - 4) as u32) };
        let pair = pairs[((moved & 0xff0) | copy) as usize];
        out.insert(comptime!(2 * byte), pair.extract(0usize));
        out.insert(comptime!(2 * byte + 1), pair.extract(1usize));
    }
    out
}

/// The value, or a zero if it is subnormal.
#[cube]
pub(crate) fn flush(x: f32) -> f32 {
    select(x.abs() < 1.175_494_4e-38f32, 0.0f32, x)
}
