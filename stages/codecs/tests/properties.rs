//! What must hold for any weights.

use proptest::prelude::*;
use qpipe_codecs::{
    BlockSize, ErrorStats, FourBit, GroupSize, Packed4, PackedRtn, Rounding, RtnBits, RtnFormat, Symmetry,
    dequantize_int8, dequantize4, error_stats, matmul_int8, matmul_packed4, measure4, quantize_int8,
    quantize_rtn, quantize4, quantize4_measured, round_slice,
};

fn kinds() -> impl Strategy<Value = FourBit> {
    prop::sample::select(FourBit::ALL.to_vec())
}

fn blocks() -> impl Strategy<Value = BlockSize> {
    (5u32..=8).prop_map(|log| BlockSize::try_from(1 << log).expect("a power of two from 32 to 256"))
}

fn roundings() -> impl Strategy<Value = Rounding> {
    prop::sample::select(vec![Rounding::None, Rounding::F16, Rounding::Bf16])
}

fn weights(len: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(prop_oneof![9 => -1f32..1.0, 1 => -1e-4f32..1e-4, 1 => Just(0.0)], len)
}

/// A weight matrix and tokens, `(out, k, m, w, x)`; k is often odd or no multiple of a block.
fn products() -> impl Strategy<Value = (usize, usize, usize, Vec<f32>, Vec<f32>)> {
    (1usize..12, 1usize..200, 1usize..5)
        .prop_flat_map(|(out, k, m)| (Just(out), Just(k), Just(m), weights(out * k), weights(m * k)))
}

fn naive(w: &[f32], x: &[f32], out: usize, k: usize, m: usize) -> Vec<f64> {
    let value = |token: usize, row: usize| {
        (0..k).map(|i| f64::from(x[token * k + i]) * f64::from(w[row * k + i])).sum()
    };
    (0..m).flat_map(|token| (0..out).map(move |row| value(token, row))).collect()
}

fn assert_near(y: &[f32], expected: &[f64], k: usize) {
    for (i, (y, e)) in y.iter().zip(expected).enumerate() {
        assert!((f64::from(*y) - e).abs() <= 2e-7 * k as f64 + 1e-7, "{i}: {y} {e}");
    }
}

proptest! {
    #[test]
    fn four_bit_error_is_at_most_half_a_gap(kind in kinds(), block in blocks(), w in weights(0..700)) {
        let q = quantize4(kind, &w, block).unwrap();
        let mut restored = vec![f32::NAN; w.len()];
        dequantize4(kind, &q.packed, &q.absmax, block, w.len(), &mut restored);
        for (i, (a, b)) in w.iter().zip(&restored).enumerate() {
            let bound = kind.max_error() * q.absmax[i / block.get()] * 1.0001;
            prop_assert!((a - b).abs() <= bound, "{}: {} {} {}", i, a, b, bound);
        }
    }

    #[test]
    fn restored_weights_encode_to_themselves(kind in kinds(), block in blocks(), w in weights(1..700)) {
        let q = quantize4(kind, &w, block).unwrap();
        let mut restored = vec![f32::NAN; w.len()];
        dequantize4(kind, &q.packed, &q.absmax, block, w.len(), &mut restored);
        let again = quantize4(kind, &restored, block).unwrap();
        let mut twice = vec![f32::NAN; w.len()];
        dequantize4(kind, &again.packed, &again.absmax, block, w.len(), &mut twice);
        prop_assert!(error_stats(&restored, &twice).max_abs <= 0.0);
    }

    #[test]
    fn int8_error_is_at_most_half_a_step((out, k, _, w, _) in products()) {
        let q = quantize_int8(&w, out, k).unwrap();
        let mut restored = vec![f32::NAN; w.len()];
        dequantize_int8(&q.codes, &q.scb, out, k, &mut restored);
        let mut half = w;
        round_slice(&mut half, Rounding::F16);
        for (i, (a, b)) in half.iter().zip(&restored).enumerate() {
            prop_assert!((a - b).abs() <= q.scb[i / k] / 254.0 * 1.0001, "{}: {} {}", i, a, b);
        }
    }

    #[test]
    fn packed_product_is_that_of_the_restored_weights(
        kind in kinds(), block in blocks(), round in roundings(), (out, k, m, w, x) in products()
    ) {
        let q = quantize4(kind, &w, block).unwrap();
        let mut restored = vec![f32::NAN; w.len()];
        dequantize4(kind, &q.packed, &q.absmax, block, w.len(), &mut restored);
        round_slice(&mut restored, round);
        let mut y = vec![f32::NAN; m * out];
        matmul_packed4(kind, &q.packed, &q.absmax, block, out, k, &x, m, round, &mut y);
        assert_near(&y, &naive(&restored, &x, out, k, m), k);
    }

    #[test]
    fn int8_product_is_that_of_the_restored_weights(
        round in roundings(), (out, k, m, w, x) in products()
    ) {
        let q = quantize_int8(&w, out, k).unwrap();
        let mut restored = vec![f32::NAN; w.len()];
        dequantize_int8(&q.codes, &q.scb, out, k, &mut restored);
        round_slice(&mut restored, round);
        let mut y = vec![f32::NAN; m * out];
        matmul_int8(&q.codes, &q.scb, out, k, &x, m, round, &mut y);
        assert_near(&y, &naive(&restored, &x, out, k, m), k);
    }
}

