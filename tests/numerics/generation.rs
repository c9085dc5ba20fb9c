//! Decoding with a cache, and packed weights, against the plain computation; on the embedded model.

use burn::tensor::{Int, Tensor, TensorData};
use qpipe_sdk::{Artifact, Value};
use qpipe_stages::load::Load;
use qpipe_stages::model::generate::{Decoder, generate};
use qpipe_stages::model::llama::Llama;

use crate::stages::{Lab, text};

fn tiny(lab: &Lab) -> Artifact {
    let params = [("from.embedded", text("tiny")), ("compute-dtype", text("f32"))];
    lab.run(&Load::default(), &params, &[]).unwrap().artifact
}

/// Logits `[vocabulary]` after a sequence, without a cache.
fn last_logits(model: &Llama, ids: &[u32]) -> Vec<f32> {
    let tokens: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, ids.len()]), &model.device);
    let hidden = model.hidden(tokens, None).narrow(0, ids.len() - 1, 1);
    model.logits(hidden).into_data().try_into_vec::<f32>().unwrap()
}

fn argmax(values: &[f32]) -> u32 {
    let best = values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(i, _)| i as u32)
}

#[test]
fn greedy_decoding_with_a_cache_equals_the_forward_pass_without_one() {
    let lab = Lab::new();
    let model = lab.model(&tiny(&lab));
    let prompt = model.tokenizer.encode("It is warm. Ben walks to the garden.", false).unwrap();
    let generated = generate(&model.llama, &prompt, 24);
    let mut sequence = prompt;
    for (i, token) in generated.iter().enumerate() {
        assert_eq!(argmax(&last_logits(&model.llama, &sequence)), *token, "token {i}");
        sequence.push(*token);
    }
}

#[test]
fn sequences_of_a_batch_do_not_influence_each_other() {
    let lab = Lab::new();
    let model = lab.model(&tiny(&lab));
    let encode = |t: &str| model.tokenizer.encode(t, false).unwrap()[..6].to_vec();
    let prompts =
        [encode("It is warm. Ben walks to the garden."), encode("It rains. Mia takes the red ball.")];
    let mut together = Decoder::start(&model.llama, &prompts, 8);
    let mut apart: Vec<_> =
        prompts.iter().map(|p| Decoder::start(&model.llama, std::slice::from_ref(p), 8)).collect();
    for _ in 0..8 {
        let alone: Vec<u32> = apart.iter().map(|d| d.next_tokens()[0]).collect();
        assert_eq!(together.next_tokens(), alone);
        together.step();
        apart.iter_mut().for_each(Decoder::step);
    }
}

#[test]
fn products_on_packed_weights_equal_products_on_dequantized_ones() {
    let lab = Lab::new();
    let base = tiny(&lab);
    let double = ("scheme.double-quant", Value::Bool(true));
    for params in
        [vec![("scheme", text("nf4")), double], vec![("scheme", text("fp4"))], vec![("scheme", text("int8"))]]
    {
        let model = lab.model(&lab.quantize(&base, &params).artifact);
        let ids = model.tokenizer.encode("It is warm. Ben walks to the garden.", false).unwrap();
        let whole = last_logits(&model.llama, &ids);
        // one token on top of a cache takes the packed path; the whole sequence takes the dequantizing one
        let mut cache =
            qpipe_stages::model::cache::KvCache::new(&model.llama.config, 1, ids.len(), &model.llama.device);
        let mut step = |id: u32| {
            let token = Tensor::<2, Int>::from_data(
                TensorData::new(vec![i64::from(id)], [1, 1]),
                &model.llama.device,
            );
            model.llama.logits(model.llama.hidden(token, Some(&mut cache)))
        };
        let stepped =
            ids.iter().map(|id| step(*id)).last().unwrap().into_data().try_into_vec::<f32>().unwrap();
        let difference = whole.iter().zip(&stepped).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(difference < 2e-4, "{params:?}: {difference}");
    }
}

#[test]
fn every_stored_byte_is_counted() {
    let lab = Lab::new();
    let base = tiny(&lab);
    let outcome = lab.quantize(&base, &[("scheme", text("nf4")), ("scheme.double-quant", Value::Bool(true))]);
    let config = lab.model(&base).llama.config;
    let (hidden, inner, layers) = (config.hidden_size, config.intermediate_size, config.num_hidden_layers);
    let kv = config.num_key_value_heads * config.head_dim;
    let linear = [
        hidden * hidden,
        kv * hidden,
        kv * hidden,
        hidden * hidden,
        inner * hidden,
        inner * hidden,
        inner * hidden,
    ];
    let packed: usize = linear
        .iter()
        .map(|n| {
            let blocks = n.div_ceil(64);
            n.div_ceil(2) + blocks + 4 + 4 * blocks.div_ceil(256)
        })
        .sum();
    let dense = 2 * (config.vocab_size * hidden + hidden * (2 * layers + 1));
    let bytes = outcome.metrics.iter().find(|m| m.name == "bytes").unwrap().value;
    assert_eq!(bytes as usize, layers * packed + dense);
}

#[test]
fn a_checkpoint_without_a_tokenizer_is_refused_by_name() {
    let lab = Lab::new();
    let path = crate::golden("tiny/base-bf16");
    let error = lab.run(&Load::default(), &[("from.path", Value::File(path))], &[]).unwrap_err();
    assert_eq!(error.class(), qpipe_sdk::ErrorClass::Config);
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
}

#[test]
fn a_folder_is_loaded_like_the_embedded_model() {
    let lab = Lab::new();
    let folder = crate::golden("../../pipelines/tiny");
    let params = [("from.path", Value::File(folder)), ("compute-dtype", text("f32"))];
    let from_folder = lab.run(&Load::default(), &params, &[]).unwrap().artifact;
    assert_eq!(from_folder.digest, tiny(&lab).digest);
}
