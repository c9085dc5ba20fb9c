//! Keys and values of past positions, one pair of tensors per layer.

use burn::tensor::{Device, Int, Tensor, TensorData};
use qpipe_formats::LlamaConfig;

/// The cache of one layer: `[batch · kv heads, capacity, head dim]`, of which the first `len` positions are valid.
pub struct LayerCache {
    keys: Tensor<3>,
    values: Tensor<3>,
}

/// The cache of a model for one batch of sequences that advance together.
pub struct KvCache {
    pub(super) layers: Vec<LayerCache>,
    kv_heads: usize,
    pub(super) len: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache for `batch` sequences of at most `capacity` tokens.
    pub fn new(config: &LlamaConfig, batch: usize, capacity: usize, device: &Device) -> Self {
        let shape = [batch * config.num_key_value_heads, capacity, config.head_dim];
        let layer =
            || LayerCache { keys: Tensor::zeros(shape, device), values: Tensor::zeros(shape, device) };
        let layers = (0..config.num_hidden_layers).map(|_| layer()).collect();
        Self { layers, kv_heads: config.num_key_value_heads, len: 0, capacity }
    }

    /// Tokens held so far.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Room left, in tokens.
    pub fn remaining(&self) -> usize {
        self.capacity - self.len
    }

    /// Bytes that such a cache will hold.
    pub fn bytes_for(config: &LlamaConfig, batch: usize, capacity: usize) -> u64 {
        let positions = (batch * capacity) as u64 * (config.num_key_value_heads * config.head_dim) as u64;
        2 * config.num_hidden_layers as u64 * positions * size_of::<f32>() as u64
    }

    /// A cache of chosen rows, any of them several times, with room for `room` more tokens. Row `i` holds what this
    /// cache's row `rows[i]` holds.
    pub(super) fn selected(&self, rows: &[i64], room: usize) -> Self {
        let chosen = |t: &Tensor<3>| {
            let device = t.device();
            let [all, _, dim] = t.dims();
            let (heads, held) = (self.kv_heads, self.len);
            let picked = Tensor::<1, Int>::from_data(TensorData::new(rows.to_vec(), [rows.len()]), &device);
            let by_row = t.clone().narrow(1, 0, held).reshape([all / heads, heads * held * dim]);
            let held = by_row.select(0, picked).reshape([rows.len() * heads, held, dim]);
            Tensor::cat(vec![held, Tensor::zeros([rows.len() * heads, room, dim], &device)], 1)
        };
        let layer = |l: &LayerCache| LayerCache { keys: chosen(&l.keys), values: chosen(&l.values) };
        let layers = self.layers.iter().map(layer).collect();
        Self { layers, kv_heads: self.kv_heads, len: self.len, capacity: self.len + room }
    }

    /// Bytes held: `2 · layers · batch · kv heads · capacity · head dim · 4`.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(|l| 2 * l.keys.shape().num_elements() * size_of::<f32>()).sum()
    }
}

impl LayerCache {
    /// Appends keys and values `[batch · kv heads, new, head dim]` at `at`; returns all valid ones.
    pub(super) fn append(&mut self, at: usize, keys: Tensor<3>, values: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        let end = at + keys.dims()[1];
        write(&mut self.keys, at..end, keys);
        write(&mut self.values, at..end, values);
        (self.keys.clone().narrow(1, 0, end), self.values.clone().narrow(1, 0, end))
    }
}

fn write(into: &mut Tensor<3>, at: std::ops::Range<usize>, new: Tensor<3>) {
    let [heads, _, dim] = into.dims();
    into.inplace(|t| t.slice_assign([0..heads, at, 0..dim], new));
}
