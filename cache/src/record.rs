//! Action records: what an action made, and from what.
//!
//! On disk a record is sealed JSON of the body `{"record": …, "sizes": […]}`: the record, and the size in bytes of each
//! blob of `refs`, in the order of `refs`, so that a truncated blob is noticed by `stat` alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{RecordFault, RecordFlaw};
use crate::key::{ActionKey, KeyDoc};
use crate::sealed::{self, Format, SealFault};

/// Version of [`ActionRecord`] and its form on disk.
pub const RECORD_SCHEMA: u32 = 1;

const ACTION: Format = Format { name: "qpipe-action", version: RECORD_SCHEMA };

/// One output of an action: its root blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRecord {
    /// What kind of artifact it is; the cache does not interpret it.
    pub kind: String,
    /// Content of the root blob.
    pub digest: Digest,
    /// Size of the root blob, bytes.
    pub bytes: u64,
}

/// The result of an action, as committed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ActionRecord {
    /// [`RECORD_SCHEMA`].
    pub schema: u32,
    /// The key of `doc`.
    pub key: ActionKey,
    /// What the action was asked.
    pub doc: KeyDoc,
    /// What it made, by name.
    pub outputs: BTreeMap<String, OutputRecord>,
    /// Every blob the outputs reach, the outputs included: what a hit needs, and what gc must keep.
    pub refs: BTreeSet<Digest>,
    /// What was measured; opaque to the cache.
    pub metrics: serde_json::Value,
    /// When it began, milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// How long it took, milliseconds; what a hit saves.
    pub elapsed_ms: u64,
    /// Program and version that made it.
    pub tool: String,
}

/// A record with the sizes of its refs, as read.
#[derive(Debug, Deserialize)]
pub(crate) struct Stored {
    pub(crate) record: ActionRecord,
    pub(crate) sizes: Vec<u64>,
}

#[derive(Serialize)]
struct Storing<'a> {
    record: &'a ActionRecord,
    sizes: &'a [u64],
}

impl ActionRecord {
    /// What contradicts itself within the record, blobs aside.
    pub(crate) fn check(&self) -> Result<(), RecordFlaw> {
        if self.schema != RECORD_SCHEMA {
            return Err(RecordFlaw::Schema { found: self.schema, expected: RECORD_SCHEMA });
        }
        let of_doc = self.doc.key();
        if of_doc != self.key {
            return Err(RecordFlaw::Key { of_doc });
        }
        match self.outputs.iter().find(|(_, output)| !self.refs.contains(&output.digest)) {
            Some((name, _)) => Err(RecordFlaw::UnreachedOutput { output: name.clone() }),
            None => Ok(()),
        }
    }

    /// The record's form on disk, read back once: what cannot be read must not be committed.
    pub(crate) fn encode(&self, sizes: &[u64]) -> Result<Vec<u8>, RecordFlaw> {
        let text = sealed::seal(ACTION, &Storing { record: self, sizes })
            .map_err(|e| RecordFlaw::Unreadable { reason: e.to_string() })?;
        let back: Stored =
            sealed::open(ACTION, &text).map_err(|e| RecordFlaw::Unreadable { reason: e.to_string() })?;
        if back.record == *self {
            return Ok(text);
        }
        Err(RecordFlaw::Unreadable { reason: "it comes back changed".into() })
    }
}

/// Reads the record of `key` from its form on disk.
pub(crate) fn decode(path: &Path, key: &ActionKey, text: &[u8]) -> Result<Stored, RecordFault> {
    let unparsable = |reason: String| RecordFault::Unparsable { path: path.to_owned(), reason };
    let stored: Stored = sealed::open(ACTION, text).map_err(|fault| match fault {
        SealFault::Newer { found, supported } => {
            RecordFault::NewerVersion { path: path.to_owned(), found, supported }
        }
        other => unparsable(other.to_string()),
    })?;
    let of_doc = stored.record.doc.key();
    if of_doc != *key || stored.record.key != *key {
        return Err(RecordFault::KeyMismatch { path: path.to_owned(), found: of_doc });
    }
    if stored.sizes.len() != stored.record.refs.len() {
        return Err(unparsable(format!(
            "{} sizes for {} refs",
            stored.sizes.len(),
            stored.record.refs.len()
        )));
    }
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ActionRecord {
        let doc = KeyDoc::new("quantize", 1).param("scheme", "nf4");
        let digest = Digest::of_bytes(b"codes");
        let output = OutputRecord { kind: "weights".into(), digest, bytes: 5 };
        ActionRecord {
            schema: RECORD_SCHEMA,
            key: doc.key(),
            doc,
            outputs: BTreeMap::from([("model".into(), output)]),
            refs: BTreeSet::from([digest]),
            metrics: serde_json::json!({"error": 0.1}),
            started_unix_ms: 1,
            elapsed_ms: 2,
            tool: "test".into(),
        }
    }

    /// Written by an independent program from the rules in the documentation.
    const GOLDEN: &[u8] = include_bytes!("../testdata/action-v1.json");

    #[test]
    fn golden_form_on_disk() {
        assert_eq!(record().encode(&[5]).unwrap(), GOLDEN, "{}", String::from_utf8_lossy(GOLDEN));
        assert_eq!(decode(Path::new("r"), &record().key, GOLDEN).unwrap().record, record());
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let text = record().encode(&[5]).unwrap();
        let back = decode(Path::new("r"), &record().key, &text).unwrap();
        assert_eq!(back.record, record());
        assert_eq!(back.sizes, [5]);
    }

    #[test]
    fn a_record_under_another_key_is_not_it() {
        let text = record().encode(&[5]).unwrap();
        let fault = decode(Path::new("r"), &KeyDoc::new("other", 1).key(), &text).unwrap_err();
        assert!(matches!(fault, RecordFault::KeyMismatch { .. }), "{fault}");
    }

    #[test]
    fn contradictions_are_found() {
        let mut other_schema = record();
        other_schema.schema = 2;
        assert!(matches!(other_schema.check(), Err(RecordFlaw::Schema { found: 2, .. })));
        let mut other_key = record();
        other_key.doc.semantics = 9;
        assert!(matches!(other_key.check(), Err(RecordFlaw::Key { .. })));
        let mut unreached = record();
        unreached.refs.clear();
        assert!(matches!(unreached.check(), Err(RecordFlaw::UnreachedOutput { .. })));
        record().check().unwrap();
    }

    #[test]
    fn a_record_too_deep_to_be_read_is_not_written() {
        let mut deep = serde_json::json!(0);
        for _ in 0..200 {
            deep = serde_json::json!([deep]);
        }
        let record = ActionRecord { metrics: deep, ..record() };
        assert!(matches!(record.encode(&[5]), Err(RecordFlaw::Unreadable { .. })));
    }
}
