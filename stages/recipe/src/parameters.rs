//! The trainable parameters: named f32 tensors, drawn from a generator of our own so that equal seeds give equal
//! weights on every machine.

use std::collections::BTreeMap;
use std::convert::Infallible;

use burn::tensor::{Device, Gradients, Tensor, TensorData};
use qpipe_formats::LlamaConfig;
use qpipe_smallworld::Rng;
use qpipe_stages::model::linear::{Linear, Matrix};
use qpipe_stages::model::llama::Weights;

/// One parameter; norms are vectors, everything else matrices `[out, in]`.
#[derive(Clone)]
pub(crate) enum Parameter {
    Vector(Tensor<1>),
    Matrix(Tensor<2>),
}

/// All parameters by tensor name (`model.norm.weight`).
#[derive(Clone)]
pub(crate) struct Parameters(pub BTreeMap<String, Parameter>);

/// Standard deviation of initial weights; output projections are scaled down by `sqrt(2 · layers)` (GPT-2).
const INITIAL_STD: f64 = 0.06;

impl Parameters {
    /// Fresh parameters, without autodiff.
    pub(crate) fn initial(config: &LlamaConfig, seed: u64, device: &Device) -> Self {
        let mut rng = Rng::new(seed, "weights");
        let mut all = BTreeMap::new();
        for (name, shape) in config.expected_tensors() {
            let parameter = match shape[..] {
                [n] => Parameter::Vector(Tensor::from_data(TensorData::new(vec![1.0f32; n], [n]), device)),
                [rows, columns] => {
                    let std = initial_std(&name, config.num_hidden_layers);
                    let values: Vec<f32> =
                        (0..rows * columns).map(|_| (normal(&mut rng) * std) as f32).collect();
                    Parameter::Matrix(Tensor::from_data(TensorData::new(values, [rows, columns]), device))
                }
                _ => unreachable!("a Llama's weights are vectors and matrices"),
            };
            all.insert(name, parameter);
        }
        let mut initial = Self(all);
        (0..config.num_hidden_layers).for_each(|layer| initial.look_for_equals(layer, config));
        initial
    }

    /// Makes the first query head of each group equal to its key head, so that attention begins by looking for
    /// similar tokens: what reading a story for a question is made of, and what plain random weights find late.
    /// After mimetic initialization (Trockman and Kolter 2023, arXiv 2305.09828).
    fn look_for_equals(&mut self, layer: usize, config: &LlamaConfig) {
        let name = |projection: &str| format!("model.layers.{layer}.self_attn.{projection}.weight");
        let (Some(Parameter::Matrix(keys)), Some(Parameter::Matrix(queries))) =
            (self.0.get(&name("k_proj")).cloned(), self.0.get_mut(&name("q_proj")))
        else {
            unreachable!("a Llama layer has query and key projections")
        };
        let (dim, hidden) = (config.head_dim, config.hidden_size);
        let group = config.num_attention_heads / config.num_key_value_heads;
        for head in 0..config.num_key_value_heads {
            let rows = keys.clone().narrow(0, head * dim, dim);
            let at = head * group * dim;
            queries.inplace(|q| q.slice_assign([at..at + dim, 0..hidden], rows));
        }
    }

    pub(crate) fn count(&self) -> usize {
        let count = |p: &Parameter| match p {
            Parameter::Vector(t) => t.shape().num_elements(),
            Parameter::Matrix(t) => t.shape().num_elements(),
        };
        self.0.values().map(count).sum()
    }

    /// The same values on `device`.
    pub(crate) fn to(&self, device: &Device) -> Self {
        let there = |p: &Parameter| match p {
            Parameter::Vector(t) => Parameter::Vector(t.clone().to_device(device)),
            Parameter::Matrix(t) => Parameter::Matrix(t.clone().to_device(device)),
        };
        Self(self.0.iter().map(|(name, p)| (name.clone(), there(p))).collect())
    }

    /// The same values as leaves of a new autodiff graph.
    pub(crate) fn leaves(&self) -> Self {
        let leaf = |p: &Parameter| match p {
            Parameter::Vector(t) => Parameter::Vector(t.clone().autodiff().require_grad()),
            Parameter::Matrix(t) => Parameter::Matrix(t.clone().autodiff().require_grad()),
        };
        Self(self.0.iter().map(|(name, p)| (name.clone(), leaf(p))).collect())
    }

    /// The gradients of these leaves, as plain tensors.
    pub(crate) fn gradients(&self, mut gradients: Gradients) -> Self {
        let mut of = |p: &Parameter| match p {
            Parameter::Vector(t) => t.grad_remove(&mut gradients).map(Parameter::Vector),
            Parameter::Matrix(t) => t.grad_remove(&mut gradients).map(Parameter::Matrix),
        };
        Self(self.0.iter().filter_map(|(name, p)| Some((name.clone(), of(p)?))).collect())
    }

    /// The sum with another set of the same names and shapes.
    pub(crate) fn plus(mut self, other: Self) -> Self {
        for (name, theirs) in other.0 {
            let sum = match (self.0.remove(&name), theirs) {
                (None, theirs) => theirs,
                (Some(Parameter::Vector(a)), Parameter::Vector(b)) => Parameter::Vector(a.add(b)),
                (Some(Parameter::Matrix(a)), Parameter::Matrix(b)) => Parameter::Matrix(a.add(b)),
                _ => unreachable!("equal names have equal ranks"),
            };
            self.0.insert(name, sum);
        }
        self
    }
}

fn initial_std(name: &str, layers: usize) -> f64 {
    let into_residual = name.contains("o_proj") || name.contains("down_proj");
    if into_residual { INITIAL_STD / ((2 * layers) as f64).sqrt() } else { INITIAL_STD }
}

/// A standard normal value (Box–Muller).
fn normal(rng: &mut Rng) -> f64 {
    let uniform = |rng: &mut Rng| ((rng.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let (a, b) = (uniform(rng), uniform(rng));
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

impl Weights for &Parameters {
    type Error = Infallible;

    fn vector(&mut self, module: &str) -> Result<Tensor<1>, Infallible> {
        match &self.0[&format!("{module}.weight")] {
            Parameter::Vector(t) => Ok(t.clone()),
            Parameter::Matrix(_) => unreachable!("`{module}` is a vector"),
        }
    }

    fn matrix(&mut self, module: &str) -> Result<Matrix, Infallible> {
        match &self.0[&format!("{module}.weight")] {
            Parameter::Matrix(t) => Ok(t.clone().into()),
            Parameter::Vector(_) => unreachable!("`{module}` is a matrix"),
        }
    }

    fn linear(&mut self, module: &str) -> Result<Linear, Infallible> {
        self.matrix(module).map(Linear::Dense)
    }
}
