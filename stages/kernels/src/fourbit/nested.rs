//! Double quantization: absmax values as codes of 8 bits around an offset, one absmax of theirs for every 256.
//!
//! Bytes: 4 read, 1 written per absmax, which is a 64th of the weights; what it takes is starting the kernel. A product that
//! reads nested absmax (a code, its value, its group's pair) takes as long on an H200 as with plain ones for one row of
//! 14336×4096, 18.2 µs, and a fifth longer for 4096×14336, 20.3 µs.
#![allow(unsafe_code, reason = "unchecked launches: every index is bounded in the kernel")]

use cubecl::client::Client;
use cubecl::prelude::*;
use qpipe_codecs::{NESTED_BLOCK, dynamic_limits, dynamic_map};

use super::{Absmax, Nested, Packed4, flush};
use crate::launch::{CUBE, PLANE, buffer};

/// Where limits begin in the buffer that the kernel reads, after the values of codes.
const LIMITS: usize = 256;

/// The same weights with their absmax values, which must be finite, in codes around `offset`, the mean; what is nested already
/// stays.
pub fn double_quantize4(client: &Client, packed: &Packed4, offset: f32) -> Packed4 {
    const { assert!(CUBE == NESTED_BLOCK, "a unit for each absmax of a nested block") };
    let Absmax::Plain(absmax) = &packed.absmax else { return packed.clone() };
    let blocks = packed.format.block.blocks(packed.len);
    let groups = blocks.div_ceil(NESTED_BLOCK);
    let codes = client.empty(blocks.max(1).next_multiple_of(16));
    let table = client.empty((256 + 2 * groups) * 4);
    if groups > 0 {
        let values: Vec<u8> =
            dynamic_map().iter().chain(dynamic_limits()).flat_map(|value| value.to_le_bytes()).collect();
        let values = client.create_from_slice(&values);
        // SAFETY: the kernel stays within the lengths of its buffers
        unsafe {
            encode::launch_unchecked(
                client,
                CubeCount::Static(groups as u32, 1, 1),
                CubeDim::new_1d(CUBE as u32),
                buffer(absmax, blocks),
                buffer(&values, LIMITS + 255),
                buffer(&codes, blocks),
                buffer(&table, 256 + 2 * groups),
                blocks,
                offset,
            );
        }
    }
    Packed4 { absmax: Absmax::Nested(Nested { codes, table, group: NESTED_BLOCK }), ..packed.clone() }
}

#[cube(launch_unchecked)]
fn encode(absmax: &[f32], values: &[f32], codes: &mut [u8], table: &mut [f32], blocks: usize, offset: f32) {
    let (unit, planes) = (UNIT_POS as usize, comptime!(CUBE / PLANE));
    let block = CUBE_POS * CUBE + unit;
    let mut difference = 0.0f32;
    if block < blocks {
        difference = absmax[block] - offset;
    }
    let mut shared = Shared::<[u32]>::new_slice(planes);
    let of_plane = plane_max(u32::reinterpret(difference) & 0x7fff_ffffu32);
    if unit % PLANE == 0 {
        shared[unit / PLANE] = of_plane;
    }
    sync_cube();
    let mut bits = 0u32;
    #[unroll]
    for p in 0..planes {
        bits = u32::max(bits, shared[p]);
    }
    // by its bits: a subnormal is none
    let is_normal = bits >= 0x0080_0000u32;
    let nested = select(is_normal, f32::reinterpret(bits), 0.0f32);
    let scaled = flush(difference) * flush(1.0f32 / select(is_normal, nested, 1.0f32));
    let mut code = 0u32;
    #[unroll]
    for bit in 0..8u32 {
        let step = comptime!(128u32 >> bit);
        let limit = values[(code + step - 1) as usize + LIMITS];
        code = select(scaled > limit, code + step, code);
    }
    if block < blocks {
        codes[block] = u8::cast_from(select(is_normal, code, 0u32));
    }
    if CUBE_POS == 0 {
        table[unit] = values[unit];
    }
    if unit < 2 {
        table[256 + CUBE_POS * 2 + unit] = select(unit == 0, nested, offset);
    }
}
