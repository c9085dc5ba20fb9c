use proptest::prelude::*;

use super::testing::{Builder, llama, llama_metadata, metadata, tensors, tokenizer};
use super::*;
use crate::config::{Biases, LlamaConfig, RopeScaling};
use crate::error::FormatError;
use crate::tokenizer::Tokenizer;

fn parse_error(bytes: &[u8]) -> GgufError {
    Gguf::parse(bytes).map(|_| ()).unwrap_err()
}

#[test]
fn dequantizes_as_the_reference_does() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/data/ggml_blocks.json")).unwrap();
    let cases = golden.as_array().unwrap();
    assert_eq!(cases.len(), 11);
    for case in cases {
        let code = case["code"].as_u64().unwrap() as u32;
        let ggml_type = GgmlType::from_code(code).unwrap();
        assert_eq!(case["type"], ggml_type.to_string());
        let (stored, expected) = (unhex(&case["stored"]), unhex(&case["values"]));
        let shape = vec![2, expected.len() / 8];
        let tensor = GgufTensor { name: "t", shape, ggml_type, bytes: &stored };
        let values: Vec<u8> = tensor.dequantize().iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(values, expected, "{ggml_type}");
        let second = tensor.dequantize_rows(1..2).unwrap();
        assert_eq!(second, tensor.dequantize()[tensor.row_len()..]);
        assert!(matches!(tensor.dequantize_rows(1..3), Err(GgufError::RowsOutOfRange { rows: 2, .. })));
    }
}

fn unhex(value: &serde_json::Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn reads_every_kind_of_metadata() {
    let nested = [&5u32.to_le_bytes()[..], &1u64.to_le_bytes(), &7i32.to_le_bytes()].concat();
    let file = Builder::new()
        .raw("i8", 1, &[0xff])
        .raw("u64", 10, &9u64.to_le_bytes())
        .f32("f", 0.5)
        .bool("b", true)
        .str("s", "héllo")
        .strings("list", &["a", ""])
        .i32s("ints", &[-1, 2])
        .array("nested", 9, 1, &nested)
        .build();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.metadata()["i8"], Value::I8(-1));
    assert_eq!(gguf.u64("u64").unwrap(), Some(9));
    assert_eq!(gguf.f32("f").unwrap(), Some(0.5));
    assert_eq!(gguf.bool("b").unwrap(), Some(true));
    assert_eq!(gguf.str("s").unwrap(), Some("héllo"));
    assert_eq!(gguf.strings("list").unwrap(), Some(&["a", ""][..]));
    assert_eq!(gguf.i32s("ints").unwrap(), Some(&[-1, 2][..]));
    assert_eq!(gguf.metadata()["nested"], Value::Array(Array::Array(vec![Array::I32(vec![7])])));
    assert!(matches!(gguf.u64("s"), Err(GgufError::WrongType { found: "a string", .. })));
    assert_eq!(gguf.u64("absent").unwrap(), None);
}

