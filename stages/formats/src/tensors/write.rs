//! Writing safetensors with bytes that depend on the contents only.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::Write;

use serde_json::json;

use super::LENGTH;
use crate::dtype::DType;
use crate::error::FormatError;

/// A safetensors file in memory. `tensors` are `(name, dtype, shape, bytes)`, in any order.
///
/// # Errors
/// As [`write_to`].
pub fn write<N: AsRef<str>, S: AsRef<[usize]>>(
    tensors: &[(N, DType, S, &[u8])],
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>, FormatError> {
    let data: usize = tensors.iter().map(|(.., bytes)| bytes.len()).sum();
    let mut out = Vec::with_capacity(data + 256 * tensors.len() + 64);
    write_to(&mut out, tensors, metadata)?;
    Ok(out)
}

/// Streams a safetensors file into `out`: the header, then each tensor's bytes as they are. Nothing
/// but the header is buffered, so `bytes` may be memory maps larger than memory.
///
/// # Errors
/// [`FormatError::WrongByteCount`] and [`FormatError::DuplicateTensor`] before anything is written;
/// [`FormatError::Write`] if `out` fails.
pub fn write_to<N: AsRef<str>, S: AsRef<[usize]>>(
    out: &mut impl Write,
    tensors: &[(N, DType, S, &[u8])],
    metadata: &BTreeMap<String, String>,
) -> Result<(), FormatError> {
    let mut sorted: Vec<Record<'_>> = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| Record {
            name: name.as_ref(),
            dtype: *dtype,
            shape: shape.as_ref(),
            bytes,
        })
        .collect();
    sorted.sort_by_key(|record| (Reverse(record.dtype.size()), record.name));
    check(&sorted)?;
    let header = header(&sorted, metadata);
    let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(FormatError::Write);
    put(&(header.len() as u64).to_le_bytes())?;
    put(&header)?;
    sorted.iter().try_for_each(|record| put(record.bytes))
}

struct Record<'a> {
    name: &'a str,
    dtype: DType,
    shape: &'a [usize],
    bytes: &'a [u8],
}

fn check(records: &[Record<'_>]) -> Result<(), FormatError> {
    let mut names = std::collections::BTreeSet::new();
    for record in records {
        if record.dtype.byte_count(record.shape) != Some(record.bytes.len()) {
            return Err(FormatError::WrongByteCount {
                tensor: record.name.to_owned(),
                dtype: record.dtype,
                shape: record.shape.to_vec(),
                found: record.bytes.len(),
            });
        }
        // `__metadata__` is the header's own key
        if record.name == "__metadata__" || !names.insert(record.name) {
            return Err(FormatError::DuplicateTensor { tensor: record.name.to_owned() });
        }
    }
    Ok(())
}

/// The JSON header in the order of the data, padded with spaces so that the data is 8-byte aligned.
fn header(records: &[Record<'_>], metadata: &BTreeMap<String, String>) -> Vec<u8> {
    let mut fields = Vec::with_capacity(records.len() + 1);
    if !metadata.is_empty() {
        fields.push(format!("\"__metadata__\":{}", json!(metadata)));
    }
    let mut start = 0;
    for Record { name, dtype, shape, bytes } in records {
        let end = start + bytes.len();
        let (name, shape) = (json!(name), json!(shape));
        fields
            .push(format!(r#"{name}:{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#));
        start = end;
    }
    let mut header = format!("{{{}}}", fields.join(",")).into_bytes();
    header.resize(header.len().next_multiple_of(LENGTH), b' ');
    header
}
