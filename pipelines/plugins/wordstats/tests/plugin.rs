//! The program over its standard streams, as an engine of the first version speaks to it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

#[test]
fn it_counts_the_words_of_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let (text, scratch) = (folder.path().join("text"), folder.path().join("scratch"));
    std::fs::write(&text, "b a b c a b\n").unwrap();
    std::fs::create_dir(&scratch).unwrap();
    let digest = qpipe_sdk::cache::Digest::of_file(&text).unwrap();

    let mut program = Command::new(env!("CARGO_BIN_EXE_qpipe-stage-wordstats"));
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = move || loop {
        let said: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        if said["type"] != "heartbeat" {
            return said;
        }
    };
    let mut say = |message: Value| writeln!(input, "{message}").unwrap();

    say(json!({"type": "hello", "protocol": {"min": 1, "max": 1}, "engine": "a test", "heartbeat_ms": 2000}));
    assert_eq!(next()["protocol"], 1);
    say(json!({"type": "describe", "id": 1}));
    let described = next();
    assert_eq!(described["stages"][0]["kind"], "wordstats");
    assert_eq!(described["stages"][0]["keyed_by"], "nothing");
    assert_eq!(described["stages"][0]["output"]["files"][0]["name"], "table");
    let source = json!({"digest": digest, "path": text});
    say(
        json!({"type": "run", "id": 2, "stage": "wordstats", "params": {"text": text, "top": 2}, "inputs": {},
        "sources": {"text": source}, "scratch": scratch, "device": "cpu"}),
    );
    let output = next();
    assert_eq!((&output["type"], &output["name"]), (&"artifact".into(), &"table".into()), "{output}");
    let table = std::fs::read_to_string(scratch.join(output["path"].as_str().unwrap())).unwrap();
    assert_eq!(table, "b\t3\na\t2\n");
    let metric = next();
    assert_eq!(
        (&metric["name"], &metric["value"], &metric["n"]),
        (&"distinct".into(), &3.0.into(), &6.into())
    );
    assert_eq!(next()["name"], "type-token-ratio");
    assert_eq!(next()["type"], "done");
    drop(input);
    assert!(child.wait().unwrap().success(), "it ends when its input does");
}
