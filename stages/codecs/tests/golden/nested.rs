//! Double quantization of absmax.

use qpipe_codecs::{
    DoubleQuantized, dequantize4, double_dequantize, double_quantize, double_quantize_with_offset,
};

use crate::vectors::{Case, Config, Vectors, assert_same_bits, finite_cases, rounded};

/// Relative tolerance of a mean in f32.
const OFFSET: f64 = 2e-7;

fn each(mut check: impl FnMut(&Case, &Config, &DoubleQuantized, &str)) {
    let mut checked = 0;
    for case in &finite_cases() {
        for config in &case.configs {
            let what = format!("{} {}", case.name, config.prefix);
            check(case, config, &stored(&case.vectors, config), &what);
            checked += 1;
        }
    }
    assert_eq!(checked, 17 * 6 + 2);
}

#[test]
fn offset_is_the_mean() {
    each(|case, config, expected, what| {
        let ours = double_quantize(&case.vectors.float(&config.key("absmax"))).offset;
        let error = (f64::from(ours) - f64::from(expected.offset)).abs();
        assert!(error <= OFFSET * f64::from(expected.offset), "{what}: {ours} {}", expected.offset);
    });
}

#[test]
fn codes_are_exact_given_the_offset() {
    each(|case, config, expected, what| {
        let absmax = case.vectors.float(&config.key("absmax"));
        let ours = double_quantize_with_offset(&absmax, expected.offset);
        assert_eq!(ours.codes, expected.codes, "{what}");
        assert_same_bits(&ours.nested_absmax, &expected.nested_absmax, what);
    });
}

#[test]
fn restored_absmax_is_exact() {
    each(|case, config, stored, what| {
        let expected = case.vectors.float(&config.key("dq.absmax_deq"));
        assert_same_bits(&double_dequantize(stored), &expected, what);
    });
}

#[test]
fn restored_weights_are_exact() {
    each(|case, config, stored, what| {
        let (packed, deq) = (config.key("packed"), config.key("dq.deq"));
        if case.vectors.has(&packed) && case.vectors.has(&deq) {
            let mut ours = vec![f32::NAN; case.weights.len()];
            let absmax = double_dequantize(stored);
            dequantize4(config.kind, &case.vectors.u8(&packed), &absmax, config.block, ours.len(), &mut ours);
            assert_same_bits(&rounded(ours, case.dtype), &case.vectors.float(&deq), what);
        }
    });
}

#[test]
fn a_real_weight() {
    let vectors = Vectors::read("real_l0_self_attn_k_proj.safetensors");
    let config = Config::parse("nf4.b64");
    let expected = stored(&vectors, &config);
    let absmax = vectors.float(&config.key("absmax"));
    let ours = double_quantize_with_offset(&absmax, expected.offset);
    assert_eq!(ours, expected);
    assert!((double_quantize(&absmax).offset / expected.offset - 1.0).abs() <= 2e-7);
}

fn stored(vectors: &Vectors, config: &Config) -> DoubleQuantized {
    DoubleQuantized {
        codes: vectors.u8(&config.key("dq.absmax")),
        offset: vectors.float(&config.key("dq.offset"))[0],
        nested_absmax: vectors.float(&config.key("dq.nested_absmax")),
    }
}
