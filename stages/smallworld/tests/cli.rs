//! The binary writes the files it is told to, the same twice, and says what went wrong.

use std::path::Path;
use std::process::{Command, Output};

fn smallworld(arguments: &[&str], out: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smallworld"));
    command.args(arguments).arg("--out").arg(out).output().expect("the binary runs")
}

fn written(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let output = smallworld(arguments, &out);
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("a listing").count(), 1, "one file and no other");
    std::fs::read_to_string(out).expect("the file")
}

#[test]
fn eval_has_the_fields_of_boolq_and_tags_only_when_asked() {
    let plain = written(&["eval", "--items", "20", "--seed", "5"]);
    assert_eq!(plain, written(&["eval", "--items", "20", "--seed", "5"]));
    assert_eq!(plain.lines().count(), 20);
    for line in plain.lines() {
        let item: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(item["answer"].is_boolean() && item["passage"].is_string() && item["question"].is_string());
        assert_eq!(item.as_object().unwrap().len(), 3, "{line}");
    }
    let tagged = written(&["eval", "--items", "20", "--seed", "5", "--tagged"]);
    let item: serde_json::Value = serde_json::from_str(tagged.lines().next().unwrap()).unwrap();
    assert!(item["kind"].is_string() && item["difficulty"].is_string(), "{item}");
}

#[test]
fn text_and_corpus_write_as_many_as_asked() {
    assert_eq!(written(&["text", "--stories", "30"]).lines().count(), 30);
    let corpus = written(&["corpus", "--documents", "12"]);
    assert_eq!(corpus.matches("<|endoftext|>\n").count(), 12);
}

#[test]
fn tokenizer_is_what_the_library_trains() {
    let text = written(&["tokenizer", "--seed", "42"]);
    let trained = qpipe_smallworld::train_tokenizer(42).unwrap();
    assert_eq!(text.trim_end().as_bytes(), trained.as_slice());
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let output = smallworld(&["text", "--stories", "1"], &folder.path().join("absent/out"));
    assert!(!output.status.success());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.starts_with("error: failed to write `") && message.contains("absent/out"), "{message}");
}
