//! Transcripts of `tests/golden/qstage`, and how to play one side of them.

#![allow(dead_code, unreachable_pub, reason = "each test plays its own side")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::PathBuf;

use qpipe_sdk::protocol::{Reply, Request, decode, encode};
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Engine,
    Worker,
}

/// Who says what.
pub struct Transcript(pub Vec<(Side, Value)>);

impl Transcript {
    /// `names` replace `$NAME`.
    pub fn read(name: &str, names: &BTreeMap<&str, String>) -> Self {
        let crate_root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"));
        let path = crate_root.join("../../tests/golden/qstage").join(name);
        let mut text = std::fs::read_to_string(path).unwrap();
        for (name, value) in names {
            text = text.replace(&format!("${name}"), value);
        }
        let line = |line: &str| {
            let (side, json) = line.split_at(2);
            let side = if side == "> " { Side::Engine } else { Side::Worker };
            (side, serde_json::from_str(json).unwrap())
        };
        Self(text.lines().filter(|l| !l.starts_with('#')).map(line).collect())
    }

    /// Plays one side: says its lines, and checks what the other side says. Heartbeats come when they come.
    pub fn play(&self, side: Side, input: &mut impl BufRead, output: &mut impl Write) {
        for (who, expected) in &self.0 {
            if *who == side {
                writeln!(output, "{expected}").unwrap();
                output.flush().unwrap();
                continue;
            }
            let mut heard = loop {
                let mut line = String::new();
                assert!(input.read_line(&mut line).unwrap() > 0, "hung up before {expected}");
                let heard: Value = serde_json::from_str(&line).unwrap();
                if heard["type"] != "heartbeat" {
                    break heard;
                }
            };
            // whoever speaks minor version 0 does not know the field
            if let Value::Object(fields) = &mut heard
                && expected.get("minor").is_none()
            {
                fields.remove("minor");
            }
            assert_eq!(heard, *expected);
        }
    }

    /// Every line is a message of its side that comes back as it was.
    pub fn check_messages(&self) {
        for (who, json) in &self.0 {
            let line = json.to_string();
            let again = match who {
                Side::Engine => encode(&decode::<Request>(line.as_bytes()).unwrap()),
                Side::Worker => encode(&decode::<Reply>(line.as_bytes()).unwrap()),
            };
            let again: Value = serde_json::from_slice(&again.unwrap()).unwrap();
            assert!(contains(&again, json), "{again}\n{json}");
        }
    }
}

/// Whether `whole` says all that `part` says; what is left unsaid may be filled in with its default.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(name, part)| whole.get(name).is_some_and(|whole| contains(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        (Value::Number(whole), Value::Number(part)) => whole.as_f64() == part.as_f64(),
        _ => whole == part,
    }
}
