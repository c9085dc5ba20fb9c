//! What a plugin's process writes, line by line: messages, and what is none.

use std::io::BufRead;
use std::sync::PoisonError;
use std::sync::mpsc::SyncSender;

use qpipe_sdk::protocol::{LineError, Reply, decode, read_line};
use serde_json::Value;

use super::driver::{Heard, Said, Shared};

/// How many lines may be no messages before nothing more is read.
const MAX_NOISE: usize = 1000;

/// Reads until it hangs up, nobody listens, or it writes what has no end.
pub(super) fn listen(mut input: impl BufRead, sender: &SyncSender<Heard>, findings: &Shared) {
    let (mut line, mut count) = (Vec::new(), 0);
    let mut noise = |why: &str| {
        findings.lock().unwrap_or_else(PoisonError::into_inner).noise.push(why.to_owned());
        count += 1;
        count < MAX_NOISE
    };
    loop {
        let heard = match read_line(&mut input, &mut line) {
            Ok(true) => match understood(&line) {
                Ok(heard) => heard,
                Err(why) if noise(&why) => continue,
                Err(_) => Heard::End(Some(format!("{MAX_NOISE} lines are no messages"))),
            },
            Ok(false) => Heard::End(None),
            Err(error) => {
                noise(&error.to_string());
                Heard::End(Some(error.to_string()))
            }
        };
        let last = matches!(heard, Heard::End(_));
        if sender.send(heard).is_err() || last {
            return;
        }
    }
}

/// The message of a line, or why it is none.
fn understood(line: &[u8]) -> Result<Heard, String> {
    if std::str::from_utf8(line).is_err() {
        return Err(format!("a line is not UTF-8: `{}`", String::from_utf8_lossy(line).escape_debug()));
    }
    let flaw = match decode::<Reply>(line) {
        Ok(_) => None,
        Err(LineError::Malformed { name, reason }) => {
            Some(format!("the message `{name}` is malformed: {reason}"))
        }
        Err(error) => return Err(error.to_string()),
    };
    let value: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    // an output may be named by its unit, in place of a path
    let flaw = flaw.filter(|_| !(kind == "artifact" && value.get("unit").is_some_and(Value::is_string)));
    Ok(Heard::Said { said: Said { kind, value }, flaw })
}
