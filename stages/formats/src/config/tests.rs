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
        ("model_type", serde_json::json!("mistral"), "mistral"),
        ("attention_bias", true.into(), "true"),
        ("mlp_bias", true.into(), "true"),
        ("hidden_act", serde_json::json!("gelu"), "gelu"),
        ("sliding_window", 4096.into(), "4096"),
        ("rope_scaling", serde_json::json!({"rope_type": "llama3", "factor": 32.0}), "llama3"),
        ("rope_scaling", serde_json::json!({"type": "linear", "factor": 2.0}), "linear"),
        ("rope_parameters", serde_json::json!({"rope_type": "yarn"}), "yarn"),
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
    assert_eq!(config.max_position_embeddings, 2048);
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