/// 300 rows of 2500, which is more than one task, more than one strip, and no multiple of a block.
fn large() -> (usize, usize, Vec<f32>, Vec<f32>) {
    let (out, k, m) = (300, 2500, 3);
    let wave = |n: usize, f: f32| (0..n).map(|i| (i as f32 * f).sin() * 0.1).collect();
    (out, k, wave(out * k, 0.37), wave(m * k, 0.73))
}

#[test]
fn neither_threads_nor_other_tokens_change_a_product() {
    let (out, k, w, x) = large();
    let block = BlockSize::default();
    let q = quantize4(FourBit::Nf4, &w, block).unwrap();
    let product = |threads: usize, x: &[f32]| {
        let m = x.len() / k;
        let mut y = vec![f32::NAN; m * out];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            matmul_packed4(FourBit::Nf4, &q.packed, &q.absmax, block, out, k, x, m, Rounding::Bf16, &mut y);
        });
        y
    };
    let all = product(1, &x);
    assert_eq!(all, product(3, &x));
    for (token, x) in x.chunks(k).enumerate() {
        assert_eq!(all[token * out..(token + 1) * out], product(2, x));
    }
    let mut restored = vec![f32::NAN; w.len()];
    dequantize4(FourBit::Nf4, &q.packed, &q.absmax, block, w.len(), &mut restored);
    round_slice(&mut restored, Rounding::Bf16);
    assert_near(&all, &naive(&restored, &x, out, k, 3), k);
}

#[test]
fn a_large_tensor_encodes_like_its_parts() {
    let (_, _, w, _) = large();
    for kind in FourBit::ALL {
        let block = BlockSize::MAX;
        let whole = quantize4(kind, &w, block).unwrap();
        let parts: Vec<_> = w.chunks(block.get()).map(|w| quantize4(kind, w, block).unwrap()).collect();
        assert_eq!(whole.packed, parts.iter().flat_map(|p| p.packed.clone()).collect::<Vec<_>>());
        assert_eq!(whole.absmax, parts.iter().flat_map(|p| p.absmax.clone()).collect::<Vec<_>>());
    }
}

fn rtn_formats() -> impl Strategy<Value = RtnFormat> {
    let sizes = prop::sample::select(vec![-1i64, 8, 16, 64]);
    let symmetries = prop::sample::select(vec![Symmetry::Symmetric, Symmetry::Asymmetric]);
    (prop::sample::select(vec![4, 8]), sizes, symmetries).prop_map(|(bits, group, symmetry)| RtnFormat {
        bits: RtnBits::of(bits).expect("4 or 8"),
        group: GroupSize::try_from(group).expect("a group size"),
        symmetry,
    })
}

proptest! {
    #[test]
    fn rtn_error_is_at_most_a_step_and_products_agree(
        (out, k, m, w, x) in products(), format in rtn_formats()
    ) {
        let (q, stats) = quantize_rtn(&w, out, k, format).unwrap();
        let scales: Vec<f32> = q.scales.iter().map(|s| s.to_f32()).collect();
        let packed = PackedRtn::new(format, [out, k], &q.codes, &scales, &q.zeros).unwrap();
        let mut restored = vec![f32::NAN; w.len()];
        packed.dequantize(&mut restored).unwrap();
        // half a step inside the grid; up to a whole one at its symmetric upper end, and what f16 does to the scale
        let step = scales.iter().copied().fold(0.0, f32::max);
        let worst = w.iter().zip(&restored).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        prop_assert!(worst <= step * 1.05 + 1e-6, "{} {}", worst, step);
        prop_assert_eq!(stats.max_abs.to_bits(), f64::from(worst).to_bits());
        let mut y = vec![f32::NAN; m * out];
        packed.matmul(&x, m, Rounding::None, &mut y);
        assert_near(&y, &naive(&restored, &x, out, k, m), k);
    }

    #[test]
    fn what_is_measured_while_encoding_is_the_distance_of_the_restored_weights(
        kind in kinds(), block in blocks(), w in weights(1..700)
    ) {
        let (q, measured) = quantize4_measured(kind, &w, block).unwrap();
        let mut restored = vec![f32::NAN; w.len()];
        dequantize4(kind, &q.packed, &q.absmax, block, w.len(), &mut restored);
        prop_assert!(near(measured, error_stats(&w, &restored)));
        let stored = Packed4::new(kind, &q.packed, &q.absmax, block, w.len()).unwrap();
        prop_assert!(near(measured, measure4(&w, &stored)));
    }
}

/// Equal but for the order of additions.
fn near(a: ErrorStats, b: ErrorStats) -> bool {
    let close = |x: f64, y: f64| x.to_bits() == y.to_bits() || (x - y).abs() <= 1e-12 * x.abs().max(y.abs());
    close(a.mse, b.mse)
        && close(a.snr_db, b.snr_db)
        && close(a.max_abs, b.max_abs)
        && close(a.cosine, b.cosine)
}
