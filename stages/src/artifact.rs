//! The `model` artifact: a small typed document that names, for every module, its encoding and the tensors that
//! hold it. Tensors live in safetensors blobs: linked checkpoint files, or one blob per module that a stage made.
//! Format `qpipe.model/1`; a reader refuses any other.

use std::collections::{BTreeMap, BTreeSet};

use qpipe_cache::{Digest, Store};
use qpipe_formats::{DType, LlamaConfig};
use qpipe_sdk::{Artifact, ArtifactKind, StageError};
use serde::{Deserialize, Serialize};

use crate::model::compute::ComputeDtype;

/// The document's format and version.
pub const FORMAT: &str = "qpipe.model/1";

/// A model as stages pass it on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ModelArtifact {
    pub format: String,
    pub config: LlamaConfig,
    pub compute_dtype: ComputeDtype,
    /// A blob: the checkpoint's tokenizer.json.
    pub tokenizer: Digest,
    /// By module name, as in `model.layers.0.self_attn.q_proj`.
    pub modules: BTreeMap<String, Module>,
}

/// One module's weight.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Module {
    /// The weight's own shape, `[out, in]` or `[hidden]`, whatever its parts look like.
    pub shape: Vec<usize>,
    pub encoding: Encoding,
    /// By role: `weight`, or `codes` with what restores them.
    pub parts: BTreeMap<String, TensorRef>,
}

/// How a module's values are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "scheme", rename_all = "kebab-case")]
pub enum Encoding {
    /// Part `weight`, in its own dtype.
    Dense,
    /// Parts `codes` (u8, two per byte) and `absmax` (f32), or, double-quantized, `absmax_codes` (u8),
    /// `absmax_offset` (f32) and `nested_absmax` (f32).
    Nf4 {
        block: u32,
        double_quant: bool,
    },
    Fp4 {
        block: u32,
        double_quant: bool,
    },
    /// Parts `codes` (i8) and `scb` (f32 per row). Products are LLM.int8's, with activations in int8 too; columns with
    /// an activation of at least `threshold` are kept out of that, unless it is 0.
    Int8 {
        threshold: f32,
    },
    /// The same parts; weights are restored, activations stay as they are.
    Int8WeightOnly,
    /// Parts `codes` (u8, packed by rows), `scales` (f16 per group) and, unless symmetric, `zeros` (u8, packed by
    /// rows). `group` -1: one per row.
    Rtn {
        bits: u32,
        group: i64,
        symmetric: bool,
    },
}

/// A tensor in a safetensors blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorRef {
    pub blob: Digest,
    pub name: String,
    pub dtype: DType,
    pub shape: Vec<usize>,
}

impl TensorRef {
    /// Stored bytes of the tensor.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.dtype.size() as u64
    }
}

impl Module {
    /// Every stored byte of the module.
    pub fn bytes(&self) -> u64 {
        self.parts.values().map(TensorRef::bytes).sum()
    }

    /// The tensor in a role.
    pub fn part(&self, role: &str) -> Result<&TensorRef, StageError> {
        self.parts
            .get(role)
            .ok_or_else(|| StageError::config(format!("model artifact: a module lacks its `{role}`")))
    }

    /// Whether the module is a linear layer that schemes may quantize: a matrix other than the embedding.
    pub fn is_linear(&self, name: &str) -> bool {
        self.shape.len() == 2 && name != "model.embed_tokens"
    }
}

impl ModelArtifact {
    /// Every stored byte of the weights: codes, scales, norms and embeddings, each tensor once.
    pub fn weight_bytes(&self) -> u64 {
        self.modules.values().map(Module::bytes).sum()
    }

    /// Whether a sequence's results depend on the others of its batch: then the batch plan belongs in the key of
    /// whatever the model computes. LLM.int8 with a threshold takes the outlier columns of all tokens together.
    pub fn batch_dependent(&self) -> bool {
        let depends =
            |module: &Module| matches!(module.encoding, Encoding::Int8 { threshold } if threshold > 0.0);
        self.modules.values().any(depends)
    }

    /// Writes the document and returns it as an artifact.
    pub fn save(&self, store: &Store) -> Result<Artifact, StageError> {
        let bytes = serde_json::to_vec(self).map_err(StageError::bug)?;
        let digest = store.put_bytes(&bytes)?;
        let mut refs: BTreeSet<Digest> =
            self.modules.values().flat_map(|m| m.parts.values()).map(|t| t.blob).collect();
        refs.extend([digest, self.tokenizer]);
        Ok(Artifact { kind: ArtifactKind::new(ArtifactKind::MODEL), digest, refs })
    }

    /// Reads the document behind an artifact.
    pub fn read(store: &Store, artifact: &Artifact) -> Result<Self, StageError> {
        let bytes = store.read(&artifact.digest)?;
        let found: Self = serde_json::from_slice(&bytes)
            .map_err(|e| StageError::config(format!("model artifact {}: {e}", artifact.digest.short())))?;
        if found.format != FORMAT {
            let message =
                format!("model artifact has format `{}`, this program reads `{FORMAT}`", found.format);
            return Err(StageError::Config(message));
        }
        Ok(found)
    }
}
