//! The Llama family: pre-norm decoder layers with grouped-query attention, rotary positions and SwiGLU (Touvron et al.
//! 2023, arXiv 2302.13971), with the biases, head norms, windows and rope scalings that a configuration asks for.
//! Weights are named and laid out as Hugging Face does.

// where kernels read a position
#[cfg(not(feature = "cuda"))]
use std::convert::Infallible as StartOnCuda;

#[cfg(feature = "cuda")]
use std::sync::PoisonError;

use burn::tensor::{Device, Int, Tensor};
use qpipe_formats::LlamaConfig;

use super::attention::Attention;
use super::cache::{KvCache, LayerCache};
use super::compute::ComputeDtype;
use super::linear::{Linear, Matrix};
#[cfg(feature = "cuda")]
use super::on_cuda::Start as StartOnCuda;
#[cfg(feature = "cuda")]
use super::on_cuda::stepper::Stepper;
use super::ops::{self, Place, Rope};

/// Caches that decoding steps are recorded with have room for whole multiples of so many tokens, so that batches of about
/// one length share a recording.
#[cfg(feature = "cuda")]
const ROOM: usize = 64;

/// A linear layer and its bias.
struct Projection {
    linear: Linear,
    bias: Option<Tensor<1>>,
}

/// Linear layers of one input.
#[cfg_attr(
    feature = "cuda",
    expect(clippy::large_enum_variant, reason = "two per layer, and all are handles")
)]
enum Projections<const N: usize> {
    Apart([Projection; N]),
    /// As one product, whose rows hold the results side by side.
    #[cfg(feature = "cuda")]
    Joined(Projection),
}

struct Layer {
    input_norm: Tensor<1>,
    qkv: Projections<3>,
    /// Norms of query and key heads.
    head_norms: Option<(Tensor<1>, Tensor<1>)>,
    o: Projection,
    post_norm: Tensor<1>,
    gate_up: Projections<2>,
    down: Projection,
    /// How many keys a query sees, its own included.
    window: Option<usize>,
}

/// A model of the Llama family, ready to run.
pub struct Llama {
    pub config: LlamaConfig,
    pub compute: ComputeDtype,
    pub device: Device,
    place: Place,
    embedding: Matrix,
    layers: Vec<Layer>,
    norm: Tensor<1>,
    /// `None`: tied to the embedding.
    head: Option<Linear>,
    rope: Rope,
    /// Where it runs in our kernels.
    #[cfg(feature = "cuda")]
    gpu: Option<super::on_cuda::Gpu>,
    /// The last recorded decoding step and the cache that it writes to.
    #[cfg(feature = "cuda")]
    recorded: std::sync::Mutex<Option<(KvCache, Stepper)>>,
}

/// Where a model's weights come from, by module name (`model.layers.0.self_attn.q_proj`); a bias is a module of its
/// own (`model.layers.0.self_attn.q_proj.bias`).
pub trait Weights {
    type Error;
    /// A vector: norms, biases.
    fn vector(&mut self, module: &str) -> Result<Tensor<1>, Self::Error>;
    /// A dense matrix: the embedding.
    fn matrix(&mut self, module: &str) -> Result<Matrix, Self::Error>;
    /// A linear layer, dense or packed.
    fn linear(&mut self, module: &str) -> Result<Linear, Self::Error>;
    /// Linear layers of one input as one, the outputs of each after those of the one before; `None` where they are better
    /// apart.
    #[cfg(feature = "cuda")]
    fn joined(&mut self, _modules: &[String]) -> Result<Option<Linear>, Self::Error> {
        Ok(None)
    }
}

