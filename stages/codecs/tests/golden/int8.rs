//! Row-wise int8 weights and the LLM.int8 product.

use qpipe_codecs::{OutlierThreshold, Rounding, int8_linear, quantize_activations, quantize_int8};

use crate::vectors::{OFF_BY_ONE, Vectors, assert_same_bits};

const CASES: [&str; 3] = ["int8_plain_5x96x64", "int8_outlier_7x576x192", "int8_onerow_1x128x64"];
const THRESHOLDS: [(&str, OutlierThreshold); 2] =
    [("t0", OutlierThreshold::Off), ("t6", OutlierThreshold::AtLeast(6.0))];

fn each(mut check: impl FnMut(&Vectors, &str)) {
    for name in CASES {
        check(&Vectors::read(&format!("{name}.safetensors")), name);
    }
}

#[test]
fn weights() {
    let mut differing = Differing::default();
    each(|vectors, name| {
        let shape = vectors.shape("W");
        let ours = quantize_int8(&vectors.float("W"), shape[0], shape[1]).unwrap();
        assert_same_bits(&ours.scb, &vectors.float("SCB"), name);
        differing.count(&ours.codes, &vectors.i8("CB"), name);
    });
    differing.check("int8 weights");
}

#[test]
fn activations() {
    let mut differing = Differing::default();
    each(|vectors, name| {
        let shape = vectors.shape("A");
        for (key, threshold) in THRESHOLDS {
            let ours = quantize_activations(&vectors.float("A"), shape[0], shape[1], threshold).unwrap();
            assert_same_bits(&ours.sca, &vectors.float(&format!("{key}.SCA")), name);
            differing.count(&ours.codes, &vectors.i8(&format!("{key}.CA")), name);
            let outliers: Vec<i64> = ours.outliers.iter().map(|&c| c as i64).collect();
            if threshold == OutlierThreshold::Off {
                assert!(outliers.is_empty());
            } else {
                assert_eq!(outliers, vectors.i64("t6.outlier_cols"), "{name}");
            }
        }
    });
    differing.check("int8 activations");
}

/// Given the reference's weights, every output in both compute dtypes is the same, the outlier part included.
#[test]
fn linear() {
    each(|vectors, name| {
        for (key, threshold) in THRESHOLDS {
            for (suffix, dtype) in [("out_f16", Rounding::F16), ("out_bf16", Rounding::Bf16)] {
                compare_linear(vectors, &format!("{key}.{suffix}"), threshold, dtype, name);
            }
        }
    });
}

fn compare_linear(vectors: &Vectors, key: &str, threshold: OutlierThreshold, dtype: Rounding, name: &str) {
    let shape = vectors.shape("A");
    let (codes, scb) = (vectors.i8("CB"), vectors.float("SCB"));
    let mut a = vectors.float("A");
    qpipe_codecs::round_slice(&mut a, dtype);
    let expected = vectors.float(key);
    let mut ours = vec![f32::NAN; expected.len()];
    int8_linear(&a, shape[0], shape[1], &codes, &scb, threshold, dtype, &mut ours).unwrap();
    assert_same_bits(&ours, &expected, &format!("{name} {key}"));
}

#[derive(Default)]
pub(crate) struct Differing {
    off: usize,
    compared: usize,
}

impl Differing {
    pub(crate) fn count(&mut self, ours: &[i8], theirs: &[i8], what: &str) {
        assert_eq!(ours.len(), theirs.len(), "{what}");
        let steps = ours.iter().zip(theirs).map(|(a, b)| a.abs_diff(*b));
        assert!(steps.clone().all(|s| s <= 1), "{what}: more than one step");
        self.off += steps.filter(|&s| s == 1).count();
        self.compared += ours.len();
    }

    pub(crate) fn check(&self, what: &str) {
        eprintln!("{what}: {} of {} codes are one step off", self.off, self.compared);
        assert!(self.off as f64 <= OFF_BY_ONE * self.compared as f64, "{what}");
    }
}
