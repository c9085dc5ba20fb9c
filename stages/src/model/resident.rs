//! Quantized weights in a device's memory, packed as they are stored: uploaded once, the only copy there.
//!
//! On CUDA they run in kernels of our own. For few tokens these multiply the packed bytes; for many, the weight is restored
//! in the device's memory for this one product and dropped. int8 codes are an i8 tensor, on any device.

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};

use super::compute::ComputeDtype;
#[cfg(feature = "cuda")]
use super::linear::Absmax;
use super::linear::{Int8Product, PackedCodes, PackedWeight, as_i8};
use super::llm_int8::{self, Int8Weight};
use super::ops::Place;

fn int8_codes(codes: &[&[i8]], shape: [usize; 2], device: &Device) -> Tensor<2, Int> {
    #[cfg(feature = "cuda")]
    if let Some(codes) = super::on_cuda::int8_codes(codes, shape, device) {
        return codes;
    }
    Tensor::from_data(TensorData::new(codes.concat(), shape), (device, DType::I8))
}

/// A quantized weight `[out, inner]` on a device.
pub struct Resident {
    out: usize,
    inner: usize,
    codes: Codes,
}

enum Codes {
    #[cfg(feature = "cuda")]
    Four(Box<super::on_cuda::Four>),
    Int8 {
        weight: Box<Int8Weight>,
        product: Int8Product,
    },
}

impl Resident {
    /// Uploads a weight; gives it back where the device has no form of it.
    pub fn upload(weight: PackedWeight, device: &Device) -> Result<Self, PackedWeight> {
        Self::upload_joined(std::slice::from_ref(&weight), device).ok_or(weight)
    }

    /// Uploads weights of one input as one, the outputs of each after those of the one before; `None` where the device has no
    /// form of it, or their formats differ.
    pub fn upload_joined(weights: &[PackedWeight], device: &Device) -> Option<Self> {
        let first = weights.first()?;
        let (out, inner) = (weights.iter().map(|weight| weight.out).sum(), first.inner);
        if weights.iter().any(|weight| weight.inner != inner) {
            return None;
        }
        let codes = match &first.codes {
            #[cfg(feature = "cuda")]
            PackedCodes::Four { kind, block, .. } => {
                let part = |weight: &'_ PackedWeight| match &weight.codes {
                    PackedCodes::Four { kind: k, block: b, .. } if (k, b) != (kind, block) => None,
                    PackedCodes::Four { .. }
                        if (weight.out * inner).is_multiple_of(block.get()) || weights.len() == 1 =>
                    {
                        Some(())
                    }
                    _ => None,
                };
                weights.iter().map(part).collect::<Option<Vec<()>>>()?;
                let parts = weights.iter().filter_map(|weight| match &weight.codes {
                    PackedCodes::Four { packed, absmax, .. } => Some((&**packed, absmax)),
                    _ => None,
                });
                let (codes, absmax): (Vec<&[u8]>, Vec<&Absmax>) = parts.unzip();
                let format = qpipe_kernels::Format4 { kind: *kind, block: *block };
                super::on_cuda::Four::upload(format, out * inner, &codes, &absmax, device)
                    .map(|four| Codes::Four(four.into()))
            }
            PackedCodes::Int8 { product, .. } => {
                let (mut codes, mut scales) = (Vec::with_capacity(weights.len()), Vec::with_capacity(out));
                for weight in weights {
                    let PackedCodes::Int8 { codes: some, scb, product: p } = &weight.codes else {
                        return None;
                    };
                    if p != product {
                        return None;
                    }
                    codes.push(as_i8(some));
                    scales.extend_from_slice(scb);
                }
                let codes = int8_codes(&codes, [out, inner], device);
                let scb = Tensor::from_data(TensorData::new(scales, [out]), device);
                Some(Codes::Int8 { weight: Int8Weight { codes, scb }.into(), product: *product })
            }
            _ => None,
        };
        codes.map(|codes| Self { out, inner, codes })
    }

    /// `x`: `[tokens, inner]` → `[tokens, out]`, not yet rounded; on CUDA in `result`.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "elsewhere all tensors are f32"))]
    pub(super) fn forward(
        &self,
        x: Tensor<2>,
        compute: ComputeDtype,
        place: Place,
        result: ComputeDtype,
    ) -> Tensor<2> {
        match &self.codes {
            #[cfg(feature = "cuda")]
            Codes::Four(weight) => weight.forward(x, [self.out, self.inner], result),
            Codes::Int8 { weight, product } => {
                #[cfg(feature = "cuda")]
                if place == Place::Cuda
                    && let Some(y) = super::on_cuda::int8(&x, weight, *product, result)
                {
                    return y;
                }
                // burn's operators, in f32
                let y = Self::int8(x.cast(FloatDType::F32), weight, *product, compute);
                #[cfg(feature = "cuda")]
                if place == Place::Cuda {
                    return y.cast(super::on_cuda::float(result));
                }
                y
            }
        }
    }

    /// The same and a bias `[out]`, rounded to `result` once both are added; `None` where no kernel does both at once.
    #[cfg(feature = "cuda")]
    pub(super) fn biased(&self, x: &Tensor<2>, bias: &Tensor<1>, result: ComputeDtype) -> Option<Tensor<2>> {
        match &self.codes {
            Codes::Four(weight) => weight.on_packed(x, Some(bias), [self.out, self.inner], result),
            Codes::Int8 { .. } => None,
        }
    }

    fn int8(x: Tensor<2>, weight: &Int8Weight, product: Int8Product, compute: ComputeDtype) -> Tensor<2> {
        match product {
            Int8Product::LlmInt8(threshold) => llm_int8::product(x, weight, threshold, compute),
            Int8Product::WeightOnly => x.matmul(weight.restored(compute).transpose()),
        }
    }

    /// Its shape.
    pub fn shape(&self) -> [usize; 2] {
        [self.out, self.inner]
    }
}
