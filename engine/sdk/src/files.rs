//! The `files` artifact: named outputs, each a file or a folder, as commands and plugins make them.
//!
//! The root is a JSON document that names every file's content by digest. Names are those that the stage declares,
//! never where a file lay; times and owners are not kept, so that equal work is equal bytes. Of the mode only the
//! executable bit is kept. Folders are what their files are: an empty one within an output is not kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use qpipe_cache::{Digest, Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::collect::{Collector, MAX_DEPTH, MAX_FILES};
use crate::error::StageError;
use crate::spec::ArtifactKind;
use crate::stage::Artifact;

pub use crate::collect::keep_file;

const FORMAT: &str = "qpipe-files";
const VERSION: u32 = 1;

/// Why outputs cannot be kept, or an artifact cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("output `{name}` is missing: there is no `{path}`")]
    Missing { name: String, path: String },
    #[error("the path `{path}` of output `{name}` leads out of the working folder")]
    Outside { name: String, path: String },
    #[error("output `{name}` contains `{}`, which is neither a file nor a folder", path.display())]
    Special { name: String, path: PathBuf },
    #[error("output `{name}` is to be a file, and `{path}` is a folder")]
    NoFile { name: String, path: String },
    #[error("output `{name}` contains `{}`, whose name is not UTF-8", path.display())]
    NotUtf8 { name: String, path: PathBuf },
    #[error("output `{name}` is nested more than {MAX_DEPTH} folders deep")]
    TooDeep { name: String },
    #[error("there are more than {MAX_FILES} files")]
    TooMany,
    #[error("output `{name}` changed while it was stored")]
    Changed { name: String },
    #[error("output `{name}` was not stored: the job is over")]
    Stopped { name: String },
    #[error("failed to read `{}` of output `{name}`: {source}", path.display())]
    Read { name: String, path: PathBuf, source: io::Error },
    #[error("failed to place `{}`: {source}", path.display())]
    Place { path: PathBuf, source: io::Error },
    #[error("artifact `{digest}` is not a `files` document: {reason}")]
    Document { digest: Digest, reason: String },
    #[error("artifact `{digest}` has `files` version {found}, newer than the supported {VERSION}")]
    Newer { digest: Digest, found: u32 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<FilesError> for StageError {
    fn from(error: FilesError) -> Self {
        match error {
            FilesError::Store(error) => Self::Store(error),
            FilesError::Place { .. } | FilesError::Read { .. } => Self::Transient(error.to_string()),
            FilesError::Document { .. } | FilesError::Newer { .. } => Self::Config(error.to_string()),
            _ => Self::Bug(error.to_string()),
        }
    }
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub digest: Digest,
    pub bytes: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}

impl FileEntry {
    /// One whose content is in the store.
    pub fn of(digest: Digest, bytes: u64) -> Self {
        Self { digest, bytes, executable: false }
    }
}

/// One output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    File(FileEntry),
    /// Files by their paths within the folder, parts separated by `/`.
    Folder(BTreeMap<String, FileEntry>),
}

/// The root document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    format: String,
    version: u32,
    pub outputs: BTreeMap<String, Output>,
}

impl Files {
    /// Stores outputs that lie at paths relative to `folder`, by name.
    pub fn collect<'a>(
        store: &Store,
        folder: &Path,
        outputs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, FilesError> {
        let mut collector = Collector::new(store);
        let mut files = Self { format: FORMAT.into(), version: VERSION, outputs: BTreeMap::new() };
        for (name, path) in outputs {
            files.outputs.insert(name.to_owned(), collector.output(folder, name, path)?);
        }
        Ok(files)
    }

    /// Of outputs that are one text each.
    ///
    /// # Errors
    /// Those of the store.
    pub fn of_texts<'a>(
        store: &Store,
        outputs: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Result<Self, FilesError> {
        let mut files = Self { format: FORMAT.into(), version: VERSION, outputs: BTreeMap::new() };
        for (name, text) in outputs {
            let digest = store.put_bytes(text.as_bytes())?;
            let entry = FileEntry { digest, bytes: text.len() as u64, executable: false };
            files.outputs.insert(name.to_owned(), Output::File(entry));
        }
        Ok(files)
    }

