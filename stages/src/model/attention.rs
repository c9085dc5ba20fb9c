//! Attention with grouped queries: from projected queries, keys and values to mixed values, never holding
//! `[seq, seq]` scores. On the host it runs in fused tasks ([`host::attend`]), elsewhere in burn's operators.

use burn::tensor::{Tensor, TensorData, activation};

use super::cache::LayerCache;
use super::compute::ComputeDtype;
use super::host::{self, Grouped};
#[cfg(feature = "cuda")]
use super::on_cuda::Projected;
use super::ops::{Place, Rope, host_values};

/// Queries handled at once on a device: scores take `[batch · kv heads, group · block, keys]`.
const QUERY_BLOCK: usize = 128;

/// What the tokens of a pass and a layer's heads look like.
#[derive(Clone, Copy)]
pub(super) struct Attention<'a> {
    pub(super) batch: usize,
    /// New tokens of each sequence.
    pub(super) seq: usize,
    /// The position of the first of them.
    pub(super) start: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) dim: usize,
    /// How many keys a query sees, its own included.
    pub(super) window: Option<usize>,
    pub(super) rope: &'a Rope,
    pub(super) compute: ComputeDtype,
    pub(super) place: Place,
    /// `start`, where the kernels read it.
    #[cfg(feature = "cuda")]
    pub(super) start_on_cuda: Option<&'a super::on_cuda::Start>,
}

