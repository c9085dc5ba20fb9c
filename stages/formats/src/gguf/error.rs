//! Why a GGUF file cannot be used.

use super::ggml_type::{GgmlType, type_name};

/// One typed reason per way a GGUF file can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The first four bytes are not `GGUF`.
    #[error("not a gguf file: starts with {found:02x?} instead of `GGUF`")]
    BadMagic {
        /// The first four bytes.
        found: [u8; 4],
    },
    /// A version, or a byte order, that is not read here.
    #[error("gguf version {version}{} is not supported (supported: little-endian 2 and 3)", if *big_endian { " (a big-endian file?)" } else { "" })]
    UnsupportedVersion {
        /// The version as read little-endian.
        version: u32,
        /// Whether it would be a known version in the other byte order.
        big_endian: bool,
    },
    /// The bytes end before something that the file promised.
    #[error("gguf data ends early: {what} needs {needed} bytes, {available} are there")]
    Truncated {
        /// What is cut off.
        what: String,
        /// The end that would be needed, in bytes from the start of the section.
        needed: u64,
        /// The bytes that the section has.
        available: u64,
    },
    /// A count or length is beyond the reader's limit.
    #[error("gguf claims {count} for {what}, more than the limit of {limit}")]
    TooMany {
        /// What is counted.
        what: String,
        /// The claim.
        count: u64,
        /// The limit.
        limit: u64,
    },
    /// A string is not UTF-8.
    #[error("{what} at byte {offset} is not utf-8")]
    InvalidUtf8 {
        /// Which string.
        what: String,
        /// Where it starts in the file.
        offset: usize,
    },
    /// A metadata value of a type code that the format does not define.
    #[error("metadata `{key}` has unknown value type {code}")]
    UnknownValueType {
        /// The key.
        key: String,
        /// The type code.
        code: u32,
    },
    /// Arrays of arrays beyond the limit.
    #[error("metadata `{key}` nests arrays deeper than {limit}")]
    TooDeep {
        /// The key.
        key: String,
        /// The limit.
        limit: u32,
    },
    /// A bool that is neither 0 nor 1.
    #[error("metadata `{key}` has a bool of value {found}")]
    BadBool {
        /// The key.
        key: String,
        /// The byte found.
        found: u8,
    },
    /// The same key twice.
    #[error("metadata `{key}` is given twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// The same tensor twice.
    #[error("tensor `{tensor}` is given twice")]
    DuplicateTensor {
        /// The tensor's GGUF name.
        tensor: String,
    },
    /// `general.alignment` is not a power of two up to 1 MiB.
    #[error("`general.alignment` is {value}, expected a power of two up to 1048576")]
    BadAlignment {
        /// The value as found.
        value: String,
    },
    /// A number of dimensions outside 1 to 4.
    #[error("tensor `{tensor}` has {dims} dimensions, expected 1 to 4")]
    BadDimensions {
        /// The tensor's GGUF name.
        tensor: String,
        /// The number found.
        dims: u32,
    },
    /// A shape or offset whose size in bytes overflows.
    #[error("size of tensor `{tensor}` overflows")]
    ShapeOverflow {
        /// The tensor's GGUF name.
        tensor: String,
    },
    /// A tensor type that cannot be dequantized here.
    #[error("tensor `{tensor}` has type `{}`, which is not supported (supported: {})", type_name(*code), GgmlType::NAMES)]
    UnsupportedTensorType {
        /// The tensor's GGUF name.
        tensor: String,
        /// The type code.
        code: u32,
    },
    /// A row that is not a whole number of blocks.
    #[error(
        "tensor `{tensor}` has rows of {row} elements, not a multiple of the {block} in a block of `{ggml_type}`"
    )]
    RaggedRow {
        /// The tensor's GGUF name.
        tensor: String,
        /// Elements per row.
        row: usize,
        /// Elements per block.
        block: usize,
        /// The tensor's type.
        ggml_type: GgmlType,
    },
    /// A data offset that is not aligned.
    #[error("tensor `{tensor}` starts at offset {offset}, not a multiple of the alignment {alignment}")]
    MisalignedTensor {
        /// The tensor's GGUF name.
        tensor: String,
        /// The offset in the data section.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// Rows asked for that the tensor does not have.
    #[error("rows {start}..{end} of tensor `{tensor}` were asked for, it has {rows}")]
    RowsOutOfRange {
        /// The tensor's name.
        tensor: String,
        /// First row asked for.
        start: usize,
        /// One past the last row asked for.
        end: usize,
        /// Rows that the tensor has.
        rows: usize,
    },
    /// A key without which the file is of no use.
    #[error("metadata `{key}` is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key holds a value of another type.
    #[error("metadata `{key}` is {found}, expected {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// What the reader needs.
        expected: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A tensor that has no place in a Llama, such as a bias.
    #[error("tensor `{tensor}` has no counterpart in a llama model")]
    UnexpectedTensor {
        /// The tensor's GGUF name.
        tensor: String,
    },
}
