//! safetensors files: reading in place, writing deterministically.
//!
//! A safetensors file is an 8-byte header length, a JSON header, and the tensors' bytes without gaps.
//! [`TensorFile`] owns whatever holds the bytes (a `Vec`, a memory map) and hands out borrowed views;
//! the header is parsed once, by the `safetensors` crate, after its length is checked. Writing sorts
//! tensors by element size (so that every tensor is aligned to its elements) and then by name, and
//! metadata by key: equal contents are equal bytes, which is what content digests need.

mod write;

use std::collections::BTreeMap;

use safetensors::tensor::Metadata;

use crate::config::LlamaConfig;
use crate::dtype::DType;
use crate::error::FormatError;

pub use write::{write, write_to};

/// Largest accepted header, the limit of the `safetensors` crate itself.
const MAX_HEADER: u64 = 100_000_000;
/// Bytes of the header's length.
const LENGTH: usize = 8;

/// One tensor of a file: borrowed, dense, row-major, little-endian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorView<'a> {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first; `[out, in]` for a linear weight.
    pub shape: Vec<usize>,
    /// Exactly the tensor's bytes. Not necessarily aligned to the element size.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }
}

#[derive(Debug, Clone)]
struct Entry {
    dtype: DType,
    shape: Vec<usize>,
    start: usize,
    end: usize,
}

/// A parsed safetensors file over its bytes.
#[derive(Debug, Clone)]
pub struct TensorFile<B> {
    bytes: B,
    entries: BTreeMap<String, Entry>,
    metadata: BTreeMap<String, String>,
}

impl<B: AsRef<[u8]>> TensorFile<B> {
    /// Parses the header and checks that every byte of every tensor is there.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] names the first tensor that is cut off;
    /// [`FormatError::HeaderTooLarge`], [`FormatError::Header`], [`FormatError::TrailingBytes`] and
    /// [`FormatError::UnsupportedDType`] say what else is wrong.
    pub fn parse(bytes: B) -> Result<Self, FormatError> {
        let all = bytes.as_ref();
        let header = header_bytes(all)?;
        let data_start = LENGTH + header.len();
        let parsed: Metadata = serde_json::from_slice(header).map_err(FormatError::Header)?;
        check_extent(&parsed, data_start, all.len())?;
        let entries = entries(&parsed, data_start)?;
        let metadata = parsed.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(Self { bytes, entries, metadata })
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`].
    pub fn get(&self, name: &str) -> Result<TensorView<'_>, FormatError> {
        let missing = || FormatError::MissingTensor { tensor: name.to_owned() };
        self.entries.get(name).map(|entry| self.view(entry)).ok_or_else(missing)
    }

    /// Where the tensor's bytes begin in the file.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`].
    pub fn offset(&self, name: &str) -> Result<usize, FormatError> {
        let missing = || FormatError::MissingTensor { tensor: name.to_owned() };
        self.entries.get(name).map(|entry| entry.start).ok_or_else(missing)
    }

    /// Whether there is a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// All names, sorted.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = (&str, TensorView<'_>)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), self.view(entry)))
    }

    /// The header's free-form metadata (`__metadata__`).
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Whatever owns the bytes.
    pub fn owner(&self) -> &B {
        &self.bytes
    }

    /// Whatever owns the bytes, back.
    pub fn into_inner(self) -> B {
        self.bytes
    }

    fn view(&self, entry: &Entry) -> TensorView<'_> {
        // within bounds since `check_extent`, as long as the owner gives the same bytes again; one
        // that does not gives an empty view rather than a panic
        let bytes = self.bytes.as_ref().get(entry.start..entry.end).unwrap_or_default();
        TensorView { dtype: entry.dtype, shape: entry.shape.clone(), bytes }
    }
}

/// Checks that `files` (the shards of one checkpoint) hold every tensor that `config` implies, in its
/// shape and as floating-point values. Further tensors are left alone: old checkpoints carry buffers.
///
/// # Errors
/// [`FormatError::MissingTensor`], [`FormatError::WrongShape`] or [`FormatError::UnsupportedDType`]
/// of the first tensor that fails.
pub fn check_expected<B: AsRef<[u8]>>(
    files: &[TensorFile<B>],
    config: &LlamaConfig,
) -> Result<(), FormatError> {
    for (tensor, expected) in config.expected_tensors() {
        let Some(entry) = files.iter().find_map(|file| file.entries.get(&tensor)) else {
            return Err(FormatError::MissingTensor { tensor });
        };
        if entry.shape != expected {
            return Err(FormatError::WrongShape { tensor, expected, found: entry.shape.clone() });
        }
        if !entry.dtype.is_float() {
            return Err(FormatError::UnsupportedDType { tensor, dtype: entry.dtype.name().to_owned() });
        }
    }
    Ok(())
}

fn header_bytes(all: &[u8]) -> Result<&[u8], FormatError> {
    let truncated = |what: &str, needed: u64| FormatError::Truncated {
        what: what.to_owned(),
        needed,
        available: all.len() as u64,
    };
    let Some((length, rest)) = all.split_first_chunk::<LENGTH>() else {
        return Err(truncated("the header's length", LENGTH as u64));
    };
    let claimed = u64::from_le_bytes(*length);
    if claimed > MAX_HEADER {
        return Err(FormatError::HeaderTooLarge { claimed, limit: MAX_HEADER });
    }
    // fits in usize, being at most MAX_HEADER
    rest.get(..claimed as usize).ok_or_else(|| truncated("the header", LENGTH as u64 + claimed))
}

/// The `safetensors` crate has checked that tensors follow each other without gaps from 0; here, that
/// they end where the file does.
fn check_extent(parsed: &Metadata, data_start: usize, file_len: usize) -> Result<(), FormatError> {
    let available = file_len - data_start;
    if parsed.data_len() < available {
        return Err(FormatError::TrailingBytes { extra: (available - parsed.data_len()) as u64 });
    }
    for name in parsed.offset_keys() {
        let end = parsed.info(&name).map_or(0, |info| info.data_offsets.1);
        if end > available {
            return Err(FormatError::Truncated {
                what: format!("tensor `{name}`"),
                needed: (data_start as u64).saturating_add(end as u64),
                available: file_len as u64,
            });
        }
    }
    Ok(())
}

fn entries(parsed: &Metadata, data_start: usize) -> Result<BTreeMap<String, Entry>, FormatError> {
    let mut entries = BTreeMap::new();
    for (name, info) in parsed.tensors() {
        let dtype = format!("{:?}", info.dtype);
        let Some(dtype) = DType::from_name(&dtype) else {
            return Err(FormatError::UnsupportedDType { tensor: name, dtype });
        };
        let (start, end) = info.data_offsets;
        let entry =
            Entry { dtype, shape: info.shape.clone(), start: data_start + start, end: data_start + end };
        entries.insert(name, entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests;
