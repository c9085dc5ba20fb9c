//! Any bytes are a GGUF, whose tensors, weights and tokenizer can be asked for, or an error.

#![no_main]

use libfuzzer_sys::fuzz_target;
use qpipe_formats::gguf::LlamaWeights;
use qpipe_formats::{Gguf, Tokenizer};

/// More values than this take time and show nothing.
const VALUES: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::parse(bytes) else { return };
    for tensor in gguf.tensors().filter(|tensor| tensor.shape.iter().product::<usize>() <= VALUES) {
        tensor.dequantize();
    }
    if let Ok(weights) = LlamaWeights::new(&gguf) {
        for (name, shape) in weights.config().expected_tensors() {
            let values = weights.get(&name).expect("it was checked").to_f32().expect("it was checked");
            assert_eq!(values.len(), shape.iter().product::<usize>());
        }
    }
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        tokenizer.encode("a quick é 12", true).ok();
    }
});
