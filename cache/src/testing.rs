//! What the tests of this crate share.

use std::path::Path;

use crate::{ActionRecord, Digest, KeyDoc, OutputRecord, RECORD_SCHEMA, Store};

/// A store in `dir`.
pub(crate) fn store(dir: &tempfile::TempDir) -> Store {
    Store::open(dir.path()).unwrap()
}

/// A record of `kind` whose outputs are `blobs`, as (name, digest, size).
pub(crate) fn record(kind: &str, blobs: &[(&str, Digest, u64)]) -> ActionRecord {
    let doc = KeyDoc::new(kind, 1);
    let output = |digest: Digest, bytes| OutputRecord { kind: "blob".into(), digest, bytes };
    ActionRecord {
        schema: RECORD_SCHEMA,
        key: doc.key(),
        doc,
        outputs: blobs
            .iter()
            .map(|(name, digest, bytes)| ((*name).into(), output(*digest, *bytes)))
            .collect(),
        refs: blobs.iter().map(|(_, digest, _)| *digest).collect(),
        metrics: serde_json::json!({"n": 1}),
        started_unix_ms: 1,
        elapsed_ms: 2,
        tool: "test".into(),
    }
}

/// Stores `content` and commits it as the one output of `kind`.
pub(crate) fn committed(store: &Store, kind: &str, content: &[u8]) -> ActionRecord {
    let digest = store.put_bytes(content).unwrap();
    let record = record(kind, &[("out", digest, content.len() as u64)]);
    store.commit(&record).unwrap();
    record
}

/// Replaces a file's content, whatever its mode; its name stays.
pub(crate) fn overwrite(path: &Path, content: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, content).unwrap();
}

/// How many files lie in a directory.
pub(crate) fn count(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// A directory in memory where there is one: for tests that write much and need no disk.
pub(crate) fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
