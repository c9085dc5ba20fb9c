//! Keys and values of past positions, one pair per layer: host memory where a model's loops run on the host, tensors
//! elsewhere.

use burn::tensor::{Device, Int, Tensor, TensorData};
use qpipe_formats::LlamaConfig;

use super::compute::ComputeDtype;
use super::ops::Place;

/// The cache of one layer: `[batch · kv heads, capacity, head dim]`, of which the first positions are valid.
#[expect(clippy::large_enum_variant, reason = "one per layer, and all are handles")]
pub enum LayerCache {
    Host { keys: Vec<f32>, values: Vec<f32> },
    Device { keys: Tensor<3>, values: Tensor<3> },
}

/// The cache of a model for one batch of sequences that advance together.
pub struct KvCache {
    pub(super) layers: Vec<LayerCache>,
    kv_heads: usize,
    dim: usize,
    pub(super) len: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache for `batch` sequences of at most `capacity` tokens.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "elsewhere all tensors are f32"))]
    pub(super) fn new(
        config: &LlamaConfig,
        batch: usize,
        capacity: usize,
        (place, compute): (Place, ComputeDtype),
        device: &Device,
    ) -> Self {
        let (kv_heads, dim) = (config.num_key_value_heads, config.head_dim);
        let shape = [batch * kv_heads, capacity, dim];
        let layer = || match place {
            Place::Host => {
                let zeros = || vec![0.0; shape.iter().product()];
                LayerCache::Host { keys: zeros(), values: zeros() }
            }
            Place::Device => {
                let zeros = || Tensor::zeros(shape, device);
                LayerCache::Device { keys: zeros(), values: zeros() }
            }
            #[cfg(feature = "cuda")]
            Place::Cuda => {
                let zeros = || Tensor::zeros(shape, (device, super::on_cuda::stored(compute)));
                LayerCache::Device { keys: zeros(), values: zeros() }
            }
        };
        let layers = (0..config.num_hidden_layers).map(|_| layer()).collect();
        Self { layers, kv_heads, dim, len: 0, capacity }
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

    /// The cache of no model.
    #[cfg(feature = "cuda")]
    pub(super) fn nothing() -> Self {
        Self { layers: Vec::new(), kv_heads: 0, dim: 0, len: 0, capacity: 0 }
    }

    /// Tokens of each sequence that there is room for.
    #[cfg(feature = "cuda")]
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that such a cache will hold, at the most.
    pub fn bytes_for(config: &LlamaConfig, batch: usize, capacity: usize) -> u64 {
        let positions = (batch * capacity) as u64 * (config.num_key_value_heads * config.head_dim) as u64;
        2 * config.num_hidden_layers as u64 * positions * size_of::<f32>() as u64
    }

    /// A cache of chosen rows, any of them several times, with room for `room` more tokens. Row `i` holds what this
    /// cache's row `rows[i]` holds.
    pub(super) fn selected(&self, rows: &[i64], room: usize) -> Self {
        let capacity = self.len + room;
        let layer = |layer: &LayerCache| match layer {
            LayerCache::Host { keys, values } => {
                let chosen = |from: &[f32]| self.chosen(from, rows, capacity);
                LayerCache::Host { keys: chosen(keys), values: chosen(values) }
            }
            LayerCache::Device { keys, values } => {
                let chosen = |from: &Tensor<3>| self.chosen_on_device(from, rows, room);
                LayerCache::Device { keys: chosen(keys), values: chosen(values) }
            }
        };
        let layers = self.layers.iter().map(layer).collect();
        Self { layers, capacity, ..*self }
    }

    fn chosen(&self, from: &[f32], rows: &[i64], capacity: usize) -> Vec<f32> {
        let (heads, held) = (self.kv_heads, self.len * self.dim);
        let mut to = vec![0.0; rows.len() * heads * capacity * self.dim];
        for (index, to) in to.chunks_exact_mut((capacity * self.dim).max(1)).enumerate() {
            let at = (rows[index / heads] as usize * heads + index % heads) * self.capacity * self.dim;
            to[..held].copy_from_slice(&from[at..at + held]);
        }
        to
    }

    fn chosen_on_device(&self, from: &Tensor<3>, rows: &[i64], room: usize) -> Tensor<3> {
        let device = from.device();
        let [all, _, dim] = from.dims();
        let (heads, held) = (self.kv_heads, self.len);
        let picked = Tensor::<1, Int>::from_data(TensorData::new(rows.to_vec(), [rows.len()]), &device);
        let by_row = from.clone().narrow(1, 0, held).reshape([all / heads, heads * held * dim]);
        let held = by_row.select(0, picked).reshape([rows.len() * heads, held, dim]);
        Tensor::cat(vec![held, Tensor::zeros([rows.len() * heads, room, dim], (&device, from.dtype()))], 1)
    }

    /// Bytes held: `2 · layers · batch · kv heads · capacity · head dim` values, in f32 or, on CUDA, in the compute dtype.
    pub fn bytes(&self) -> usize {
        let bytes = |layer: &LayerCache| match layer {
            LayerCache::Host { keys, .. } => keys.len() * size_of::<f32>(),
            LayerCache::Device { keys, .. } => keys.shape().num_elements() * keys.dtype().size(),
        };
        self.layers.iter().map(|layer| 2 * bytes(layer)).sum()
    }
}

impl LayerCache {
    /// Appends keys and values `[batch · kv heads, new, head dim]` at `at`, on a device; returns all valid ones.
    pub(super) fn append(&mut self, at: usize, k: Tensor<3>, v: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        let Self::Device { keys, values } = self else {
            unreachable!("a model's caches are where the model is")
        };
        let end = at + k.dims()[1];
        write(keys, at..end, k);
        write(values, at..end, v);
        (keys.clone().narrow(1, 0, end), values.clone().narrow(1, 0, end))
    }
}

fn write(into: &mut Tensor<3>, at: std::ops::Range<usize>, new: Tensor<3>) {
    let [heads, _, dim] = into.dims();
    into.inplace(|t| t.slice_assign([0..heads, at, 0..dim], new));
}
