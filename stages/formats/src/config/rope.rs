//! Rotary frequencies and their scalings for longer contexts, in the arithmetic of `transformers` (f32, the ranges in
//! f64), so that tables agree with the reference's to the last bits.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the frequencies of the rotary embedding depart from `theta^(−2i/d)`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum RopeScaling {
    /// All divided by `factor`.
    Linear { factor: f64 },
    /// Llama 3.1 and later: low frequencies divided by `factor`, high ones kept, a ramp between
    /// (<https://github.com/meta-llama/llama-models>, `apply_scaling`).
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071, §3.2 and 3.4).
    Yarn(Yarn),
    /// Frequency `i` divided by `factors[i]`: a GGUF's `rope_freqs.weight`.
    Factors { factors: Vec<f32> },
}

/// Parameters of [`RopeScaling::Yarn`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Yarn {
    pub factor: f64,
    /// Multiplies cosines and sines; the documents' `attention_factor`, or what follows from `factor` and `mscale`.
    pub attention_factor: f64,
    /// Rotations within the original context above which a frequency is kept.
    pub beta_fast: f64,
    /// Rotations below which it is divided by `factor`.
    pub beta_slow: f64,
    pub original_max_position_embeddings: usize,
    /// Whether the ramp's ends are rounded to whole dimensions.
    pub truncate: bool,
}

/// Frequencies of one head, and what cosines and sines are multiplied by.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeFrequencies {
    /// Radians per position; `head_dim / 2` of them.
    pub inverse: Vec<f32>,
    pub attention_factor: f32,
}

impl RopeFrequencies {
    /// The frequencies of heads of `head_dim` (Su et al. 2021, arXiv 2104.09864), scaled.
    pub fn new(theta: f64, head_dim: usize, scaling: Option<&RopeScaling>) -> Self {
        let power = |i: usize| (theta as f32).powf((2 * i) as f32 / head_dim as f32);
        let plain: Vec<f32> = (0..head_dim / 2).map(|i| 1.0 / power(i)).collect();
        let (inverse, attention_factor) = match scaling {
            None => (plain, 1.0),
            Some(RopeScaling::Linear { factor }) => (plain.iter().map(|f| f / *factor as f32).collect(), 1.0),
            Some(RopeScaling::Factors { factors }) => {
                (plain.iter().zip(factors).map(|(f, factor)| f / factor).collect(), 1.0)
            }
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: context,
            }) => {
                let [factor, low, high] = [*factor, *low, *high].map(|v| v as f32);
                (plain.iter().map(|f| llama3(*f, factor, low, high, *context as f32)).collect(), 1.0)
            }
            Some(RopeScaling::Yarn(yarn)) => {
                (yarn.frequencies(theta, head_dim, &power), yarn.attention_factor as f32)
            }
        };
        Self { inverse, attention_factor }
    }
}

impl RopeScaling {
    /// What makes these parameters impossible for heads of `head_dim`: field, value, what would do.
    pub(super) fn fault(&self, head_dim: usize) -> Option<(&'static str, String, &'static str)> {
        let positive = |field, value: f64| {
            (!(value.is_finite() && value > 0.0)).then(|| (field, value.to_string(), "a positive number"))
        };
        match self {
            Self::Linear { factor } => positive("factor", *factor),
            Self::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, .. } => {
                let ordered = || {
                    let text = format!("{high}");
                    (high <= low).then_some(("high_freq_factor", text, "more than low_freq_factor"))
                };
                positive("factor", *factor)
                    .or_else(|| positive("low_freq_factor", *low))
                    .or_else(|| positive("high_freq_factor", *high))
                    .or_else(ordered)
            }
            Self::Yarn(yarn) => positive("factor", yarn.factor)
                .or_else(|| positive("attention_factor", yarn.attention_factor))
                .or_else(|| positive("beta_fast", yarn.beta_fast))
                .or_else(|| positive("beta_slow", yarn.beta_slow))
                .or_else(|| {
                    positive("original_max_position_embeddings", yarn.original_max_position_embeddings as f64)
                }),
            Self::Factors { factors } if factors.len() != head_dim / 2 => {
                Some(("rope factors", format!("{} values", factors.len()), "head_dim / 2 values"))
            }
            Self::Factors { factors } => factors.iter().find_map(|f| positive("rope factors", f64::from(*f))),
        }
    }
}

fn llama3(frequency: f32, factor: f32, low: f32, high: f32, context: f32) -> f32 {
    let wavelength = (2.0 * PI) as f32 / frequency;
    if wavelength > context / low {
        return frequency / factor;
    }
    if wavelength < context / high {
        return frequency;
    }
    let smooth = (context / wavelength - low) / (high - low);
    (1.0 - smooth) * frequency / factor + smooth * frequency
}

impl Yarn {
    /// The paper's temperature: `0.1 · mscale · ln(factor) + 1`.
    pub fn temperature(factor: f64, mscale: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
    }

    fn frequencies(&self, theta: f64, dim: usize, power: &dyn Fn(usize) -> f32) -> Vec<f32> {
        let (low, high) = self.ramp(theta, dim);
        let blend = |i: usize| {
            let interpolated = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let extrapolated = 1.0 - interpolated;
            let (kept, divided) = (1.0 / power(i), 1.0 / (self.factor as f32 * power(i)));
            divided * (1.0 - extrapolated) + kept * extrapolated
        };
        (0..dim / 2).map(blend).collect()
    }

    /// The dimensions between which frequencies go over from kept to divided.
    fn ramp(&self, theta: f64, dim: usize) -> (f64, f64) {
        let context = self.original_max_position_embeddings as f64;
        let of = |rotations: f64| dim as f64 * (context / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let (low, high) = (of(self.beta_fast), of(self.beta_slow));
        let (low, high) = if self.truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
        // the reference's guard against a ramp of no width
        if (high - low).abs() < f64::EPSILON { (low, high + 0.001) } else { (low, high) }
    }
}
