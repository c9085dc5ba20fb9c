use super::*;

const TINY: &[u8] = include_bytes!("../../../../tests/golden/tiny/base-bf16/config.json");

fn with(field: &str, value: serde_json::Value) -> Result<LlamaConfig, FormatError> {
    let mut json: serde_json::Value = serde_json::from_slice(TINY).unwrap();
    json[field] = value;
    LlamaConfig::from_hf_json(json.to_string().as_bytes())
}

#[test]
fn reads_the_golden_config() {
    let config = LlamaConfig::from_hf_json(TINY).unwrap();
    assert_eq!(config.hidden_size, 128);
    assert_eq!((config.num_attention_heads, config.num_key_value_heads, config.head_dim), (4, 2, 32));
    assert!((config.rms_norm_eps - 1e-6).abs() < 1e-18 && (config.rope_theta - 1e4).abs() < 1e-9);
    assert_eq!((config.bos_token_id, config.eos_token_id), (Some(1), Some(2)));
    assert!(!config.tie_word_embeddings);
}

#[test]
fn writes_what_it_reads() {
    let config = LlamaConfig::from_hf_json(TINY).unwrap();
    let written = config.to_hf_json(DType::BF16);
    assert_eq!(LlamaConfig::from_hf_json(&written).unwrap(), config);
    let json = serde_json::to_vec(&config).unwrap();
    assert_eq!(serde_json::from_slice::<LlamaConfig>(&json).unwrap(), config);
}

#[test]
fn refuses_what_is_not_computed_by_name_and_value() {
    let cases = [
        ("model_type", serde_json::json!("mamba"), "mamba"),
        ("hidden_act", serde_json::json!("gelu"), "gelu"),
        ("sliding_window", 4096.into(), "4096"),
        ("rope_scaling", serde_json::json!({"type": "dynamic", "factor": 2.0}), "dynamic"),
        (
            "rope_parameters",
            serde_json::json!({"full_attention": {"rope_type": "default"}}),
            "full_attention",
        ),
        ("num_local_experts", 8.into(), "8"),
        ("quantization_config", serde_json::json!({"quant_method": "bitsandbytes"}), "bitsandbytes"),
    ];
    for (field, value, shown) in cases {
        let error = with(field, value).unwrap_err();
        assert!(matches!(&error, FormatError::Unsupported { field: f, .. } if f == field), "{error}");
        let text = error.to_string();
        assert!(text.contains(shown) && text.contains("(supported: "), "{text}");
    }
    assert!(with("rope_scaling", serde_json::json!({"rope_type": "default"})).is_ok());
}

#[test]
fn quantized_checkpoints_are_read_on_request_only() {
    let json = include_bytes!("../../../../tests/golden/tiny/nf4dq/config.json");
    assert!(LlamaConfig::from_hf_json(json).is_err());
    let config = LlamaConfig::from_quantized_hf_json(json).unwrap();
    assert_eq!(config, LlamaConfig::from_hf_json(TINY).unwrap());
}

#[test]
fn refuses_impossible_values() {
    for (field, value) in [
        ("num_hidden_layers", serde_json::json!(1_000_000_000_000_u64)),
        ("vocab_size", serde_json::json!(0)),
        ("hidden_size", serde_json::json!(-5)),
        ("head_dim", serde_json::json!(31)),
        ("num_key_value_heads", serde_json::json!(3)),
        ("rms_norm_eps", serde_json::json!("tiny")),
        ("eos_token_id", serde_json::json!([])),
        ("attention_bias", serde_json::json!("no")),
    ] {
        let error = with(field, value).unwrap_err();
        assert!(matches!(&error, FormatError::InvalidField { field: f, .. } if f == field), "{error}");
    }
    let error = LlamaConfig::from_hf_json(br#"{"model_type":"llama"}"#).unwrap_err();
    assert!(matches!(&error, FormatError::MissingField { field, .. } if field == "hidden_size"), "{error}");
    assert!(matches!(LlamaConfig::from_hf_json(b"[]"), Err(FormatError::Json { .. })));
}

#[test]
fn defaults_are_those_of_transformers() {
    let json = br#"{"model_type":"llama","hidden_size":64,"num_attention_heads":4,"vocab_size":9,
        "intermediate_size":96,"num_hidden_layers":1,"eos_token_id":[7,8],"head_dim":null}"#;
    let config = LlamaConfig::from_hf_json(json).unwrap();
    assert_eq!((config.head_dim, config.num_key_value_heads), (16, 4));
    assert_eq!((config.eos_token_id, config.bos_token_id), (Some(7), None));
    assert_eq!(config.other_eos_token_ids, [8]);
    assert_eq!(config.max_position_embeddings, 2048);
}

