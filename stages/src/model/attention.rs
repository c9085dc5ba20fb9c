//! Attention with grouped queries: from projected queries, keys and values to mixed values, never holding
//! `[seq, seq]` scores. On the host, matrix products are burn's and everything between them is a fused loop.

use burn::tensor::{Tensor, TensorData, activation};

use super::compute::ComputeDtype;
use super::host::{self, Heads};
use super::ops::{Place, Rope, host_values, with_values};

/// Queries handled at once: scores take `[batch · kv heads, group · block, keys]`.
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
}

impl Attention<'_> {
    /// Rotated keys and values `[batch · kv heads, seq, dim]` from projected ones `[batch · seq, kv heads · dim]`.
    pub(super) fn keys_values(&self, k: Tensor<2>, v: Tensor<2>) -> (Tensor<3>, Tensor<3>) {
        let shape = [self.batch * self.kv_heads, self.seq, self.dim];
        if self.place == Place::Device {
            let k = self.compute.round(self.rope.apply(self.split(k, self.kv_heads), self.start), self.place);
            return (k.reshape(shape), self.split(v, self.kv_heads).reshape(shape));
        }
        let device = k.device();
        let heads = Heads { seq: self.seq, count: self.kv_heads, dim: self.dim };
        let k = heads.split(&host_values(k), 0..self.seq, |token, from, to| self.rotate(token, from, to));
        let v = heads.split(&host_values(v), 0..self.seq, |_, from, to| to.copy_from_slice(from));
        let tensor = |values| Tensor::from_data(TensorData::new(values, shape), &device);
        (tensor(k), tensor(v))
    }

    /// Causal attention of projected queries `[batch · seq, heads · dim]` over all keys and values so far,
    /// `[batch · kv heads, start + seq, dim]`; the mixed values have the queries' shape.
    pub(super) fn attend(&self, q: Tensor<2>, k: &Tensor<3>, v: &Tensor<3>) -> Tensor<2> {
        match self.place {
            Place::Host => self.on_host(q, k, v),
            Place::Device => self.on_device(q, k, v),
        }
    }

    fn on_host(&self, q: Tensor<2>, k: &Tensor<3>, v: &Tensor<3>) -> Tensor<2> {
        let device = q.device();
        let heads = Heads { seq: self.seq, count: self.heads, dim: self.dim };
        let (q, scale) = (host_values(q), self.scale());
        let mut out = vec![0.0; q.len()];
        for start in (0..self.seq).step_by(QUERY_BLOCK) {
            let tokens = start..(start + QUERY_BLOCK).min(self.seq);
            let rows = heads.split(&q, tokens.clone(), |token, from, to| {
                self.rotate(token, from, to);
                for v in to.iter_mut() {
                    *v *= scale;
                }
            });
            let rows = Tensor::from_data(TensorData::new(rows, self.block_shape(tokens.len())), &device);
            let (first, seen) = self.keys_of(start, tokens.len());
            let mut scores = rows.matmul(k.clone().narrow(1, first, seen).swap_dims(1, 2)).into_data();
            let window = self.window.unwrap_or(usize::MAX);
            with_values(&mut scores, |scores| {
                host::causal_softmax(scores, seen, tokens.len(), self.start + start - first, window);
            });
            let mixed = Tensor::<3>::from_data(scores, &device).matmul(v.clone().narrow(1, first, seen));
            heads.join(&host_values(mixed), tokens, &mut out);
        }
        Tensor::from_data(TensorData::new(out, [self.batch * self.seq, self.heads * self.dim]), &device)
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
