//! Every table entry, bit by bit.

use qpipe_codecs::{FourBit, dynamic_map};

use crate::vectors::json;

fn bits(name: &str) -> Vec<u32> {
    let books = json("codebooks.json");
    let entries = books[name].as_array().unwrap();
    entries.iter().map(|e| u32::from_str_radix(&e.as_str().unwrap()[2..], 16).unwrap()).collect()
}

fn to_bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn levels() {
    assert_eq!(to_bits(FourBit::Nf4.levels()), bits("nf4_bits"));
    assert_eq!(to_bits(FourBit::Fp4.levels()), bits("fp4_bits"));
}

#[test]
fn thresholds() {
    assert_eq!(to_bits(FourBit::Nf4.thresholds()), bits("nf4_thresholds_cuda_bits"));
    assert_eq!(to_bits(FourBit::Fp4.thresholds()), bits("fp4_abs_thresholds_cuda_bits"));
}

#[test]
fn dynamic_codes() {
    assert_eq!(to_bits(dynamic_map()), bits("dynamic_u8_bits"));
}
