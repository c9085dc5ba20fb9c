//! Round to nearest on a uniform grid: integers of 4 or 8 bits with one scale per group of a row's weights.
//!
//! | | scale | zero point |
//! |---|---|---|
//! | symmetric | max &#124;w&#124; · 2 / (2ᵇ − 1) | 2ᵇ⁻¹ |
//! | asymmetric | (max − min) / (2ᵇ − 1), the range including 0 | −min / scale, rounded |
//!
//! code = w / scale, rounded, + zero point, kept within 0..2ᵇ; restored = (code − zero point) · scale. Rounding is half
//! to even. The scale is stored in f16, and it is the stored scale that decides the codes. This is the grid that GPTQ
//! (arXiv 2210.17323) and its relatives round to.
#![expect(clippy::inline_always, reason = "the loops must be compiled for the caller's instruction set")]

use half::f16;
use rayon::prelude::*;

use crate::arith::{INFINITE, first_non_finite, max_magnitude, round_to_even};
use crate::int8::no_code;
use crate::product::{Shape, product};
use crate::rounding::{Rounding, round_slice};
use crate::simd::widest;
use crate::stats::{ErrorStats, Sums};
use crate::{CodecError, Element};

/// Weights of one parallel task, at least; a task has whole rows.
const TASK: usize = 1 << 15;

/// Bits of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RtnBits {
    Four,
    Eight,
}

impl RtnBits {
    /// The number of bits, if there is a format of it.
    pub const fn of(bits: u32) -> Option<Self> {
        match bits {
            4 => Some(Self::Four),
            8 => Some(Self::Eight),
            _ => None,
        }
    }

    pub const fn get(self) -> usize {
        match self {
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// The largest code, 2ᵇ − 1.
    const fn largest(self) -> f32 {
        match self {
            Self::Four => 15.0,
            Self::Eight => 255.0,
        }
    }

    /// The zero point of symmetric codes, 2ᵇ⁻¹.
    const fn middle(self) -> f32 {
        match self {
            Self::Four => 8.0,
            Self::Eight => 128.0,
        }
    }

    /// Bytes that `n` codes fill.
    const fn bytes(self, n: usize) -> usize {
        match self {
            Self::Four => n.div_ceil(2),
            Self::Eight => n,
        }
    }
}

/// Weights of a row that share a scale. The last group of a row may be short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupSize {
    /// The whole row, −1 in manifests and checkpoints.
    Row,
    /// A multiple of 8, so that a group begins at a whole byte of codes.
    Of(u32),
}

impl TryFrom<i64> for GroupSize {
    type Error = CodecError;

    fn try_from(size: i64) -> Result<Self, CodecError> {
        match u32::try_from(size) {
            Ok(weights) if weights > 0 && weights.is_multiple_of(8) => Ok(Self::Of(weights)),
            Err(_) if size == -1 => Ok(Self::Row),
            _ => Err(CodecError::GroupSize(size)),
        }
    }
}

/// Whether zero is always the middle of the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Symmetry {
    Symmetric,
    Asymmetric,
}

/// What decides the bytes of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RtnFormat {
    pub bits: RtnBits,
    pub group: GroupSize,
    pub symmetry: Symmetry,
}

impl RtnFormat {
    /// Weights of a whole group in rows of `columns`.
    fn group_len(self, columns: usize) -> usize {
        match self.group {
            GroupSize::Row => columns.max(1),
            GroupSize::Of(weights) => weights as usize,
        }
    }

    /// Groups of a row.
    pub fn groups(self, columns: usize) -> usize {
        columns.div_ceil(self.group_len(columns))
    }

    /// Bytes of a row's codes.
    pub fn code_bytes(self, columns: usize) -> usize {
        self.bits.bytes(columns)
    }

    /// Bytes of a row's zero points; none are stored of symmetric codes.
    pub fn zero_bytes(self, columns: usize) -> usize {
        match self.symmetry {
            Symmetry::Symmetric => 0,
            Symmetry::Asymmetric => self.bits.bytes(self.groups(columns)),
        }
    }
}

/// A matrix `[rows, columns]` as integer codes. Two codes of 4 bits share a byte, the first in its low nibble: as
/// little-endian words of 32 bits that is the order of compressed-tensors' `weight_packed`.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedRtn {
    /// `[rows, code bytes]`.
    pub codes: Vec<u8>,
    /// `[rows, groups]`.
    pub scales: Vec<f16>,
    /// `[rows, zero bytes]`, packed like codes.
    pub zeros: Vec<u8>,
}