/// A configuration of another architecture with these further fields.
#[expect(clippy::needless_pass_by_value, reason = "every caller makes the value on the spot")]
fn of(model_type: &str, fields: serde_json::Value) -> Result<LlamaConfig, FormatError> {
    let mut json: serde_json::Value = serde_json::from_slice(TINY).unwrap();
    for field in ["attention_bias", "mlp_bias", "rope_theta", "head_dim"] {
        json.as_object_mut().unwrap().remove(field);
    }
    json["model_type"] = model_type.into();
    json["num_hidden_layers"] = 3.into();
    json.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    LlamaConfig::from_hf_json(json.to_string().as_bytes())
}

#[test]
fn every_architecture_is_written_as_it_is_read() {
    use serde_json::json;
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    for (model_type, fields) in [
        ("llama", json!({"attention_bias": true, "mlp_bias": true, "rope_scaling": llama3})),
        ("llama", json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}})),
        ("llama", json!({"rope_scaling": {"type": "yarn", "factor": 4.0, "mscale": 1.0}})),
        ("mistral", json!({"sliding_window": 9})),
        ("mistral", json!({"sliding_window": null})),
        ("qwen2", json!({"use_sliding_window": true, "sliding_window": 7, "max_window_layers": 1})),
        ("qwen3", json!({"head_dim": 16, "attention_bias": true})),
        ("llama", json!({"eos_token_id": [2, 5, 9]})),
    ] {
        let config = of(model_type, fields).unwrap();
        let written = config.to_hf_json(DType::F32);
        assert_eq!(LlamaConfig::from_hf_json(&written).unwrap(), config, "{model_type}");
        let artifact = serde_json::to_vec(&config).unwrap();
        assert_eq!(serde_json::from_slice::<LlamaConfig>(&artifact).unwrap(), config, "{model_type}");
    }
}

#[test]
fn a_plain_llama_serializes_as_it_always_did() {
    let config = LlamaConfig::from_hf_json(TINY).unwrap();
    let json = serde_json::to_string(&config).unwrap();
    assert!(json.starts_with(r#"{"architecture":"llama","vocab_size":160,"#), "{json}");
    assert!(json.ends_with(r#""bos_token_id":1,"eos_token_id":2}"#), "{json}");
}

#[test]
fn windows_are_those_of_transformers() {
    use serde_json::json;
    let windows = |config: &LlamaConfig| (0..3).map(|layer| config.window(layer)).collect::<Vec<_>>();
    let mistral = |fields| of("mistral", fields).unwrap();
    assert_eq!(windows(&mistral(json!({}))), [Some(4096); 3]);
    assert_eq!(windows(&mistral(json!({"sliding_window": null}))), [None; 3]);
    assert_eq!(windows(&of("qwen2", json!({"sliding_window": 5})).unwrap()), [None; 3]);
    let some = json!({"use_sliding_window": true, "sliding_window": 5, "max_window_layers": 2});
    assert_eq!(windows(&of("qwen2", some).unwrap()), [None, None, Some(5)]);
    let types = json!({"use_sliding_window": true, "layer_types":
        ["sliding_attention", "full_attention", "sliding_attention"]});
    assert_eq!(windows(&of("qwen3", types).unwrap()), [Some(4096), None, Some(4096)]);
    let lost = of("qwen3", json!({"layer_types": ["sliding_attention"]})).unwrap_err();
    assert!(lost.to_string().contains("sliding_attention"), "{lost}");
}

#[test]
fn biases_and_norms_are_expected() {
    let names = |config: &LlamaConfig| -> Vec<String> {
        let strip = |name: String| name.strip_prefix("model.layers.0.").map(str::to_owned);
        config.layer_tensors(0).into_iter().filter_map(|(name, _)| strip(name)).collect()
    };
    let qwen2 = of("qwen2", serde_json::json!({})).unwrap();
    assert_eq!(names(&qwen2).iter().filter(|name| name.ends_with("_proj.bias")).count(), 3);
    let qwen3 = of("qwen3", serde_json::json!({})).unwrap();
    assert_eq!(qwen3.head_dim, 128);
    assert_eq!(qwen3.layer_tensors(0)[4], ("model.layers.0.self_attn.q_norm.weight".to_owned(), vec![128]));
    let error = of("mistral", serde_json::json!({"attention_bias": true})).unwrap_err();
    assert!(matches!(&error, FormatError::Unsupported { field, .. } if field == "attention_bias"), "{error}");
}

#[test]
fn expected_tensors_follow_the_shapes() {
    let mut config = LlamaConfig::from_hf_json(TINY).unwrap();
    let tensors = config.expected_tensors();
    assert_eq!(tensors.len(), 3 + 2 * 9);
    let shape = |name: &str| tensors.iter().find(|(n, _)| n == name).map(|(_, shape)| shape.clone());
    assert_eq!(shape("model.layers.1.self_attn.k_proj.weight"), Some(vec![64, 128]));
    assert_eq!(shape("model.layers.0.mlp.down_proj.weight"), Some(vec![128, 320]));
    assert_eq!(shape("lm_head.weight"), Some(vec![160, 128]));
    config.tie_word_embeddings = true;
    assert!(!config.expected_tensors().iter().any(|(name, _)| name == "lm_head.weight"));
}
