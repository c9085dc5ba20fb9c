//! Dequantization of ggml's block formats.
//!
//! Formulas and layouts are those of `ggml-quants.c` (`dequantize_row_*`). In every format the
//! product of scales and code is exact in f32 (at most 11 + 7 + 5 significant bits), so a result has
//! one rounding at most, and the order of operations cannot change it.

use half::{bf16, f16};

use super::GgmlType;

/// Fills `out` with the values of one row; `bytes` holds exactly the row's blocks.
pub(super) fn dequantize_row(ggml_type: GgmlType, bytes: &[u8], out: &mut [f32]) {
    match ggml_type {
        GgmlType::F32 => blocks(bytes, out, |b: &[u8; 4], x: &mut [f32; 1]| x[0] = f32::from_le_bytes(*b)),
        GgmlType::F16 => blocks(bytes, out, |b: &[u8; 2], x: &mut [f32; 1]| x[0] = half_at(b, 0)),
        GgmlType::BF16 => {
            blocks(bytes, out, |b: &[u8; 2], x: &mut [f32; 1]| x[0] = bf16::from_le_bytes(*b).to_f32());
        }
        GgmlType::Q4_0 => blocks(bytes, out, q4_0),
        GgmlType::Q4_1 => blocks(bytes, out, q4_1),
        GgmlType::Q5_0 => blocks(bytes, out, q5_0),
        GgmlType::Q5_1 => blocks(bytes, out, q5_1),
        GgmlType::Q8_0 => blocks(bytes, out, q8_0),
        GgmlType::Q4_K => blocks(bytes, out, q4_k),
        GgmlType::Q5_K => blocks(bytes, out, q5_k),
        GgmlType::Q6_K => blocks(bytes, out, q6_k),
    }
}

/// Applies `decode` to each pair of a stored block of `B` bytes and its `N` values.
fn blocks<const B: usize, const N: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; B], &mut [f32; N]),
) {
    let (stored, _) = bytes.as_chunks::<B>();
    let (values, _) = out.as_chunks_mut::<N>();
    for (block, values) in stored.iter().zip(values) {
        decode(block, values);
    }
}

/// The f16 at byte `at` of a block, as f32.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// d f16, 16 bytes of codes: low nibbles are elements 0–15, high nibbles 16–31; x = d·(q − 8).
fn q4_0(block: &[u8; 18], x: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (j, &byte) in block[2..].iter().enumerate() {
        x[j] = d * (f32::from(byte & 15) - 8.0);
        x[j + 16] = d * (f32::from(byte >> 4) - 8.0);
    }
}

/// d f16, m f16, 16 bytes of codes as in `q4_0`; x = d·q + m.
fn q4_1(block: &[u8; 20], x: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (j, &byte) in block[4..].iter().enumerate() {
        x[j] = d * f32::from(byte & 15) + m;
        x[j + 16] = d * f32::from(byte >> 4) + m;
    }
}

/// Codes of five bits: nibbles as in `q4_0`, the fifth bit of element e is bit e of a u32.
fn five_bits(high: &[u8], low: &[u8], x: &mut [f32; 32], value: impl Fn(f32) -> f32) {
    let high = u32::from_le_bytes([high[0], high[1], high[2], high[3]]);
    for (j, &byte) in low.iter().enumerate() {
        let fifth = |element: usize| ((high >> element & 1) << 4) as u8;
        x[j] = value(f32::from(byte & 15 | fifth(j)));
        x[j + 16] = value(f32::from(byte >> 4 | fifth(j + 16)));
    }
}

/// d f16, fifth bits u32, 16 bytes of nibbles; x = d·(q − 16).
fn q5_0(block: &[u8; 22], x: &mut [f32; 32]) {
    let d = half_at(block, 0);
    five_bits(&block[2..6], &block[6..], x, |q| d * (q - 16.0));
}

/// d f16, m f16, fifth bits u32, 16 bytes of nibbles; x = d·q + m.
fn q5_1(block: &[u8; 24], x: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    five_bits(&block[4..8], &block[8..], x, |q| d * q + m);
}

/// d f16, 32 × i8; x = d·q.
fn q8_0(block: &[u8; 34], x: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (x, &byte) in x.iter_mut().zip(&block[2..]) {
        *x = d * f32::from(byte as i8);
    }
}

/// The 6-bit scale and minimum of group `j` (of 8) in the 12 bytes that `q4_k` and `q5_k` share:
/// groups 0–3 in the low 6 bits of bytes j and j + 4; groups 4–7 in the nibbles of byte j + 4, with
/// their upper 2 bits above those of groups 0–3.
fn scale_and_min(scales: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        (scales[j + 4] & 15 | scales[j - 4] >> 6 << 4, scales[j + 4] >> 4 | scales[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// d f16, dmin f16, 12 bytes of scales and minima, 128 bytes of codes: 32 bytes serve two groups of
/// 32, low nibbles first; x = d·scale·q − dmin·min.
fn q4_k(block: &[u8; 144], x: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    for (j, group) in x.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], j);
        let codes = &block[16 + j / 2 * 32..][..32];
        for (x, &byte) in group.iter_mut().zip(codes) {
            let q = byte >> (j % 2 * 4) & 15;
            *x = d * scale * f32::from(q) - dmin * min;
        }
    }
}

/// As `q4_k`, with 32 bytes of fifth bits before the codes: bit j of byte l is element l of group j.
fn q5_k(block: &[u8; 176], x: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let fifth_bits = &block[16..48];
    for (j, group) in x.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&block[4..16], j);
        let codes = &block[48 + j / 2 * 32..][..32];
        for ((x, &byte), &fifth) in group.iter_mut().zip(codes).zip(fifth_bits) {
            let q = byte >> (j % 2 * 4) & 15 | (fifth >> j & 1) << 4;
            *x = d * scale * f32::from(q) - dmin * min;
        }
    }
}

/// 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 × i8 scales, d f16. Each half of 128
/// elements has four runs of 32 (k = 0–3): low nibbles in byte l + 32·(k mod 2), shifted by 4·(k
/// div 2), upper bits in byte l, shifted by 2·k; a scale serves 16 elements; x = d·scale·(q − 32).
fn q6_k(block: &[u8; 210], x: &mut [f32; 256]) {
    let d = half_at(block, 208);
    for (run, values) in x.chunks_exact_mut(32).enumerate() {
        let (half, k) = (run / 4, run % 4);
        let low = &block[64 * half + 32 * (k % 2)..][..32];
        let high = &block[128 + 32 * half..][..32];
        let scales = &block[192 + 2 * run..][..2];
        for (l, x) in values.iter_mut().enumerate() {
            let q = low[l] >> (k / 2 * 4) & 15 | (high[l] >> (2 * k) & 3) << 4;
            *x = d * f32::from(scales[l / 16] as i8) * (f32::from(q) - 32.0);
        }
    }
}
