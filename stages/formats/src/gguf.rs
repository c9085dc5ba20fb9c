//! GGUF, versions 2 and 3, little-endian: a bounded reader over borrowed bytes.
//!
//! A GGUF file is a header of counts, a list of typed metadata, a list of tensor descriptions and
//! one aligned block of tensor data. Each count and length in it is a number that an attacker or a
//! broken disk may have chosen, so three rules hold throughout:
//!
//! * nothing is allocated in proportion to a *claimed* count, only to bytes that are really there;
//! * every offset is checked against the file before a slice is taken, with overflow checked;
//! * nesting is limited, so that recursion is.
//!
//! | limit | value |
//! |---|---|
//! | metadata entries | 65,536 |
//! | tensors | 65,536 |
//! | string | 64 MiB |
//! | key or tensor name | 65,535 bytes |
//! | array elements | 2²⁶ |
//! | array nesting | 4 |
//! | dimensions | 4 |
//!
//! Tensor shapes are given in Hugging Face order (`[out, in]`), the reverse of the file's `ne`.
//! What a tensor is *called* and how its rows are ordered in other programs is in [`llama`].

mod blocks;
mod error;
mod ggml_type;
pub mod llama;
mod metadata;
mod reader;
mod tensor;
pub mod tokenizer;

use std::collections::BTreeMap;

pub use error::GgufError;
pub use ggml_type::GgmlType;
pub use llama::{LlamaWeights, Weight};
pub use metadata::{Array, Value};
pub use tensor::GgufTensor;

use reader::Reader;

const MAGIC: [u8; 4] = *b"GGUF";
const MAX_METADATA: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 16;
const MAX_NAME: u64 = (1 << 16) - 1;
const MAX_DIMS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

/// A parsed GGUF file. Strings and tensor data borrow from the bytes given to [`Gguf::parse`].
#[derive(Debug, Clone)]
pub struct Gguf<'a> {
    version: u32,
    metadata: BTreeMap<&'a str, Value<'a>>,
    tensors: BTreeMap<&'a str, GgufTensor<'a>>,
}

impl<'a> Gguf<'a> {
    /// Parses the whole description and checks that every tensor's bytes are there. No tensor data
    /// is read.
    ///
    /// # Errors
    /// [`GgufError`] names the key or tensor and what is wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GgufError> {
        let mut reader = Reader::new(bytes);
        let version = read_preamble(&mut reader)?;
        let tensor_count = reader.count("tensors", MAX_TENSORS)?;
        let metadata_count = reader.count("metadata entries", MAX_METADATA)?;
        let metadata = read_metadata(&mut reader, metadata_count)?;
        let descriptions = read_descriptions(&mut reader, tensor_count)?;
        let data = data_section(&reader, bytes, alignment(&metadata)?, descriptions.is_empty())?;
        let tensors = place_tensors(descriptions, data, alignment(&metadata)?)?;
        Ok(Self { version, metadata, tensors })
    }

    /// The container's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// All metadata, by key.
    pub fn metadata(&self) -> &BTreeMap<&'a str, Value<'a>> {
        &self.metadata
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &GgufTensor<'a>> {
        self.tensors.values()
    }

    /// The tensor of this GGUF name (`blk.0.attn_q.weight`).
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor<'a>> {
        self.tensors.get(name)
    }

    /// A text value; `None` if the key is absent.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds something else.
    pub fn str(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::String(text) => Some(*text),
            _ => None,
        })
    }

    /// A text value that must be there.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`] or [`GgufError::WrongType`].
    pub fn require_str(&self, key: &str) -> Result<&'a str, GgufError> {
        self.str(key)?.ok_or_else(|| GgufError::MissingKey { key: key.to_owned() })
    }

    /// A non-negative integer of any width; `None` if the key is absent.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds something else.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a whole number", Value::as_u64)
    }

    /// A non-negative integer below 2³²; `None` if the key is absent.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds something else.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "a whole number below 2^32", |value| value.as_u64().and_then(|n| n.try_into().ok()))
    }

    /// A single-precision number; `None` if the key is absent.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds something else.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "an f32", |value| match value {
            Value::F32(number) => Some(*number),
            _ => None,
        })
    }

    /// A truth value; `None` if the key is absent.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds something else.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a bool", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// An array of strings; `None` if the key is absent.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds something else.
    pub fn strings(&self, key: &str) -> Result<Option<&[&'a str]>, GgufError> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::String(strings)) => Some(strings.as_slice()),
            _ => None,
        })
    }

    /// An array of i32; `None` if the key is absent.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds something else.
    pub fn i32s(&self, key: &str) -> Result<Option<&[i32]>, GgufError> {
        self.typed(key, "an array of i32", |value| match value {
            Value::Array(Array::I32(numbers)) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// An array of f32; `None` if the key is absent.
    ///
    /// # Errors
    /// [`GgufError::WrongType`] if the key holds something else.
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, GgufError> {
        self.typed(key, "an array of f32", |value| match value {
            Value::Array(Array::F32(numbers)) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    fn typed<'s, T>(
        &'s self,
        key: &str,
        expected: &'static str,
        pick: impl FnOnce(&'s Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        let wrong = || GgufError::WrongType { key: key.to_owned(), expected, found: value.kind() };
        pick(value).map(Some).ok_or_else(wrong)
    }
}

/// A tensor as described, its place in the data section not yet checked.
struct Description<'a> {
    name: &'a str,
    shape: Vec<usize>,
    ggml_type: GgmlType,
    offset: u64,
}

fn read_preamble(reader: &mut Reader<'_>) -> Result<u32, GgufError> {
    let magic = reader.array("magic")?;
    if magic != MAGIC {
        return Err(GgufError::BadMagic { found: magic });
    }
    let version = reader.u32("version")?;
    match version {
        2 | 3 => Ok(version),
        _ => Err(GgufError::UnsupportedVersion { version, big_endian: version.swap_bytes() <= 3 }),
    }
}

fn read_metadata<'a>(reader: &mut Reader<'a>, count: u64) -> Result<BTreeMap<&'a str, Value<'a>>, GgufError> {
    let mut metadata = BTreeMap::new();
    for _ in 0..count {
        let key = reader.string("metadata key", MAX_NAME)?;
        let value = metadata::read_value(reader, key)?;
        if metadata.insert(key, value).is_some() {
            return Err(GgufError::DuplicateKey { key: key.to_owned() });
        }
    }
    Ok(metadata)
}

fn read_descriptions<'a>(reader: &mut Reader<'a>, count: u64) -> Result<Vec<Description<'a>>, GgufError> {
    // no capacity from the claimed count: the vector grows with the bytes that are really read
    let mut descriptions = Vec::new();
    for _ in 0..count {
        descriptions.push(read_description(reader)?);
    }
    Ok(descriptions)
}

fn read_description<'a>(reader: &mut Reader<'a>) -> Result<Description<'a>, GgufError> {
    let name = reader.string("tensor name", MAX_NAME)?;
    let dims = reader.u32(name)?;
    if dims == 0 || dims > MAX_DIMS {
        return Err(GgufError::BadDimensions { tensor: name.to_owned(), dims });
    }
    let mut shape = Vec::new();
    for _ in 0..dims {
        let dim = usize::try_from(reader.u64(name)?);
        shape.push(dim.map_err(|_| GgufError::ShapeOverflow { tensor: name.to_owned() })?);
    }
    shape.reverse();
    let code = reader.u32(name)?;
    let ggml_type = GgmlType::from_code(code)
        .ok_or_else(|| GgufError::UnsupportedTensorType { tensor: name.to_owned(), code })?;
    Ok(Description { name, shape, ggml_type, offset: reader.u64(name)? })
}

