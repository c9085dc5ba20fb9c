//! NF4 and FP4 codes, absmax and restored weights.

use half::{bf16, f16};
use qpipe_codecs::{CodecError, FourBit, Packed4, Rounding, dequantize4, quantize4, quantize4_measured};

use crate::vectors::{Case, Config, OFF_BY_ONE, assert_same_bits, cases, finite_cases, fp4_steps, rounded};

fn each(mut check: impl FnMut(&Case, &Config, &str)) {
    for case in &finite_cases() {
        for config in &case.configs {
            check(case, config, &format!("{} {}", case.name, config.prefix));
        }
    }
}

#[test]
fn absmax_is_exact() {
    each(|case, config, what| {
        let ours = quantize4(config.kind, &case.weights, config.block).unwrap();
        assert_same_bits(&ours.absmax, &case.vectors.float(&config.key("absmax")), what);
    });
}

#[test]
fn nf4_codes_are_exact() {
    let mut compared = 0;
    each(|case, config, what| {
        if config.kind == FourBit::Nf4 {
            let ours = quantize4(config.kind, &case.weights, config.block).unwrap();
            assert!(ours.packed == case.vectors.u8(&config.key("packed")), "{what}: packed");
            compared += case.weights.len();
        }
    });
    eprintln!("nf4: 0 of {compared} codes differ");
}

#[test]
fn fp4_codes_are_at_most_one_step_off() {
    let (mut off, mut compared) = (0, 0);
    each(|case, config, what| {
        let key = config.key("packed");
        // the largest case stores a digest of its FP4 codes only
        if config.kind == FourBit::Fp4 && case.vectors.has(&key) {
            let ours = quantize4(config.kind, &case.weights, config.block).unwrap();
            let steps = fp4_steps(&ours.packed, &case.vectors.u8(&key));
            assert!(steps.iter().all(|&s| s <= 1), "{what}: more than one step");
            off += steps.iter().filter(|&&s| s == 1).count();
            compared += case.weights.len();
        }
    });
    eprintln!("fp4: {off} of {compared} codes are one step off");
    assert!(f64::from(off as u32) <= OFF_BY_ONE * compared as f64, "{off} of {compared}");
}

#[test]
fn restored_weights_are_exact() {
    each(|case, config, what| {
        let Some(packed) = packed(case, config) else { return };
        let absmax = case.vectors.float(&config.key("absmax"));
        let mut ours = vec![f32::NAN; case.weights.len()];
        dequantize4(config.kind, &packed, &absmax, config.block, ours.len(), &mut ours);
        if case.vectors.has(&config.key("deq")) {
            let expected = case.vectors.float(&config.key("deq"));
            assert_same_bits(&rounded(ours, case.dtype), &expected, what);
        }
    });
}

#[test]
fn a_range_is_a_part_of_the_whole() {
    let case = finite_cases().into_iter().find(|c| c.name == "normal_bf16_7x100").unwrap();
    let config = Config::parse("nf4.b64");
    let q = quantize4(config.kind, &case.weights, config.block).unwrap();
    let view = Packed4::new(config.kind, &q.packed, &q.absmax, config.block, case.weights.len()).unwrap();
    let mut whole = vec![0.0; case.weights.len()];
    view.dequantize(&mut whole).unwrap();
    for start in 0..150 {
        for len in [0, 1, 2, 3, 63, 64, 65, 200] {
            let mut part = vec![f32::NAN; len];
            view.dequantize_range(start, &mut part);
            assert_same_bits(&part, &whole[start..start + len], &format!("{start}..{}", start + len));
        }
    }
}

#[test]
fn checkpoint_dtypes_encode_like_f32() {
    each(|case, config, what| {
        let wide = quantize4(config.kind, &case.weights, config.block).unwrap();
        let w = case.weights.iter();
        let narrow = match case.dtype {
            Rounding::None => return,
            Rounding::F16 => quantize4_measured(
                config.kind,
                &w.map(|&w| f16::from_f32(w)).collect::<Vec<_>>(),
                config.block,
            ),
            Rounding::Bf16 => quantize4_measured(
                config.kind,
                &w.map(|&w| bf16::from_f32(w)).collect::<Vec<_>>(),
                config.block,
            ),
        };
        assert_eq!(narrow.unwrap().0, wide, "{what}");
    });
}

#[test]
fn nan_and_infinity_are_refused() {
    let refused: Vec<Case> =
        cases().into_iter().filter(|case| case.weights.iter().any(|w| !w.is_finite())).collect();
    assert_eq!(refused.len(), 2);
    for case in refused {
        let first = case.weights.iter().position(|w| !w.is_finite()).unwrap();
        for config in &case.configs {
            let error = quantize4(config.kind, &case.weights, config.block).unwrap_err();
            assert!(matches!(error, CodecError::NonFinite { index, .. } if index == first), "{error}");
        }
    }
}

#[test]
fn zero_blocks_have_zero_bytes_and_restore_to_zeros() {
    let case = finite_cases().into_iter().find(|c| c.name == "zeroblock_f16_4x64").unwrap();
    for kind in FourBit::ALL {
        let config = Config::parse(&format!("{kind}.b64"));
        let q = quantize4(kind, &case.weights, config.block).unwrap();
        assert_eq!((q.absmax[1], &q.packed[32..64]), (0.0, &[0; 32][..]));
        let mut out = vec![1.0; case.weights.len()];
        dequantize4(kind, &q.packed, &q.absmax, config.block, out.len(), &mut out);
        assert_eq!(out[64..128], [0.0; 64]);
    }
}

fn packed(case: &Case, config: &Config) -> Option<Vec<u8>> {
    let key = config.key("packed");
    case.vectors.has(&key).then(|| case.vectors.u8(&key))
}