/// Encodes weights `[rows, columns]` and measures what is lost. A group whose scale is 0 in f16 restores to zeros.
///
/// # Errors
/// [`CodecError::Length`]; [`CodecError::NonFinite`] with the first NaN or infinity; [`CodecError::ExceedsF16`] with
/// the largest weight of a group whose scale is beyond f16.
pub fn quantize_rtn<T: Element>(
    w: &[T],
    rows: usize,
    columns: usize,
    format: RtnFormat,
) -> Result<(QuantizedRtn, ErrorStats), CodecError> {
    CodecError::check_len("w", rows.saturating_mul(columns), w.len())?;
    let (code_bytes, zero_bytes) = (format.code_bytes(columns), format.zero_bytes(columns));
    let mut quantized = QuantizedRtn {
        codes: vec![0; rows * code_bytes],
        scales: vec![f16::ZERO; rows * format.groups(columns)],
        zeros: vec![0; rows * zero_bytes],
    };
    let per_task = TASK.div_ceil(columns.max(1));
    let chunk = |len: usize| (per_task * len).max(1);
    let mut zeros: Vec<&mut [u8]> = quantized.zeros.chunks_mut(chunk(zero_bytes)).collect();
    zeros.resize_with(rows.div_ceil(per_task), Default::default);
    let tasks = w
        .par_chunks(chunk(columns))
        .zip(quantized.codes.par_chunks_mut(chunk(code_bytes)))
        .zip(quantized.scales.par_chunks_mut(chunk(format.groups(columns))))
        .zip(zeros);
    let parts: Vec<Result<Sums, usize>> = tasks
        .enumerate()
        .map(|(task, (((w, codes), scales), zeros))| {
            let encoded = widest(|| Rows { columns, format }.encode(w, codes, scales, zeros));
            encoded.map_err(|at| task * per_task * columns + at)
        })
        .collect();
    match parts.into_iter().collect::<Result<Vec<Sums>, usize>>() {
        Ok(sums) => Ok((quantized, Sums::total(&sums).stats(w.len()))),
        Err(index) => Err(no_code(T::value(w, index), index)),
    }
}

/// Whole rows of one task.
struct Rows {
    columns: usize,
    format: RtnFormat,
}

impl Rows {
    /// The error is the position of the first weight that cannot be encoded.
    #[inline(always)]
    fn encode<T: Element>(
        &self,
        w: &[T],
        codes: &mut [u8],
        scales: &mut [f16],
        zeros: &mut [u8],
    ) -> Result<Sums, usize> {
        let Self { columns, format } = *self;
        let (groups, zero_bytes) = (format.groups(columns), format.zero_bytes(columns));
        let (mut wide, mut restored) = (vec![0.0; columns], vec![0.0; columns]);
        let (mut row_codes, mut row_zeros) = (vec![0; columns], vec![0; groups]);
        let mut sums = Sums::default();
        let rows = w.chunks(columns).zip(codes.chunks_mut(format.code_bytes(columns)));
        for (i, ((w, codes), scales)) in rows.zip(scales.chunks_mut(groups)).enumerate() {
            T::widen(w, &mut wide);
            if max_magnitude(&wide) >= INFINITE {
                return Err(i * columns + first_non_finite(&wide).unwrap_or(0));
            }
            let len = format.group_len(columns);
            let parts = wide.chunks(len).zip(row_codes.chunks_mut(len)).zip(restored.chunks_mut(len));
            for (g, ((wide, codes), restored)) in parts.enumerate() {
                let grid = Grid::of(wide, format).ok_or_else(|| i * columns + g * len + largest_at(wide))?;
                (scales[g], row_zeros[g]) = (grid.scale, grid.zero as u8);
                grid.encode(wide, codes, restored);
            }
            sums.add(&wide, &restored);
            pack(format.bits, &row_codes, codes);
            if zero_bytes > 0 {
                pack(format.bits, &row_zeros, &mut zeros[i * zero_bytes..(i + 1) * zero_bytes]);
            }
        }
        Ok(sums)
    }
}

/// The values that a group can have.
#[derive(Clone, Copy)]
struct Grid {
    scale: f16,
    zero: f32,
    largest: f32,
}

