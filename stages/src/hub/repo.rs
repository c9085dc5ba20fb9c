//! A model repository at a revision, by names that are safe in addresses and as folders.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use qpipe_formats::FormatError;
use serde::Deserialize;

use super::HubError;

/// Largest index of shards that is read.
const MAX_INDEX: u64 = 64 << 20;

/// `org/name` at a branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    name: String,
    revision: String,
}

impl Repo {
    /// # Errors
    /// [`HubError::BadName`] for what cannot be a repository or a revision.
    pub fn new(name: &str, revision: &str) -> Result<Self, HubError> {
        let parts: Vec<&str> = name.split('/').collect();
        if !(1..=2).contains(&parts.len()) || !parts.iter().all(|part| is_plain(part)) {
            return Err(HubError::BadName { what: "repository", name: name.to_owned() });
        }
        if !revision.split('/').all(is_plain) {
            return Err(HubError::BadName { what: "revision", name: revision.to_owned() });
        }
        Ok(Self { name: name.to_owned(), revision: revision.to_owned() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The repository's folder in the cache folder.
    pub(super) fn folder(&self) -> String {
        format!("models--{}", self.name.replace('/', "--"))
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.revision)
    }
}

/// Letters, digits, `-`, `_` and `.`: no folder above, nothing to be escaped in an address.
pub(super) fn is_plain(name: &str) -> bool {
    let letters = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    (1..=96).contains(&name.len()) && letters && !name.starts_with('.')
}

/// The shards that an index names.
pub(super) fn shards(index: &Path) -> Result<BTreeSet<String>, HubError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let io = |source| FormatError::Io { path: index.to_owned(), source };
    let bytes = std::fs::metadata(index).map_err(io)?.len();
    if bytes > MAX_INDEX {
        return Err(FormatError::FileTooLarge { path: index.to_owned(), bytes, limit: MAX_INDEX }.into());
    }
    let document = super::INDEX.to_owned();
    let Index { weight_map } = serde_json::from_slice(&std::fs::read(index).map_err(io)?)
        .map_err(|source| FormatError::Json { document: document.clone(), source })?;
    match weight_map.values().find(|shard| !is_plain(shard)) {
        Some(shard) => Err(FormatError::UnsafeShardName { index: document, shard: shard.clone() }.into()),
        None => Ok(weight_map.into_values().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_repositories_and_nothing_else() {
        let repo = Repo::new("HuggingFaceTB/SmolLM2-135M", "refs/pr/1").unwrap();
        assert_eq!(repo.folder(), "models--HuggingFaceTB--SmolLM2-135M");
        assert_eq!(repo.to_string(), "HuggingFaceTB/SmolLM2-135M@refs/pr/1");
        assert!(Repo::new("gpt2", "main").is_ok());
        for bad in ["", "a/b/c", "../x", "a b/c", "a/..", "a/b?c", "/a", "a/", "é/a"] {
            assert!(Repo::new(bad, "main").is_err(), "{bad}");
            assert!(bad == "a/b/c" || Repo::new("a/b", bad).is_err(), "{bad}");
        }
    }
}
