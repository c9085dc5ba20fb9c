//! A GGUF's tokenizer with any tokens, types and merges is one that encodes and decodes, or an error.

#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use qpipe_formats::{Gguf, Tokenizer};

/// One metadata entry: key, type and value.
fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&string(key.as_bytes()), kind.to_le_bytes().as_slice(), value].concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

fn strings(texts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = [8_u32.to_le_bytes().as_slice(), &(texts.len() as u64).to_le_bytes()].concat();
    bytes.extend(texts.iter().flat_map(|text| string(text)));
    bytes
}

/// Lines up to an empty one are tokens, each after a byte for its type; then merges. The first byte chooses the
/// pre-tokenizer and whether BOS and EOS are added.
fn file(bytes: &[u8]) -> Option<Vec<u8>> {
    let (first, rest) = bytes.split_first()?;
    let mut lines = rest.split(|byte| *byte == b'\n');
    let tokens: Vec<&[u8]> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    let merges: Vec<&[u8]> = lines.collect();
    let types: Vec<u8> = tokens.iter().flat_map(|line| i32::from(line[0] & 7).to_le_bytes()).collect();
    let types = [5_u32.to_le_bytes().as_slice(), &(tokens.len() as u64).to_le_bytes(), &types].concat();
    let texts: Vec<&[u8]> = tokens.iter().map(|line| &line[1..]).collect();
    let pre = ["smollm", "gpt-2", "llama-bpe", "qwen2"][usize::from(first & 3)];
    let entries = [
        entry("tokenizer.ggml.model", 8, &string(b"gpt2")),
        entry("tokenizer.ggml.pre", 8, &string(pre.as_bytes())),
        entry("tokenizer.ggml.tokens", 9, &strings(&texts)),
        entry("tokenizer.ggml.token_type", 9, &types),
        entry("tokenizer.ggml.merges", 9, &strings(&merges)),
        entry("tokenizer.ggml.bos_token_id", 4, &u32::from(first >> 4).to_le_bytes()),
        entry("tokenizer.ggml.eos_token_id", 4, &u32::from(first >> 5).to_le_bytes()),
        entry("tokenizer.ggml.add_eos_token", 7, &[first >> 2 & 1]),
        entry("tokenizer.ggml.add_bos_token", 7, &[first >> 3 & 1]),
    ];
    let counts = [0_u64.to_le_bytes(), (entries.len() as u64).to_le_bytes()].concat();
    Some([b"GGUF".as_slice(), &3_u32.to_le_bytes(), &counts, &entries.concat()].concat())
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    let Some(file) = file(bytes) else { return Corpus::Reject };
    let Ok(gguf) = Gguf::parse(&file) else { return Corpus::Reject };
    let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) else { return Corpus::Keep };
    for text in ["", "ab abc 12 é\n\n <|end|>", &String::from_utf8_lossy(bytes)] {
        if let Ok(ids) = tokenizer.encode(text, true) {
            tokenizer.decode(&ids).expect("its own ids");
        }
    }
    let json = tokenizer.to_json_bytes().expect("it can be written");
    let again = Tokenizer::from_json_bytes(&json).expect("what was written can be read");
    assert_eq!(again.to_json_bytes().expect("it can be written"), json);
    Corpus::Keep
});