#[test]
fn refuses_hostile_counts_without_allocating() {
    let huge = u64::MAX.to_le_bytes();
    let header = |tensors: u64, metadata: u64| {
        [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &metadata.to_le_bytes()].concat()
    };
    assert!(matches!(parse_error(&header(u64::MAX, 0)), GgufError::TooMany { .. }));
    assert!(matches!(parse_error(&header(0, u64::MAX)), GgufError::TooMany { .. }));
    assert!(matches!(parse_error(&header(60_000, 0)), GgufError::Truncated { .. }));
    let string = Builder::new().raw("key", 8, &huge).build();
    assert!(matches!(parse_error(&string), GgufError::TooMany { .. }));
    let array = Builder::new().array("key", 8, 1 << 26, &[]).build();
    assert!(matches!(parse_error(&array), GgufError::Truncated { .. }));
    let bomb: Vec<u8> =
        (0..9).flat_map(|_| [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()).collect();
    assert!(matches!(parse_error(&Builder::new().raw("key", 9, &bomb).build()), GgufError::TooDeep { .. }));
}

#[test]
fn names_the_tensor_that_is_wrong() {
    type Check = fn(&GgufError) -> bool;
    let base = Builder::new;
    let cases: [(Builder, Check); 7] = [
        (base().tensor("t", &[4, 256], 10, 336), |e| {
            matches!(e, GgufError::UnsupportedTensorType { code: 10, .. })
        }),
        (base().tensor("t", &[4, 33], 8, 200), |e| matches!(e, GgufError::RaggedRow { row: 33, .. })),
        (base().tensor("t", &[1, 1, 1, 1, 1], 0, 4), |e| {
            matches!(e, GgufError::BadDimensions { dims: 5, .. })
        }),
        (base().tensor("t", &[1 << 40, 1 << 40], 0, 4), |e| matches!(e, GgufError::ShapeOverflow { .. })),
        (base().tensor("t", &[1 << 40], 0, 4), |e| matches!(e, GgufError::Truncated { .. })),
        (base().typed("t", &[4], 0).typed("t", &[4], 0), |e| matches!(e, GgufError::DuplicateTensor { .. })),
        (base().u32("general.alignment", 64).typed("a", &[4], 0).typed("t", &[4], 0), |e| {
            matches!(e, GgufError::MisalignedTensor { offset: 32, .. })
        }),
    ];
    for (builder, is_expected) in cases {
        let error = parse_error(&builder.build());
        assert!(is_expected(&error) && error.to_string().contains("`t`"), "{error}");
    }
    let text = GgufError::UnsupportedTensorType { tensor: "t".into(), code: 10 }.to_string();
    assert_eq!(
        text,
        format!("tensor `t` has type `Q2_K`, which is not supported (supported: {})", GgmlType::NAMES)
    );
}

#[test]
fn refuses_other_containers() {
    assert!(matches!(parse_error(b"GGML\x03\0\0\0"), GgufError::BadMagic { .. }));
    assert!(matches!(parse_error(b"GGUF\0\0\0\x03"), GgufError::UnsupportedVersion { big_endian: true, .. }));
    assert!(matches!(parse_error(b"GGUF\x01\0\0\0"), GgufError::UnsupportedVersion { version: 1, .. }));
    assert!(matches!(parse_error(b"GG"), GgufError::Truncated { .. }));
    let duplicate = Builder::new().u32("k", 1).u32("k", 1).build();
    assert!(matches!(parse_error(&duplicate), GgufError::DuplicateKey { .. }));
}

#[test]
fn every_truncation_is_named() {
    let file = llama().build();
    assert!(Gguf::parse(&file).is_ok());
    for end in (0..file.len()).step_by(13) {
        assert!(matches!(parse_error(&file[..end]), GgufError::Truncated { .. }), "cut at {end}");
    }
    let last_bytes = &file[..file.len() - 1];
    assert!(parse_error(last_bytes).to_string().contains("`output_norm.weight`"));
}

#[test]
fn a_llama_appears_under_its_hf_names() {
    let file = llama().build();
    let gguf = Gguf::parse(&file).unwrap();
    let weights = LlamaWeights::new(&gguf).unwrap();
    let config = weights.config();
    assert_eq!((config.hidden_size, config.head_dim, config.vocab_size), (64, 32, 10));
    assert_eq!((config.rms_norm_eps, config.rope_theta), (1e-5, 1e5));
    assert!(config.tie_word_embeddings);

    let k = weights.get("model.layers.0.self_attn.k_proj.weight").unwrap();
    let stored = k.stored().dequantize();
    let row = |values: &[f32], row: usize| values[row * 64..][..64].to_vec();
    let values = k.to_f32().unwrap();
    assert_eq!(row(&values, 1), row(&stored, 2));
    assert_eq!(row(&values, 16), row(&stored, 1));
    assert_eq!(k.to_f32_rows(16..20).unwrap(), values[16 * 64..20 * 64]);
    let v = weights.get("model.layers.0.self_attn.v_proj.weight").unwrap();
    assert_eq!(v.to_f32().unwrap(), v.stored().dequantize());
}

#[test]
fn a_llama_with_wrong_tensors_is_refused() {
    let check = |builder: Builder| {
        let file = builder.build();
        LlamaWeights::new(&Gguf::parse(&file).unwrap()).map(|_| ()).unwrap_err()
    };
    let missing = check(llama_metadata().typed("token_embd.weight", &[10, 64], 8));
    assert!(matches!(missing, FormatError::MissingTensor { .. }), "{missing}");
    let shape = check(llama_metadata().typed("token_embd.weight", &[11, 64], 8));
    assert!(matches!(shape, FormatError::WrongShape { .. }), "{shape}");
    for extra in ["blk.0.attn_v.bias", "blk.1.attn_norm.weight", "blk.0.attn_q_norm.weight"] {
        let error = check(llama().typed(extra, &[64], 0));
        assert!(error.to_string().contains(extra), "{error}");
    }
    let biased = check(llama().typed("blk.0.attn_q.bias", &[64], 0));
    assert!(biased.to_string().contains("attention projections"), "{biased}");
    let scaled = check(llama().typed("rope_freqs.weight", &[15], 0));
    assert!(matches!(scaled, FormatError::InvalidField { .. }), "{scaled}");
    let other = check(Builder::new().str("general.architecture", "mamba"));
    assert!(other.to_string().contains("`mamba`") && other.to_string().contains("`qwen2`"), "{other}");
}

/// Values of the projection biases of a layer, as builders fill them: 0, 1, 2 … as bytes.
fn biased(builder: Builder, modules: &[(&str, u64)]) -> Builder {
    modules.iter().fold(builder, |b, (module, n)| b.typed(&format!("blk.0.{module}.bias"), &[*n], 0))
}

#[test]
fn biases_follow_their_rows() {
    let modules = [("attn_q", 64), ("attn_k", 32), ("attn_v", 32), ("attn_output", 64)];
    let file = biased(llama(), &modules).build();
    let gguf = Gguf::parse(&file).unwrap();
    let weights = LlamaWeights::new(&gguf).unwrap();
    assert_eq!(weights.config().biases, Biases { qkv: true, output: true, mlp: false });
    let q = weights.get("model.layers.0.self_attn.q_proj.bias").unwrap();
    let (values, stored) = (q.to_f32().unwrap(), q.stored().dequantize());
    assert_eq!((values[1], values[16], values[33]), (stored[2], stored[1], stored[34]));
    let v = weights.get("model.layers.0.self_attn.v_proj.bias").unwrap();
    assert_eq!(v.to_f32().unwrap(), v.stored().dequantize());
}

#[test]
fn qwen_files_are_not_permuted() {
    let modules = [("attn_q", 64), ("attn_k", 32), ("attn_v", 32)];
    let file = biased(tensors(metadata("qwen2")), &modules).build();
    let gguf = Gguf::parse(&file).unwrap();
    let weights = LlamaWeights::new(&gguf).unwrap();
    assert_eq!(weights.config().architecture.model_type, "qwen2");
    for name in ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.bias"] {
        let weight = weights.get(name).unwrap();
        assert_eq!(weight.to_f32().unwrap(), weight.stored().dequantize(), "{name}");
    }
    let norms = |b: Builder| {
        b.typed("blk.0.attn_q_norm.weight", &[32], 0).typed("blk.0.attn_k_norm.weight", &[32], 0)
    };
    let file = norms(tensors(metadata("qwen3").u32("qwen3.attention.key_length", 32))).build();
    let gguf = Gguf::parse(&file).unwrap();
    assert!(LlamaWeights::new(&gguf).unwrap().config().architecture.head_norms);
}

