//! A repository at a revision, and a file in one, by names that are safe in addresses and as folders.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use qpipe_formats::FormatError;
use serde::Deserialize;

use super::HubError;

/// Largest index of shards that is read.
const MAX_INDEX: u64 = 64 << 20;

/// How a bare value names what is on the hub.
pub(crate) const PREFIX: &str = "hub:";

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Model,
    DataSet,
}

/// `org/name` at a branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    kind: Kind,
    name: String,
    revision: String,
}

impl Repo {
    /// A checkpoint's repository.
    ///
    /// # Errors
    /// [`HubError::BadName`] for what cannot be a repository or a revision.
    pub fn new(name: &str, revision: &str) -> Result<Self, HubError> {
        Self::of(Kind::Model, name, revision)
    }

    fn of(kind: Kind, name: &str, revision: &str) -> Result<Self, HubError> {
        let parts: Vec<&str> = name.split('/').collect();
        if !(1..=2).contains(&parts.len()) || !parts.iter().all(|part| is_plain(part)) {
            return Err(HubError::BadName { what: "repository", name: name.to_owned() });
        }
        if !revision.split('/').all(is_plain) {
            return Err(HubError::BadName { what: "revision", name: revision.to_owned() });
        }
        Ok(Self { kind, name: name.to_owned(), revision: revision.to_owned() })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The repository's folder in the cache folder.
    pub(super) fn folder(&self) -> String {
        let kind = match self.kind {
            Kind::Model => "models",
            Kind::DataSet => "datasets",
        };
        format!("{kind}--{}", self.name.replace('/', "--"))
    }

    /// Its path in the hub's addresses.
    pub(super) fn path(&self) -> String {
        match self.kind {
            Kind::Model => self.name.clone(),
            Kind::DataSet => format!("datasets/{}", self.name),
        }
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.path(), self.revision)
    }
}

/// A file of a data set's repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    pub(super) repo: Repo,
    /// Within the repository, folders apart by `/`.
    pub(super) path: String,
}

impl DataFile {
    /// From `hub:ORG/NAME/PATH`, with `@REVISION` after the name where it is not `main`; a `/` in a revision is written
    /// `%2F` there. `None` if the text does not begin with `hub:`.
    ///
    /// # Errors
    /// [`HubError::BadName`] for what cannot be a file of the hub.
    pub fn parse(text: &str) -> Option<Result<Self, HubError>> {
        text.strip_prefix(PREFIX).map(Self::named)
    }

    fn named(text: &str) -> Result<Self, HubError> {
        let bad = || HubError::BadFile { name: text.to_owned() };
        let (org, rest) = text.split_once('/').ok_or_else(bad)?;
        let (name, path) = rest.split_once('/').ok_or_else(bad)?;
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let repo = Repo::of(Kind::DataSet, &format!("{org}/{name}"), &revision.replace("%2F", "/"))?;
        if !path.split('/').all(is_plain) {
            return Err(bad());
        }
        Ok(Self { repo, path: path.to_owned() })
    }
}

impl fmt::Display for DataFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.repo, self.path)
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
    #[test]
    fn a_data_file_is_a_repository_a_revision_and_a_path() {
        let parse = |text: &str| DataFile::parse(text).unwrap();
        let file = parse("hub:google/boolq/data/validation-00000-of-00001.parquet").unwrap();
        assert_eq!(file.to_string(), "datasets/google/boolq@main/data/validation-00000-of-00001.parquet");
        assert_eq!(file.repo.folder(), "datasets--google--boolq");
        let file = parse("hub:google/boolq@refs%2Fconvert%2Fparquet/default/0000.parquet").unwrap();
        assert_eq!(
            (file.repo.revision(), file.path.as_str()),
            ("refs/convert/parquet", "default/0000.parquet")
        );
        for bad in ["a", "a/b", "a/b/", "a/b//c", "a/b/../c", "a/b/c?d", "a/b@/c", "../b/c", "a/b@..%2Fx/c"] {
            assert!(parse(&format!("hub:{bad}")).is_err(), "{bad}");
        }
        assert!(DataFile::parse("data/boolq.jsonl").is_none());
    }
}
