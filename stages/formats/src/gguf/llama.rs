//! A GGUF of the Llama family as a Hugging Face checkpoint: names and row order.
//!
//! Two things differ between the two worlds beside the container:
//!
//! * tensors have other names (`blk.0.attn_q.weight` for `model.layers.0.self_attn.q_proj.weight`);
//! * in a Llama (not in every architecture, see [`GgufRotation`]) the rows of the q and k projections and
//!   the values of their biases are permuted within each head, because llama.cpp rotates
//!   neighbouring pairs where `transformers` rotates the two halves of a head. With head size d,
//!   Hugging Face row `h·d + j·(d/2) + i` is GGUF row `h·d + 2i + j` (i < d/2, j < 2).
//!
//! [`LlamaWeights`] undoes both, so that everything after it knows one convention only.

use std::collections::HashSet;
use std::ops::Range;

use super::{Gguf, GgufError, GgufTensor};
use crate::architecture::GgufRotation;
use crate::config::LlamaConfig;
use crate::error::FormatError;

/// `(GGUF, Hugging Face)` names outside the layers.
const GLOBAL: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Read with the configuration: divisors of the rotary frequencies.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// `(GGUF, Hugging Face)` names within a layer; each may have a `.weight` and a `.bias`.
const LAYER: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The Hugging Face name of a GGUF tensor, if a model of the family may have it.
pub fn hf_name(gguf_name: &str) -> Option<String> {
    if let Some((_, hf)) = GLOBAL.iter().find(|(gguf, _)| *gguf == gguf_name) {
        return Some((*hf).to_owned());
    }
    let (layer, module, part) = split_layer(gguf_name, "blk.")?;
    let (_, hf) = LAYER.iter().find(|(gguf, _)| *gguf == module)?;
    Some(format!("model.layers.{layer}.{hf}.{part}"))
}

/// The GGUF name of a Hugging Face tensor, if a model of the family may have it.
pub fn gguf_name(hf_name: &str) -> Option<String> {
    if let Some((gguf, _)) = GLOBAL.iter().find(|(_, hf)| *hf == hf_name) {
        return Some((*gguf).to_owned());
    }
    let (layer, module, part) = split_layer(hf_name, "model.layers.")?;
    let (gguf, _) = LAYER.iter().find(|(_, hf)| *hf == module)?;
    Some(format!("blk.{layer}.{gguf}.{part}"))
}

/// `{prefix}{layer}.{module}.{weight or bias}` → (layer, module, part). The layer is a canonical decimal, so
/// that names map one to one.
fn split_layer<'n>(name: &'n str, prefix: &str) -> Option<(usize, &'n str, &'n str)> {
    let (layer, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    let (module, part) = rest.rsplit_once('.').filter(|(_, part)| ["weight", "bias"].contains(part))?;
    let number: usize = layer.parse().ok()?;
    (number.to_string() == layer).then_some((number, module, part))
}

/// The GGUF row that holds Hugging Face row `row` of a q or k projection with this head size.
pub fn unpermute_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (j, i) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + 2 * i + j
}

/// All weights of a GGUF under their Hugging Face names, shapes and row order.
#[derive(Debug, Clone)]
pub struct LlamaWeights<'g, 'a> {
    gguf: &'g Gguf<'a>,
    config: LlamaConfig,
}

impl<'g, 'a> LlamaWeights<'g, 'a> {
    /// Reads the configuration and checks that exactly the expected tensors are there, in the
    /// expected shapes. No values are read.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`], [`FormatError::WrongShape`],
    /// [`GgufError::UnexpectedTensor`] and the errors of [`LlamaConfig::from_gguf`].
    pub fn new(gguf: &'g Gguf<'a>) -> Result<Self, FormatError> {
        let config = LlamaConfig::from_gguf(gguf)?;
        let weights = Self { gguf, config };
        for (name, expected) in weights.config.expected_tensors() {
            let found = weights.find(&name)?.shape.clone();
            if found != expected {
                return Err(FormatError::WrongShape { tensor: name, expected, found });
            }
        }
        weights.refuse_unexpected()?;
        Ok(weights)
    }

