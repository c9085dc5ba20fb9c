//! Linear layers: `y = x · Wᵀ` with `W` as Hugging Face stores it, `[out, in]`.
//!
//! A packed layer keeps the quantized bytes (mmapped from the store) as its only copy. On the host a product runs
//! straight on them, restoring a tile of rows at a time ([`qpipe_codecs`]); on a device they are in its memory where it has
//! a form for them ([`super::resident`]), and elsewhere the host restores the weight for this one product. LLM.int8 layers
//! quantize the activations too, see [`super::llm_int8`].

use std::borrow::Cow;
use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use qpipe_cache::Mapped;
use qpipe_codecs::{
    BlockSize, CodecError, DoubleQuantized, FourBit, NESTED_BLOCK, OutlierThreshold, PackedRtn, RtnFormat,
};

use super::compute::ComputeDtype;
use super::ops::{Place, host_values};
use super::resident::Resident;

/// A linear layer's weight.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "a few hundred per model, and all are handles")]
pub enum Linear {
    Dense(Matrix),
    Packed(Arc<PackedWeight>),
    /// Packed, in a device's memory.
    Resident(Arc<Resident>),
}

/// A matrix `[rows, columns]`, values already rounded to the compute dtype.
#[derive(Clone)]
#[expect(clippy::large_enum_variant, reason = "a few hundred per model, and all are handles")]
pub enum Matrix {
    /// On any device, or under autodiff.
    Tensor(Tensor<2>),
    /// In host memory, row after row.
    Host { values: Arc<Vec<f32>>, shape: [usize; 2] },
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

/// The quantized bytes, and what restores them.
pub enum PackedCodes {
    Four {
        kind: FourBit,
        block: BlockSize,
        packed: BlobSlice,
        absmax: Absmax,
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

/// The absmax values of a 4-bit weight's blocks.
pub enum Absmax {
    Plain(Vec<f32>),
    /// In codes of 8 bits.
    Nested(DoubleQuantized),
}

impl Absmax {
    /// The values.
    pub fn values(&self) -> Cow<'_, [f32]> {
        match self {
            Self::Plain(values) => values.into(),
            Self::Nested(nested) => qpipe_codecs::double_dequantize(nested).into(),
        }
    }

    /// How many there are; says what is wrong with them.
    fn count(&self) -> Result<usize, String> {
        let Self::Nested(DoubleQuantized { codes, nested_absmax, .. }) = self else {
            return Ok(self.values().len());
        };
        let (scales, wanted) = (nested_absmax.len(), codes.len().div_ceil(NESTED_BLOCK));
        if scales == wanted {
            return Ok(codes.len());
        }
        Err(format!("{scales} scales of {} absmax codes, expected {wanted}", codes.len()))
    }
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
    /// The same with scales decoded, for a host that multiplies many times: 1/64 of the weight's size at block 64. Where
    /// weights are counted, they count as they are stored.
    #[must_use]
    pub fn decoded(mut self) -> Self {
        if let PackedCodes::Four { absmax, .. } = &mut self.codes {
            *absmax = Absmax::Plain(absmax.values().into_owned());
        }
        self
    }

    /// Whether the parts have the lengths that the shape implies; says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let n = self.out * self.inner;
        let (codes, wanted_codes, scales, wanted_scales) = match &self.codes {
            PackedCodes::Four { block, packed, absmax, .. } => {
                (packed.len(), n.div_ceil(2), absmax.count()?, block.blocks(n))
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
                qpipe_codecs::dequantize4(*kind, packed, &absmax.values(), *block, n, &mut values);
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
                let absmax = absmax.values();
                qpipe_codecs::matmul_packed4(*kind, packed, &absmax, *block, out, k, x, m, round, &mut y);
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
    /// `x`: `[tokens, in]` → `[tokens, out]`, not yet rounded; on CUDA in `result`.
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        compute: ComputeDtype,
        place: Place,
        result: ComputeDtype,
    ) -> Tensor<2> {
        let (device, tokens) = (x.device(), x.dims()[0]);
        match self {
            Self::Dense(weight) => weight.multiply(x, place, result),
            Self::Packed(weight) if place == Place::Host => {
                let y = weight.multiply(&host_values(x), tokens, compute);
                Tensor::from_data(TensorData::new(y, [tokens, weight.out]), &device)
            }
            Self::Packed(weight) => {
                let weight = dense(weight, compute, &device);
                #[cfg(feature = "cuda")]
                if place == Place::Cuda {
                    return super::on_cuda::multiply(x, weight.cast(super::on_cuda::float(compute)), result);
                }
                x.matmul(weight.transpose())
            }
            Self::Resident(weight) => weight.forward(x, compute, place, result),
        }
    }
}

#[cfg(feature = "cuda")]
impl Linear {
    /// The product and a bias `[out]` in one kernel, on CUDA, rounded to `result`; `None` where there is none for both.
    pub(super) fn biased_on_cuda(
        &self,
        x: &Tensor<2>,
        bias: &Tensor<1>,
        result: ComputeDtype,
    ) -> Option<Tensor<2>> {
        match self {
            Self::Dense(Matrix::Tensor(weight)) => super::on_cuda::multiply_biased(x, weight, bias, result),
            Self::Resident(weight) => weight.biased(x, bias, result),
            Self::Dense(Matrix::Host { .. }) | Self::Packed(_) => None,
        }
    }
}

impl Matrix {
    /// `x`: `[tokens, columns]` → `[tokens, rows]`: the product with the transposed matrix; on CUDA in `result`.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "elsewhere all tensors are f32"))]
    pub(super) fn multiply(&self, x: Tensor<2>, place: Place, result: ComputeDtype) -> Tensor<2> {
        match self {
            #[cfg(feature = "cuda")]
            Self::Tensor(weight) if place == Place::Cuda => {
                super::on_cuda::multiply(x, weight.clone(), result)
            }
            Self::Tensor(weight) => x.matmul(weight.clone().transpose()),
            Self::Host { values, shape: [rows, columns] } => {
                let (device, [tokens, _]) = (x.device(), x.dims());
                let mut y = vec![0.0; tokens * rows];
                qpipe_codecs::matmul(values, *rows, *columns, &host_values(x), tokens, &mut y);
                Tensor::from_data(TensorData::new(y, [tokens, *rows]), &device)
            }
        }
    }

    /// Matrices of one width on a device as one, the rows of each after those of the one before.
    #[cfg(feature = "cuda")]
    pub fn joined(parts: Vec<Self>) -> Option<Self> {
        let tensor = |part| match part {
            Self::Tensor(tensor) => Some(tensor),
            Self::Host { .. } => None,
        };
        let parts = parts.into_iter().map(tensor).collect::<Option<Vec<_>>>()?;
        Some(Self::Tensor(Tensor::cat(parts, 0)))
    }

    /// The rows that `picked` `[n]` names, `[n, columns]`.
    pub(super) fn select(&self, picked: Tensor<1, Int>) -> Tensor<2> {
        match self {
            Self::Tensor(matrix) => matrix.clone().select(0, picked),
            Self::Host { values, shape: [_, columns] } => {
                let device = picked.device();
                let picked: Vec<usize> = picked.into_data().iter::<i64>().map(|row| row as usize).collect();
                let rows = picked.iter().flat_map(|row| &values[row * columns..(row + 1) * columns]);
                let values: Vec<f32> = rows.copied().collect();
                Tensor::from_data(TensorData::new(values, [picked.len(), *columns]), &device)
            }
        }
    }
}

impl From<Tensor<2>> for Matrix {
    fn from(tensor: Tensor<2>) -> Self {
        Self::Tensor(tensor)
    }
}

fn dense(weight: &PackedWeight, compute: ComputeDtype, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(weight.dequantize(compute), [weight.out, weight.inner]), device)
}
