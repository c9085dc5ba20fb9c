//! The compute dtype: the precision that activations and dequantized weights are rounded to.
//!
//! On the CPU all arithmetic is f32 (bf16 products are 10–40 times slower there), and a compute dtype of f16 or
//! bf16 is *emulated*: every operator's result (embedding, norm, linear, rotary, attention, gate, residual) is
//! rounded to nearest even, as a device that stores that dtype and accumulates in f32 would. Logits stay f32.
//! So results show the dtype's numerical cost, and CPU timings do not show its speed.

use burn::tensor::{FloatDType, Tensor};
use qpipe_codecs::Rounding;
use serde::{Deserialize, Serialize};

use super::ops::Place;

/// Precision of activations and of dequantized weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    F32,
    F16,
    Bf16,
}

impl ComputeDtype {
    /// The manifest's words, in the order of [`Self::parse`].
    pub const NAMES: &'static [&'static str] = &["f32", "f16", "bf16"];

    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "f32" => Some(Self::F32),
            "f16" => Some(Self::F16),
            "bf16" => Some(Self::Bf16),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// The same rounding, as the codecs name it.
    pub fn rounding(self) -> Rounding {
        match self {
            Self::F32 => Rounding::None,
            Self::F16 => Rounding::F16,
            Self::Bf16 => Rounding::Bf16,
        }
    }

    /// `x` with every value rounded to this dtype; the tensor stays f32, and on CUDA it is in this dtype already.
    #[must_use]
    pub fn round<const D: usize>(self, x: Tensor<D>, place: Place) -> Tensor<D> {
        let to = match self {
            Self::F32 => return x,
            Self::F16 => FloatDType::F16,
            Self::Bf16 => FloatDType::BF16,
        };
        match place {
            Place::Host => {
                super::ops::on_host(x, |values| qpipe_codecs::round_slice(values, self.rounding()))
            }
            Place::Device => x.cast(to).cast(FloatDType::F32),
            // what is stored in the dtype is rounded to it
            #[cfg(feature = "cuda")]
            Place::Cuda => x,
        }
    }
}
