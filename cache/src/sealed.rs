//! Sealed JSON: the one form of every small file the store keeps.
//!
//! ```json
//! {"format":"qpipe-action","version":1,"seal":"<64 hex>","body":{…}}
//! ```
//!
//! The seal is the BLAKE3-256 digest of the body's exact text, so a truncated, torn or altered file is recognised
//! whatever was lost, and a reader never acts on half a document. A file of a newer version is told apart from a
//! damaged one by its first two fields alone.

use std::borrow::Cow;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::digest::Digest;
use crate::error::StoreError;

/// Which file it is, and the version this program reads and writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Format {
    pub(crate) name: &'static str,
    pub(crate) version: u32,
}

/// Why a sealed file was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealFault {
    #[error("{0}")]
    Unparsable(String),
    #[error("it is a `{found}`, not a `{expected}`")]
    OtherFormat { found: String, expected: &'static str },
    #[error("version {found} is newer than the supported {supported}")]
    Newer { found: u32, supported: u32 },
    #[error("its seal is broken")]
    Broken,
}

#[derive(Serialize)]
struct Envelope<'a> {
    format: &'a str,
    version: u32,
    seal: Digest,
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct Opened<'a> {
    #[serde(borrow)]
    format: Cow<'a, str>,
    version: u32,
    seal: Digest,
    #[serde(borrow)]
    body: &'a RawValue,
}

#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

/// The sealed text of `body`.
pub(crate) fn seal(format: Format, body: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let body = serde_json::value::to_raw_value(body)?;
    let seal = Digest::of_bytes(body.get().as_bytes());
    let mut text =
        serde_json::to_vec(&Envelope { format: format.name, version: format.version, seal, body: &body })?;
    text.push(b'\n');
    Ok(text)
}

/// The sealed text of one of the store's own documents, for the file `to`.
pub(crate) fn seal_for(format: Format, body: &impl Serialize, to: &Path) -> Result<Vec<u8>, StoreError> {
    seal(format, body).map_err(|e| StoreError::reading("encode", to)(e.into()))
}

/// The body of a sealed text.
pub(crate) fn open<T: DeserializeOwned>(format: Format, text: &[u8]) -> Result<T, SealFault> {
    let opened: Opened<'_> = match serde_json::from_slice(text) {
        Ok(opened) => opened,
        Err(error) => return Err(refusal(format, text, &error)),
    };
    check_head(format, &opened.format, opened.version)?;
    if Digest::of_bytes(opened.body.get().as_bytes()) != opened.seal {
        return Err(SealFault::Broken);
    }
    serde_json::from_str(opened.body.get()).map_err(|e| SealFault::Unparsable(e.to_string()))
}

/// Why a text is not an envelope: newer versions may have other fields.
fn refusal(format: Format, text: &[u8], error: &serde_json::Error) -> SealFault {
    let unparsable = || SealFault::Unparsable(error.to_string());
    match serde_json::from_slice::<Head>(text) {
        Ok(head) => check_head(format, &head.format, head.version).err().unwrap_or_else(unparsable),
        Err(_) => unparsable(),
    }
}

fn check_head(format: Format, name: &str, version: u32) -> Result<(), SealFault> {
    if name != format.name {
        return Err(SealFault::OtherFormat { found: name.to_owned(), expected: format.name });
    }
    if version > format.version {
        return Err(SealFault::Newer { found: version, supported: format.version });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: Format = Format { name: "qpipe-test", version: 2 };

    #[test]
    fn golden_text() {
        let text = String::from_utf8(seal(FORMAT, &vec![1, 2]).unwrap()).unwrap();
        let seal = Digest::of_bytes(b"[1,2]");
        assert_eq!(
            text,
            format!("{{\"format\":\"qpipe-test\",\"version\":2,\"seal\":\"{seal}\",\"body\":[1,2]}}\n")
        );
        assert_eq!(open::<Vec<u8>>(FORMAT, text.as_bytes()), Ok(vec![1, 2]));
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        let text = seal(FORMAT, &vec!["payload".to_owned(), "x".repeat(40)]).unwrap();
        let whole: Vec<String> = open(FORMAT, &text).unwrap();
        for len in 0..text.len() - 1 {
            assert!(open::<Vec<String>>(FORMAT, &text[..len]).is_err(), "truncated to {len}");
        }
        for bit in 0..text.len() * 8 {
            let mut altered = text.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            if let Ok(body) = open::<Vec<String>>(FORMAT, &altered) {
                assert_eq!(body, whole, "bit {bit}");
            }
        }
    }

    #[test]
    fn newer_and_foreign_files_are_told_apart() {
        let newer = br#"{"format":"qpipe-test","version":3,"other":1}"#;
        assert_eq!(open::<u8>(FORMAT, newer), Err(SealFault::Newer { found: 3, supported: 2 }));
        let foreign = br#"{"format":"else","version":1}"#;
        assert!(matches!(open::<u8>(FORMAT, foreign), Err(SealFault::OtherFormat { .. })));
        assert!(matches!(open::<u8>(FORMAT, b"\xff"), Err(SealFault::Unparsable(_))));
    }
}
