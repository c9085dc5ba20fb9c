//! Whole checkpoints as transformers writes them: a base model in bf16, and what becomes of its linear layers.

use qpipe_codecs::{BlockSize, FourBit, double_quantize_with_offset, quantize_int8, quantize4};
use serde_json::Value;

use crate::int8::Differing;
use crate::vectors::{Vectors, assert_same_bits};

#[test]
fn nf4_with_double_quantization() {
    let (base, stored) = (read("base-bf16"), read("nf4dq"));
    let layers = weights_with(&stored, ".weight.absmax");
    assert_eq!(layers.len(), 14);
    for layer in layers {
        let key = |suffix: &str| format!("{layer}.weight.{suffix}");
        let state = stored.u8(&key("quant_state.bitsandbytes__nf4"));
        let state: Value = serde_json::from_slice(&state).unwrap();
        let block = BlockSize::try_from(state["blocksize"].as_u64().unwrap() as u32).unwrap();
        let offset = state["nested_offset"].as_f64().unwrap() as f32;

        let weight = format!("{layer}.weight");
        let ours = quantize4(FourBit::Nf4, &base.float(&weight), block).unwrap();
        let absmax = double_quantize_with_offset(&ours.absmax, offset);
        assert!(ours.packed == stored.u8(&weight), "{layer}: packed");
        assert_eq!(absmax.codes, stored.u8(&key("absmax")), "{layer}");
        assert_same_bits(&absmax.nested_absmax, &stored.float(&key("nested_absmax")), &layer);
    }
}

#[test]
fn int8() {
    let (base, stored) = (read("base-bf16"), read("int8"));
    let layers = weights_with(&stored, ".SCB");
    assert_eq!(layers.len(), 14);
    let mut differing = Differing::default();
    for layer in layers {
        let weight = format!("{layer}.weight");
        let shape = base.shape(&weight);
        let ours = quantize_int8(&base.float(&weight), shape[0], shape[1]).unwrap();
        assert_same_bits(&ours.scb, &stored.float(&format!("{layer}.SCB")), &layer);
        differing.count(&ours.codes, &stored.i8(&weight), &layer);
    }
    differing.check("int8 checkpoint");
}

fn read(variant: &str) -> Vectors {
    Vectors::read(&format!("tiny/{variant}/model.safetensors"))
}

/// The layers that have a tensor with this suffix.
fn weights_with(stored: &Vectors, suffix: &str) -> Vec<String> {
    stored.names().iter().filter_map(|name| name.strip_suffix(suffix)).map(str::to_owned).collect()
}
