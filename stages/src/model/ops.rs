//! The operators of a Llama layer. Each has one formula in burn operators, which runs on any device and under
//! autodiff; where burn's CPU operators are single-threaded and make several passes, a fused host loop computes
//! the same formula.

use burn::tensor::{Tensor, TensorData, activation};
use qpipe_formats::config::RopeFrequencies;
use rayon::prelude::*;

/// Where an operator's fused form runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// CPU memory, no autodiff: fused host loops may be used.
    Host,
    /// Anything else: burn's operators.
    Device,
}

/// Rows or values that one host task handles.
const CHUNK: usize = 16 * 1024;

/// Applies `f` to a host tensor's values in place. Zero-copy when the tensor is the only owner of a contiguous
/// buffer.
pub(crate) fn on_host<const D: usize>(x: Tensor<D>, f: impl Fn(&mut [f32]) + Sync) -> Tensor<D> {
    on_host_rows(x, CHUNK, f)
}

/// Like [`on_host`], with chunks of whole rows of `row` values.
fn on_host_rows<const D: usize>(x: Tensor<D>, row: usize, f: impl Fn(&mut [f32]) + Sync) -> Tensor<D> {
    let device = x.device();
    let mut data = x.into_data();
    with_values(&mut data, |values| values.par_chunks_mut(row.max(1)).for_each(&f));
    Tensor::from_data(data, &device)
}

fn with_values(data: &mut TensorData, f: impl FnOnce(&mut [f32])) {
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

/// Root-mean-square norm of rows: `x / sqrt(mean(x²) + eps) · weight`. `x`: `[rows, hidden]`.
pub(super) fn rms_norm(x: Tensor<2>, weight: &Tensor<1>, eps: f64, place: Place) -> Tensor<2> {
    let [_, hidden] = x.dims();
    match place {
        Place::Host => {
            let gain = host_values(weight.clone());
            on_host_rows(x, hidden, move |row| {
                let mean = row.iter().map(|v| v * v).sum::<f32>() / hidden as f32;
                let scale = 1.0 / (mean + eps as f32).sqrt();
                row.iter_mut().zip(&gain).for_each(|(v, g)| *v = *v * scale * g);
            })
        }
        Place::Device => {
            let mean = x.clone().square().mean_dim(1);
            let scale = mean.add_scalar(eps).sqrt().recip();
            x.mul(scale).mul(weight.clone().unsqueeze())
        }
    }
}

/// `silu(gate) · up`, both `[rows, intermediate]`.
pub(super) fn swiglu(gate: Tensor<2>, up: Tensor<2>, place: Place) -> Tensor<2> {
    match place {
        Place::Host => {
            let device = gate.device();
            let (mut data, up) = (gate.into_data(), host_values(up));
            with_values(&mut data, |values| {
                values.par_chunks_mut(CHUNK).zip(up.par_chunks(CHUNK)).for_each(|(g, u)| {
                    g.iter_mut().zip(u).for_each(|(g, u)| *g = *g / (1.0 + (-*g).exp()) * u);
                });
            });
            Tensor::from_data(data, &device)
        }
        Place::Device => activation::silu(gate).mul(up),
    }
}

/// Cosines and sines of the rotary embedding for every position, `[positions, head dim / 2]` each.
/// Su et al. 2021 (arXiv 2104.09864), half-split as Hugging Face stores weights.
#[derive(Clone)]
pub(super) struct Rope {
    cos: Tensor<2>,
    sin: Tensor<2>,
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
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|a| f(*a) * frequencies.attention_factor).collect();
            Tensor::from_data(TensorData::new(values, [positions, half]), device)
        };
        Self { cos: table(f32::cos), sin: table(f32::sin) }
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

/// Queries handled at once: scores take `[batch · kv heads, group · block, keys]`, never `[seq, seq]`.
const QUERY_BLOCK: usize = 128;

/// Causal attention with grouped queries. `q`: `[batch, heads, new, dim]`; `k`, `v`: `[batch, kv heads, past +
/// new, dim]`; returns `[batch, heads, new, dim]`. Query `i` sees keys `0..=past + i`, of
/// which only the last `window`.
pub(super) fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, window: Option<usize>) -> Tensor<4> {
    let [batch, heads, new, dim] = q.dims();
    let [_, kv, total, _] = k.dims();
    let (group, past) = (heads / kv, total - new);
    let q = q.mul_scalar(1.0 / (dim as f32).sqrt()).reshape([batch * kv, group, new, dim]);
    let (k, v) = (k.reshape([batch * kv, total, dim]), v.reshape([batch * kv, total, dim]));
    let block = |start: usize| {
        let len = QUERY_BLOCK.min(new - start);
        let seen = past + start + len;
        let first = window.map_or(0, |window| (past + start + 1).saturating_sub(window));
        let rows = q.clone().narrow(2, start, len).reshape([batch * kv, group * len, dim]);
        let keys = k.clone().narrow(1, first, seen - first);
        let scores = rows.matmul(keys.swap_dims(1, 2));
        let scores = if len == 1 { scores } else { mask(scores, group, past + start - first, window) };
        let mixed = activation::softmax(scores, 2).matmul(v.clone().narrow(1, first, seen - first));
        mixed.reshape([batch, heads, len, dim])
    };
    let mut blocks: Vec<Tensor<4>> = (0..new).step_by(QUERY_BLOCK).map(block).collect();
    if blocks.len() == 1 { blocks.remove(0) } else { Tensor::cat(blocks, 2) }
}

/// Adds −∞ to scores `[batch · kv, group · len, seen]` of keys that their query does not see. The first query stands
/// at key `start`.
fn mask(scores: Tensor<3>, group: usize, start: usize, window: Option<usize>) -> Tensor<3> {
    let [_, rows, seen] = scores.dims();
    let len = rows / group;
    let window = window.unwrap_or(usize::MAX);
    let bias = |query: usize, key: usize| {
        let is_seen = key <= query && query - key < window;
        if is_seen { 0.0 } else { f32::NEG_INFINITY }
    };
    let bias: Vec<f32> =
        (0..rows).flat_map(|row| (0..seen).map(move |key| bias(start + row % len, key))).collect();
    let bias = Tensor::<3>::from_data(TensorData::new(bias, [1, rows, seen]), &scores.device());
    scores.add(bias)
}
