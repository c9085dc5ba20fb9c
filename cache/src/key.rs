//! Action keys: what is hashed, and exactly how.
//!
//! A key answers one question: *would the bytes come out the same?* It is the BLAKE3-256 digest of one canonical
//! encoding of a readable document, so a person can read why two keys differ ([`KeyDoc`] is kept in every record)
//! and any language can compute the key.
//!
//! | enters a key                                   | never enters a key                            |
//! |------------------------------------------------|-----------------------------------------------|
//! | [`KEY_SCHEMA`], the version of these rules     | names of stages, cells and studies            |
//! | stage type and its semantics version           | paths, modification times                     |
//! | effective parameters, defaults filled in       | device ordinals, thread counts                |
//! | content digests of the inputs, by port         | comments, spelling or order of a manifest     |
//! | numerics class, only where bytes depend on it  | who computed it, when, on which host          |
//!
//! # Encoding, version 1
//!
//! All integers are little-endian. `++` is concatenation.
//!
//! ```text
//! document = u32(KEY_SCHEMA) ++ text(kind) ++ u32(semantics)
//!            ++ map(params, value) ++ map(inputs, digest) ++ option(numerics)
//! text(t)  = u64(length of t in bytes) ++ t in UTF-8, as it is (no normalization)
//! map(m,f) = u64(number of entries) ++ for each entry, names ascending by bytes: text(name) ++ f(entry)
//! digest   = its 32 bytes
//! option   = 00 when absent, else 01 ++ text
//! value    = 01 ++ (00 false | 01 true)             Bool
//!          | 02 ++ i64                              Int, two's complement
//!          | 03 ++ u64(IEEE 754 bits)               Float
//!          | 04 ++ text                             Text
//!          | 05 ++ digest                           Digest
//!          | 06 ++ u64(number of items) ++ values   List
//!          | 07 ++ map(entries, value)              Map
//! ```
//!
//! Floats: `-0.0` is encoded as `0.0`, and every NaN as `7ff8000000000000`, since no stage may tell them apart; all
//! other numbers keep their bits. An integer and a float of the same value differ (their tags do): the schema of a
//! stage decides the type once, so a parameter never wavers between the two.
//!
//! Every piece is of fixed length or carries its length first, so the encoding is injective: no two different
//! documents have the same bytes. A change to these rules raises [`KEY_SCHEMA`]; the golden vectors in the tests,
//! computed by an independent program, keep it honest.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, DigestError};
use crate::value::{KeyValue, float_bits};

/// Version of the encoding rules above; the first thing that is hashed.
pub const KEY_SCHEMA: u32 = 1;

/// The key of an action: the digest of its [`KeyDoc`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActionKey(Digest);

impl ActionKey {
    /// The digest of the canonical encoding.
    pub const fn digest(&self) -> &Digest {
        &self.0
    }

    /// The first 12 hex digits, for a person.
    pub fn short(&self) -> String {
        self.0.short()
    }

    /// The key that a digest was taken from with [`Self::digest`].
    pub const fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }
}

impl fmt::Display for ActionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ActionKey {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        text.parse().map(Self)
    }
}

/// Everything that decides an action's result, as a document a person can read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyDoc {
    /// Stage type, or the type of a unit of work within one.
    pub kind: String,
    /// Version of what the stage means by its parameters; raised when equal inputs yield other bytes.
    pub semantics: u32,
    /// Effective parameters.
    pub params: BTreeMap<String, KeyValue>,
    /// Content digests of the inputs, by port.
    pub inputs: BTreeMap<String, Digest>,
    /// Numerics class (device family, kernel version, dtype policy), only where bytes depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numerics: Option<String>,
}

impl KeyDoc {
    /// A document without parameters and inputs.
    pub fn new(kind: impl Into<String>, semantics: u32) -> Self {
        Self {
            kind: kind.into(),
            semantics,
            params: BTreeMap::new(),
            inputs: BTreeMap::new(),
            numerics: None,
        }
    }

    /// Sets one parameter; the last value given under a name stands.
    #[must_use]
    pub fn param(mut self, name: impl Into<String>, value: impl Into<KeyValue>) -> Self {
        self.params.insert(name.into(), value.into());
        self
    }

    /// Sets the content digest at one input port.
    #[must_use]
    pub fn input(mut self, name: impl Into<String>, content: Digest) -> Self {
        self.inputs.insert(name.into(), content);
        self
    }

    /// Sets the numerics class.
    #[must_use]
    pub fn numerics(mut self, class: impl Into<String>) -> Self {
        self.numerics = Some(class.into());
        self
    }

    /// The action key: BLAKE3-256 of [`Self::canonical_bytes`].
    pub fn key(&self) -> ActionKey {
        ActionKey(Digest::of_bytes(&self.canonical_bytes()))
    }

    /// The canonical encoding, by the rules in the [module's documentation](self).
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.extend(KEY_SCHEMA.to_le_bytes());
        put_text(&mut out, &self.kind);
        out.extend(self.semantics.to_le_bytes());
        put_map(&mut out, &self.params, put_value);
        put_map(&mut out, &self.inputs, |out, digest| out.extend(digest.as_bytes()));
        put_option(&mut out, self.numerics.as_deref());
        out
    }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend((len as u64).to_le_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_len(out, text.len());
    out.extend(text.as_bytes());
}

fn put_map<V>(out: &mut Vec<u8>, entries: &BTreeMap<String, V>, put: impl Fn(&mut Vec<u8>, &V)) {
    put_len(out, entries.len());
    for (name, entry) in entries {
        put_text(out, name);
        put(out, entry);
    }
}

fn put_option(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => out.push(0),
        Some(text) => {
            out.push(1);
            put_text(out, text);
        }
    }
}

fn put_value(out: &mut Vec<u8>, value: &KeyValue) {
    match value {
        KeyValue::Bool(truth) => out.extend([1, u8::from(*truth)]),
        KeyValue::Int(number) => {
            out.push(2);
            out.extend(number.to_le_bytes());
        }
        KeyValue::Float(number) => {
            out.push(3);
            out.extend(float_bits(*number).to_le_bytes());
        }
        KeyValue::Text(text) => {
            out.push(4);
            put_text(out, text);
        }
        KeyValue::Digest(digest) => {
            out.push(5);
            out.extend(digest.as_bytes());
        }
        KeyValue::List(items) => {
            out.push(6);
            put_len(out, items.len());
            for item in items {
                put_value(out, item);
            }
        }
        KeyValue::Map(entries) => {
            out.push(7);
            put_map(out, entries, put_value);
        }
    }
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;