#[test]
fn rope_scalings_are_read() {
    let read = |builder: Builder| {
        let file = builder.build();
        LlamaConfig::from_gguf(&Gguf::parse(&file).unwrap())
    };
    let factors = read(llama().typed("rope_freqs.weight", &[16], 0)).unwrap();
    assert!(
        matches!(&factors.rope_scaling, Some(RopeScaling::Factors { factors }) if factors.len() == 16),
        "{factors:?}"
    );
    let linear = read(llama_metadata().f32("llama.rope.scaling.factor", 4.0)).unwrap();
    assert_eq!(linear.rope_scaling, Some(RopeScaling::Linear { factor: 4.0 }));
    let yarn = llama_metadata().str("llama.rope.scaling.type", "yarn").f32("llama.rope.scaling.factor", 4.0);
    let yarn = read(yarn.u32("llama.rope.scaling.original_context_length", 64)).unwrap();
    let Some(RopeScaling::Yarn(yarn)) = yarn.rope_scaling else { panic!("{yarn:?}") };
    assert_eq!((yarn.original_max_position_embeddings, yarn.factor), (64, 4.0));
    let other = read(llama_metadata().str("llama.rope.scaling.type", "longrope")).unwrap_err();
    assert!(other.to_string().contains("`longrope`"), "{other}");
}

