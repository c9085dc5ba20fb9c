//! Quantized weights in a device's memory, packed as they are stored: uploaded once, the only copy there.
//!
//! On CUDA they run in kernels of our own. For few tokens these multiply the packed bytes; for many, the weight is restored
//! in the device's memory for this one product and dropped. int8 codes are an i8 tensor, on any device.

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};

use super::compute::ComputeDtype;
use super::linear::{Int8Product, PackedCodes, PackedWeight, as_i8};
use super::llm_int8::{self, Int8Weight};
use super::ops::Place;

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
        let (out, inner) = (weight.out, weight.inner);
        let codes = match &weight.codes {
            #[cfg(feature = "cuda")]
            PackedCodes::Four { kind, block, packed, absmax } => {
                let format = qpipe_kernels::Format4 { kind: *kind, block: *block };
                super::on_cuda::Four::upload(format, out * inner, packed, absmax, device)
                    .map(|four| Codes::Four(four.into()))
            }
            PackedCodes::Int8 { codes, scb, product } => {
                let codes = TensorData::new(as_i8(codes).to_vec(), [out, inner]);
                let codes = Tensor::<2, Int>::from_data(codes, (device, DType::I8));
                let scb = Tensor::from_data(TensorData::new(scb.clone(), [out]), device);
                Some(Codes::Int8 { weight: Int8Weight { codes, scb }.into(), product: *product })
            }
            _ => None,
        };
        match codes {
            Some(codes) => Ok(Self { out, inner, codes }),
            None => Err(weight),
        }
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
