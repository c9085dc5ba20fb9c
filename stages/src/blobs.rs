//! One safetensors blob per module, written straight into the store.

use qpipe_cache::Store;
use qpipe_formats::DType;
use qpipe_sdk::{StageError, UnitOutput};

/// A named tensor to be written: dtype, shape, little-endian bytes.
pub type NamedTensor<'a> = (&'a str, DType, Vec<usize>, &'a [u8]);

/// Writes tensors as one blob, the unit output `module`.
pub fn write(store: &Store, tensors: &[NamedTensor<'_>]) -> Result<UnitOutput, StageError> {
    let mut writer = store.writer()?;
    qpipe_formats::tensors::write_to(&mut writer, tensors, &std::collections::BTreeMap::new())
        .map_err(StageError::bug)?;
    let (digest, _) = writer.commit()?;
    Ok(UnitOutput { blobs: [("module".to_owned(), digest)].into(), metrics: serde_json::Value::Null })
}

/// Little-endian bytes of f32 values.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}