    /// The model's configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The weight of this Hugging Face name.
    ///
    /// # Errors
    /// [`FormatError::MissingTensor`].
    pub fn get(&self, hf_name: &str) -> Result<Weight<'g, 'a>, FormatError> {
        let tensor = self.find(hf_name)?;
        let module = split_layer(tensor.name, "blk.").map(|(_, module, _)| module);
        let is_rotated = module == Some("attn_q") || module == Some("attn_k");
        let is_permuted = self.config.architecture.gguf_rotation == GgufRotation::Neighbours;
        Ok(Weight { tensor, head_dim: (is_rotated && is_permuted).then_some(self.config.head_dim) })
    }

    fn find(&self, hf_name: &str) -> Result<&'g GgufTensor<'a>, FormatError> {
        let tensor = gguf_name(hf_name).and_then(|name| self.gguf.tensor(&name));
        tensor.ok_or_else(|| FormatError::MissingTensor { tensor: hf_name.to_owned() })
    }

    /// What the configuration does not imply would change the computation if it were used.
    fn refuse_unexpected(&self) -> Result<(), GgufError> {
        let expected: HashSet<String> =
            self.config.expected_tensors().iter().filter_map(|(name, _)| gguf_name(name)).collect();
        let is_known = |name: &str| expected.contains(name) || name == ROPE_FACTORS;
        match self.gguf.tensors().find(|tensor| !is_known(tensor.name)) {
            Some(tensor) => Err(GgufError::UnexpectedTensor { tensor: tensor.name.to_owned() }),
            None => Ok(()),
        }
    }
}

/// One weight of a [`LlamaWeights`], read on demand.
#[derive(Debug, Clone, Copy)]
pub struct Weight<'g, 'a> {
    tensor: &'g GgufTensor<'a>,
    /// The head size if rows are permuted within heads.
    head_dim: Option<usize>,
}

impl<'g, 'a> Weight<'g, 'a> {
    /// The shape, `[out, in]` for a linear weight.
    pub fn shape(&self) -> &'g [usize] {
        &self.tensor.shape
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.tensor.rows()
    }

    /// The tensor as stored, in GGUF's own row order.
    pub fn stored(&self) -> &'g GgufTensor<'a> {
        self.tensor
    }

    /// The values of some rows, row-major, in Hugging Face order.
    ///
    /// # Errors
    /// [`GgufError::RowsOutOfRange`].
    pub fn to_f32_rows(&self, rows: Range<usize>) -> Result<Vec<f32>, GgufError> {
        match self.head_dim {
            Some(head_dim) if self.tensor.shape.len() == 1 => {
                let stored = self.tensor.dequantize_rows(rows)?;
                Ok((0..stored.len()).map(|at| stored[unpermute_row(at, head_dim)]).collect())
            }
            Some(head_dim) => self.tensor.dequantize_mapped(rows, |row| unpermute_row(row, head_dim)),
            None => self.tensor.dequantize_rows(rows),
        }
    }

    /// All values, row-major, in Hugging Face order.
    ///
    /// # Errors
    /// None that a checked weight can cause; the signature is that of [`Self::to_f32_rows`].
    pub fn to_f32(&self) -> Result<Vec<f32>, GgufError> {
        self.to_f32_rows(0..self.rows())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_map_both_ways() {
        for (gguf, hf) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
            ("blk.17.ffn_down.weight", "model.layers.17.mlp.down_proj.weight"),
            ("blk.3.ffn_norm.weight", "model.layers.3.post_attention_layernorm.weight"),
            ("blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias"),
            ("blk.1.attn_k_norm.weight", "model.layers.1.self_attn.k_norm.weight"),
        ] {
            assert_eq!(hf_name(gguf).as_deref(), Some(hf));
            assert_eq!(gguf_name(hf).as_deref(), Some(gguf));
        }
        for unknown in
            ["blk.0.attn_q.scale", "blk.00.attn_q.weight", "blk.+1.attn_q.weight", "rope_freqs.weight"]
        {
            assert_eq!(hf_name(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn unpermute_interleaves_the_halves_of_each_head() {
        // llama.cpp's converter: w.reshape(heads, 2, d/2, …).swapaxes(1, 2), so GGUF row 2i + j of a
        // head is Hugging Face row j·(d/2) + i
        let order: Vec<usize> = (0..12).map(|row| unpermute_row(row, 6)).collect();
        assert_eq!(order, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
