//! A shard: the unit of work of an evaluation. Its key is the model, the token ids asked for, where the shard begins
//! (its log numbers the items), and the numerics class; never a limit, so a raised one scores only new shards.

use qpipe_cache::{Digest, KeyDoc};
use qpipe_sdk::{StageError, UnitOutput};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Scoring;

/// Raised when scoring changes for equal inputs.
const SEMANTICS: u32 = 1;

/// Scores one shard, found in the cache or done: the log is JSON lines of `T`, one per item.
pub(super) fn run<T: Serialize + DeserializeOwned>(
    scoring: &Scoring<'_>,
    protocol: &str,
    asked: &[u8],
    work: impl FnOnce() -> Result<Vec<T>, StageError>,
) -> Result<(Digest, Vec<T>), StageError> {
    let doc = KeyDoc::new(format!("evaluate/{protocol}"), SEMANTICS)
        .input("model", scoring.model_digest)
        .input("asked", Digest::of_bytes(asked))
        .numerics(scoring.numerics);
    let record = scoring.ctx.unit(protocol, &doc, || {
        let mut lines = Vec::new();
        for item in work()? {
            serde_json::to_writer(&mut lines, &item).map_err(StageError::bug)?;
            lines.push(b'\n');
        }
        let digest = scoring.ctx.store.put_bytes(&lines)?;
        Ok(UnitOutput { blobs: [("items".to_owned(), digest)].into(), metrics: serde_json::Value::Null })
    })?;
    let digest =
        record.outputs.get("items").ok_or_else(|| StageError::bug("a shard's record lacks its log"))?.digest;
    let text = String::from_utf8(scoring.ctx.store.read(&digest)?).map_err(StageError::bug)?;
    Ok((digest, super::json_lines(protocol, &text)?))
}

/// Token ids as bytes, each list with its length in front.
pub(super) fn encode_asked<'a>(lists: impl Iterator<Item = &'a [u32]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for ids in lists {
        bytes.extend((ids.len() as u64).to_le_bytes());
        bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    }
    bytes
}
