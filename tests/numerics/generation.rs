//! Decoding with a cache, and packed weights, against the plain computation; on the embedded model.

use burn::tensor::{Int, Tensor, TensorData};
use qpipe_sdk::generation::Generation;
use qpipe_sdk::{Artifact, Value};
use qpipe_stages::generate::Generate;
use qpipe_stages::load::Load;
use qpipe_stages::model::generate::{Decoder, Finish, GenerateError, Request, generate, greedy};
use qpipe_stages::model::llama::Llama;
use qpipe_stages::model::sampling::{Pick, Sampling};
use qpipe_stages::weights::LoadedModel;

use crate::stages::{Lab, text};

pub(crate) fn tiny(lab: &Lab) -> Artifact {
    let params = [("from.embedded", text("tiny")), ("compute-dtype", text("f32"))];
    lab.run(&Load::default(), &params, &[]).unwrap().artifact
}

/// Logits `[vocabulary]` after a sequence, without a cache.
pub(crate) fn last_logits(model: &Llama, ids: &[u32]) -> Vec<f32> {
    let tokens: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [1, ids.len()]), &model.device);
    let hidden = model.hidden(tokens, None).narrow(0, ids.len() - 1, 1);
    model.logits(hidden).into_data().try_into_vec::<f32>().unwrap()
}

const SAMPLED: Pick = Pick::Sample(Sampling { temperature: 0.9, top_k: Some(40), top_p: 0.95, seed: 11 });

/// Asserts that decoding a batch with a cache gives the tokens that the forward pass without one gives, each sequence
/// by itself.
fn assert_cache_changes_nothing(model: &Llama, prompts: &[Vec<u32>], pick: Pick) {
    let (steps, first) = (16, 5);
    let mut decoder = Decoder::picking(model, prompts, steps, pick, first);
    let mut sequences = prompts.to_vec();
    for step in 0..steps as u64 {
        for (i, sequence) in sequences.iter_mut().enumerate() {
            let token = pick.token(&last_logits(model, sequence), first + i as u64, step);
            assert_eq!(decoder.next_tokens()[i], token, "{pick:?}, sequence {i}, step {step}");
            sequence.push(token);
        }
        decoder.step();
    }
}

/// Prompts of one length.
fn prompts(model: &LoadedModel, texts: &[&str]) -> Vec<Vec<u32>> {
    texts.iter().map(|text| model.tokenizer.encode(text, false).unwrap()[..6].to_vec()).collect()
}

const TEXTS: [&str; 3] = [
    "It is warm. Ben walks to the garden.",
    "It rains. Mia takes the red ball.",
    "Tom is in the kitchen. Ann sees him.",
];

