//! The LLM.int8 product in burn's operators (Dettmers et al. 2022, arXiv 2208.07339, section 3): activations in int8 against
//! int8 weights, the columns of outlier activations apart in the compute dtype.
//!
//! The product of codes runs as an f32 matrix product, [`EXACT`] columns at a time: such a sum of products of two
//! codes is an integer below 2²⁴, so every partial sum is exact whatever the order, on any device that adds in f32
//! (also in TF32, which holds a code exactly). On the host it is [`qpipe_codecs::int8_linear`], with the same result up
//! to the order in which the outlier columns' products are added.
//!
//! Which columns are outliers is decided by all tokens of the product together.

use burn::tensor::{FloatDType, Int, Tensor};
use qpipe_codecs::OutlierThreshold;

use super::compute::ComputeDtype;
use super::ops::Place;

/// Columns whose sum of products of codes is exact in f32: 1040 · 127² < 2²⁴; a round number below.
const EXACT: usize = 1024;
/// 1 / (127 · 127), as the reference spells it.
const PER_PRODUCT_STEP: f32 = 6.200_012e-05;

/// A row-wise int8 weight on a device.
pub(super) struct Int8Weight {
    /// `[out, inner]` in i8.
    pub(super) codes: Tensor<2, Int>,
    /// `[out]`: each row's absolute maximum.
    pub(super) scb: Tensor<1>,
}

impl Int8Weight {
    /// The weight `[out, inner]`, rounded to the compute dtype.
    pub(super) fn restored(&self, compute: ComputeDtype) -> Tensor<2> {
        let scale = self.scb.clone().unsqueeze_dim(1);
        compute.round(self.codes.clone().float().mul(scale).mul_scalar(1.0 / 127.0), Place::Device)
    }

    /// Partial products `[tokens, out]` of codes `[tokens, inner]`, exact each.
    fn partial_products(&self, codes: &Tensor<2>) -> impl Iterator<Item = Tensor<2>> {
        let (codes, inner) = (codes.clone(), self.codes.dims()[1]);
        let weight = self.codes.clone().float();
        (0..inner).step_by(EXACT).map(move |at| {
            let len = EXACT.min(inner - at);
            codes.clone().narrow(1, at, len).matmul(weight.clone().narrow(1, at, len).transpose())
        })
    }
}

/// `x` `[tokens, inner]` → `[tokens, out]`, rounded to f16 and the compute dtype as the reference does.
/// Outlier columns are kept by a mask, so that nothing has to be read back.
pub(super) fn product(
    x: Tensor<2>,
    weight: &Int8Weight,
    threshold: OutlierThreshold,
    compute: ComputeDtype,
) -> Tensor<2> {
    let device = x.device();
    let half = x.clone().cast(FloatDType::F16).cast(FloatDType::F32);
    let limit = match threshold {
        OutlierThreshold::Off => f32::INFINITY,
        OutlierThreshold::AtLeast(limit) => limit,
    };
    let outlier = half.clone().abs().greater_equal_elem(limit).float();
    let column = outlier.clone().max_dim(0);
    let kept = half.clone().mask_fill(outlier.greater_elem(0.5), 0.0);
    let sca = kept.abs().max_dim(1);
    // a token of zeros has codes 0 whatever it is scaled with
    let scale = sca.clone().mask_fill(sca.clone().equal_elem(0.0), 1.0).recip().mul_scalar(127.0);
    let of_outlier = column.clone().greater_elem(0.5).expand(half.dims());
    let codes = half.mask_fill(of_outlier, 0.0).mul(scale).round();
    let (scb, out) = (weight.scb.clone(), weight.scb.dims()[0]);
    let sums = weight.partial_products(&codes).reduce(Tensor::add);
    let sums = sums.unwrap_or_else(|| Tensor::zeros([codes.dims()[0], out], &device));
    let y = sums.mul(sca).mul(scb.unsqueeze()).mul_scalar(PER_PRODUCT_STEP);
    let y = compute.round(y.cast(FloatDType::F16).cast(FloatDType::F32), Place::Device);
    if threshold == OutlierThreshold::Off {
        return y;
    }
    let apart = x.mul(column).matmul(weight.restored(compute).transpose());
    compute.round(y.add(apart), Place::Device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, TensorData};

    use super::super::ops::host_values;
    use super::*;

    /// Activations with an outlier column, and a weight, from a small generator.
    fn problem(tokens: usize, inner: usize, out: usize) -> (Vec<f32>, Vec<i8>, Vec<f32>) {
        let mut state = 7u32;
        let mut next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 8_388_608.0 - 1.0
        };
        let mut x: Vec<f32> = (0..tokens * inner).map(|_| next()).collect();
        x.iter_mut().skip(5).step_by(inner).for_each(|v| *v *= 20.0);
        qpipe_codecs::round_slice(&mut x, qpipe_codecs::Rounding::F16);
        let codes = (0..out * inner).map(|_| (next() * 127.0) as i8).collect();
        (x, codes, (0..out).map(|_| 0.1 + next().abs()).collect())
    }

    #[test]
    fn operators_agree_with_the_codec() {
        let device = Device::flex();
        for threshold in [OutlierThreshold::Off, OutlierThreshold::AtLeast(6.0)] {
            let (tokens, inner, out) = (9, 2500, 33);
            let (x, codes, scb) = problem(tokens, inner, out);
            let data = TensorData::new(codes.clone(), [out, inner]);
            let weight = Int8Weight {
                codes: Tensor::from_data(data, (&device, DType::I8)),
                scb: Tensor::from_data(TensorData::new(scb.clone(), [out]), &device),
            };
            let mut expected = vec![0.0; tokens * out];
            let compute = ComputeDtype::F16;
            let dtype = compute.rounding();
            qpipe_codecs::int8_linear(&x, tokens, inner, &codes, &scb, threshold, dtype, &mut expected)
                .unwrap();
            let x = Tensor::from_data(TensorData::new(x, [tokens, inner]), &device);
            let y = host_values(product(x, &weight, threshold, compute));
            for (i, (a, b)) in y.iter().zip(&expected).enumerate() {
                // an ulp of f16, where a sum's order decided a rounding
                assert!((a - b).abs() <= 1e-3 * b.abs().max(1.0), "{threshold:?} {i}: {a} {b}");
            }
            let same = y.iter().zip(&expected).filter(|(a, b)| a.to_bits() == b.to_bits()).count();
            assert!(same * 10 >= expected.len() * 9, "{threshold:?}: {same} equal");
        }
    }
}