fn alignment(metadata: &BTreeMap<&str, Value<'_>>) -> Result<u64, GgufError> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(DEFAULT_ALIGNMENT) };
    let alignment = value.as_u64().filter(|&n| n.is_power_of_two() && n <= 1 << 20);
    alignment.ok_or_else(|| GgufError::BadAlignment { value: format!("{value:?}") })
}

/// The bytes from the first aligned position after the descriptions to the end.
fn data_section<'a>(
    reader: &Reader<'a>,
    bytes: &'a [u8],
    alignment: u64,
    may_be_absent: bool,
) -> Result<&'a [u8], GgufError> {
    let start = (reader.position() as u64).next_multiple_of(alignment);
    let section = usize::try_from(start).ok().and_then(|start| bytes.get(start..));
    match section {
        Some(section) => Ok(section),
        None if may_be_absent => Ok(&[]),
        None => Err(GgufError::Truncated {
            what: "tensor data".to_owned(),
            needed: start,
            available: bytes.len() as u64,
        }),
    }
}

fn place_tensors<'a>(
    descriptions: Vec<Description<'a>>,
    data: &'a [u8],
    alignment: u64,
) -> Result<BTreeMap<&'a str, GgufTensor<'a>>, GgufError> {
    let mut tensors = BTreeMap::new();
    for description in descriptions {
        let name = description.name;
        if tensors.insert(name, place_tensor(description, data, alignment)?).is_some() {
            return Err(GgufError::DuplicateTensor { tensor: name.to_owned() });
        }
    }
    Ok(tensors)
}

fn place_tensor<'a>(
    description: Description<'a>,
    data: &'a [u8],
    alignment: u64,
) -> Result<GgufTensor<'a>, GgufError> {
    let Description { name, shape, ggml_type, offset } = description;
    if !offset.is_multiple_of(alignment) {
        return Err(GgufError::MisalignedTensor { tensor: name.to_owned(), offset, alignment });
    }
    let byte_count = ggml_type.byte_count(name, &shape)? as u64;
    let overflow = || GgufError::ShapeOverflow { tensor: name.to_owned() };
    let end = offset.checked_add(byte_count).ok_or_else(overflow)?;
    let truncated = || GgufError::Truncated {
        what: format!("data of tensor `{name}`"),
        needed: end,
        available: data.len() as u64,
    };
    if end > data.len() as u64 {
        return Err(truncated());
    }
    // both ends fit in usize, being at most data.len()
    let bytes = data.get(offset as usize..end as usize).ok_or_else(truncated)?;
    Ok(GgufTensor { name, shape, ggml_type, bytes })
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
