//! Typed metadata values.
//!
//! Arrays are held in typed vectors rather than as vectors of [`Value`]: a vocabulary of 128k
//! entries stays small, and a hostile array of bytes cannot be inflated thirty-fold.

use super::GgufError;
use super::reader::Reader;

const MAX_ELEMENTS: u64 = 1 << 26;
const MAX_DEPTH: u32 = 4;

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are the format's own types, named as there")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
}

/// A metadata array; all elements have one type.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are the format's own types, named as there")]
pub enum Array<'a> {
    U8(&'a [u8]),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<&'a str>),
    Array(Vec<Array<'a>>),
}

impl Value<'_> {
    /// The value as a non-negative integer, whatever its width.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(n) => Some(n.into()),
            Value::U16(n) => Some(n.into()),
            Value::U32(n) => Some(n.into()),
            Value::U64(n) => Some(n),
            Value::I8(n) => n.try_into().ok(),
            Value::I16(n) => n.try_into().ok(),
            Value::I32(n) => n.try_into().ok(),
            Value::I64(n) => n.try_into().ok(),
            _ => None,
        }
    }

    /// The type in words, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::U8(_) => "a u8",
            Value::I8(_) => "an i8",
            Value::U16(_) => "a u16",
            Value::I16(_) => "an i16",
            Value::U32(_) => "a u32",
            Value::I32(_) => "an i32",
            Value::U64(_) => "a u64",
            Value::I64(_) => "an i64",
            Value::F32(_) => "an f32",
            Value::F64(_) => "an f64",
            Value::Bool(_) => "a bool",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
        }
    }
}

pub(super) fn read_value<'a>(reader: &mut Reader<'a>, key: &str) -> Result<Value<'a>, GgufError> {
    let code = reader.u32(key)?;
    Ok(match code {
        0 => Value::U8(u8::from_le_bytes(reader.array(key)?)),
        1 => Value::I8(i8::from_le_bytes(reader.array(key)?)),
        2 => Value::U16(u16::from_le_bytes(reader.array(key)?)),
        3 => Value::I16(i16::from_le_bytes(reader.array(key)?)),
        4 => Value::U32(reader.u32(key)?),
        5 => Value::I32(i32::from_le_bytes(reader.array(key)?)),
        6 => Value::F32(f32::from_le_bytes(reader.array(key)?)),
        7 => Value::Bool(to_bool(u8::from_le_bytes(reader.array(key)?), key)?),
        STRING => Value::String(reader.text(key)?),
        ARRAY => Value::Array(read_array(reader, key, MAX_DEPTH)?),
        10 => Value::U64(reader.u64(key)?),
        11 => Value::I64(i64::from_le_bytes(reader.array(key)?)),
        12 => Value::F64(f64::from_le_bytes(reader.array(key)?)),
        _ => return Err(GgufError::UnknownValueType { key: key.to_owned(), code }),
    })
}

fn read_array<'a>(reader: &mut Reader<'a>, key: &str, depth: u32) -> Result<Array<'a>, GgufError> {
    let code = reader.u32(key)?;
    let count = reader.count(key, MAX_ELEMENTS)?;
    Ok(match code {
        0 => Array::U8(reader.take(count, key)?),
        1 => Array::I8(numbers(reader, count, key, i8::from_le_bytes)?),
        2 => Array::U16(numbers(reader, count, key, u16::from_le_bytes)?),
        3 => Array::I16(numbers(reader, count, key, i16::from_le_bytes)?),
        4 => Array::U32(numbers(reader, count, key, u32::from_le_bytes)?),
        5 => Array::I32(numbers(reader, count, key, i32::from_le_bytes)?),
        6 => Array::F32(numbers(reader, count, key, f32::from_le_bytes)?),
        7 => {
            let bytes = reader.take(count, key)?;
            Array::Bool(bytes.iter().map(|&byte| to_bool(byte, key)).collect::<Result<_, _>>()?)
        }
        STRING => Array::String(elements(reader, count, |reader| reader.text(key))?),
        ARRAY if depth > 1 => {
            Array::Array(elements(reader, count, |reader| read_array(reader, key, depth - 1))?)
        }
        ARRAY => return Err(GgufError::TooDeep { key: key.to_owned(), limit: MAX_DEPTH }),
        10 => Array::U64(numbers(reader, count, key, u64::from_le_bytes)?),
        11 => Array::I64(numbers(reader, count, key, i64::from_le_bytes)?),
        12 => Array::F64(numbers(reader, count, key, f64::from_le_bytes)?),
        _ => return Err(GgufError::UnknownValueType { key: key.to_owned(), code }),
    })
}

/// Fixed-width elements: the bytes are taken first, so the vector is never larger than they are.
fn numbers<const N: usize, T>(
    reader: &mut Reader<'_>,
    count: u64,
    key: &str,
    decode: fn([u8; N]) -> T,
) -> Result<Vec<T>, GgufError> {
    let bytes = reader.take(count.saturating_mul(N as u64), key)?;
    let (chunks, _) = bytes.as_chunks::<N>();
    Ok(chunks.iter().map(|&chunk| decode(chunk)).collect())
}

/// Variable-width elements: each occupies at least 8 bytes, which bounds the first allocation.
fn elements<'a, T>(
    reader: &mut Reader<'a>,
    count: u64,
    mut read: impl FnMut(&mut Reader<'a>) -> Result<T, GgufError>,
) -> Result<Vec<T>, GgufError> {
    let mut elements = Vec::with_capacity((count as usize).min(reader.remaining() / 8));
    for _ in 0..count {
        elements.push(read(reader)?);
    }
    Ok(elements)
}

fn to_bool(byte: u8, key: &str) -> Result<bool, GgufError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(GgufError::BadBool { key: key.to_owned(), found }),
    }
}
