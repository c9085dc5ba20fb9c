//! SmolLM2-135M-Instruct from its GGUF, against transformers and bitsandbytes.

use std::fs;

use burn::tensor::{Int, Tensor, TensorData};
use qpipe_sdk::{Artifact, Value};
use qpipe_stages::artifact::ModelArtifact;
use qpipe_stages::evaluate::Evaluate;
use qpipe_stages::model::score::negative_log_likelihoods;
use qpipe_stages::weights::{BlobReader, LoadedModel};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use crate::stages::{Lab, text};

const MODEL: &str = "QPIPE_TEST_SMOLLM2";

fn json(name: &str) -> Json {
    serde_json::from_slice(&fs::read(crate::golden(name)).unwrap()).unwrap()
}

fn floats(value: &Json) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn check_prompts(model: &LoadedModel, kind: &str) {
    for prompt in json("logits.json")["prompts"].as_array().unwrap() {
        let ids: Vec<u32> = serde_json::from_value(prompt["ids"].clone()).unwrap();
        assert_eq!(model.tokenizer.encode(prompt["text"].as_str().unwrap(), false).unwrap(), ids);
        let expected = &prompt["models"][kind];
        let tokens = ids.iter().map(|id| i64::from(*id)).collect::<Vec<_>>();
        let tokens =
            Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, ids.len()]), &model.llama.device);
        let hidden = model.llama.hidden(tokens, None);
        let scored = hidden.clone().narrow(0, 0, ids.len() - 1);
        let nll = negative_log_likelihoods(&model.llama, &scored, &ids[1..]);
        let mean = nll.iter().sum::<f64>() / nll.len() as f64;
        assert!((mean - expected["mean_nll"].as_f64().unwrap()).abs() < 1e-4, "{kind}: mean nll {mean}");
        let logits =
            model.llama.logits(hidden.narrow(0, ids.len() - 1, 1)).into_data().try_into_vec::<f32>().unwrap();
        let top: Vec<usize> = serde_json::from_value(expected["top20_ids"].clone()).unwrap();
        let mut pairs: Vec<(usize, f64)> = top.into_iter().zip(floats(&expected["top20_logits"])).collect();
        pairs.extend(floats(&expected["logits_first8"]).into_iter().enumerate());
        for (id, logit) in pairs {
            let ours = f64::from(logits[id]);
            assert!((ours - logit).abs() < 1e-3, "{kind}: logit of {id} is {ours}, expected {logit}");
        }
    }
}

#[test]
fn logits_and_likelihoods_of_the_golden_prompts() {
    let Some(path) = crate::path_in(MODEL, "logits of the golden prompts") else { return };
    let lab = Lab::new();
    check_prompts(&lab.model(&lab.load_gguf(&path, "bf16")), "bf16_weights_f32_compute");
    check_prompts(&lab.model(&lab.load_gguf(&path, "f32")), "gguf_f32_weights_f32_compute");
}

fn sha(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// Digest of one part of a quantized module.
fn part(lab: &Lab, model: &ModelArtifact, module: &str, role: &str) -> String {
    let blobs = BlobReader::new(&lab.store);
    sha(&blobs.bytes(model.modules[module].part(role).unwrap()).unwrap())
}

#[test]
fn quantized_bytes_of_the_real_model_equal_the_references() {
    let Some(path) = crate::path_in(MODEL, "quantized bytes of the real model") else { return };
    let lab = Lab::new();
    let base = lab.load_gguf(&path, "bf16");
    let read = |artifact: &Artifact| ModelArtifact::read(&lab.store, artifact).unwrap();
    let double = [("scheme", text("nf4")), ("scheme.double-quant", Value::Bool(true))];
    let plain = read(&lab.quantize(&base, &[("scheme", text("nf4"))]).artifact);
    let nested = read(&lab.quantize(&base, &double).artifact);
    let digests = json("model_digests.json");
    let tensors = digests["tensors"].as_object().unwrap();
    assert!(tensors.len() >= 140, "{}", tensors.len());
    for (tensor, expected) in tensors {
        let module = tensor.strip_suffix(".weight").unwrap();
        assert_eq!(
            part(&lab, &plain, module, "codes"),
            expected["nf4"]["packed"].as_str().unwrap(),
            "{tensor}"
        );
        assert_eq!(
            part(&lab, &plain, module, "absmax"),
            expected["nf4"]["absmax_f32"].as_str().unwrap(),
            "{tensor}"
        );
        assert_eq!(
            nested.modules[module].part("codes").unwrap(),
            plain.modules[module].part("codes").unwrap()
        );
    }
}

fn nll(lab: &Lab, model: &Artifact, windows: i64) -> Option<f64> {
    let data = crate::path_in("QPIPE_TEST_DATA", "perplexity on WikiText-2")?;
    let params = [
        ("task.perplexity", Value::Bool(true)),
        ("task.perplexity.data", Value::File(data.join("data/wikitext2-raw/test.jsonl"))),
        ("task.perplexity.limit", Value::Int(windows)),
    ];
    let outcome = lab.run(&Evaluate::default(), &params, &[("model", model)]).unwrap();
    outcome.metrics.iter().find(|m| m.name == "perplexity.nll").map(|m| m.value)
}

#[test]
fn perplexity_of_the_first_windows_of_wikitext2() {
    let Some(path) = crate::path_in(MODEL, "perplexity on WikiText-2") else { return };
    let lab = Lab::new();
    let base = lab.load_gguf(&path, "bf16");
    let Some(full) = nll(&lab, &base, 10) else { return };
    assert!((full - 2.9917).abs() < 0.001, "f32: {full}");
    let nf4 = lab.quantize(&base, &[("scheme", text("nf4"))]).artifact;
    let Some(quantized) = nll(&lab, &nf4, 10) else { return };
    assert!((quantized - 3.2287).abs() < 0.002, "nf4: {quantized}");
}
