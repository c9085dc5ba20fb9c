//! What can be wrong with the input of a codec.

/// A reason why a tensor cannot be encoded, or why stored parts do not belong together.
///
/// Messages name positions inside the tensor; the caller knows the tensor's name.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum CodecError {
    /// A weight is NaN or infinite. The reference silently produces codes for it.
    #[error("element {index} is `{value}`, which has no code")]
    NonFinite {
        /// Position in the flattened tensor; the first one if there are several.
        index: usize,
        /// The offending value.
        value: f32,
    },
    /// A weight is finite but rounds to infinity in f16, the dtype in which int8 rows are measured.
    #[error("element {index} is `{value}`, which is out of range for `f16`")]
    ExceedsF16 {
        /// Position in the flattened tensor; the first one if there are several.
        index: usize,
        /// The offending value.
        value: f32,
    },
    /// Not one of 32, 64, 128, …, 4096.
    #[error("block size `{0}` is not a power of two between 32 and 4096")]
    BlockSize(u32),
    /// Neither −1 nor a positive multiple of 8.
    #[error("group size `{0}` is neither -1 (a whole row) nor a multiple of 8")]
    GroupSize(i64),
    /// A slice does not have the length that the shape asks for.
    #[error("`{what}` has {actual} entries instead of {expected}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Entries that the shape asks for.
        expected: usize,
        /// Entries found.
        actual: usize,
    },
}

impl CodecError {
    /// Checks the length of the slice called `what`.
    pub(crate) fn check_len(what: &'static str, expected: usize, actual: usize) -> Result<(), Self> {
        if expected == actual { Ok(()) } else { Err(Self::Length { what, expected, actual }) }
    }
}
