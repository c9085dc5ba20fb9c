//! The files of the embedded model: f16 weights, configuration, tokenizer, held-out sets, the log's figures.

use std::fs;
use std::path::Path;

use qpipe_formats::{DType, LlamaConfig};
use qpipe_smallworld::Item;
use serde_json::{Value, json};

use crate::Arguments;
use crate::parameters::{Parameter, Parameters};

pub(crate) const EVALUATION_ITEMS: usize = 1000;
pub(crate) const HELD_OUT_STORIES: usize = 600;

/// The configuration as Hugging Face writes it, and as we read it.
pub(crate) fn config(vocabulary: usize, hidden: usize, layers: usize) -> Result<LlamaConfig, String> {
    LlamaConfig::from_hf_json(config_json(vocabulary, hidden, layers).to_string().as_bytes())
        .map_err(|e| e.to_string())
}

fn config_json(vocabulary: usize, hidden: usize, layers: usize) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": hidden * 3,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden / 32,
        "num_key_value_heads": hidden / 64,
        "head_dim": 32,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": true,
        "attention_bias": false,
        "mlp_bias": false,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float16"
    })
}

pub(crate) fn write(
    arguments: &Arguments,
    config: &LlamaConfig,
    parameters: &Parameters,
    tokenizer: &[u8],
    items: &[Item],
    texts: &[String],
    log: &[Value],
) -> Result<(), String> {
    let config = config_json(config.vocab_size, config.hidden_size, config.num_hidden_layers);
    let training = json!({
        "seed": arguments.seed, "steps": arguments.steps, "batch": arguments.batch, "peak_rate": arguments.rate, "residents": arguments.residents,
        "parameters": parameters.count(), "log": log,
    });
    let lines = |values: Vec<Value>| values.iter().map(|v| v.to_string() + "\n").collect::<String>();
    let questions = items
        .iter()
        .map(|i| json!({ "question": i.question, "answer": i.answer, "passage": i.passage }))
        .collect();
    let stories = texts.iter().map(|t| json!({ "text": t })).collect();
    let file = |name: &str, bytes: &[u8]| save(&arguments.out.join(name), bytes);
    file("config.json", format!("{config:#}\n").as_bytes())?;
    file("tokenizer.json", tokenizer)?;
    file("boolq.jsonl", lines(questions).as_bytes())?;
    file("stories.jsonl", lines(stories).as_bytes())?;
    file("training.json", format!("{training:#}\n").as_bytes())?;
    file("model.safetensors", &weights(parameters)?)
}

fn weights(parameters: &Parameters) -> Result<Vec<u8>, String> {
    let mut tensors = Vec::new();
    for (name, parameter) in &parameters.0 {
        let (shape, values) = match parameter {
            Parameter::Vector(t) => (t.dims().to_vec(), t.clone().into_data()),
            Parameter::Matrix(t) => (t.dims().to_vec(), t.clone().into_data()),
        };
        let values = values.try_into_vec::<f32>().map_err(|e| format!("`{name}`: {e:?}"))?;
        let bytes: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
        tensors.push((name.clone(), shape, bytes));
    }
    let views: Vec<_> =
        tensors.iter().map(|(n, s, b)| (n.as_str(), DType::F16, s.as_slice(), b.as_slice())).collect();
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    qpipe_formats::tensors::write(&views, &metadata).map_err(|e| e.to_string())
}

fn save(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|e| format!("failed to write `{}`: {e}", path.display()))
}