impl Llama {
    /// Builds the model. `place` must be [`Place::Host`] only for CPU tensors without autodiff. `positions`: the
    /// longest sequence it will see.
    pub fn build<W: Weights>(
        config: &LlamaConfig,
        compute: ComputeDtype,
        device: &Device,
        place: Place,
        positions: usize,
        weights: &mut W,
    ) -> Result<Self, W::Error> {
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer::build(config, i, weights))
            .collect::<Result<Vec<_>, _>>()?;
        let head = if config.tie_word_embeddings { None } else { Some(weights.linear("lm_head")?) };
        Ok(Self {
            embedding: weights.matrix("model.embed_tokens")?,
            norm: weights.vector("model.norm")?,
            rope: Rope::new(positions, &config.rope(), device),
            config: config.clone(),
            compute,
            device: device.clone(),
            place,
            layers,
            head,
            #[cfg(feature = "cuda")]
            gpu: if place == Place::Cuda { super::on_cuda::Gpu::of(device) } else { None },
            #[cfg(feature = "cuda")]
            recorded: std::sync::Mutex::default(),
        })
    }

    /// Final hidden states `[batch · seq, hidden]` (after the last norm) of `tokens` `[batch, seq]`. With a cache,
    /// the tokens follow the ones it holds, and it grows by them.
    pub fn hidden(&self, tokens: Tensor<2, Int>, mut cache: Option<&mut KvCache>) -> Tensor<2> {
        let [batch, seq] = tokens.dims();
        let position = cache.as_ref().map_or(0, |c| c.len);
        let x = self.embedding.select(tokens.reshape([batch * seq]));
        let on_cuda = self.start_on_cuda(position);
        let start = Start { position, on_cuda: on_cuda.as_ref() };
        let hidden = self.decoded(x, [batch, seq], start, cache.as_deref_mut());
        if let Some(cache) = cache {
            cache.len += seq;
        }
        hidden
    }

    /// As [`Self::hidden`] of one token of each sequence, where tokens and position lie in the device's memory; the cache's
    /// length is left to the caller.
    #[cfg(feature = "cuda")]
    pub(super) fn step(
        &self,
        tokens: &cubecl::server::Handle,
        batch: usize,
        start: &StartOnCuda,
        cache: &mut KvCache,
    ) -> Tensor<2> {
        let Matrix::Tensor(table) = &self.embedding else { unreachable!("the model is on CUDA") };
        let x = super::on_cuda::embed(table, tokens, batch);
        let start = Start { position: cache.len, on_cuda: Some(start) };
        self.decoded(x, [batch, 1], start, Some(cache))
    }

    /// All layers and the last norm, of embedded tokens.
    fn decoded(
        &self,
        mut x: Tensor<2>,
        shape: [usize; 2],
        start: Start<'_>,
        mut cache: Option<&mut KvCache>,
    ) -> Tensor<2> {
        let first = self.layers.first().map_or(&self.norm, |layer| &layer.input_norm);
        let mut normed = self.normed(x.clone(), first);
        for (i, layer) in self.layers.iter().enumerate() {
            let layer_cache = cache.as_mut().map(|c| &mut c.layers[i]);
            let attended = self.attention(layer, normed, shape, start, layer_cache);
            (x, normed) = self.add_normed(x, attended, &layer.post_norm);
            let next = self.layers.get(i + 1).map_or(&self.norm, |next| &next.input_norm);
            (x, normed) = self.add_normed(x, self.mlp(layer, normed), next);
        }
        normed
    }

    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "kernels read it"))]
    fn start_on_cuda(&self, position: usize) -> Option<StartOnCuda> {
        match self.place {
            #[cfg(feature = "cuda")]
            Place::Cuda => StartOnCuda::at(position, &self.device),
            Place::Host | Place::Device => None,
        }
    }

    /// An empty cache for `batch` sequences of at most `capacity` tokens.
    pub fn cache(&self, batch: usize, capacity: usize) -> KvCache {
        KvCache::new(&self.config, batch, capacity, (self.place, self.compute), &self.device)
    }

    /// As [`Self::cache`], or the cache of a recorded decoding step for such a batch, with the step.
    #[cfg(feature = "cuda")]
    pub(super) fn cache_with_steps(&self, batch: usize, capacity: usize) -> (KvCache, Option<Stepper>) {
        if !self.is_on_cuda() {
            return (self.cache(batch, capacity), None);
        }
        let capacity = capacity.next_multiple_of(ROOM);
        let kept = self.recorded.lock().unwrap_or_else(PoisonError::into_inner).take();
        // one of another shape is let go before there is another
        match kept.filter(|(cache, stepper)| stepper.serves(batch) && cache.capacity() == capacity) {
            Some((mut cache, stepper)) => {
                cache.len = 0;
                (cache, Some(stepper))
            }
            None => (self.cache(batch, capacity), None),
        }
    }

    /// Lets go of what decoding left for the next batch.
    pub fn forget_steps(&self) {
        #[cfg(feature = "cuda")]
        drop(self.recorded.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Leaves a decoding step, and its cache, for the next batch.
    #[cfg(feature = "cuda")]
    pub(super) fn keep_steps(&self, cache: KvCache, stepper: Stepper) {
        *self.recorded.lock().unwrap_or_else(PoisonError::into_inner) = Some((cache, stepper));
    }

    /// The GPU whose kernels of ours it runs in, if it does.
    #[cfg(feature = "cuda")]
    pub(super) fn gpu(&self) -> Option<&super::on_cuda::Gpu> {
        self.gpu.as_ref()
    }

    /// Whether it runs in our kernels.
    #[cfg(feature = "cuda")]
    pub(super) fn is_on_cuda(&self) -> bool {
        self.place == Place::Cuda
    }

    /// Logits `[rows, vocabulary]` in f32 of hidden states `[rows, hidden]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.head {
            None => self.embedding.multiply(hidden, self.place, ComputeDtype::F32),
            Some(head) => head.forward(hidden, self.compute, self.place, ComputeDtype::F32),
        }
    }

    fn mlp(&self, layer: &Layer, x: Tensor<2>) -> Tensor<2> {
        let gated = match &layer.gate_up {
            Projections::Apart([gate, up]) => {
                let gate = self.linear(gate, x.clone());
                ops::swiglu(gate, self.linear(up, x), self.compute, self.place)
            }
            #[cfg(feature = "cuda")]
            Projections::Joined(both) => super::on_cuda::swiglu_joined(&self.linear(both, x)),
        };
        self.linear(&layer.down, gated)
    }

    fn attention(
        &self,
        layer: &Layer,
        x: Tensor<2>,
        [batch, seq]: [usize; 2],
        start: Start<'_>,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<2> {
        let attention = Attention {
            batch,
            seq,
            start: start.position,
            #[cfg(feature = "cuda")]
            start_on_cuda: start.on_cuda,
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            dim: self.config.head_dim,
            window: layer.window,
            rope: &self.rope,
            compute: self.compute,
            place: self.place,
        };
        let attended = match &layer.qkv {
            Projections::Apart([q, k, v]) => {
                let (q, k) = (self.linear(q, x.clone()), self.linear(k, x.clone()));
                let (q, k) = match &layer.head_norms {
                    Some((q_norm, k_norm)) => (self.head_normed(q, q_norm), self.head_normed(k, k_norm)),
                    None => (q, k),
                };
                attention.attend(q, [k, self.linear(v, x)], cache)
            }
            #[cfg(feature = "cuda")]
            Projections::Joined(all) => {
                attention.on_cuda(super::on_cuda::Projected::Joined(self.linear(all, x)), cache.as_deref())
            }
        };
        self.linear(&layer.o, self.round(attended))
    }

    fn normed(&self, x: Tensor<2>, weight: &Tensor<1>) -> Tensor<2> {
        ops::rms_norm(x, weight, self.config.rms_norm_eps, self.compute, self.place)
    }

    /// The residual stream `x + y`, and its norm.
    fn add_normed(&self, x: Tensor<2>, y: Tensor<2>, weight: &Tensor<1>) -> (Tensor<2>, Tensor<2>) {
        ops::add_norm(x, y, weight, self.config.rms_norm_eps, self.compute, self.place)
    }

    /// Norms each head of `[tokens, heads · head dim]` by itself.
    fn head_normed(&self, x: Tensor<2>, weight: &Tensor<1>) -> Tensor<2> {
        let [tokens, width] = x.dims();
        let heads = width / self.config.head_dim;
        self.normed(x.reshape([tokens * heads, self.config.head_dim]), weight).reshape([tokens, width])
    }

    fn linear(&self, projection: &Projection, x: Tensor<2>) -> Tensor<2> {
        #[cfg(feature = "cuda")]
        if self.place == Place::Cuda
            && let Some(bias) = &projection.bias
            && let Some(y) = projection.linear.biased_on_cuda(&x, bias, self.compute)
        {
            return y;
        }
        // a bias is added before the result is rounded
        let result = if projection.bias.is_some() { ComputeDtype::F32 } else { self.compute };
        let y = projection.linear.forward(x, self.compute, self.place, result);
        let Some(bias) = &projection.bias else { return self.round(y) };
        let y = y.add(bias.clone().unsqueeze());
        #[cfg(feature = "cuda")]
        if self.place == Place::Cuda {
            return y.cast(super::on_cuda::float(self.compute));
        }
        self.round(y)
    }

    fn round<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.compute.round(x, self.place)
    }
}

