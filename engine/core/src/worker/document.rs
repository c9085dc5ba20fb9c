//! A document that a plugin made, as the root of an artifact: with blobs of its own, and blobs that the job was given.
//!
//! In the document the text `blob:NAME` stands for the file that was announced under this name; its digest takes the text's
//! place. Digests of the job's sources, and of what its inputs reach, may stand in it as they are. So a plugin needs no hash function, and
//! nothing is referred to that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use qpipe_cache::Digest;
use qpipe_sdk::{Artifact, ArtifactKind, Context};
use serde_json::Value;

use super::error::WorkerError;
use super::files::{keep_file, resolve};
use super::job::Made;

/// The output that is the document.
pub(crate) const ROOT: &str = "out";
/// What names of blobs begin with, in announcements and in the document.
pub(crate) const BLOB: &str = "blob:";

/// Stores a document and its blobs, which lie at paths relative to `work`, by the names they were announced under.
pub(crate) fn collect(
    ctx: &Context<'_>,
    kind: &str,
    work: &Path,
    outputs: &BTreeMap<String, Made>,
) -> Result<Artifact, WorkerError> {
    let store = |name: &str, made: &Made| match made {
        Made::Unit(kept) => Ok(kept.digest),
        Made::Path(path) => {
            let file = resolve(work, name, path)?;
            if !file.is_file() {
                return Err(unusable(format!("`{path}` is not a file")));
            }
            let go_on = || !ctx.cancel.killed();
            Ok::<_, WorkerError>(keep_file(ctx.store, name, &file, &go_on)?.0)
        }
    };
    let root = outputs.get(ROOT).ok_or_else(|| WorkerError::MissingOutput { name: ROOT.to_owned() })?;
    let root = store(ROOT, root)?;
    let mut blobs = BTreeMap::new();
    for (name, made) in outputs.iter().filter(|(name, _)| name.starts_with(BLOB)) {
        blobs.insert(name.as_str(), store(name, made)?);
    }
    let inputs = ctx.inputs.values().flat_map(|input| &input.refs);
    let given = inputs.chain(ctx.sources.values()).copied().collect();
    let mut found = Found { blobs, given, refs: BTreeSet::new() };
    let digest = match serde_json::from_slice::<Value>(&ctx.store.map(&root)?) {
        Ok(mut document) => {
            found.resolve(&mut document)?;
            if found.blobs.is_empty() {
                root
            } else {
                ctx.store.put_bytes(&serde_json::to_vec(&document).map_err(|e| unusable(e.to_string()))?)?
            }
        }
        // what is no document of ours refers to nothing
        Err(_) if found.blobs.is_empty() => root,
        Err(error) => return Err(unusable(format!("its document is no JSON: {error}"))),
    };
    let mut refs = found.refs;
    refs.insert(digest);
    Ok(Artifact { kind: ArtifactKind::new(kind), digest, refs })
}

fn unusable(reason: String) -> WorkerError {
    WorkerError::Artifact { reason }
}

/// What a document may refer to, and what it refers to.
struct Found<'a> {
    blobs: BTreeMap<&'a str, Digest>,
    given: BTreeSet<Digest>,
    refs: BTreeSet<Digest>,
}

impl Found<'_> {
    fn resolve(&mut self, value: &mut Value) -> Result<(), WorkerError> {
        match value {
            Value::Array(values) => values.iter_mut().try_for_each(|value| self.resolve(value)),
            Value::Object(values) => values.values_mut().try_for_each(|value| self.resolve(value)),
            Value::String(text) if text.starts_with(BLOB) => {
                let Some(digest) = self.blobs.get(text.as_str()) else {
                    return Err(unusable(format!(
                        "its document refers to `{text}`, which was not announced"
                    )));
                };
                self.refs.insert(*digest);
                *text = digest.to_string();
                Ok(())
            }
            Value::String(text) => {
                self.refs.extend(text.parse().ok().filter(|digest| self.given.contains(digest)));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use qpipe_cache::Store;
    use qpipe_sdk::{Cancel, Params};

    use super::*;

    #[test]
    fn blobs_of_inputs_and_sources_are_kept_with_a_document_that_names_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let [input, source, other] =
            ["input", "source", "other"].map(|text| store.put_bytes(text.as_bytes()).unwrap());
        let text = format!(r#"{{"parts":["{input}",{{"also":"{source}"}},"{other}"]}}"#);
        std::fs::write(dir.path().join("root"), text).unwrap();
        let ctx = Context {
            params: &Params::default(),
            inputs: &BTreeMap::from([("model".to_owned(), Artifact::single("model", input))]),
            sources: &BTreeMap::from([("text".to_owned(), source)]),
            store: &store,
            events: &(),
            cancel: &Cancel::default(),
            device: "cpu",
            doc: None,
        };
        let outputs = BTreeMap::from([(ROOT.to_owned(), Made::Path("root".to_owned()))]);
        let made = collect(&ctx, "model", dir.path(), &outputs).unwrap();
        // what the job was not given is a text like any other
        assert_eq!(made.refs, BTreeSet::from([input, source, made.digest]));
    }
}
