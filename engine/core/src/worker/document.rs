//! A document that a plugin made, as the root of an artifact: with blobs of its own, and blobs that the job was given.
//!
//! In the document the text `blob:NAME` stands for the file that was announced under this name; its digest takes the text's
//! place. Digests of the job's sources, and of what its inputs reach, may stand in it as they are; any other digest is an error. So a
//! plugin needs no hash function, and nothing is referred to that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use qpipe_cache::Digest;
use qpipe_sdk::{Artifact, ArtifactKind, Context};
use serde_json::Value;

use super::error::WorkerError;
use super::files::keep_file;
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
            let go_on = || !ctx.cancel.killed();
            Ok::<_, WorkerError>(keep_file(ctx.store, work, name, path, &go_on)?.0)
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
            found.resolve(&mut document, &mut String::new())?;
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
    /// `at`: where `value` stands, as a JSON pointer.
    fn resolve(&mut self, value: &mut Value, at: &mut String) -> Result<(), WorkerError> {
        match value {
            Value::Array(values) => {
                let values = values.iter_mut().enumerate();
                values.map(|(index, value)| (index.to_string(), value)).try_for_each(|v| self.below(v, at))
            }
            Value::Object(values) => {
                let values = values.iter_mut();
                let escaped = |name: &String| name.replace('~', "~0").replace('/', "~1");
                values.map(|(name, value)| (escaped(name), value)).try_for_each(|v| self.below(v, at))
            }
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
            Value::String(text) => match text.parse() {
                Ok(digest) if self.given.contains(&digest) => {
                    self.refs.insert(digest);
                    Ok(())
                }
                // whoever reads the document would look for it
                Ok(digest) => Err(WorkerError::StrayDigest { digest, at: at.clone() }),
                Err(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn below(&mut self, (step, value): (String, &mut Value), at: &mut String) -> Result<(), WorkerError> {
        let above = at.len();
        at.extend(["/", &step]);
        self.resolve(value, at)?;
        at.truncate(above);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use qpipe_cache::Store;
    use qpipe_sdk::{Cancel, Params};

    use super::*;

    /// What comes of a document that may name `input` and `source`.
    fn made(
        store: &Store,
        dir: &Path,
        [input, source]: [Digest; 2],
        text: &str,
    ) -> Result<Artifact, WorkerError> {
        std::fs::write(dir.join("root"), text).unwrap();
        let ctx = Context {
            params: &Params::default(),
            inputs: &BTreeMap::from([("model".to_owned(), Artifact::single("model", input))]),
            sources: &BTreeMap::from([("text".to_owned(), source)]),
            store,
            events: &(),
            cancel: &Cancel::default(),
            device: "cpu",
            doc: None,
        };
        collect(&ctx, "model", dir, &BTreeMap::from([(ROOT.to_owned(), Made::Path("root".to_owned()))]))
    }

    #[test]
    fn a_document_names_blobs_of_inputs_and_sources_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let [input, source, other] =
            ["input", "source", "other"].map(|text| store.put_bytes(text.as_bytes()).unwrap());
        let made = |text: &str| made(&store, dir.path(), [input, source], text);
        let fine = made(&format!(r#"{{"parts":["{input}",{{"also":"{source}"}},"b3:{other}"]}}"#)).unwrap();
        assert_eq!(fine.refs, BTreeSet::from([input, source, fine.digest]));
        // it is in the store, yet the job was not given it
        let stray = |text: &str| match made(text) {
            Err(WorkerError::StrayDigest { digest, at }) => (digest, at),
            other => panic!("{other:?}"),
        };
        let text = format!(r#"{{"parts":["{input}",{{"a/b~":["{source}","{other}"]}}]}}"#);
        assert_eq!(stray(&text), (other, "/parts/1/a~1b~0/1".to_owned()));
        assert_eq!(stray(&format!("\"{other}\"")), (other, String::new()));
    }
}
