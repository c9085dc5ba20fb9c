//! A job in a plugin's process: a store of its own in the job's folder, filled with what the engine handed over, and emptied
//! into what the engine takes. So a stage of a plugin is written as one of the engine's.
//!
//! A unit of the stage is kept by the engine as one file: the length of its record, the record, and its blobs in the order
//! in which the record names them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use qpipe_cache::{ActionKey, ActionRecord, Digest, Store};
use serde_json::Value;

use super::message::{Reply, RunRequest};
use crate::error::StageError;
use crate::files::{Files, Output};
use crate::spec::ArtifactKind;
use crate::stage::Artifact;

/// The output that is a document.
const ROOT: &str = "out";
/// What begins the name of a blob of a document.
const BLOB: &str = "blob:";
/// Longest record of a unit that is read back, bytes.
const LONGEST_RECORD: u64 = 64 << 20;

/// One job.
pub(super) struct Host {
    pub(super) store: Store,
    scratch: PathBuf,
    /// Blobs that the engine has.
    given: BTreeSet<Digest>,
    /// What the engine calls units.
    told: Mutex<BTreeMap<ActionKey, String>>,
    /// What earlier tries kept and is of no use, with why: it is done again.
    pub(super) unread: Vec<String>,
}

impl Host {
    pub(super) fn open(request: &RunRequest) -> Result<Self, StageError> {
        let scratch = PathBuf::from(&request.scratch);
        let store = Store::open_fleeting(&scratch.join("store"))?;
        let mut given = BTreeSet::new();
        let inputs = request.inputs.values().flat_map(|input| &input.refs);
        for blob in inputs.chain(request.sources.values()) {
            if given.insert(blob.digest) {
                store.adopt_file(&blob.digest, Path::new(&blob.path))?;
            }
        }
        let (mut told, mut unread) = (BTreeMap::new(), Vec::new());
        for (name, unit) in &request.units {
            match restore(&store, Path::new(&unit.path)) {
                Ok(key) => drop(told.insert(key, name.clone())),
                Err(error) => unread.push(format!("unit `{name}` cannot be read and is done again: {error}")),
            }
        }
        Ok(Self { store, scratch, given, told: Mutex::new(told), unread })
    }

    /// A unit as a file for the engine to keep: its name there, and where it is.
    pub(super) fn keep(&self, name: &str, record: &ActionRecord) -> io::Result<(String, String)> {
        let name = unit_name(name, record);
        let path = format!("units/{name}");
        let to = self.scratch.join(&path);
        std::fs::create_dir_all(self.scratch.join("units"))?;
        let mut file = File::create(&to)?;
        let text = serde_json::to_vec(record)?;
        file.write_all(&(text.len() as u64).to_le_bytes())?;
        file.write_all(&text)?;
        for output in record.outputs.values() {
            let from = self.store.blob_path(&output.digest).map_err(io::Error::other)?;
            io::copy(&mut File::open(from)?, &mut file)?;
        }
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(record.key, name.clone());
        Ok((name, path))
    }

    /// What the engine calls a unit that was found.
    pub(super) fn told_name(&self, name: &str, record: &ActionRecord) -> String {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.get(&record.key).cloned().unwrap_or_else(|| unit_name(name, record))
    }

