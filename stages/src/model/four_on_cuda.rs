//! NF4 and FP4 weights on CUDA: burn's tensors in, burn's tensors out, the kernels of [`qpipe_kernels`] between.

use burn::tensor::{DType, Device, Shape, Tensor};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice, kernel};
use qpipe_kernels::{Dtype, Format4, Packed4};

use super::compute::ComputeDtype;
use super::ops::Place;

/// A packed weight in a CUDA device's memory.
pub(super) struct Four {
    packed: Packed4,
    client: cubecl::client::Client,
    device: CubeDevice,
}

/// What lies in a handle must be aligned to this for a kernel's vectors.
const ALIGNMENT: u64 = 16;

impl Four {
    /// Uploads codes and absmax; `None` where the device is not a GPU of cubecl's.
    pub(super) fn upload(
        format: Format4,
        len: usize,
        codes: &[u8],
        absmax: &[f32],
        device: &Device,
    ) -> Option<Self> {
        let probe: CubeTensor = Tensor::<1>::zeros([1], device).try_into_primitive::<CubeBackend>().ok()?;
        let (client, device) = (probe.client, probe.device);
        let mut padded = codes.to_vec();
        // the kernels read whole units of 16 bytes
        padded.resize(len.div_ceil(32) * 16, 0);
        let codes = client.create_from_slice(&padded);
        let absmax = client.create_from_slice(bytemuck::cast_slice(absmax));
        Some(Self { packed: Packed4 { format, len, codes, absmax }, client, device })
    }

    /// `x`: `[tokens, inner]` → `[tokens, out]`, not yet rounded.
    pub(super) fn forward(&self, x: Tensor<2>, [out, inner]: [usize; 2], compute: ComputeDtype) -> Tensor<2> {
        let rows = x.dims()[0];
        if (1..=qpipe_kernels::MOST_ROWS).contains(&rows) && inner.is_multiple_of(32) {
            let x = contiguous(x.clone());
            let shape = [rows, out, inner];
            let aligned = x.handle.offset_start.unwrap_or(0).is_multiple_of(ALIGNMENT);
            if aligned
                && let Ok(y) =
                    qpipe_kernels::multiply4(&self.client, &x.handle, &self.packed, shape, Dtype::F32)
            {
                return self.tensor(y, [rows, out]);
            }
        }
        x.matmul(self.restored([out, inner], compute).transpose())
    }

    /// The weight, rounded to the compute dtype.
    fn restored(&self, shape: [usize; 2], compute: ComputeDtype) -> Tensor<2> {
        let values = qpipe_kernels::dequantize4(&self.client, &self.packed, Dtype::F32);
        compute.round(self.tensor(values, shape), Place::Device)
    }

    fn tensor(&self, handle: cubecl::server::Handle, shape: [usize; 2]) -> Tensor<2> {
        let (client, device) = (self.client.clone(), self.device.clone());
        let tensor = CubeTensor::new_contiguous(client, device, Shape::from(shape), handle, DType::F32);
        Tensor::from_primitive::<CubeBackend>(tensor)
    }
}

/// The values in row-major order.
fn contiguous(x: Tensor<2>) -> CubeTensor {
    match x.try_into_primitive::<CubeBackend>() {
        Ok(x) => kernel::into_contiguous(x),
        Err(error) => unreachable!("a weight on CUDA is multiplied with tensors on CUDA: {error:?}"),
    }
}
