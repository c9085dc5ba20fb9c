//! The Llama family: pre-norm decoder layers with grouped-query attention, rotary positions and SwiGLU (Touvron et al.
//! 2023, arXiv 2302.13971), with the biases, head norms, windows and rope scalings that a configuration asks for.
//! Weights are named and laid out as Hugging Face does.

use burn::tensor::{Device, Int, Tensor};
use qpipe_formats::LlamaConfig;

use super::attention::Attention;
use super::cache::{KvCache, LayerCache};
use super::compute::ComputeDtype;
use super::linear::{Linear, Matrix};
use super::ops::{self, Place, Rope};

/// A linear layer and its bias.
struct Projection {
    linear: Linear,
    bias: Option<Tensor<1>>,
}

struct Layer {
    input_norm: Tensor<1>,
    q: Projection,
    k: Projection,
    v: Projection,
    /// Norms of query and key heads.
    head_norms: Option<(Tensor<1>, Tensor<1>)>,
    o: Projection,
    post_norm: Tensor<1>,
    gate: Projection,
    up: Projection,
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
        })
    }

    /// Final hidden states `[batch · seq, hidden]` (after the last norm) of `tokens` `[batch, seq]`. With a cache,
    /// the tokens follow the ones it holds, and it grows by them.
    pub fn hidden(&self, tokens: Tensor<2, Int>, mut cache: Option<&mut KvCache>) -> Tensor<2> {
        let [batch, seq] = tokens.dims();
        let start = cache.as_ref().map_or(0, |c| c.len);
        let mut x = self.embedding.select(tokens.reshape([batch * seq]));
        let first = self.layers.first().map_or(&self.norm, |layer| &layer.input_norm);
        let mut normed = self.normed(x.clone(), first);
        let start = Start::of(self, start);
        for (i, layer) in self.layers.iter().enumerate() {
            let layer_cache = cache.as_mut().map(|c| &mut c.layers[i]);
            let attended = self.attention(layer, normed, [batch, seq], &start, layer_cache);
            (x, normed) = self.add_normed(x, attended, &layer.post_norm);
            let next = self.layers.get(i + 1).map_or(&self.norm, |next| &next.input_norm);
            (x, normed) = self.add_normed(x, self.mlp(layer, normed), next);
        }
        if let Some(cache) = cache {
            cache.len += seq;
        }
        normed
    }

    /// An empty cache for `batch` sequences of at most `capacity` tokens.
    pub fn cache(&self, batch: usize, capacity: usize) -> KvCache {
        KvCache::new(&self.config, batch, capacity, (self.place, self.compute), &self.device)
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
        let gate = self.linear(&layer.gate, x.clone());
        let up = self.linear(&layer.up, x);
        self.linear(&layer.down, ops::swiglu(gate, up, self.compute, self.place))
    }

    fn attention(
        &self,
        layer: &Layer,
        x: Tensor<2>,
        [batch, seq]: [usize; 2],
        start: &Start,
        cache: Option<&mut LayerCache>,
    ) -> Tensor<2> {
        let attention = Attention {
            batch,
            seq,
            start: start.position,
            #[cfg(feature = "cuda")]
            start_on_cuda: start.on_cuda.as_ref(),
            heads: self.config.num_attention_heads,
            kv_heads: self.config.num_key_value_heads,
            dim: self.config.head_dim,
            window: layer.window,
            rope: &self.rope,
            compute: self.compute,
            place: self.place,
        };
        let (q, k) = (self.linear(&layer.q, x.clone()), self.linear(&layer.k, x.clone()));
        let (q, k) = match &layer.head_norms {
            Some((q_norm, k_norm)) => (self.head_normed(q, q_norm), self.head_normed(k, k_norm)),
            None => (q, k),
        };
        let v = self.linear(&layer.v, x);
        self.linear(&layer.o, self.round(attention.attend(q, [k, v], cache)))
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

/// The position of a pass's first token, and where kernels read it.
struct Start {
    position: usize,
    #[cfg(feature = "cuda")]
    on_cuda: Option<super::on_cuda::Start>,
}

impl Start {
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "kernels read it"))]
    fn of(model: &Llama, position: usize) -> Self {
        Self {
            position,
            #[cfg(feature = "cuda")]
            on_cuda: match model.place {
                Place::Cuda => super::on_cuda::Start::at(position, &model.device),
                Place::Host | Place::Device => None,
            },
        }
    }
}

impl Layer {
    fn build<W: Weights>(config: &LlamaConfig, index: usize, weights: &mut W) -> Result<Self, W::Error> {
        let at = |name: &str| format!("model.layers.{index}.{name}");
        let projection = |name: &str, weights: &mut W| {
            let linear = weights.linear(&at(name))?;
            let bias = config.biases.of(name).then(|| weights.vector(&at(&format!("{name}.bias"))));
            Ok(Projection { linear, bias: bias.transpose()? })
        };
        Ok(Self {
            input_norm: weights.vector(&at("input_layernorm"))?,
            q: projection("self_attn.q_proj", weights)?,
            k: projection("self_attn.k_proj", weights)?,
            v: projection("self_attn.v_proj", weights)?,
            head_norms: if config.architecture.head_norms {
                Some((weights.vector(&at("self_attn.q_norm"))?, weights.vector(&at("self_attn.k_norm"))?))
            } else {
                None
            },
            o: projection("self_attn.o_proj", weights)?,
            post_norm: weights.vector(&at("post_attention_layernorm"))?,
            gate: projection("mlp.gate_proj", weights)?,
            up: projection("mlp.up_proj", weights)?,
            down: projection("mlp.down_proj", weights)?,
            window: config.window(index),
        })
    }
}
