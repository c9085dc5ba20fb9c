//! The operators of a Llama layer. Each has one formula in burn operators, which runs on any device and under
//! autodiff; where burn's CPU operators are single-threaded and make several passes, a fused host loop computes
//! the same formula.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData, activation};
use qpipe_formats::LlamaConfig;
use qpipe_formats::config::RopeFrequencies;
use rayon::prelude::*;

use super::compute::ComputeDtype;
use super::host;

/// Where an operator's fused form runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// CPU memory, no autodiff: fused host loops may be used.
    Host,
    /// Anything else: burn's operators.
    Device,
    /// A CUDA device, no autodiff, and a model whose dimensions our kernels handle. Activations are in the compute dtype.
    #[cfg(feature = "cuda")]
    Cuda,
}

impl Place {
    /// Where a model of these dimensions runs, for inference.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "asked of a GPU only"))]
    pub fn of(on_cpu: bool, config: &LlamaConfig, device: &Device) -> Self {
        if on_cpu {
            return Self::Host;
        }
        #[cfg(feature = "cuda")]
        if super::on_cuda::supports(config) && super::on_cuda::is_gpu(device) {
            return Self::Cuda;
        }
        Self::Device
    }
}

/// Rows or values that one host task handles.
const CHUNK: usize = 16 * 1024;

/// Applies `f` to a host tensor's values in place. Zero-copy when the tensor is the only owner of a contiguous
/// buffer.
pub(crate) fn on_host<const D: usize>(x: Tensor<D>, f: impl Fn(&mut [f32]) + Sync) -> Tensor<D> {
    let device = x.device();
    let mut data = x.into_data();
    with_values(&mut data, |values| values.par_chunks_mut(CHUNK).for_each(&f));
    Tensor::from_data(data, &device)
}

/// The values of a host tensor's data.
pub(super) fn with_values(data: &mut TensorData, f: impl FnOnce(&mut [f32])) {
    match data.as_mut_slice::<f32>() {
        Ok(values) => f(values),
        Err(error) => unreachable!("host tensors are f32: {error:?}"),
    }
}

/// The values of a host tensor.
pub(crate) fn host_values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    match x.into_data().try_into_vec::<f32>() {
        Ok(values) => values,
        Err(error) => unreachable!("host tensors are f32: {error:?}"),
    }
}

/// Root-mean-square norm of rows: `x / sqrt(mean(x²) + eps) · weight`, rounded. `x`: `[rows, width]`.
pub(super) fn rms_norm(
    x: Tensor<2>,
    weight: &Tensor<1>,
    eps: f64,
    compute: ComputeDtype,
    place: Place,
) -> Tensor<2> {
    match place {
        Place::Host => {
            let (device, shape, gain) = (x.device(), x.dims(), host_values(weight.clone()));
            let out = host::rms_norm(&host_values(x), &gain, eps as f32, compute.rounding());
            Tensor::from_data(TensorData::new(out, shape), &device)
        }
        Place::Device => {
            let mean = x.clone().square().mean_dim(1);
            let scale = mean.add_scalar(eps).sqrt().recip();
            compute.round(x.mul(scale).mul(weight.clone().unsqueeze()), place)
        }
        #[cfg(feature = "cuda")]
        Place::Cuda => {
            let [_, normed] = super::on_cuda::rms_norm(x, None, weight, eps);
            normed
        }
    }
}

/// Adds `y` to the residual stream `x`, both `[rows, hidden]`: the rounded sum, and its norm as [`rms_norm`] has it.
pub(super) fn add_norm(
    x: Tensor<2>,
    y: Tensor<2>,
    weight: &Tensor<1>,
    eps: f64,
    compute: ComputeDtype,
    place: Place,
) -> (Tensor<2>, Tensor<2>) {
    match place {
        Place::Host => {
            let (device, shape, gain) = (x.device(), x.dims(), host_values(weight.clone()));
            let (mut x, y) = (x.into_data(), host_values(y));
            let mut normed = Vec::new();
            with_values(&mut x, |x| normed = host::add_norm(x, &y, &gain, eps as f32, compute.rounding()));
            let normed = Tensor::from_data(TensorData::new(normed, shape), &device);
            (Tensor::from_data(x, &device), normed)
        }
        Place::Device => {
            let x = compute.round(x.add(y), place);
            (x.clone(), rms_norm(x, weight, eps, compute, place))
        }
        #[cfg(feature = "cuda")]
        Place::Cuda => super::on_cuda::rms_norm(x, Some(y), weight, eps).into(),
    }
}

