//! Tiny random models of every architecture against transformers' logits (`tests/golden/architectures`), in one pass
//! and token by token with a cache.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use qpipe_formats::{LlamaConfig, TensorFile};
use qpipe_stages::model::compute::ComputeDtype;
use qpipe_stages::model::llama::Llama;
use qpipe_stages::model::ops::Place;

use crate::tiny::Checkpoint;

struct Case {
    model: Llama,
    /// `[batch, seq]`.
    tokens: Tensor<2, Int>,
    /// `[batch · seq, vocabulary]`.
    expected: Vec<f32>,
}

fn folders() -> Vec<PathBuf> {
    let all = fs::read_dir(crate::golden("architectures")).unwrap();
    let mut folders: Vec<PathBuf> = all.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn read(folder: &Path, place: Place) -> Case {
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let config = LlamaConfig::from_hf_json(&read("config.json")).unwrap();
    let mut weights = Checkpoint(TensorFile::parse(read("model.safetensors")).unwrap(), place);
    let golden = TensorFile::parse(read("logits.safetensors")).unwrap();
    let ids = golden.get("input_ids").unwrap();
    let tokens: Vec<i64> = ids.bytes.chunks(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
    let device = Device::flex();
    Case {
        model: Llama::build(&config, ComputeDtype::F32, &device, place, 64, &mut weights).unwrap(),
        tokens: Tensor::from_data(TensorData::new(tokens, [ids.shape[0], ids.shape[1]]), &device),
        expected: qpipe_formats::to_f32(&golden.get("logits").unwrap()),
    }
}

fn check(name: &str, logits: &[f32], expected: &[f32]) {
    assert_eq!(logits.len(), expected.len(), "{name}");
    let difference = logits.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-4, "{name}: {difference}");
}

fn values(logits: Tensor<2>) -> Vec<f32> {
    logits.into_data().try_into_vec::<f32>().unwrap()
}

#[test]
fn logits_of_every_architecture_equal_the_references() {
    assert_eq!(folders().len(), 6);
    for folder in folders() {
        for place in [Place::Host, Place::Device] {
            let Case { model, tokens, expected } = read(&folder, place);
            let logits = values(model.logits(model.hidden(tokens, None)));
            check(&format!("{} {place:?}", folder.display()), &logits, &expected);
        }
    }
}

#[test]
fn decoding_with_a_cache_equals_the_whole_pass() {
    for folder in folders() {
        for place in [Place::Host, Place::Device] {
            let Case { model, tokens, expected } = read(&folder, place);
            let [batch, seq] = tokens.dims();
            let vocabulary = model.config.vocab_size;
            let mut cache = model.cache(batch, seq);
            let mut at = 0;
            // a prompt, then single tokens
            for len in std::iter::once(5).chain(std::iter::repeat_n(1, seq - 5)) {
                let logits =
                    values(model.logits(model.hidden(tokens.clone().narrow(1, at, len), Some(&mut cache))));
                at += len;
                for b in 0..batch {
                    let ours = &logits[((b + 1) * len - 1) * vocabulary..][..vocabulary];
                    let theirs = &expected[(b * seq + at - 1) * vocabulary..][..vocabulary];
                    check(&format!("{} {place:?}, position {at}", folder.display()), ours, theirs);
                }
            }
        }
    }
}
