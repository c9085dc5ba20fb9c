//! One typed reason per way a model's files can be wrong.
//!
//! Messages are fragments that read well after "failed to …" and always name the thing: the file or
//! document, the field or tensor, what was found and what would have been accepted.

use std::borrow::Cow;
use std::path::PathBuf;

use crate::dtype::DType;
use crate::gguf::GgufError;
use crate::rows::ParquetError;

/// Why a model file, or a set of them, cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The operating system refused a path.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The path that was opened or listed.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A sink given to [`write_to`](crate::tensors::write_to) failed.
    #[error("cannot write tensors")]
    Write(#[source] std::io::Error),
    /// A checkpoint folder lacks a file that the format needs.
    #[error("`{}` has no {wanted}", dir.display())]
    MissingFile {
        /// The folder.
        dir: PathBuf,
        /// The file or files that would do, each in backticks.
        wanted: String,
    },
    /// A file is larger than any honest file of its kind.
    #[error("`{}` has {bytes} bytes, more than the {limit} a file of its kind may have", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// An index names a shard that is not a plain file name of its own folder.
    #[error("`{index}` names the shard `{shard}`, which is not a plain file name")]
    UnsafeShardName {
        /// The index file.
        index: String,
        /// The name as found.
        shard: String,
    },
    /// A JSON document does not parse.
    #[error("`{document}` is not the JSON expected")]
    Json {
        /// Which document.
        document: String,
        /// The parser's words, with line and column.
        source: serde_json::Error,
    },
    /// A document lacks a field without which the model is undefined.
    #[error("`{document}` has no `{field}`")]
    MissingField {
        /// Which document.
        document: &'static str,
        /// The field or metadata key.
        field: String,
    },
    /// A field's value has the wrong type or lies outside what is possible.
    #[error("`{document}` gives `{field}` as `{value}`, expected {expected}")]
    InvalidField {
        /// Which document.
        document: &'static str,
        /// The field or metadata key.
        field: String,
        /// The value as found.
        value: String,
        /// What would be valid.
        expected: String,
    },
    /// A field asks for something that exists but that this program does not compute.
    #[error("`{document}` asks for `{field}` = `{value}`, which is not supported (supported: {supported})")]
    Unsupported {
        /// Which document.
        document: &'static str,
        /// The field or metadata key.
        field: String,
        /// The value as found.
        value: String,
        /// The values that would work.
        supported: Cow<'static, str>,
    },
    /// A safetensors file ends before something that it promised.
    #[error("safetensors data ends early: {what} needs {needed} bytes, {available} are there")]
    Truncated {
        /// What is cut off: the header, or a tensor by name.
        what: String,
        /// Bytes from the start of the file that would be needed.
        needed: u64,
        /// Bytes that the file has.
        available: u64,
    },
    /// A safetensors file has bytes that no tensor owns.
    #[error("safetensors data has {extra} bytes after the last tensor")]
    TrailingBytes {
        /// How many.
        extra: u64,
    },
    /// The safetensors header's length is beyond the limit.
    #[error("safetensors header claims {claimed} bytes, more than the limit of {limit}")]
    HeaderTooLarge {
        /// The length in the first eight bytes.
        claimed: u64,
        /// The limit.
        limit: u64,
    },
    /// The safetensors header is not valid: JSON, types, shapes or offsets.
    #[error("safetensors header is invalid")]
    Header(#[source] serde_json::Error),
    /// A tensor's element type has no counterpart here.
    #[error("tensor `{tensor}` has element type `{dtype}` (supported: {})", DType::NAMES)]
    UnsupportedDType {
        /// The tensor's name.
        tensor: String,
        /// The type's name as written in the file.
        dtype: String,
    },
    /// A tensor that the model needs is absent.
    #[error("tensor `{tensor}` is missing")]
    MissingTensor {
        /// The tensor's name.
        tensor: String,
    },
    /// A tensor has another shape than the configuration implies.
    #[error("tensor `{tensor}` has shape {found:?}, the configuration implies {expected:?}")]
    WrongShape {
        /// The tensor's name.
        tensor: String,
        /// The shape that the configuration implies.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// Bytes handed over for writing do not fit type and shape.
    #[error("tensor `{tensor}` of {dtype} {shape:?} has {found} bytes")]
    WrongByteCount {
        /// The tensor's name.
        tensor: String,
        /// Its element type.
        dtype: DType,
        /// Its shape.
        shape: Vec<usize>,
        /// The number of bytes given.
        found: usize,
    },
    /// The same name was given twice for writing.
    #[error("tensor `{tensor}` is given twice")]
    DuplicateTensor {
        /// The tensor's name.
        tensor: String,
    },
    /// Values cannot be cast to this type: only floating-point targets have a rounding rule here.
    #[error("cannot cast {from} to {to} (supported targets: `F32`, `F16`, `BF16`, or the same type)")]
    UnsupportedCast {
        /// The stored type.
        from: DType,
        /// The type asked for.
        to: DType,
    },
    /// A finite value is beyond the target type's range and would become infinite.
    #[error("value {value} at element {index} does not fit in {to}")]
    CastOverflow {
        /// Row-major element index.
        index: usize,
        /// The finite value.
        value: f32,
        /// The type asked for.
        to: DType,
    },
    /// A row of a data set cannot be read.
    #[error("`{file}`, {unit} {number}: {reason}")]
    Row {
        /// The file as the caller calls it.
        file: String,
        /// What is counted: `line` or `row`.
        unit: &'static str,
        /// Its number, from 1.
        number: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A parquet file is wrong, or beyond what is read.
    #[error("`{file}`: {source}")]
    Parquet {
        /// The file as the caller calls it.
        file: String,
        /// What is wrong with it.
        source: ParquetError,
    },
    /// A GGUF file is wrong.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A tokenizer is wrong.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Why a tokenizer cannot be built or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file does not parse as a tokenizer.
    #[error("`tokenizer.json` is invalid: {reason}")]
    Invalid {
        /// The tokenizer library's words.
        reason: String,
    },
    /// A part of the tokenizer names something not implemented here.
    #[error("tokenizer asks for `{field}` = `{value}`, which is not supported (supported: {supported})")]
    Unsupported {
        /// The field or metadata key.
        field: &'static str,
        /// The value as found.
        value: String,
        /// The values that would work.
        supported: &'static str,
    },
    /// One text names two token ids.
    #[error("token `{token}` has both id {first} and id {second}")]
    DuplicateToken {
        /// The token's text.
        token: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// Two parallel arrays of the vocabulary have different lengths.
    #[error("`{field}` has {found} entries for {expected} tokens")]
    LengthMismatch {
        /// The metadata key.
        field: &'static str,
        /// Entries found.
        found: usize,
        /// Tokens in the vocabulary.
        expected: usize,
    },
    /// A merge rule does not have two parts, or names a token outside the vocabulary.
    #[error("merge {rank} (`{merge}`) is invalid: {reason}")]
    BadMerge {
        /// The rule's rank, from 0.
        rank: usize,
        /// The rule as written.
        merge: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A special id (bos, eos) is not in the vocabulary.
    #[error("`{field}` is {id}, but the vocabulary has {vocab_size} tokens")]
    SpecialIdOutOfRange {
        /// The metadata key.
        field: &'static str,
        /// The id found.
        id: u32,
        /// The vocabulary's size.
        vocab_size: usize,
    },
    /// An id to decode is not in the vocabulary.
    #[error("token id {id} is not in the vocabulary of {vocab_size} tokens")]
    UnknownId {
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocab_size: usize,
    },
    /// The tokenizer library failed on a text.
    #[error("tokenizer failed: {reason}")]
    Failed {
        /// The library's words.
        reason: String,
    },
}