/// The position of a pass's first token.
#[derive(Clone, Copy)]
struct Start<'a> {
    position: usize,
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "kernels read it"))]
    on_cuda: Option<&'a StartOnCuda>,
}

impl Projection {
    fn build<W: Weights>(
        config: &LlamaConfig,
        index: usize,
        name: &str,
        weights: &mut W,
    ) -> Result<Self, W::Error> {
        let module = module(index, name);
        let linear = weights.linear(&module)?;
        let bias = config.biases.of(name).then(|| weights.vector(&format!("{module}.bias")));
        Ok(Self { linear, bias: bias.transpose()? })
    }
}

impl<const N: usize> Projections<N> {
    /// The linear layers `names`; as one, if they may be and that is how weights on a device are best.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "joined on CUDA alone"))]
    fn build<W: Weights>(
        config: &LlamaConfig,
        index: usize,
        names: [&str; N],
        may_join: bool,
        weights: &mut W,
    ) -> Result<Self, W::Error> {
        #[cfg(feature = "cuda")]
        if may_join && let Some(joined) = Self::joined(config, index, names, weights)? {
            return Ok(Self::Joined(joined));
        }
        let parts = names.iter().map(|name| Projection::build(config, index, name, weights));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        match parts.try_into() {
            Ok(parts) => Ok(Self::Apart(parts)),
            Err(_) => unreachable!("there is one for each name"),
        }
    }

