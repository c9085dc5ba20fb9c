//! What the units of work of `quantize` share: a dense weight, its key, its error statistics.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytemuck::Pod;
use half::{bf16, f16};
use qpipe_cache::{ActionRecord, Digest, KeyDoc, Store};
use qpipe_codecs::{CodecError, ErrorStats};
use qpipe_formats::DType;
use qpipe_sdk::{StageError, UnitOutput};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::artifact::{Module, TensorRef};
use crate::blobs::{self, NamedTensor};
use crate::model::linear::BlobSlice;
use crate::weights::BlobReader;

/// Raised when a unit's bytes or statistics may change for equal inputs.
const SEMANTICS: u32 = 2;

/// The stored tensors of a module, by role.
pub(super) type Parts = BTreeMap<String, TensorRef>;

/// How far the restored weight is from the original.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct UnitStats {
    pub(super) mse: f64,
    pub(super) snr_db: f64,
    pub(super) max_abs: f64,
    pub(super) cosine: f64,
}

impl From<ErrorStats> for UnitStats {
    /// Infinite ratios (an exact restoration) become the largest finite number, which JSON can hold.
    fn from(s: ErrorStats) -> Self {
        let finite = |x: f64| x.clamp(f64::MIN, f64::MAX);
        Self { mse: s.mse, snr_db: finite(s.snr_db), max_abs: s.max_abs, cosine: s.cosine }
    }
}

/// A dense weight, `[out, in]`.
pub(super) struct Weight<'a> {
    pub(super) name: &'a str,
    pub(super) tensor: &'a TensorRef,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

impl<'a> Weight<'a> {
    pub(super) fn of(name: &'a str, module: &'a Module) -> Result<Self, StageError> {
        let &[rows, columns] = module.shape.as_slice() else {
            return Err(StageError::config(format!("module `{name}` is not a matrix")));
        };
        Ok(Self { name, tensor: module.part("weight")?, rows, columns })
    }

    /// Number of weights.
    pub(super) fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// The key of a unit that encodes this weight.
    pub(super) fn key(&self, kind: &str) -> KeyDoc {
        KeyDoc::new(format!("quantize/{kind}"), SEMANTICS)
            .param("tensor", self.tensor.name.as_str())
            .input("weight", self.tensor.blob)
    }

    pub(super) fn refuse(&self, error: CodecError) -> StageError {
        StageError::config(format!("module `{}`, tensor `{}`: {error}", self.name, self.tensor.name))
    }

    /// The weight's bytes, mapped; see [`values`].
    pub(super) fn bytes(&self, blobs: &BlobReader<'_>) -> Result<BlobSlice, StageError> {
        blobs.bytes(self.tensor)
    }
}

/// A weight's values in their own dtype: the mapped bytes themselves, but for a file that does not align them.
pub(super) enum Values<'a> {
    F32(Cow<'a, [f32]>),
    F16(Cow<'a, [f16]>),
    Bf16(Cow<'a, [bf16]>),
}

/// Evaluates an expression for a weight's values, whatever their dtype.
macro_rules! each_dtype {
    ($values:expr, $w:ident => $body:expr) => {
        match $values {
            $crate::quantize::unit::Values::F32($w) => $body,
            $crate::quantize::unit::Values::F16($w) => $body,
            $crate::quantize::unit::Values::Bf16($w) => $body,
        }
    };
}
pub(super) use each_dtype;

impl<'a> Values<'a> {
    pub(super) fn of(weight: &Weight<'_>, bytes: &'a [u8]) -> Result<Self, StageError> {
        match weight.tensor.dtype {
            DType::F32 => Ok(Self::F32(cast(bytes))),
            DType::F16 => Ok(Self::F16(cast(bytes))),
            DType::BF16 => Ok(Self::Bf16(cast(bytes))),
            other => {
                let (name, tensor) = (weight.name, &weight.tensor.name);
                Err(StageError::config(format!("module `{name}`, tensor `{tensor}` has dtype {other}")))
            }
        }
    }
}

fn cast<T: Pod>(bytes: &[u8]) -> Cow<'_, [T]> {
    bytemuck::try_cast_slice(bytes)
        .map_or_else(|_| Cow::Owned(bytemuck::pod_collect_to_vec(bytes)), Cow::Borrowed)
}

/// Writes a unit's tensors as one blob, with what was measured.
pub(super) fn store(
    store: &Store,
    tensors: &[NamedTensor<'_>],
    stats: ErrorStats,
) -> Result<UnitOutput, StageError> {
    let mut output = blobs::write(store, tensors)?;
    output.metrics = json!(UnitStats::from(stats));
    Ok(output)
}

/// What a finished unit holds: its blob and its statistics.
pub(super) fn finished(record: &ActionRecord) -> Result<(Digest, UnitStats), StageError> {
    let blob =
        record.outputs.get("module").ok_or_else(|| StageError::bug("a unit's record lacks its blob"))?.digest;
    let stats = serde_json::from_value(record.metrics.clone()).map_err(StageError::bug)?;
    Ok((blob, stats))
}

/// References to tensors of a blob; roles are their names there.
pub(super) fn parts<const N: usize>(blob: Digest, tensors: [(&str, DType, Vec<usize>); N]) -> Parts {
    let part = |(role, dtype, shape): (&str, DType, Vec<usize>)| {
        (role.to_owned(), TensorRef { blob, name: role.to_owned(), dtype, shape })
    };
    tensors.into_iter().map(part).collect()
}
