//! Linear layers: `y = x · Wᵀ` with `W` as Hugging Face stores it, `[out, in]`.
//!
//! A packed layer keeps the quantized bytes (mmapped from the store) as its only copy. Many tokens: the weight is
//! dequantized for this one product and dropped. Few tokens on the host (decoding): the product runs straight on
//! the packed bytes, a row at a time. LLM.int8 layers quantize the activations too, see [`super::llm_int8`].

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use qpipe_cache::Mapped;
use qpipe_codecs::{BlockSize, CodecError, FourBit, OutlierThreshold, PackedRtn, RtnFormat};

use super::compute::ComputeDtype;
use super::llm_int8::{self, Int8Weight};
use super::ops::{Place, host_values};

/// Up to this many tokens a host product runs on the packed bytes.
const FEW_TOKENS: usize = 4;

/// A linear layer's weight.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "a few hundred per model, and both are handles")]
pub enum Linear {
    /// `[out, in]`, values already rounded to the compute dtype.
    Dense(Tensor<2>),
    Packed(Arc<PackedWeight>),
}

/// Bytes of a blob: a range of a mapped file.
#[derive(Clone)]
pub struct BlobSlice {
    pub map: Mapped,
    pub range: std::ops::Range<usize>,
}

impl std::ops::Deref for BlobSlice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

/// A quantized weight `[out, in]`.
pub struct PackedWeight {
    pub out: usize,
    pub inner: usize,
    pub codes: PackedCodes,
}

/// The quantized bytes, and what restores them. Scales are decoded once at load (1/64 of the weight's size at
/// block 64); they are counted where weights are counted as stored.
pub enum PackedCodes {
    Four {
        kind: FourBit,
        block: BlockSize,
        packed: BlobSlice,
        absmax: Vec<f32>,
    },
    /// `codes` are i8, row-major; `scb` holds each row's absolute maximum.
    Int8 {
        codes: BlobSlice,
        scb: Vec<f32>,
        product: Int8Product,
    },
    /// `codes` and `zeros` packed by rows; `scales` `[out, groups]`.
    Rtn {
        format: RtnFormat,
        codes: BlobSlice,
        scales: Vec<f32>,
        /// Empty where symmetric.
        zeros: Vec<u8>,
    },
}

/// What int8 codes are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Int8Product {
    /// Activations as they are, weights restored.
    WeightOnly,
    /// Activations in int8 too, but for outlier columns.
    LlmInt8(OutlierThreshold),
}

impl PackedWeight {
    /// Whether the parts have the lengths that the shape implies; says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let n = self.out * self.inner;
        let (codes, wanted_codes, scales, wanted_scales) = match &self.codes {
            PackedCodes::Four { block, packed, absmax, .. } => {
                (packed.len(), n.div_ceil(2), absmax.len(), block.blocks(n))
            }
            PackedCodes::Int8 { codes, scb, .. } => (codes.len(), n, scb.len(), self.out),
            PackedCodes::Rtn { format, codes, scales, zeros } => {
                let shape = [self.out, self.inner];
                return PackedRtn::new(*format, shape, codes, scales, zeros)
                    .map(drop)
                    .map_err(|error| error.to_string());
            }
        };
        if codes == wanted_codes && scales == wanted_scales {
            return Ok(());
        }
        Err(format!(
            "{codes} bytes of codes and {scales} scales, expected {wanted_codes} and {wanted_scales}"
        ))
    }

    /// The weight `[out, in]` in f32, rounded to the compute dtype.
    pub fn dequantize(&self, compute: ComputeDtype) -> Vec<f32> {
        let mut values = vec![0.0; self.out * self.inner];
        match &self.codes {
            PackedCodes::Four { kind, block, packed, absmax } => {
                let n = values.len();
                qpipe_codecs::dequantize4(*kind, packed, absmax, *block, n, &mut values);
            }
            PackedCodes::Int8 { codes, scb, .. } => {
                qpipe_codecs::dequantize_int8(as_i8(codes), scb, self.out, self.inner, &mut values);
            }
            PackedCodes::Rtn { format, codes, scales, zeros } => {
                let weights = self.rtn(*format, codes, scales, zeros);
                checked(weights.dequantize(&mut values));
            }
        }
        qpipe_codecs::round_slice(&mut values, compute.rounding());
        values
    }

    /// `y[m, out] = x[m, in] · Wᵀ` on the packed bytes.
    fn multiply(&self, x: &[f32], m: usize, compute: ComputeDtype) -> Vec<f32> {
        let mut y = vec![0.0; m * self.out];
        let (out, k, round) = (self.out, self.inner, compute.rounding());
        match &self.codes {
            PackedCodes::Four { kind, block, packed, absmax } => {
                qpipe_codecs::matmul_packed4(*kind, packed, absmax, *block, out, k, x, m, round, &mut y);
            }
            PackedCodes::Int8 { codes, scb, product: Int8Product::WeightOnly } => {
                qpipe_codecs::matmul_int8(as_i8(codes), scb, out, k, x, m, round, &mut y);
            }
            PackedCodes::Int8 { codes, scb, product: Int8Product::LlmInt8(threshold) } => {
                checked(qpipe_codecs::int8_linear(x, m, k, as_i8(codes), scb, *threshold, round, &mut y));
            }
            PackedCodes::Rtn { format, codes, scales, zeros } => {
                self.rtn(*format, codes, scales, zeros).matmul(x, m, round, &mut y);
            }
        }
        y
    }

    fn rtn<'a>(
        &self,
        format: RtnFormat,
        codes: &'a [u8],
        scales: &'a [f32],
        zeros: &'a [u8],
    ) -> PackedRtn<'a> {
        checked(PackedRtn::new(format, [self.out, self.inner], codes, scales, zeros))
    }
}

/// What [`PackedWeight::check`] found right when the weight was loaded.
fn checked<T>(result: Result<T, CodecError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => unreachable!("the parts were checked: {error}"),
    }
}

pub(super) fn as_i8(bytes: &[u8]) -> &[i8] {
    bytemuck::cast_slice(bytes)
}

impl Linear {
    /// `x`: `[tokens, in]` → `[tokens, out]`, not yet rounded.
    pub(super) fn forward(&self, x: Tensor<2>, compute: ComputeDtype, place: Place) -> Tensor<2> {
        let device = x.device();
        let tokens = x.dims()[0];
        match self {
            Self::Dense(weight) => x.matmul(weight.clone().transpose()),
            Self::Packed(weight) if place == Place::Host && tokens <= FEW_TOKENS => {
                let y = weight.multiply(&host_values(x), tokens, compute);
                Tensor::from_data(TensorData::new(y, [tokens, weight.out]), &device)
            }
            Self::Packed(weight) => match &weight.codes {
                PackedCodes::Int8 { codes, scb, product: Int8Product::LlmInt8(threshold) } => {
                    let weight = Int8Weight { codes: as_i8(codes), scb, inner: weight.inner };
                    llm_int8::product(x, &weight, *threshold, compute, place)
                }
                _ => x.matmul(dense(weight, compute, &device).transpose()),
            },
        }
    }
}

fn dense(weight: &PackedWeight, compute: ComputeDtype, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(weight.dequantize(compute), [weight.out, weight.inner]), device)
}