    #[cfg(feature = "cuda")]
    fn joined<W: Weights>(
        config: &LlamaConfig,
        index: usize,
        names: [&str; N],
        weights: &mut W,
    ) -> Result<Option<Projection>, W::Error> {
        let biased = names.iter().filter(|name| config.biases.of(name)).count();
        if biased != 0 && biased != N {
            return Ok(None);
        }
        let modules = names.map(|name| module(index, name));
        let Some(linear) = weights.joined(&modules)? else { return Ok(None) };
        let biases = modules.iter().take(biased).map(|module| weights.vector(&format!("{module}.bias")));
        let biases = biases.collect::<Result<Vec<_>, _>>()?;
        Ok(Some(Projection { linear, bias: (biased > 0).then(|| Tensor::cat(biases, 0)) }))
    }
}

/// A layer's module.
fn module(index: usize, name: &str) -> String {
    format!("model.layers.{index}.{name}")
}

impl Layer {
    fn build<W: Weights>(config: &LlamaConfig, index: usize, weights: &mut W) -> Result<Self, W::Error> {
        let at = |name: &str| module(index, name);
        let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        // norms of single heads want them apart
        let may_join = !config.architecture.head_norms;
        Ok(Self {
            input_norm: weights.vector(&at("input_layernorm"))?,
            qkv: Projections::build(config, index, qkv, may_join, weights)?,
            head_norms: if config.architecture.head_norms {
                Some((weights.vector(&at("self_attn.q_norm"))?, weights.vector(&at("self_attn.k_norm"))?))
            } else {
                None
            },
            o: Projection::build(config, index, "self_attn.o_proj", weights)?,
            post_norm: weights.vector(&at("post_attention_layernorm"))?,
            gate_up: Projections::build(config, index, ["mlp.gate_proj", "mlp.up_proj"], true, weights)?,
            down: Projection::build(config, index, "mlp.down_proj", weights)?,
            window: config.window(index),
        })
    }
}
