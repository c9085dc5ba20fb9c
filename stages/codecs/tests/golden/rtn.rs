//! Round-to-nearest integers in groups, against numpy (`rtn.py` beside this file made the vectors).

use half::f16;
use qpipe_codecs::{GroupSize, PackedRtn, RtnBits, RtnFormat, Symmetry, quantize_rtn};

use crate::vectors::{Vectors, assert_same_bits};

const SHAPE: [usize; 2] = [6, 200];

fn each(mut check: impl FnMut(&Vectors, &str, RtnFormat)) {
    let vectors = Vectors::read("rtn_f32_6x200.safetensors");
    for bits in [4, 8] {
        for group in [-1, 64, 128] {
            for (word, symmetry) in [("sym", Symmetry::Symmetric), ("asym", Symmetry::Asymmetric)] {
                let (width, size) = (RtnBits::of(bits).unwrap(), GroupSize::try_from(group).unwrap());
                let format = RtnFormat { bits: width, group: size, symmetry };
                check(&vectors, &format!("w{bits}.g{group}.{word}"), format);
            }
        }
    }
}

/// The stored parts of a case; no zero points where it is symmetric.
fn parts(vectors: &Vectors, name: &str) -> (Vec<u8>, Vec<f32>, Vec<u8>) {
    let zeros = format!("{name}.zeros");
    let zeros = if vectors.has(&zeros) { vectors.u8(&zeros) } else { Vec::new() };
    (vectors.u8(&format!("{name}.codes")), vectors.float(&format!("{name}.scales")), zeros)
}

#[test]
fn codes_scales_and_zero_points() {
    each(|vectors, name, format| {
        let (ours, _) = quantize_rtn(&vectors.float("w"), SHAPE[0], SHAPE[1], format).unwrap();
        let (codes, scales, zeros) = parts(vectors, name);
        let widened: Vec<f32> = ours.scales.iter().copied().map(f16::to_f32).collect();
        assert_same_bits(&widened, &scales, name);
        assert!(ours.codes == codes, "{name}: codes");
        assert_eq!(ours.zeros, zeros, "{name}: zero points");
    });
}

#[test]
fn restored_values() {
    let mut compared = 0;
    each(|vectors, name, format| {
        let (codes, scales, zeros) = parts(vectors, name);
        let packed = PackedRtn::new(format, SHAPE, &codes, &scales, &zeros).unwrap();
        let mut restored = vec![f32::NAN; SHAPE[0] * SHAPE[1]];
        packed.dequantize(&mut restored).unwrap();
        let expected = format!("{name}.restored");
        if vectors.has(&expected) {
            assert_same_bits(&restored, &vectors.float(&expected), name);
            compared += 1;
        }
    });
    assert_eq!(compared, 4);
}