/// `silu(gate) · up`, rounded; both `[rows, intermediate]`.
pub(super) fn swiglu(gate: Tensor<2>, up: Tensor<2>, compute: ComputeDtype, place: Place) -> Tensor<2> {
    match place {
        Place::Host => {
            let device = gate.device();
            let (mut gate, up) = (gate.into_data(), host_values(up));
            with_values(&mut gate, |gate| host::swiglu(gate, &up, compute.rounding()));
            Tensor::from_data(gate, &device)
        }
        Place::Device => compute.round(activation::silu(gate).mul(up), place),
        #[cfg(feature = "cuda")]
        Place::Cuda => super::on_cuda::swiglu(gate, up),
    }
}

/// Cosines and sines of the rotary embedding for every position, `[positions, head dim / 2]` each.
/// Su et al. 2021 (arXiv 2104.09864), half-split as Hugging Face stores weights.
#[derive(Clone)]
pub(super) struct Rope {
    cos: Tensor<2>,
    sin: Tensor<2>,
    /// A cosine and then a sine of every position and half a head, `[positions, head dim]`.
    #[cfg(feature = "cuda")]
    table: Tensor<2>,
    /// The same on the host, row after row.
    host: [Arc<[f32]>; 2],
    half: usize,
}

impl Rope {
    pub(super) fn new(
        positions: usize,
        frequencies: &RopeFrequencies,
        device: &burn::tensor::Device,
    ) -> Self {
        let half = frequencies.inverse.len();
        let angles: Vec<f32> =
            (0..positions).flat_map(|p| frequencies.inverse.iter().map(move |f| p as f32 * f)).collect();
        let table = |f: fn(f32) -> f32| -> Vec<f32> {
            angles.iter().map(|a| f(*a) * frequencies.attention_factor).collect()
        };
        let tensor =
            |values: &[f32]| Tensor::from_data(TensorData::new(values.to_vec(), [positions, half]), device);
        let (cos, sin) = (table(f32::cos), table(f32::sin));
        let (cos_tensor, sin_tensor) = (tensor(&cos), tensor(&sin));
        Self {
            #[cfg(feature = "cuda")]
            table: Tensor::cat(vec![cos_tensor.clone(), sin_tensor.clone()], 1),
            cos: cos_tensor,
            sin: sin_tensor,
            host: [cos.into(), sin.into()],
            half,
        }
    }

    /// Cosines and sines side by side, `[positions, head dim]`.
    #[cfg(feature = "cuda")]
    pub(super) fn table(&self) -> &Tensor<2> {
        &self.table
    }

    /// Cosines and sines of one position, half a head each.
    pub(super) fn row(&self, position: usize) -> (&[f32], &[f32]) {
        let row = position * self.half..(position + 1) * self.half;
        let [cos, sin] = &self.host;
        (&cos[row.clone()], &sin[row])
    }

    /// Rotates `x` `[batch, heads, seq, head dim]` whose first token stands at position `start`.
    pub(super) fn apply(&self, x: Tensor<4>, start: usize) -> Tensor<4> {
        let [_, _, seq, dim] = x.dims();
        let rows = |t: &Tensor<2>| t.clone().narrow(0, start, seq).unsqueeze::<4>();
        let (cos, sin) = (rows(&self.cos), rows(&self.sin));
        let (a, b) = (x.clone().narrow(3, 0, dim / 2), x.narrow(3, dim / 2, dim / 2));
        let first = a.clone().mul(cos.clone()).sub(b.clone().mul(sin.clone()));
        let second = b.mul(cos).add(a.mul(sin));
        Tensor::cat(vec![first, second], 3)
    }
}