impl Grid {
    /// The grid of a group of finite weights; `None` if its scale is beyond f16.
    #[inline(always)]
    fn of(w: &[f32], format: RtnFormat) -> Option<Self> {
        let largest = format.bits.largest();
        let (min, max) = w.iter().fold((0f32, 0f32), |(min, max), &v| (min.min(v), max.max(v)));
        let range = match format.symmetry {
            Symmetry::Symmetric => max.max(-min) * 2.0,
            Symmetry::Asymmetric => max - min,
        };
        let scale = f16::from_f32(range / largest);
        let zero = match format.symmetry {
            Symmetry::Asymmetric if scale != f16::ZERO => {
                round_to_even(-min / scale.to_f32()).clamp(0.0, largest)
            }
            Symmetry::Asymmetric => 0.0,
            Symmetry::Symmetric => format.bits.middle(),
        };
        scale.is_finite().then_some(Self { scale, zero, largest })
    }

    #[inline(always)]
    fn encode(self, w: &[f32], codes: &mut [u8], restored: &mut [f32]) {
        let Self { scale, zero, largest } = self;
        if scale == f16::ZERO {
            codes.fill(zero as u8);
            restored.fill(0.0);
            return;
        }
        let scale = scale.to_f32();
        for ((code, restored), w) in codes.iter_mut().zip(restored).zip(w) {
            let q = (round_to_even(w / scale) + zero).clamp(0.0, largest);
            *code = q as i32 as u8;
            *restored = (q - zero) * scale;
        }
    }
}

/// The position of the largest magnitude.
fn largest_at(w: &[f32]) -> usize {
    let largest = w.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()));
    largest.map_or(0, |(at, _)| at)
}

/// Packs one row's codes.
#[inline(always)]
fn pack(bits: RtnBits, codes: &[u8], out: &mut [u8]) {
    match bits {
        RtnBits::Eight => out.copy_from_slice(codes),
        RtnBits::Four => {
            let (pairs, last) = codes.as_chunks::<2>();
            for (byte, [low, high]) in out.iter_mut().zip(pairs) {
                *byte = high << 4 | low;
            }
            if let ([code], Some(byte)) = (last, out.last_mut()) {
                *byte = *code;
            }
        }
    }
}

/// A borrowed view of a stored matrix whose parts are known to fit together; scales widened.
#[derive(Debug, Clone, Copy)]
pub struct PackedRtn<'a> {
    format: RtnFormat,
    rows: usize,
    columns: usize,
    codes: &'a [u8],
    scales: &'a [f32],
    zeros: &'a [u8],
}

impl<'a> PackedRtn<'a> {
    /// Checks that the parts have the lengths that the shape asks for.
    pub fn new(
        format: RtnFormat,
        [rows, columns]: [usize; 2],
        codes: &'a [u8],
        scales: &'a [f32],
        zeros: &'a [u8],
    ) -> Result<Self, CodecError> {
        CodecError::check_len("codes", rows.saturating_mul(format.code_bytes(columns)), codes.len())?;
        CodecError::check_len("scales", rows.saturating_mul(format.groups(columns)), scales.len())?;
        CodecError::check_len("zeros", rows.saturating_mul(format.zero_bytes(columns)), zeros.len())?;
        Ok(Self { format, rows, columns, codes, scales, zeros })
    }

    /// Restores all weights in f32: (code − zero point) · scale.
    pub fn dequantize(&self, out: &mut [f32]) -> Result<(), CodecError> {
        CodecError::check_len("out", self.rows * self.columns, out.len())?;
        let rows_per_task = TASK.div_ceil(self.columns.max(1));
        let chunk = (rows_per_task * self.columns).max(1);
        out.par_chunks_mut(chunk).enumerate().for_each(|(task, out)| {
            for (i, out) in out.chunks_mut(self.columns).enumerate() {
                self.restore(task * rows_per_task + i, 0, out);
            }
        });
        Ok(())
    }

    /// `y[m, rows] = x[m, columns] · Wᵀ`; a weight is restored, then rounded to `round`.
    ///
    /// # Panics
    /// If a slice does not have the length that the shape asks for.
    pub fn matmul(&self, x: &[f32], m: usize, round: Rounding, y: &mut [f32]) {
        product(Shape { out: self.rows, k: self.columns, m }, x, y, |row, column, strip| {
            self.restore(row, column, strip);
            round_slice(strip, round);
        });
    }

    /// Restores a part of a row, from an even column on.
    fn restore(&self, row: usize, column: usize, out: &mut [f32]) {
        widest(|| {
            let len = self.format.group_len(self.columns);
            let (mut at, mut rest) = (column, out);
            while !rest.is_empty() {
                let group = at / len;
                let (now, later) = rest.split_at_mut(((group + 1) * len - at).min(rest.len()));
                self.restore_in_group(row, group, at, now);
                at += now.len();
                rest = later;
            }
        });
    }

