//! What cannot be done is said by name, with its exit code, and leaves nothing behind that a later run would take.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::program::Project;

/// A study on a copy of the embedded model in the folder `m`.
const STUDY: &str = r#"
qpipe 1 name=refused
load base {
    from "./m"
}
evaluate quality {
    model base
    task perplexity data=tiny window=64 join=#false limit=4
}
"#;

fn tiny() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests");
    PathBuf::from(package).join("../../pipelines/tiny")
}

/// `study` and the model's files.
fn project(study: &str) -> Project {
    let project = Project::new(study);
    fs::create_dir(project.path("m")).unwrap();
    restore(&project);
    project
}

fn restore(project: &Project) {
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(tiny().join(file), project.path("m").join(file)).unwrap();
    }
}

fn edit_json(project: &Project, file: &str, edit: impl FnOnce(&mut Value)) {
    let path = project.path("m").join(file);
    let mut document = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut document);
    fs::write(path, document.to_string()).unwrap();
}

/// Runs twice: both times refused with this code and these words, so the failure itself was not kept as a result.
fn assert_refused(project: &Project, code: i32, words: &[&str]) {
    for _ in 0..2 {
        let output = project.qpipe(&["run", "study.kdl"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{told}");
        // a long message is broken over lines
        let text = told.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        for word in words {
            assert!(text.contains(word), "`{word}` is not in: {text}");
        }
    }
}

fn assert_runs_once_repaired(project: &Project) {
    restore(project);
    project.ok(&["run", "study.kdl"]);
}

#[test]
fn a_missing_data_set() {
    let project = project(STUDY);
    project.edit("data=tiny", "data=\"absent.jsonl\"");
    assert_refused(&project, 3, &["absent.jsonl"]);
}

#[test]
fn a_checkpoint_that_is_no_llama() {
    let project = project(STUDY);
    edit_json(&project, "config.json", |config| {
        config["model_type"] = json!("gpt2");
        config["architectures"] = json!(["GPT2LMHeadModel"]);
    });
    assert_refused(&project, 1, &["gpt2"]);
    assert_runs_once_repaired(&project);
}

#[test]
fn truncated_weights() {
    let project = project(STUDY);
    let path = project.path("m/model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in [whole.len() - 1, whole.len() / 2, 100, 0] {
        fs::write(&path, &whole[..length]).unwrap();
        assert_refused(&project, 1, &["model.safetensors"]);
    }
    assert_runs_once_repaired(&project);
}

#[test]
fn weights_that_are_not_finite() {
    let study =
        "qpipe 1 name=broken\nload base { from \"./m\" }\nquantize weights { model base; scheme nf4 }\n";
    let project = project(study);
    let path = project.path("m/model.safetensors");
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&whole[8..header]).unwrap();
    let module = "model.layers.0.mlp.down_proj";
    let tensor = &tensors[format!("{module}.weight")];
    let end = header + tensor["data_offsets"][1].as_u64().unwrap() as usize;
    let (nan, infinity): (&[u8], &[u8]) = match tensor["dtype"].as_str().unwrap() {
        "F16" => (&[0x00, 0x7e], &[0x00, 0x7c]),
        "BF16" => (&[0xc0, 0x7f], &[0x80, 0x7f]),
        "F32" => (&[0x00, 0x00, 0xc0, 0x7f], &[0x00, 0x00, 0x80, 0x7f]),
        other => panic!("no test for {other}"),
    };
    for value in [nan, infinity] {
        let mut spoiled = whole.clone();
        spoiled[end - value.len()..end].copy_from_slice(value);
        fs::write(&path, &spoiled).unwrap();
        assert_refused(&project, 1, &[module]);
    }
    assert_runs_once_repaired(&project);
}

#[test]
fn a_tokenizer_with_more_tokens_than_the_embedding_has_rows() {
    let project = project(STUDY);
    edit_json(&project, "tokenizer.json", |tokenizer| {
        let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
        let next = vocabulary.len() as u64;
        (0..500).for_each(|i| drop(vocabulary.insert(format!("added{i}"), json!(next + i))));
    });
    assert_refused(&project, 1, &["the tokenizer has", "tokens"]);
    assert_runs_once_repaired(&project);
}

#[test]
fn a_prompt_longer_than_the_context() {
    let words = "the garden ".repeat(400);
    let study = |stage: &str| format!("qpipe 1 name=long\nload base {{ from tiny }}\n{stage}\n");
    let generate = format!("generate texts {{ model base; prompt {words:?} }}");
    assert_refused(&Project::new(&study(&generate)), 1, &["prompt 1: the prompt's", "context of 512"]);
    let benchmark = "benchmark speed { model base; prompt 64 500; generate 16 }";
    assert_refused(&Project::new(&study(benchmark)), 1, &["the prompt's 500 tokens", "context of 512"]);
}

#[test]
fn a_cache_of_keys_and_values_larger_than_the_memory() {
    if !std::path::Path::new("/proc/meminfo").exists() {
        return; // where the system does not tell, nothing can be refused
    }
    let project = project(
        "qpipe 1 name=large\nload base { from \"./m\" }\nbenchmark speed { model base; prompt 5000000; batch 1024 }\n",
    );
    edit_json(&project, "config.json", |config| config["max_position_embeddings"] = json!(10_000_000));
    assert_refused(&project, 7, &["the KV cache of 1024 sequences", "GiB are available"]);
}
