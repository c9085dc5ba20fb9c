//! Whatever a worker says, the engine gets a message or a typed error: lines of the golden transcripts, broken in
//! every way.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::path::PathBuf;

use proptest::prelude::*;
use qpipe_sdk::protocol::{Reply, Request, decode, encode};
use qpipe_sdk::{Metric, Params};

/// Every line of the transcripts.
fn lines() -> Vec<Vec<u8>> {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"));
    let read = |name| std::fs::read_to_string(root.join("../../tests/golden/qstage").join(name)).unwrap();
    let text: String = ["work.txt", "plugin.txt", "failure.txt", "units.txt", "documents.txt", "files.txt"]
        .map(read)
        .concat();
    let digest = "0".repeat(64);
    let text = text.replace("$WEIGHTS", &digest).replace("$SCALED", &digest);
    let text = text.replace("$UNIT0", &digest).replace("$UNIT1", &digest);
    text.lines().filter(|line| !line.starts_with('#')).map(|line| line.as_bytes()[2..].to_vec()).collect()
}

/// A change to one line: bytes replaced, taken out, repeated.
fn broken() -> impl Strategy<Value = Vec<u8>> {
    let lines = lines();
    let edit = (any::<prop::sample::Index>(), 0..40_usize, prop::collection::vec(any::<u8>(), 0..8));
    (prop::sample::select(lines), prop::collection::vec(edit, 1..4)).prop_map(|(mut line, edits)| {
        for (at, taken, put) in edits {
            let at = at.index(line.len().max(1)).min(line.len());
            let end = (at + taken).min(line.len());
            line.splice(at..end, put);
        }
        line
    })
}

/// Values of other types in the place of a line's values.
fn confused() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::sample::select(vec![
        "null",
        "[]",
        "{}",
        "-1",
        "1e999",
        "\"\"",
        "18446744073709551615",
        "[[[1]]]",
    ]);
    let word = prop::sample::select(vec![
        "\"int\"",
        "1",
        "3",
        "true",
        "false",
        "\"value\"",
        "\"files\"",
        "{}",
        "[]",
    ]);
    (prop::sample::select(lines()), word, odd)
        .prop_map(|(line, word, odd)| String::from_utf8(line).unwrap().replace(word, odd).into_bytes())
}

/// Does with a message what the engine does first.
fn use_it(line: &[u8]) {
    let _request = decode::<Request>(line).map(|request| encode(&request).unwrap());
    match decode::<Reply>(line) {
        Ok(Reply::Description { stages, .. }) => {
            for stage in stages {
                let _params = stage.understand().map(|told| told.spec.schema.effective(&Params::default()));
            }
        }
        Ok(Reply::Metric { metric, .. }) => drop(Metric::from(metric)),
        Ok(reply) => drop(encode(&reply).unwrap()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn broken_lines_are_errors_or_messages(line in broken()) {
        use_it(&line);
    }

    #[test]
    fn confused_values_are_errors_or_messages(line in confused()) {
        use_it(&line);
    }

    #[test]
    fn noise_is_no_message(line in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode::<Reply>(&line).is_err());
    }
}