    /// What a job made, as announcements of outputs.
    pub(super) fn outputs(&self, id: u64, artifact: &Artifact) -> Result<Vec<Reply>, StageError> {
        let told = |name: String, path: String| Reply::Artifact { id, name, path: Some(path), unit: None };
        if artifact.kind.0 == ArtifactKind::FILES {
            let places = self.places(Files::read(&self.store, &artifact.digest)?)?;
            return Ok(places.into_iter().map(|(name, path)| told(name, path)).collect());
        }
        if artifact.kind.0 == ArtifactKind::METRICS {
            // the engine makes it of what it was told
            return Ok(Vec::new());
        }
        let mut fresh: BTreeSet<Digest> =
            artifact.refs.iter().filter(|digest| !self.given.contains(digest)).copied().collect();
        fresh.remove(&artifact.digest);
        let text = self.store.read(&artifact.digest)?;
        let mut announced = Vec::new();
        for digest in &fresh {
            announced.push(told(format!("{BLOB}{digest}"), self.inside(digest)?));
        }
        let root = if fresh.is_empty() {
            self.inside(&artifact.digest)?
        } else {
            let mut document: Value = serde_json::from_slice(&text).map_err(|e| {
                StageError::Bug(format!("a document with blobs is JSON, this one is not: {e}"))
            })?;
            name_blobs(&mut document, &fresh);
            let path = "out.json".to_owned();
            std::fs::write(self.scratch.join(&path), document.to_string()).map_err(transient)?;
            path
        };
        announced.push(told(ROOT.to_owned(), root));
        Ok(announced)
    }

    /// Where outputs lie, relative to the job's folder: a file as the blob that it is, for the engine copies and hashes it anyway.
    fn places(&self, mut files: Files) -> Result<BTreeMap<String, String>, StageError> {
        let mut places = BTreeMap::new();
        for (name, output) in &files.outputs {
            let place = match output {
                Output::File(entry) if !entry.executable => self.inside(&entry.digest)?,
                Output::File(_) | Output::Folder(_) => format!("outputs/{name}"),
            };
            places.insert(name.clone(), place);
        }
        files.outputs.retain(|name, _| places.get(name).is_some_and(|place| place.starts_with("outputs/")));
        if !files.outputs.is_empty() {
            files.place(&self.store, &self.scratch.join("outputs"))?;
        }
        Ok(places)
    }

    /// A blob's place, relative to the job's folder; one that lies elsewhere is copied there.
    fn inside(&self, digest: &Digest) -> Result<String, StageError> {
        let path = self.store.blob_path(digest)?;
        let root = std::path::absolute(&self.scratch).map_err(transient)?;
        if let Some(path) = path.strip_prefix(&root).ok().and_then(Path::to_str) {
            return Ok(path.to_owned());
        }
        let copy = format!("outside-{digest}");
        std::fs::copy(&path, self.scratch.join(&copy)).map_err(transient)?;
        Ok(copy)
    }
}

/// A fault of the machine.
fn transient(error: impl std::fmt::Display) -> StageError {
    StageError::Transient(error.to_string())
}

/// What a unit is called to the engine: by its own name, as far as that can be a file's, and by its key.
fn unit_name(name: &str, record: &ActionRecord) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' };
    let name: String = name.chars().take(80).map(plain).collect();
    format!("u-{name}-{}", record.key.short())
}

/// Brings a kept unit back; its key.
fn restore(store: &Store, path: &Path) -> io::Result<ActionKey> {
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_RECORD {
        return Err(io::Error::other("it is no unit"));
    }
    let mut text = Vec::new();
    Read::by_ref(&mut file).take(length).read_to_end(&mut text)?;
    let record: ActionRecord = serde_json::from_slice(&text)?;
    for output in record.outputs.values() {
        let mut writer = store.writer().map_err(io::Error::other)?;
        io::copy(&mut Read::by_ref(&mut file).take(output.bytes), &mut writer)?;
        let (digest, _) = writer.commit().map_err(io::Error::other)?;
        if digest != output.digest {
            return Err(io::Error::other(format!("the unit's blob {} is damaged", output.digest)));
        }
    }
    store.commit(&record).map_err(io::Error::other)?;
    Ok(record.key)
}

/// Puts `blob:DIGEST` where the document has a fresh blob's digest.
fn name_blobs(value: &mut Value, fresh: &BTreeSet<Digest>) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| name_blobs(value, fresh)),
        Value::Object(values) => values.values_mut().for_each(|value| name_blobs(value, fresh)),
        Value::String(text) if text.parse().is_ok_and(|digest| fresh.contains(&digest)) => {
            *text = format!("{BLOB}{text}");
        }
        _ => {}
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
