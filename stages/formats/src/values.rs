//! Stored values as f32 or as another floating-point type.
//!
//! Widening is exact. Narrowing rounds to nearest, ties to even, as PyTorch does; a finite value
//! that would become infinite is an error instead, since a checkpoint with a silent infinity in it
//! computes NaN much later and far away.

use half::{bf16, f16};
use rayon::prelude::*;

use crate::dtype::DType;
use crate::error::FormatError;
use crate::tensors::TensorView;

/// Elements per parallel task; smaller tensors are converted on the calling thread.
const CHUNK: usize = 1 << 16;

/// All values as f32, row-major. Exact for F32, F16, BF16 and integers up to 2²⁴; rounded to nearest
/// otherwise. BOOL gives 0 and 1.
pub fn to_f32(view: &TensorView<'_>) -> Vec<f32> {
    let b = view.bytes;
    match view.dtype {
        DType::F64 => map(b, |x| f64::from_le_bytes(x) as f32),
        DType::F32 => map(b, f32::from_le_bytes),
        DType::F16 => map(b, |x| f16::from_le_bytes(x).to_f32()),
        DType::BF16 => map(b, |x| bf16::from_le_bytes(x).to_f32()),
        DType::I64 => map(b, |x| i64::from_le_bytes(x) as f32),
        DType::I32 => map(b, |x| i32::from_le_bytes(x) as f32),
        DType::I16 => map(b, |x| i16::from_le_bytes(x).into()),
        DType::I8 => map(b, |x| i8::from_le_bytes(x).into()),
        DType::U64 => map(b, |x| u64::from_le_bytes(x) as f32),
        DType::U32 => map(b, |x| u32::from_le_bytes(x) as f32),
        DType::U16 => map(b, |x| u16::from_le_bytes(x).into()),
        DType::U8 => map(b, |x| u8::from_le_bytes(x).into()),
        DType::Bool => map(b, |[x]| if x == 0 { 0.0 } else { 1.0 }),
    }
}

/// The values' bytes in another floating-point type. The same type gives the bytes unchanged, whatever
/// it is. F64 goes through f32.
///
/// # Errors
/// [`FormatError::UnsupportedCast`] if the target is neither F32, F16, BF16 nor the stored type;
/// [`FormatError::CastOverflow`] if a finite value is out of range.
pub fn cast(view: &TensorView<'_>, to: DType) -> Result<Vec<u8>, FormatError> {
    match (view.dtype, to) {
        (from, to) if from == to => Ok(view.bytes.to_vec()),
        (_, DType::F32 | DType::F16 | DType::BF16) => from_f32(&to_f32(view), to),
        (from, to) => Err(FormatError::UnsupportedCast { from, to }),
    }
}

/// The bytes of f32 values stored as `to`: F32, F16 or BF16, rounded to nearest even.
///
/// # Errors
/// As [`cast`].
pub fn from_f32(values: &[f32], to: DType) -> Result<Vec<u8>, FormatError> {
    match to {
        DType::F32 => Ok(unmap(values, f32::to_le_bytes)),
        DType::F16 => {
            check_range(values, to, |x| f16::from_f32(x).is_finite())?;
            Ok(unmap(values, |x| f16::from_f32(x).to_le_bytes()))
        }
        DType::BF16 => {
            check_range(values, to, |x| bf16::from_f32(x).is_finite())?;
            Ok(unmap(values, |x| bf16::from_f32(x).to_le_bytes()))
        }
        _ => Err(FormatError::UnsupportedCast { from: DType::F32, to }),
    }
}

/// Decodes elements of `N` bytes.
fn map<const N: usize>(bytes: &[u8], decode: impl Fn([u8; N]) -> f32 + Sync) -> Vec<f32> {
    let (elements, _) = bytes.as_chunks::<N>();
    let mut values = vec![0.0; elements.len()];
    values.par_chunks_mut(CHUNK).zip(elements.par_chunks(CHUNK)).for_each(|(values, elements)| {
        for (value, &element) in values.iter_mut().zip(elements) {
            *value = decode(element);
        }
    });
    values
}

/// Encodes values as elements of `N` bytes.
fn unmap<const N: usize>(values: &[f32], encode: impl Fn(f32) -> [u8; N] + Sync) -> Vec<u8> {
    let mut bytes = vec![0; values.len() * N];
    bytes.par_chunks_mut(CHUNK * N).zip(values.par_chunks(CHUNK)).for_each(|(bytes, values)| {
        let (elements, _) = bytes.as_chunks_mut::<N>();
        for (element, &value) in elements.iter_mut().zip(values) {
            *element = encode(value);
        }
    });
    bytes
}

fn check_range(values: &[f32], to: DType, fits: impl Fn(f32) -> bool + Sync) -> Result<(), FormatError> {
    let overflow = values.par_iter().position_first(|&value| value.is_finite() && !fits(value));
    match overflow {
        Some(index) => Err(FormatError::CastOverflow { index, value: values[index], to }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f32_view(bytes: &[u8]) -> TensorView<'_> {
        TensorView { dtype: DType::F32, shape: vec![bytes.len() / 4], bytes }
    }

    fn bytes_of(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn narrowing_rounds_ties_to_even() {
        // one ulp of bf16 at 1.0 is 2⁻⁷, of f16 2⁻¹⁰; half of it is a tie
        for (to, half_ulp) in [(DType::BF16, 2f32.powi(-8)), (DType::F16, 2f32.powi(-11))] {
            let stored = bytes_of(&[1.0 + half_ulp, 1.0 + 3.0 * half_ulp, -1.0 - 1.001 * half_ulp]);
            let narrow = cast(&f32_view(&stored), to).unwrap();
            let back = to_f32(&TensorView { dtype: to, shape: vec![3], bytes: &narrow });
            assert_eq!(back, [1.0, 1.0 + 4.0 * half_ulp, -1.0 - 2.0 * half_ulp]);
        }
    }

    #[test]
    fn overflow_is_an_error_and_infinity_is_kept() {
        let stored = bytes_of(&[f32::INFINITY, 65504.0, 65520.0]);
        let error = cast(&f32_view(&stored), DType::F16).unwrap_err();
        assert!(matches!(error, FormatError::CastOverflow { index: 2, .. }), "{error}");
        let narrow = cast(&f32_view(&stored[..8]), DType::F16).unwrap();
        assert_eq!(narrow, [0x00, 0x7c, 0xff, 0x7b]);
    }

    #[test]
    fn integers_widen_and_never_narrow() {
        let view = TensorView { dtype: DType::I8, shape: vec![3], bytes: &[0, 127, 0x80] };
        assert_eq!(to_f32(&view), [0.0, 127.0, -128.0]);
        assert!(matches!(cast(&view, DType::U8), Err(FormatError::UnsupportedCast { .. })));
        assert_eq!(cast(&view, DType::I8).unwrap(), [0, 127, 0x80]);
    }

    #[test]
    fn long_tensors_keep_their_order_across_tasks() {
        let values: Vec<f32> = (0..3 * CHUNK + 7).map(|i| i as f32).collect();
        let stored = bytes_of(&values);
        assert_eq!(to_f32(&f32_view(&stored)), values);
        assert_eq!(from_f32(&values, DType::F32).unwrap(), stored);
    }
}
