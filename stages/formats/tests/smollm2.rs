//! A real model, read from its GGUF file: dequantization, row order and rounding against digests of
//! the reference's weights, the tokenizer against the reference's token ids.
//!
//! `QPIPE_TEST_SMOLLM2` names `SmolLM2-135M-Instruct.Q4_1.gguf`, `QPIPE_TEST_DATA` a folder that holds
//! `data/wikitext2-raw/test.jsonl`; tests that lack theirs are skipped and say so.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use qpipe_formats::gguf::LlamaWeights;
use qpipe_formats::values::from_f32;
use qpipe_formats::{DType, Gguf, Tokenizer};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn model() -> Option<Vec<u8>> {
    let Some(path) = std::env::var_os("QPIPE_TEST_SMOLLM2") else {
        let _ =
            std::io::Write::write_all(&mut std::io::stderr(), b"skipped: QPIPE_TEST_SMOLLM2 is not set\n");
        return None;
    };
    Some(std::fs::read(path).expect("QPIPE_TEST_SMOLLM2 names a readable file"))
}

fn golden(name: &str) -> Value {
    let path = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
        .join("../../tests/golden")
        .join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn tokenizer(model: &[u8]) -> Tokenizer {
    Tokenizer::from_gguf(&Gguf::parse(model).unwrap()).unwrap()
}

#[test]
fn weights_match_the_reference_digests() {
    let Some(bytes) = model() else { return };
    let gguf = Gguf::parse(&bytes).unwrap();
    let weights = LlamaWeights::new(&gguf).unwrap();
    let digests = golden("model_digests.json");
    let tensors = digests["tensors"].as_object().unwrap();
    assert_eq!(tensors.len(), 20 * 7);
    for (name, expected) in tensors {
        let weight = weights.get(name).unwrap();
        let shape: Vec<usize> = serde_json::from_value(expected["shape"].clone()).unwrap();
        assert_eq!(weight.shape(), shape, "{name}");
        let bf16 = from_f32(&weight.to_f32().unwrap(), DType::BF16).unwrap();
        assert_eq!(hex(&Sha256::digest(&bf16)), expected["src"].as_str().unwrap(), "{name}");
    }
}

#[test]
fn configuration_is_that_of_the_model() {
    let Some(bytes) = model() else { return };
    let gguf = Gguf::parse(&bytes).unwrap();
    let weights = LlamaWeights::new(&gguf).unwrap();
    let config = weights.config();
    assert_eq!((config.vocab_size, config.hidden_size, config.num_hidden_layers), (49152, 576, 30));
    assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (9, 3, 64));
    assert_eq!((config.rms_norm_eps, config.rope_theta), (1e-5, 1e5));
    assert!(config.tie_word_embeddings);
    assert_eq!((config.bos_token_id, config.eos_token_id), (Some(1), Some(2)));
}

#[test]
fn tokenizer_matches_the_reference() {
    let Some(bytes) = model() else { return };
    let built = tokenizer(&bytes);
    assert_eq!(built.vocab_size(), 49152);
    let read = Tokenizer::from_json_bytes(&built.to_json_bytes().unwrap()).unwrap();
    let golden = golden("tokenizer.json");
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 200);
    for tokenizer in [&built, &read] {
        for case in cases {
            let text = case["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{text:?}");
            assert_eq!(tokenizer.decode(&ids).unwrap(), case["decoded"].as_str().unwrap(), "{text:?}");
        }
    }
    assert_eq!(read.to_json_bytes().unwrap(), built.to_json_bytes().unwrap());
}

#[test]
fn wikitext_has_the_known_number_of_tokens() {
    let Some(bytes) = model() else { return };
    let Some(data) = std::env::var_os("QPIPE_TEST_DATA") else {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: QPIPE_TEST_DATA is not set\n");
        return;
    };
    let path = Path::new(&data).join("data/wikitext2-raw/test.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    let rows: Vec<String> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned())
        .collect();
    let text = rows.join("\n\n");
    let tokenizer = tokenizer(&bytes);
    let start = Instant::now();
    let ids = tokenizer.encode(&text, false).unwrap();
    eprintln!("{} bytes in {:?}", text.len(), start.elapsed());
    assert_eq!(ids.len(), 304_978);
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);

    // the same, by the library alone, on one uncut string
    let whole = tokenizers::Tokenizer::from_bytes(tokenizer.to_json_bytes().unwrap()).unwrap();
    let start = Instant::now();
    let uncut = whole.encode_fast(text.as_str(), false).unwrap();
    eprintln!("uncut: {:?}", start.elapsed());
    assert!(uncut.get_ids() == ids, "cutting changes the ids");
}
