//! One line ↔ one message. A line is untrusted bytes: its length is bounded before it is read, and every way in which
//! it can be wrong has a name.

use std::io::{self, BufRead, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Longest line, in bytes, its newline included.
pub const MAX_LINE: usize = 1 << 20;

/// How much of a bad line a message shows.
const SHOWN: usize = 120;

/// Messages of one direction.
pub trait Message: Serialize + DeserializeOwned {
    /// Every `type` there is.
    const TYPES: &'static [&'static str];
}

/// Why a line is no message.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("a line is longer than {MAX_LINE} bytes")]
    TooLong,
    #[error("the stream ended within a line: `{shown}`")]
    Truncated { shown: String },
    #[error("this is no JSON: `{shown}` ({reason})")]
    NotJson { shown: String, reason: String },
    #[error("this is no message with a `type`: `{shown}`")]
    NoType { shown: String },
    #[error("there is no message of type `{name}`")]
    UnknownType { name: String },
    #[error("the message `{name}` is malformed: {reason}")]
    Malformed { name: String, reason: String },
    #[error("the stream failed: {0}")]
    Io(#[from] io::Error),
}

/// Reads one line into `line`, without its newline; `false` at the end of the stream.
pub fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, LineError> {
    line.clear();
    let read = input.take(MAX_LINE as u64 + 1).read_until(b'\n', line)?;
    if read == 0 {
        return Ok(false);
    }
    if read > MAX_LINE {
        return Err(LineError::TooLong);
    }
    if line.pop_if(|last| *last == b'\n').is_none() {
        return Err(LineError::Truncated { shown: shown(line) });
    }
    Ok(true)
}

/// The message of a line. Fields that are not known are ignored.
pub fn decode<M: Message>(line: &[u8]) -> Result<M, LineError> {
    let not_json = |e: serde_json::Error| LineError::NotJson { shown: shown(line), reason: e.to_string() };
    let value: Value = serde_json::from_slice(line).map_err(not_json)?;
    let Some(name) = value.get("type").and_then(Value::as_str) else {
        return Err(LineError::NoType { shown: shown(line) });
    };
    let name = name.to_owned();
    if !M::TYPES.contains(&name.as_str()) {
        return Err(LineError::UnknownType { name: name.chars().take(SHOWN).collect() });
    }
    serde_json::from_value(value).map_err(|e| LineError::Malformed { name, reason: e.to_string() })
}

/// The line of a message, with its newline.
pub fn encode(message: &impl Message) -> Result<Vec<u8>, LineError> {
    let failed = |e: serde_json::Error| LineError::Io(io::Error::other(e));
    let mut line = serde_json::to_vec(message).map_err(failed)?;
    line.push(b'\n');
    if line.len() > MAX_LINE { Err(LineError::TooLong) } else { Ok(line) }
}

/// The beginning of a line, for a person.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut start: String = text.chars().take(SHOWN).map(|c| if c.is_control() { '�' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use super::super::message::{Reply, Request};
    use super::*;

    #[test]
    fn lines_are_read_one_by_one() {
        let mut input: &[u8] = b"{\"a\":1}\n\nrest";
        let mut line = Vec::new();
        assert!(read_line(&mut input, &mut line).unwrap());
        assert_eq!(line, b"{\"a\":1}");
        assert!(read_line(&mut input, &mut line).unwrap());
        assert_eq!(line, b"");
        assert!(matches!(read_line(&mut input, &mut line), Err(LineError::Truncated { .. })));
        assert!(!read_line(&mut input, &mut line).unwrap());
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_memory() {
        let mut input = io::BufReader::new(io::repeat(b'x'));
        let mut line = Vec::new();
        assert!(matches!(read_line(&mut input, &mut line), Err(LineError::TooLong)));
        assert!(line.len() <= MAX_LINE + 1);
    }

    #[test]
    fn unknown_fields_are_ignored_and_unknown_types_refused() {
        let cancel = decode::<Request>(br#"{"type":"cancel","id":3,"reason":"later versions say why"}"#);
        assert_eq!(cancel.unwrap(), Request::Cancel { id: 3 });
        let unknown = decode::<Request>(br#"{"type":"dance","id":3}"#).unwrap_err();
        assert!(matches!(&unknown, LineError::UnknownType { name } if name == "dance"), "{unknown}");
        assert!(matches!(decode::<Reply>(b"Traceback (most"), Err(LineError::NotJson { .. })));
        assert!(matches!(decode::<Reply>(b"[1]"), Err(LineError::NoType { .. })));
        assert!(matches!(decode::<Reply>(b"{\"type\":\"done\"}"), Err(LineError::Malformed { .. })));
        let deep = [b"{\"type\":".to_vec(), vec![b'['; 10_000]].concat();
        assert!(matches!(decode::<Reply>(&deep), Err(LineError::NotJson { .. })));
    }

    #[test]
    fn a_message_is_one_line() {
        let line = encode(&Reply::Log { id: 1, message: "two\nlines".into() }).unwrap();
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        let long = Reply::Log { id: 1, message: "x".repeat(MAX_LINE) };
        assert!(matches!(encode(&long), Err(LineError::TooLong)));
    }
}
