//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with warm-up, a cosine schedule and a clipped global norm.

use std::collections::BTreeMap;
use std::f64::consts::PI;

use burn::tensor::Tensor;

use crate::parameters::{Parameter, Parameters};

const BETA: (f64, f64) = (0.9, 0.98);
const EPSILON: f64 = 1e-8;
const DECAY: f64 = 0.05;
const CLIP: f64 = 1.0;
const WARM_UP: usize = 100;
const FINAL_SHARE: f64 = 0.05;

/// First and second moments of one parameter's gradient.
struct Moments<const D: usize> {
    first: Tensor<D>,
    second: Tensor<D>,
}

#[derive(Default)]
pub(crate) struct AdamW {
    step: usize,
    vectors: BTreeMap<String, Moments<1>>,
    matrices: BTreeMap<String, Moments<2>>,
}

/// The learning rate of a step: linear warm-up, then a cosine down to a share of the peak.
pub(crate) fn rate_at(step: usize, steps: usize, peak: f64) -> f64 {
    if step < WARM_UP {
        return peak * (step + 1) as f64 / WARM_UP as f64;
    }
    let progress = (step - WARM_UP) as f64 / (steps - WARM_UP).max(1) as f64;
    let cosine = 0.5 * (1.0 + (PI * progress).cos());
    peak * (FINAL_SHARE + (1.0 - FINAL_SHARE) * cosine)
}

impl AdamW {
    /// Replaces every parameter by its updated value. Nothing is read back from the device.
    pub(crate) fn update(&mut self, parameters: &mut Parameters, gradients: Parameters, rate: f64) {
        let Some(squares) = gradients.0.values().map(square_sum).reduce(Tensor::add) else { return };
        let scale = squares.sqrt().add_scalar(EPSILON).recip().mul_scalar(CLIP).clamp_max(1.0);
        self.step += 1;
        for (name, gradient) in gradients.0 {
            let Some(parameter) = parameters.0.get_mut(&name) else { continue };
            match (parameter, gradient) {
                (Parameter::Vector(value), Parameter::Vector(g)) => {
                    *value = step(value, g, &scale, self.vectors.entry(name), self.step, (rate, 0.0));
                }
                (Parameter::Matrix(value), Parameter::Matrix(g)) => {
                    *value = step(value, g, &scale, self.matrices.entry(name), self.step, (rate, DECAY));
                }
                _ => unreachable!("a gradient has its parameter's rank"),
            }
        }
    }
}

fn square_sum(gradient: &Parameter) -> Tensor<1> {
    match gradient {
        Parameter::Vector(t) => t.clone().square().sum(),
        Parameter::Matrix(t) => t.clone().square().sum(),
    }
}

fn step<const D: usize>(
    value: &Tensor<D>,
    gradient: Tensor<D>,
    scale: &Tensor<1>,
    moments: std::collections::btree_map::Entry<'_, String, Moments<D>>,
    step: usize,
    (rate, decay): (f64, f64),
) -> Tensor<D> {
    let gradient = gradient.mul(scale.clone().reshape([1; D]));
    let moments =
        moments.or_insert_with(|| Moments { first: gradient.zeros_like(), second: gradient.zeros_like() });
    let first = moments.first.clone().mul_scalar(BETA.0).add(gradient.clone().mul_scalar(1.0 - BETA.0));
    let second = moments.second.clone().mul_scalar(BETA.1).add(gradient.square().mul_scalar(1.0 - BETA.1));
    moments.first = first.clone();
    moments.second = second.clone();
    let corrected = |beta: f64| 1.0 - beta.powi(step as i32);
    let update = first
        .div_scalar(corrected(BETA.0))
        .div(second.div_scalar(corrected(BETA.1)).sqrt().add_scalar(EPSILON));
    value.clone().mul_scalar(1.0 - rate * decay).sub(update.mul_scalar(rate))
}