/// Parameters of the schemes whose products run on packed weights.
fn packed() -> [Vec<(&'static str, Value)>; 5] {
    let double = ("scheme.double-quant", Value::Bool(true));
    let asymmetric = [("scheme.symmetric", Value::Bool(false)), ("scheme.bits", Value::Int(8))];
    [
        vec![("scheme", text("nf4")), double],
        vec![("scheme", text("fp4"))],
        vec![("scheme", text("int8-weight-only"))],
        vec![("scheme", text("rtn")), ("scheme.group", Value::Int(64))],
        [vec![("scheme", text("rtn"))], asymmetric.to_vec()].concat(),
    ]
}

#[test]
fn decoding_with_a_cache_equals_the_forward_pass_without_one() {
    let lab = Lab::new();
    let model = lab.model(&tiny(&lab));
    let prompts = prompts(&model, &TEXTS);
    for pick in [Pick::Greedy, SAMPLED] {
        assert_cache_changes_nothing(&model.llama, &prompts[..1], pick);
        assert_cache_changes_nothing(&model.llama, &prompts, pick);
    }
}

#[test]
fn so_it_does_on_packed_weights() {
    let lab = Lab::new();
    let base = tiny(&lab);
    for params in packed() {
        let model = lab.model(&lab.quantize(&base, &params).artifact);
        let prompts = prompts(&model, &TEXTS);
        for pick in [Pick::Greedy, SAMPLED] {
            assert_cache_changes_nothing(&model.llama, &prompts, pick);
        }
    }
}

#[test]
fn the_end_of_sequence_token_ends_a_text_and_is_not_part_of_it() {
    let lab = Lab::new();
    let model = lab.model(&tiny(&lab));
    let prompt = &prompts(&model, &TEXTS)[0];
    let whole = greedy(&model.llama, prompt, 12).unwrap();
    let eos = whole[7];
    let until = whole.iter().position(|token| *token == eos).unwrap();
    let request = Request { max_tokens: 12, pick: Pick::Greedy, sequence: 0, eos: vec![u32::MAX, eos] };
    let ended = generate::<GenerateError>(&model.llama, prompt, &request, &mut |_| Ok(())).unwrap();
    assert_eq!(ended, (whole[..until].to_vec(), Finish::Eos));
    let unending = Request { eos: Vec::new(), ..request };
    let all = generate::<GenerateError>(&model.llama, prompt, &unending, &mut |_| Ok(())).unwrap();
    assert_eq!(all, (whole, Finish::Length));
}

#[test]
fn more_tokens_than_the_context_holds_are_a_typed_error() {
    let lab = Lab::new();
    let model = lab.model(&tiny(&lab));
    let context = model.llama.config.max_position_embeddings;
    let prompt = vec![1; context - 3];
    assert_eq!(greedy(&model.llama, &prompt, 3).unwrap().len(), 3, "a full context");
    let error = greedy(&model.llama, &prompt, 4).unwrap_err();
    assert_eq!(error, GenerateError::Context { prompt: context - 3, max_tokens: 4, context });
    assert_eq!(greedy(&model.llama, &[], 4).unwrap_err(), GenerateError::Empty);
}

#[test]
fn a_generation_is_the_same_again_and_its_texts_are_those_of_the_decoder() {
    let sampled = [
        ("prompt", Value::List(TEXTS.map(text).into())),
        ("max-tokens", Value::Int(8)),
        ("decoding", text("sample")),
        ("decoding.seed", Value::Int(3)),
        ("stop", Value::Bool(false)),
    ];
    let run = |params: &[(&str, Value)]| {
        let lab = Lab::new();
        let outcome = lab.run(&Generate::default(), params, &[("model", &tiny(&lab))]).unwrap();
        Generation::read(&lab.store.read(&outcome.artifact.digest).unwrap()).unwrap().samples
    };
    let (once, again) = (run(&sampled), run(&sampled));
    assert_eq!(once, again);
    let mut other = sampled.to_vec();
    other[3] = ("decoding.seed", Value::Int(4));
    assert_ne!(run(&other), once, "another seed");
    let lab = Lab::new();
    let model = lab.model(&tiny(&lab));
    let pick = Pick::Sample(Sampling { temperature: 1.0, top_k: None, top_p: 1.0, seed: 3 });
    for (i, sample) in once.iter().enumerate() {
        assert_eq!((sample.prompt.as_str(), sample.finish.as_str()), (TEXTS[i], "length"));
        let request = Request { max_tokens: 8, pick, sequence: i as u64, eos: Vec::new() };
        let (tokens, _) =
            generate::<GenerateError>(&model.llama, &sample.prompt_tokens, &request, &mut |_| Ok(()))
                .unwrap();
        assert_eq!(sample.tokens, tokens);
        assert_eq!(sample.text, model.tokenizer.decode(&tokens).unwrap());
    }
}

#[test]
fn products_on_packed_weights_equal_products_on_dequantized_ones() {
    let lab = Lab::new();
    let base = tiny(&lab);
    for params in packed() {
        let model = lab.model(&lab.quantize(&base, &params).artifact);
        let ids = model.tokenizer.encode("It is warm. Ben walks to the garden.", false).unwrap();
        let whole = last_logits(&model.llama, &ids);
        // one token on top of a cache takes the packed path; the whole sequence takes the dequantizing one
        let mut cache = model.llama.cache(1, ids.len());
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
    for place in [text("tiny"), Value::File(crate::golden("../../pipelines/tiny"))] {
        let bare = [("from", place), ("compute-dtype", text("f32"))];
        assert_eq!(lab.run(&Load::default(), &bare, &[]).unwrap().artifact.digest, from_folder.digest);
    }
}
