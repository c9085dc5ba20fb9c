//! What a job has made: looked for as the engine does, and compared.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use qpipe_cache::{Digest, Store};
use qpipe_sdk::protocol::Described;
use qpipe_sdk::{Artifact, ArtifactKind, Context, metrics};
use serde_json::{Value, json};

use super::report::{Tried, failed};
use super::work::Work;
use crate::worker::Made;
use crate::worker::document::{self, BLOB, ROOT};
use crate::worker::files::{Files, keep_file};

/// A unit that a job said it keeps: its content when it said so, and where it lies.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) digest: Digest,
    /// Relative to scratch.
    path: String,
}

/// Units by name.
pub(super) type Units = BTreeMap<String, Kept>;

/// A unit that was just announced. What is wrong with it shows once the job has ended.
pub(super) fn keep(store: &Store, scratch: &Path, name: &str, path: &str) -> Tried<Kept> {
    let (digest, _) = keep_file(store, scratch, name, path, &|| true)
        .or_else(|error| failed(format!("unit `{name}`: {error}")))?;
    Ok(Kept { digest, path: path.to_owned() })
}

/// Units that lie no longer where they were announced, as they were.
pub(super) fn unkept(store: &Store, scratch: &Path, units: &Units) -> Tried<()> {
    let is_there = |name: &str, kept: &Kept| {
        keep_file(store, scratch, name, &kept.path, &|| true).is_ok_and(|(now, _)| now == kept.digest)
    };
    match units.iter().find(|(name, kept)| !is_there(name, kept)) {
        Some((name, _)) => failed(format!("unit `{name}` was changed or removed after it was announced")),
        None => Ok(()),
    }
}

/// Units as a job is told of them.
pub(super) fn as_given(store: &Store, units: &Units) -> Tried<Value> {
    let mut given = serde_json::Map::new();
    for (name, kept) in units {
        let path = store.blob_path(&kept.digest).or_else(failed)?;
        given.insert(name.clone(), json!({ "digest": kept.digest, "path": path }));
    }
    Ok(Value::Object(given))
}

/// Takes a job's outputs from `scratch`, of which `units` are those that it was given or kept.
pub(super) fn collect(
    ctx: &Context<'_>,
    described: &Described,
    scratch: &Path,
    work: &Work,
    units: &Units,
) -> Tried<Artifact> {
    let files = &described.files;
    let is_measured = described.spec.output.0 == ArtifactKind::METRICS;
    let mut outputs = BTreeMap::new();
    for said in work.said("artifact") {
        let name = said.text("name").unwrap_or_default();
        let is_declared = match files.as_slice() {
            [] => !is_measured && (name == ROOT || name.starts_with(BLOB)),
            files => files.iter().any(|file| file.name == name),
        };
        if !is_declared {
            return failed(format!("output `{name}` is not declared"));
        }
        let path = match (said.text("path"), said.text("unit")) {
            (Some(path), None) => path.to_owned(),
            (None, Some(unit)) => of_unit(ctx.store, scratch, unit, units, outputs.len())?,
            _ => return failed(format!("output `{name}` has either a `path` or a `unit`")),
        };
        if outputs.insert(name.to_owned(), path).is_some() {
            return failed(format!("output `{name}` was announced twice"));
        }
    }
    if let Some(file) = files.iter().find(|file| file.required && !outputs.contains_key(&file.name)) {
        return failed(format!("output `{}` was not announced, and is required", file.name));
    }
    if is_measured {
        return metrics::keep(ctx.store, described.spec.kind, &work.told()?).or_else(failed);
    }
    if files.is_empty() {
        let outputs = outputs.into_iter().map(|(name, path)| (name, Made::Path(path))).collect();
        return document::collect(ctx, &described.spec.output.0, scratch, &outputs).or_else(failed);
    }
    let named = outputs.iter().map(|(name, path)| (name.as_str(), path.as_str()));
    Files::collect(ctx.store, scratch, named).or_else(failed)?.commit(ctx.store).or_else(failed)
}

/// Where the content of a unit lies within scratch, for the output of this number.
fn of_unit(store: &Store, scratch: &Path, unit: &str, units: &Units, number: usize) -> Tried<String> {
    let Some(kept) = units.get(unit) else {
        return failed(format!("an output is the unit `{unit}`, which was neither given nor announced"));
    };
    let path = format!("unit-{number}-{}", kept.digest.short());
    let bytes = store.read(&kept.digest).or_else(failed)?;
    // not through what the plugin may have put there
    File::create_new(scratch.join(&path)).and_then(|mut file| file.write_all(&bytes)).or_else(failed)?;
    Ok(path)
}

/// What differs between two artifacts of one stage type; nothing where they are the same bytes.
pub(super) fn difference(store: &Store, a: &Artifact, b: &Artifact) -> Option<String> {
    if a.digest == b.digest {
        return None;
    }
    let (Ok(a), Ok(b)) = (Files::read(store, &a.digest), Files::read(store, &b.digest)) else {
        return Some(format!("output `{ROOT}`"));
    };
    let names: BTreeSet<&String> = a.outputs.keys().chain(b.outputs.keys()).collect();
    let other = names.into_iter().filter(|name| a.outputs.get(*name) != b.outputs.get(*name));
    Some(other.map(|name| format!("output `{name}`")).collect::<Vec<_>>().join(", "))
}