#[test]
fn tokenizers_follow_their_pre_tokenizer() {
    let ids = |pre: &str, text: &str| {
        let file = tokenizer(pre).build();
        Tokenizer::from_gguf(&Gguf::parse(&file).unwrap()).unwrap().encode(text, true).unwrap()
    };
    // llama-bpe adds BOS by default, the others do not; special tokens are parsed everywhere
    assert_eq!(ids("smollm", "<|end|>").len(), 1);
    assert_eq!(ids("llama-bpe", "<|end|>"), [0, 1]);
    let file = tokenizer("llama-bpe").bool("tokenizer.ggml.add_bos_token", false);
    let file = file.bool("tokenizer.ggml.add_eos_token", true).build();
    let built = Tokenizer::from_gguf(&Gguf::parse(&file).unwrap()).unwrap();
    assert_eq!(built.encode("", true).unwrap(), [1]);
    assert_eq!(built.encode("", false).unwrap(), Vec::<u32>::new());
    assert_eq!((built.bos_token_id(), built.eos_token_id()), (Some(0), Some(1)));
}

#[test]
fn tokenizers_not_known_are_refused() {
    let check = |builder: Builder| {
        let file = builder.build();
        Tokenizer::from_gguf(&Gguf::parse(&file).unwrap()).map(|_| ()).unwrap_err().to_string()
    };
    assert!(check(tokenizer("falcon")).contains("`tokenizer.ggml.pre` = `falcon`"));
    // `default` names a pattern of its own, which is not GPT-2's
    assert!(check(tokenizer("default")).contains("`tokenizer.ggml.pre` = `default`"));
    assert!(
        check(Builder::new().str("tokenizer.ggml.model", "bert")).contains("(supported: `gpt2`, `llama`)")
    );
    let base = || Builder::new().str("tokenizer.ggml.model", "gpt2").str("tokenizer.ggml.pre", "gpt-2");
    let full = |tokens: &[&str], merges: &[&str], types: &[i32]| {
        base()
            .strings("tokenizer.ggml.tokens", tokens)
            .strings("tokenizer.ggml.merges", merges)
            .i32s("tokenizer.ggml.token_type", types)
    };
    assert!(check(full(&["a", "a"], &[], &[1, 1])).contains("both id 0 and id 1"));
    assert!(check(full(&["a", "b"], &["a b"], &[1, 1])).contains("the result is not in the vocabulary"));
    assert!(check(full(&["a", "b"], &["ab"], &[1, 1])).contains("it has no space"));
    assert!(check(full(&["a", "b"], &[], &[1])).contains("1 entries for 2 tokens"));
    let eos = full(&["a"], &[], &[1]).u32("tokenizer.ggml.eos_token_id", 1);
    assert!(check(eos).contains("`tokenizer.ggml.eos_token_id` is 1"));
    assert!(check(base()).contains("`tokenizer.ggml.tokens` is missing"));
}

/// Everything that a caller might do with a file that parses.
fn use_everything(bytes: &[u8]) {
    let Ok(gguf) = Gguf::parse(bytes) else { return };
    for tensor in gguf.tensors() {
        // bounded by the file's size, since every type stores at least half a byte per value
        assert_eq!(tensor.dequantize().len(), tensor.rows() * tensor.row_len());
    }
    if let Ok(weights) = LlamaWeights::new(&gguf) {
        for (name, _) in weights.config().expected_tensors() {
            weights.get(&name).unwrap().to_f32().unwrap();
        }
    }
    if let Ok(tokenizer) = Tokenizer::from_gguf(&gguf) {
        let ids = tokenizer.encode("abc ab <|end|> 12", true).unwrap();
        tokenizer.decode(&ids).unwrap();
    }
}

fn whole_model() -> Vec<u8> {
    tokenizer("smollm").build()
}

proptest! {
    #[test]
    fn random_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..200)) {
        use_everything(&tail);
        use_everything(&[b"GGUF\x03\0\0\0", &tail[..]].concat());
    }

    #[test]
    fn mutated_models_never_panic(edits in prop::collection::vec((0.0..1.0f64, any::<u8>()), 1..6)) {
        for mut file in [llama().build(), whole_model()] {
            for &(place, byte) in &edits {
                // squared: most of what can go wrong stands at the beginning
                let at = (place * place * file.len() as f64) as usize;
                file[at] = byte;
            }
            use_everything(&file);
        }
    }
}
