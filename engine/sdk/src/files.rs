//! The `files` artifact: named outputs, each a file or a folder, as commands and plugins make them.
//!
//! The root is a JSON document that names every file's content by digest. Names are those that the stage declares,
//! never where a file lay; times and owners are not kept, so that equal work is equal bytes. Of the mode only the
//! executable bit is kept. Folders are what their files are: an empty one within an output is not kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use qpipe_cache::{Digest, Store, StoreError};
use serde::{Deserialize, Serialize};

use crate::error::StageError;
use crate::spec::ArtifactKind;
use crate::stage::Artifact;

const FORMAT: &str = "qpipe-files";
const VERSION: u32 = 1;

/// Most files of one artifact.
const MAX_FILES: usize = 100_000;
/// A file is copied in pieces of this many bytes.
const COPIED_AT_ONCE: usize = 256 * 1024;
/// Deepest folder within an output.
const MAX_DEPTH: usize = 64;

/// Why outputs cannot be kept, or an artifact cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("output `{name}` is missing: there is no `{path}`")]
    Missing { name: String, path: String },
    #[error("the path `{path}` of output `{name}` leads out of the working folder")]
    Outside { name: String, path: String },
    #[error("output `{name}` contains `{}`, which is neither a file nor a folder", path.display())]
    Special { name: String, path: PathBuf },
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
        let mut collector = Collector { store, count: 0 };
        let mut files = Self { format: FORMAT.into(), version: VERSION, outputs: BTreeMap::new() };
        for (name, path) in outputs {
            let found = resolve(folder, name, path)?;
            files.outputs.insert(name.to_owned(), collector.output(name, &found)?);
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

/// Stores the content of a file that somebody else may still have in hand: only of a file, and only if it stays as it is.
/// `go_on` is asked from time to time.
pub fn keep_file(
    store: &Store,
    name: &str,
    path: &Path,
    go_on: &dyn Fn() -> bool,
) -> Result<(Digest, u64), FilesError> {
    let read = |source| FilesError::Read { name: name.to_owned(), path: path.to_owned(), source };
    // a pipe that nobody writes to must not be waited for
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
    let flags = flags.bits().cast_signed();
    let mut file = File::options().read(true).custom_flags(flags).open(path).map_err(read)?;
    let before = file.metadata().map_err(read)?;
    if !before.is_file() {
        return Err(FilesError::Special { name: name.to_owned(), path: path.to_owned() });
    }
    let io = |source| StoreError::Io { op: "store", path: path.to_owned(), source };
    let (mut writer, mut buffer) = (store.writer()?, vec![0; COPIED_AT_ONCE]);
    loop {
        if !go_on() {
            return Err(FilesError::Stopped { name: name.to_owned() });
        }
        let part = file.read(&mut buffer).map_err(read)?;
        if part == 0 {
            break;
        }
        writer.write_all(buffer.get(..part).unwrap_or_default()).map_err(io)?;
    }
    let after = file.metadata().map_err(read)?;
    let (digest, bytes) = writer.commit()?;
    let is_same =
        bytes == before.len() && bytes == after.len() && before.modified().ok() == after.modified().ok();
    if is_same { Ok((digest, bytes)) } else { Err(FilesError::Changed { name: name.to_owned() }) }
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

/// The real place of an output. A link on the way may only lead to somewhere else within the folder.
///
/// # Errors
/// [`FilesError::Outside`] and [`FilesError::Missing`].
pub fn resolve(folder: &Path, name: &str, path: &str) -> Result<PathBuf, FilesError> {
    let outside = || FilesError::Outside { name: name.to_owned(), path: path.to_owned() };
    let relative: PathBuf = Path::new(path).components().filter(|part| *part != Component::CurDir).collect();
    if !is_inside(&relative) {
        return Err(outside());
    }
    let missing = |_| FilesError::Missing { name: name.to_owned(), path: path.to_owned() };
    let real = folder.join(relative).canonicalize().map_err(missing)?;
    let folder = folder.canonicalize().map_err(missing)?;
    if real.starts_with(&folder) && real != folder { Ok(real) } else { Err(outside()) }
}

struct Collector<'a> {
    store: &'a Store,
    count: usize,
}

impl Collector<'_> {
    fn output(&mut self, name: &str, path: &Path) -> Result<Output, FilesError> {
        let read = |source| FilesError::Read { name: name.to_owned(), path: path.to_owned(), source };
        let meta = fs::symlink_metadata(path).map_err(read)?;
        if !meta.is_dir() {
            return Ok(Output::File(self.file(name, path)?));
        }
        let mut entries = BTreeMap::new();
        self.folder(name, path, "", 0, &mut entries)?;
        Ok(Output::Folder(entries))
    }

    fn folder(
        &mut self,
        name: &str,
        path: &Path,
        prefix: &str,
        depth: usize,
        entries: &mut BTreeMap<String, FileEntry>,
    ) -> Result<(), FilesError> {
        if depth == MAX_DEPTH {
            return Err(FilesError::TooDeep { name: name.to_owned() });
        }
        let read = |source| FilesError::Read { name: name.to_owned(), path: path.to_owned(), source };
        for entry in fs::read_dir(path).map_err(read)? {
            let entry = entry.map_err(read)?;
            let not_utf8 = |_| FilesError::NotUtf8 { name: name.to_owned(), path: entry.path() };
            let within = format!("{prefix}{}", entry.file_name().into_string().map_err(not_utf8)?);
            if entry.file_type().map_err(read)?.is_dir() {
                self.folder(name, &entry.path(), &format!("{within}/"), depth + 1, entries)?;
            } else {
                entries.insert(within, self.file(name, &entry.path())?);
            }
        }
        Ok(())
    }

    fn file(&mut self, name: &str, path: &Path) -> Result<FileEntry, FilesError> {
        self.count += 1;
        if self.count > MAX_FILES {
            return Err(FilesError::TooMany);
        }
        let read = |source| FilesError::Read { name: name.to_owned(), path: path.to_owned(), source };
        let meta = fs::symlink_metadata(path).map_err(read)?;
        if !meta.is_file() {
            return Err(FilesError::Special { name: name.to_owned(), path: path.to_owned() });
        }
        let (digest, bytes) = keep_file(self.store, name, path, &|| true)?;
        Ok(FileEntry { digest, bytes, executable: meta.permissions().mode() & 0o111 != 0 })
    }
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