impl Attention<'_> {
    /// Causal attention of projected queries `[batch · seq, heads · dim]` over the cache and projected keys and values
    /// `[batch · seq, kv heads · dim]`, which are added to it; the mixed values have the queries' shape.
    pub(super) fn attend(
        &self,
        q: Tensor<2>,
        [k, v]: [Tensor<2>; 2],
        cache: Option<&mut LayerCache>,
    ) -> Tensor<2> {
        match self.place {
            Place::Host => self.on_host(q, [k, v], cache),
            #[cfg(feature = "cuda")]
            Place::Cuda => self.on_cuda(Projected::Apart([q, k, v]), cache.as_deref()),
            Place::Device => {
                let shape = [self.batch * self.kv_heads, self.seq, self.dim];
                let k = self.rope.apply(self.split(k, self.kv_heads), self.start);
                let k = self.compute.round(k, self.place).reshape(shape);
                let v = self.split(v, self.kv_heads).reshape(shape);
                let (k, v) = match cache {
                    Some(cache) => cache.append(self.start, k, v),
                    None => (k, v),
                };
                self.on_device(q, &k, &v)
            }
        }
    }

    fn on_host(&self, q: Tensor<2>, [k, v]: [Tensor<2>; 2], cache: Option<&mut LayerCache>) -> Tensor<2> {
        let (device, shape) = (q.device(), q.dims());
        let [q, k, v] = [q, k, v].map(host_values);
        let new = [self.seq, self.kv_heads, self.dim];
        let mut fresh = LayerCache::Host { keys: Vec::new(), values: Vec::new() };
        let (keys, values) = match cache.unwrap_or(&mut fresh) {
            LayerCache::Host { keys, values } => (keys, values),
            LayerCache::Device { .. } => unreachable!("a model's caches are where the model is"),
        };
        for values in [&mut *keys, &mut *values] {
            if values.is_empty() {
                values.resize(k.len(), 0.0);
            }
        }
        host::split_heads(&k, new, keys, self.start, |token, from, to| self.rotate(token, from, to));
        host::split_heads(&v, new, values, self.start, |_, from, to| to.copy_from_slice(from));
        let grouped = Grouped {
            seq: self.seq,
            start: self.start,
            heads: self.heads,
            kv_heads: self.kv_heads,
            dim: self.dim,
            window: self.window,
        };
        let scale = self.scale();
        let out = host::attend(grouped, &q, [keys, values], |token, from, to| {
            self.rotate(token, from, to);
            for v in to.iter_mut() {
                *v *= scale;
            }
        });
        Tensor::from_data(TensorData::new(out, shape), &device)
    }

    /// The same in our kernels.
    #[cfg(feature = "cuda")]
    pub(super) fn on_cuda(&self, given: Projected, cache: Option<&LayerCache>) -> Tensor<2> {
        let (keys, values) = match cache {
            Some(LayerCache::Device { keys, values }) => (keys.clone(), values.clone()),
            Some(LayerCache::Host { .. }) => unreachable!("a model's caches are where the model is"),
            None => {
                let shape = [self.batch * self.kv_heads, self.start + self.seq, self.dim];
                let dtype = super::on_cuda::stored(self.compute);
                let empty = || Tensor::empty(shape, (&self.rope.table().device(), dtype));
                (empty(), empty())
            }
        };
        let Some(start) = self.start_on_cuda else { unreachable!("a pass on CUDA has its start there") };
        let heads = qpipe_kernels::Heads {
            batch: self.batch,
            seq: self.seq,
            heads: self.heads,
            kv_heads: self.kv_heads,
            dim: self.dim,
            capacity: keys.dims()[1],
            window: self.window,
        };
        super::on_cuda::attend(given, [&keys, &values], self.rope.table(), start, heads)
    }

    fn on_device(&self, q: Tensor<2>, k: &Tensor<3>, v: &Tensor<3>) -> Tensor<2> {
        let (batch, heads, dim) = (self.batch, self.heads, self.dim);
        let q = self.compute.round(self.rope.apply(self.split(q, heads), self.start), self.place);
        let groups = [batch * self.kv_heads, heads / self.kv_heads, self.seq, dim];
        let q = q.mul_scalar(self.scale()).reshape(groups);
        let block = |start: usize| {
            let len = QUERY_BLOCK.min(self.seq - start);
            let (first, seen) = self.keys_of(start, len);
            let rows = q.clone().narrow(2, start, len).reshape(self.block_shape(len));
            let scores = rows.matmul(k.clone().narrow(1, first, seen).swap_dims(1, 2));
            let scores = if len == 1 { scores } else { self.mask(scores, len, self.start + start - first) };
            let mixed = activation::softmax(scores, 2).matmul(v.clone().narrow(1, first, seen));
            mixed.reshape([batch, heads, len, dim])
        };
        let mut blocks: Vec<Tensor<4>> = (0..self.seq).step_by(QUERY_BLOCK).map(block).collect();
        let mixed = if blocks.len() == 1 { blocks.remove(0) } else { Tensor::cat(blocks, 2) };
        mixed.swap_dims(1, 2).reshape([batch * self.seq, heads * dim])
    }

    fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    fn split(&self, x: Tensor<2>, heads: usize) -> Tensor<4> {
        x.reshape([self.batch, self.seq, heads, self.dim]).swap_dims(1, 2)
    }

    fn block_shape(&self, len: usize) -> [usize; 3] {
        [self.batch * self.kv_heads, self.heads / self.kv_heads * len, self.dim]
    }

    /// The first key that any of `len` queries from the pass's token `start` on sees, and how many there are.
    fn keys_of(&self, start: usize, len: usize) -> (usize, usize) {
        let at = self.start + start;
        let first = self.window.map_or(0, |window| (at + 1).saturating_sub(window));
        (first, at + len - first)
    }

    #[expect(clippy::inline_always, reason = "compiled for the instruction set of the loop around it")]
    #[inline(always)]
    fn rotate(&self, token: usize, from: &[f32], to: &mut [f32]) {
        let (cos, sin) = self.rope.row(self.start + token);
        host::rotate(from, cos, sin, to);
        qpipe_codecs::round_slice(to, self.compute.rounding());
    }

    /// Adds −∞ to scores `[batch · kv, group · len, seen]` of keys that their query does not see. The first query
    /// stands at key `start`.
    fn mask(&self, scores: Tensor<3>, len: usize, start: usize) -> Tensor<3> {
        let [_, rows, seen] = scores.dims();
        let window = self.window.unwrap_or(usize::MAX);
        let bias = |query: usize, key: usize| {
            let is_seen = key <= query && query - key < window;
            if is_seen { 0.0 } else { f32::NEG_INFINITY }
        };
        let bias: Vec<f32> =
            (0..rows).flat_map(|row| (0..seen).map(move |key| bias(start + row % len, key))).collect();
        let bias = Tensor::<3>::from_data(TensorData::new(bias, [1, rows, seen]), &scores.device());
        scores.add(bias)
    }
}
