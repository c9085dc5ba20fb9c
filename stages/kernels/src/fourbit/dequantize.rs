//! Restoring packed weights: level · absmax in f32, rounded to the dtype asked for.
//!
//! Bytes of a bf16 result at block 64: ½ + 1/16 read, 2 written per weight, so the floor is what the device copies. Reached on
//! an H200 for 4096×14336: 3.51 TB/s, 82% of a copy.

#![allow(unsafe_code, reason = "unchecked launches: every index is bounded in the kernel")]

use cubecl::client::Client;
use cubecl::prelude::*;
use cubecl::server::Handle;
use qpipe_codecs::FourBit;

use super::{Packed4, code_bytes, fill_levels, levels, scale_of};
use crate::launch::{CUBE, Dtype, buffer, cubes};

/// Words that one unit restores, a cube's width apart, so that loads and stores of a plane are contiguous.
const WORDS: usize = 4;

/// The tensor of the packed weights, in `dtype`. The handle's size is rounded up to whole vectors of 8.
pub fn dequantize4(client: &Client, packed: &Packed4, dtype: Dtype) -> Handle {
    let vectors = packed.len.div_ceil(8);
    let out = client.empty(vectors.max(1) * 8 * dtype.size());
    if packed.len == 0 {
        return out;
    }
    let (absmax, nested, group) = packed.scales();
    // SAFETY: the kernel stays within the lengths of its buffers
    unsafe {
        restore::launch_unchecked(
            client,
            cubes(vectors.div_ceil(WORDS)),
            CubeDim::new_1d(CUBE as u32),
            buffer(&packed.codes, code_bytes(packed.len) / 4),
            absmax,
            nested,
            buffer(&out, vectors),
            vectors,
            1.0f32,
            packed.format.kind == FourBit::Fp4,
            packed.format.block.get() / 8,
            group,
            dtype.elem(),
        );
    }
    out
}

#[cube(launch_unchecked)]
fn restore<F: Float>(
    codes: &[u32],
    absmax: &[f32],
    nested: &[u8],
    out: &mut [Vector<F, Const<8>>],
    vectors: usize,
    one: f32,
    #[comptime] fp4: bool,
    #[comptime] words_per_block: usize,
    #[comptime] group: usize,
    #[define(F)] _elem: ElemType,
) {
    let mut table = Shared::<[f32]>::new_slice(16usize);
    fill_levels(&mut table, fp4);
    let first = CUBE_POS * (CUBE_DIM as usize) * WORDS + UNIT_POS as usize;
    #[unroll]
    for i in 0..WORDS {
        let at = first + i * (CUBE_DIM as usize);
        if at < vectors {
            let scale = scale_of(at / words_per_block, absmax, nested, one, group);
            let levels = levels(codes[at], &table);
            let mut restored = levels * Vector::new(scale);
            // only such a small absmax makes subnormal products
            if scale.abs() < 1e-30f32 {
                #[unroll]
                for k in 0..8usize {
                    let value = restored.extract(k);
                    // by its bits: a compiler may take `-1 · 0` for `0`
                    let signs = u32::reinterpret(levels.extract(k)) ^ u32::reinterpret(scale);
                    let sign = signs & 0x8000_0000u32;
                    let zero = f32::reinterpret(sign);
                    restored.insert(k, select(value.abs() < 1.175_494_4e-38f32, zero, value));
                }
            }
            out[at] = Vector::cast_from(restored);
        }
    }
}
