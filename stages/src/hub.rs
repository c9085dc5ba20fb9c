//! The Hugging Face hub: a repository's files at a revision, kept in the cache folder that the hub's own tools use.
//!
//! Two halves, so that planning a study never waits for a network: [`Hub::snapshot`] looks into the cache folder and
//! nowhere else; [`Hub::fetch`] downloads what is missing there. A branch or tag is asked for once: from then on it is
//! the commit that the cache folder says (`refs/main`), until that file is deleted; a commit stays what it is anyway.
//! What enters a stage's key is the content of the files, not the revision's name.
//!
//! A repository is a checkpoint's ([`Repo`]), taken whole, or a data set's, of which single files are taken
//! ([`DataFile`]); their folders begin with `models--` and `datasets--`.
//!
//! | in the cache folder | what |
//! |---|---|
//! | `models--ORG--NAME/refs/REVISION` | the commit that a branch or tag stands for |
//! | `models--ORG--NAME/blobs/ETAG` | a file's bytes; `ETAG.incomplete` while they arrive |
//! | `models--ORG--NAME/snapshots/COMMIT/FILE` | a link to its blob |
//! | `.locks/models--ORG--NAME/ETAG.lock` | held by the process that downloads the file |
//!
//! Downloads continue where they were cut off, in the same run or a later one; a file's size and, where its ETag is
//! one, its SHA-256 are checked before it counts as there. The client is `ureq`: the hub's own (`hf-hub`) checks
//! neither, cannot be stopped, and brings an asynchronous runtime in its current version. It is version 2, since 3
//! changes features of crates that burn shares.

mod cache;
mod client;
mod error;
mod repo;
mod settings;

use std::path::PathBuf;

use qpipe_sdk::{Cancel, EventSink};

use cache::CacheFolder;
use client::{Client, Remote};
pub use error::HubError;
pub(crate) use repo::PREFIX;
pub use repo::{DataFile, Repo};
pub use settings::HubSettings;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// A hub and its cache folder.
#[derive(Clone, Debug)]
pub struct Hub {
    settings: HubSettings,
}

impl Hub {
    pub fn new(settings: HubSettings) -> Self {
        Self { settings }
    }

    /// The folder of a checkpoint that is there in full; `None` if any of its files is not.
    ///
    /// # Errors
    /// [`HubError::Format`] if its index is damaged.
    pub fn snapshot(&self, repo: &Repo) -> Result<Option<PathBuf>, HubError> {
        let cache = CacheFolder::new(&self.settings.cache, repo);
        let Some(commit) = cache.commit(repo.revision())? else { return Ok(None) };
        let there = |name: &str| cache.file(&commit, name).is_some();
        if !there(CONFIG) || !there(TOKENIZER) {
            return Ok(None);
        }
        let complete = match cache.file(&commit, INDEX) {
            _ if there(SINGLE) => true,
            None => false,
            Some(index) => repo::shards(&index)?.iter().all(|shard| there(shard)),
        };
        Ok(complete.then(|| cache.snapshot(&commit)))
    }

    /// Downloads what is missing of a checkpoint. With offline mode, that anything is missing is an error.
    ///
    /// # Errors
    /// [`HubError`] names the repository, the file, and what to do.
    pub fn fetch(&self, repo: &Repo, events: &dyn EventSink, cancel: &Cancel) -> Result<PathBuf, HubError> {
        if let Some(snapshot) = self.snapshot(repo)? {
            return Ok(snapshot);
        }
        self.download(repo, repo, events, cancel)?.checkpoint()
    }

    /// A data set's file, if it is there.
    ///
    /// # Errors
    /// [`HubError::Io`] if the cache folder cannot be read.
    pub fn data_file(&self, file: &DataFile) -> Result<Option<PathBuf>, HubError> {
        let cache = CacheFolder::new(&self.settings.cache, &file.repo);
        let commit = cache.commit(file.repo.revision())?;
        Ok(commit.and_then(|commit| cache.file(&commit, &file.path)))
    }

    /// Downloads a data set's file if it is not there. With offline mode, that it is not is an error.
    ///
    /// # Errors
    /// [`HubError`] names the repository, the file, and what to do.
    pub fn fetch_data(
        &self,
        file: &DataFile,
        events: &dyn EventSink,
        cancel: &Cancel,
    ) -> Result<PathBuf, HubError> {
        if let Some(path) = self.data_file(file)? {
            return Ok(path);
        }
        self.download(&file.repo, file, events, cancel)?.data_file(&file.path)
    }

    /// What downloads from a repository; `wanted` is what errors call it.
    fn download<'a>(
        &'a self,
        repo: &'a Repo,
        wanted: &dyn std::fmt::Display,
        events: &'a dyn EventSink,
        cancel: &'a Cancel,
    ) -> Result<Download<'a>, HubError> {
        if self.settings.offline {
            return Err(HubError::Offline { repo: wanted.to_string(), cache: self.settings.cache.clone() });
        }
        Ok(Download {
            repo,
            client: Client::new(&self.settings, events, cancel)?,
            cache: CacheFolder::new(&self.settings.cache, repo),
        })
    }
}

/// A download from one repository.
struct Download<'a> {
    repo: &'a Repo,
    client: Client<'a>,
    cache: CacheFolder,
}

impl Download<'_> {
    fn checkpoint(&self) -> Result<PathBuf, HubError> {
        let config = self.remote(self.repo.revision(), CONFIG)?;
        // all further files by the commit, so that a branch that moves meanwhile does not mix two
        let commit = config.commit.clone();
        self.store(&config, CONFIG)?;
        self.file(&commit, TOKENIZER)?;
        match self.remote(&commit, SINGLE) {
            Ok(single) => self.store(&single, SINGLE)?,
            Err(HubError::NoSuchFile { .. }) => self.shards(&commit)?,
            Err(error) => return Err(error),
        }
        self.cache.refer(self.repo.revision(), &commit)?;
        Ok(self.cache.snapshot(&commit))
    }

    fn data_file(&self, path: &str) -> Result<PathBuf, HubError> {
        // a branch stands for what it was when the first of its files came
        let known = self.cache.commit(self.repo.revision())?;
        let remote = self.remote(known.as_deref().unwrap_or(self.repo.revision()), path)?;
        self.store(&remote, path)?;
        self.cache.refer(self.repo.revision(), &remote.commit)?;
        self.cache.file(&remote.commit, path).ok_or_else(|| self.missing(path))
    }

    fn shards(&self, commit: &str) -> Result<(), HubError> {
        self.file(commit, INDEX)?;
        let index = self.cache.file(commit, INDEX).ok_or_else(|| self.missing(INDEX))?;
        repo::shards(&index)?.iter().try_for_each(|shard| self.file(commit, shard))
    }

    fn file(&self, commit: &str, name: &str) -> Result<(), HubError> {
        if self.cache.file(commit, name).is_some() {
            return Ok(());
        }
        self.store(&self.remote(commit, name)?, name)
    }

    fn remote(&self, revision: &str, name: &str) -> Result<Remote, HubError> {
        self.client.describe(self.repo, revision, name)
    }

    fn store(&self, remote: &Remote, name: &str) -> Result<(), HubError> {
        let blob = self.cache.blob(&remote.etag);
        let _lock = self.cache.lock(&remote.etag)?;
        if !blob.is_file() {
            self.client.download(remote, name, &blob)?;
        }
        self.cache.link(&remote.commit, name, &remote.etag)
    }

    fn missing(&self, name: &str) -> HubError {
        HubError::NoSuchFile { repo: self.repo.to_string(), file: name.to_owned() }
    }
}

#[cfg(test)]
mod tests;