    #[inline(always)]
    fn restore_in_group(&self, row: usize, group: usize, column: usize, out: &mut [f32]) {
        let scale = self.scales[row * self.format.groups(self.columns) + group];
        let zero = self.zero(row, group);
        let codes = &self.codes[row * self.format.code_bytes(self.columns)..];
        match self.format.bits {
            RtnBits::Eight => {
                for (o, code) in out.iter_mut().zip(&codes[column..]) {
                    *o = (f32::from(*code) - zero) * scale;
                }
            }
            RtnBits::Four => {
                let bytes = &codes[column / 2..];
                let (pairs, last) = out.as_chunks_mut::<2>();
                for (o, byte) in pairs.iter_mut().zip(bytes) {
                    *o = [byte & 15, byte >> 4].map(|code| (f32::from(code) - zero) * scale);
                }
                if let [last] = last {
                    *last = (f32::from(bytes[pairs.len()] & 15) - zero) * scale;
                }
            }
        }
    }

    #[inline(always)]
    fn zero(&self, row: usize, group: usize) -> f32 {
        let zeros = || &self.zeros[row * self.format.zero_bytes(self.columns)..];
        match (self.format.symmetry, self.format.bits) {
            (Symmetry::Symmetric, bits) => bits.middle(),
            (Symmetry::Asymmetric, RtnBits::Eight) => f32::from(zeros()[group]),
            (Symmetry::Asymmetric, RtnBits::Four) => f32::from(zeros()[group / 2] >> (group % 2 * 4) & 15),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(bits: u32, group: i64, symmetry: Symmetry) -> RtnFormat {
        let (bits, group) = (RtnBits::of(bits).unwrap(), GroupSize::try_from(group).unwrap());
        RtnFormat { bits, group, symmetry }
    }

    #[test]
    fn group_sizes() {
        assert_eq!(GroupSize::try_from(-1), Ok(GroupSize::Row));
        assert_eq!(GroupSize::try_from(64), Ok(GroupSize::Of(64)));
        for size in [0, -2, 12, i64::MAX] {
            assert_eq!(GroupSize::try_from(size), Err(CodecError::GroupSize(size)));
        }
    }

    #[test]
    fn a_short_last_group_has_a_scale_of_its_own() {
        let w: Vec<f32> = (0..20).map(|i| if i < 16 { 1.0 } else { 0.001 }).collect();
        let (q, stats) = quantize_rtn(&w, 1, 20, format(4, 16, Symmetry::Symmetric)).unwrap();
        assert_eq!((q.codes.len(), q.scales.len(), q.zeros.len()), (10, 2, 0));
        assert!(q.scales[1] < f16::from_f32(0.001), "{:?}", q.scales);
        assert!(stats.snr_db > 20.0, "{stats:?}");
    }

    #[test]
    fn zeros_and_empty_matrices() {
        for symmetry in [Symmetry::Symmetric, Symmetry::Asymmetric] {
            let (q, stats) = quantize_rtn(&[0f32; 48], 3, 16, format(4, -1, symmetry)).unwrap();
            assert_eq!((stats.max_abs.to_bits(), q.scales), (0, vec![f16::ZERO; 3]));
            for (rows, columns) in [(0, 5), (5, 0), (0, 0)] {
                let format = format(8, 8, symmetry);
                let (q, _) = quantize_rtn::<f32>(&[], rows, columns, format).unwrap();
                assert_eq!((q.codes.len(), q.scales.len()), (0, 0));
                PackedRtn::new(format, [rows, columns], &[], &[], &[]).unwrap().dequantize(&mut []).unwrap();
            }
        }
    }

    #[test]
    fn what_has_no_code_is_named() {
        let mut w = vec![0.5f32; 4096];
        w[4000] = 1e9;
        let symmetric = format(4, 64, Symmetry::Symmetric);
        let error = quantize_rtn(&w, 4, 1024, symmetric).unwrap_err();
        assert_eq!(error, CodecError::ExceedsF16 { index: 4000, value: 1e9 });
        w[77] = f32::INFINITY;
        let error = quantize_rtn(&w, 4, 1024, symmetric).unwrap_err();
        assert_eq!(error, CodecError::NonFinite { index: 77, value: f32::INFINITY });
    }
}