    /// Stores the document; the artifact of it.
    pub fn commit(&self, store: &Store) -> Result<Artifact, StageError> {
        let text = serde_json::to_vec(self).map_err(StageError::bug)?;
        let digest = store.put_bytes(&text)?;
        let mut refs: BTreeSet<Digest> = self.entries().map(|(_, entry)| entry.digest).collect();
        refs.insert(digest);
        Ok(Artifact { kind: ArtifactKind::new(ArtifactKind::FILES), digest, refs })
    }

    /// Reads the document of an artifact.
    pub fn read(store: &Store, digest: &Digest) -> Result<Self, FilesError> {
        let text = store.read(digest)?;
        let no_document = |reason: String| FilesError::Document { digest: *digest, reason };
        let head: Head = serde_json::from_slice(&text).map_err(|e| no_document(e.to_string()))?;
        if head.format != FORMAT {
            return Err(no_document(format!("its format is `{}`", head.format)));
        }
        if head.version > VERSION {
            return Err(FilesError::Newer { digest: *digest, found: head.version });
        }
        let files: Self = serde_json::from_slice(&text).map_err(|e| no_document(e.to_string()))?;
        let stray = files.entries().map(|(path, _)| path).find(|path| !is_inside(path));
        match stray {
            Some(path) => Err(no_document(format!("`{}` leads out of it", path.display()))),
            None => Ok(files),
        }
    }

    /// Writes every output into `folder` under its name.
    pub fn place(&self, store: &Store, folder: &Path) -> Result<(), FilesError> {
        make_folder(folder)?;
        for (name, output) in &self.outputs {
            if matches!(output, Output::Folder(_)) {
                make_folder(&folder.join(name))?;
            }
        }
        for (path, entry) in self.entries() {
            let to = folder.join(path);
            make_folder(to.parent().unwrap_or(folder))?;
            place_blob(store, &entry.digest, &to, entry.executable)?;
        }
        Ok(())
    }

    /// Every file with its path: the output's name, and the path within it.
    pub fn entries(&self) -> impl Iterator<Item = (PathBuf, &FileEntry)> {
        self.outputs.iter().flat_map(|(name, output)| match output {
            Output::File(entry) => vec![(PathBuf::from(name), entry)],
            Output::Folder(entries) => {
                entries.iter().map(|(path, entry)| (Path::new(name).join(path), entry)).collect()
            }
        })
    }
}

#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

/// A private copy of a blob at `to`, checked against its digest: who owns it may write to it.
pub fn place_blob(store: &Store, digest: &Digest, to: &Path, executable: bool) -> Result<(), FilesError> {
    let failed = |source| FilesError::Place { path: to.to_owned(), source };
    let from = store.blob_path(digest)?;
    fs::copy(&from, to).map_err(failed)?;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).map_err(failed)?;
    if Digest::of_file(to).map_err(failed)? == *digest {
        return Ok(());
    }
    Err(FilesError::Store(StoreError::DamagedBlob { digest: *digest, path: from }))
}

/// Stores the content of a file.
pub fn store_file(store: &Store, path: &Path) -> Result<(Digest, u64), StoreError> {
    let io = |op| move |source| StoreError::Io { op, path: path.to_owned(), source };
    let mut file = File::open(path).map_err(io("open"))?;
    let mut writer = store.writer()?;
    io::copy(&mut file, &mut writer).map_err(io("store"))?;
    writer.commit()
}

/// Whether a word can be the name of a file in a folder, and of nothing else.
pub fn is_file_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    name.chars().all(allowed) && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
}

/// Whether a path is relative and stays where it starts.
pub fn is_inside(path: &Path) -> bool {
    let mut parts = path.components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn make_folder(path: &Path) -> Result<(), FilesError> {
    fs::create_dir_all(path).map_err(|source| FilesError::Place { path: path.to_owned(), source })
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
