//! A stage's context as a request to a worker.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use qpipe_cache::{Digest, KeyDoc, Store};
use qpipe_sdk::protocol::wire::params_to_json;
use qpipe_sdk::protocol::{Request, RunRequest, WireBlob, WireError, WireInput, encode};
use qpipe_sdk::{Artifact, ArtifactKind, Context, Params, Value};

use super::content::Stamp;
use super::error::WorkerError;
use super::files::Files;

/// The request of a stage's run. `inputs` is where `files` artifacts are laid out; without it every input's path is
/// that of its root blob.
pub(crate) fn request(
    ctx: &Context<'_>,
    kind: &str,
    scratch: &Path,
    inputs: Option<&Path>,
) -> Result<RunRequest, WorkerError> {
    let mut told = BTreeMap::new();
    for (port, artifact) in ctx.inputs {
        told.insert(port.clone(), input(ctx.store, port, artifact, inputs)?);
    }
    let sources = ctx.sources.iter().map(|(name, digest)| Ok((name.clone(), blob(ctx.store, digest)?)));
    Ok(RunRequest {
        id: 0,
        stage: kind.to_owned(),
        params: params_to_json(&with_content(ctx)?)?,
        inputs: told,
        sources: sources.collect::<Result<_, WorkerError>>()?,
        scratch: text(scratch)?,
        device: ctx.device.to_owned(),
        store: None,
        seed: ctx.doc.map(seed),
        deadline_ms: None,
        units: BTreeMap::new(),
    })
}

/// The files that a job of this context is given to read, apart from its units.
pub(super) fn files(ctx: &Context<'_>) -> Result<BTreeSet<PathBuf>, WorkerError> {
    let inputs = ctx.inputs.values().flat_map(|input| input.refs.iter().chain([&input.digest]));
    let digests: BTreeSet<&Digest> = inputs.chain(ctx.sources.values()).collect();
    Ok(digests.into_iter().map(|digest| ctx.store.blob_path(digest)).collect::<Result<_, _>>()?)
}

/// How long it is as a message.
pub(super) fn length(request: &RunRequest) -> Result<usize, WorkerError> {
    encode(&Request::Run(request.clone())).map(|line| line.len()).map_err(WorkerError::Request)
}

/// The files of the store, and of whoever linked them, that a job is given to read: as they were before it.
pub(super) struct Given(Vec<(String, PathBuf, Option<Stamp>)>);

impl Given {
    /// `is_given`: whether a source is there for the job to read.
    pub(super) fn of(request: &RunRequest, is_given: impl Fn(&str) -> bool) -> Self {
        let sources = request.sources.iter().filter(|(name, _)| is_given(name));
        let inputs =
            request.inputs.iter().flat_map(|(port, input)| input.refs.iter().map(move |r| (port, r)));
        let files = sources.chain(inputs).map(|(name, blob)| {
            let path = PathBuf::from(&blob.path);
            let stamp = Stamp::of(&path);
            (name.clone(), path, stamp)
        });
        Self(files.collect())
    }

    /// An error if one of them is not what it was.
    pub(super) fn check(&self) -> Result<(), WorkerError> {
        let is_same = |path: &Path, before: &Option<Stamp>| {
            before.as_ref().is_none_or(|before| Stamp::of(path).is_some_and(|now| now.is_content_of(before)))
        };
        match self.0.iter().find(|(_, path, before)| !is_same(path, before)) {
            Some((name, path, _)) => {
                Err(WorkerError::ChangedInput { name: name.clone(), path: path.clone() })
            }
            None => Ok(()),
        }
    }
}

/// The first 53 bits of a job's key: what every JSON parser reads as an integer.
fn seed(doc: &KeyDoc) -> u64 {
    let key = doc.key();
    let first = key.digest().as_bytes().iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
    first >> 11
}

/// The parameters, each file at the place of the content that was hashed.
fn with_content(ctx: &Context<'_>) -> Result<Params, WorkerError> {
    let mut params = ctx.params.clone();
    for (path, value) in &mut params.0 {
        if let (Value::File(file), Some(digest)) = (value, ctx.sources.get(path)) {
            *file = ctx.store.blob_path(digest)?;
        }
    }
    Ok(params)
}

fn input(
    store: &Store,
    port: &str,
    artifact: &Artifact,
    inputs: Option<&Path>,
) -> Result<WireInput, WorkerError> {
    let path = match inputs.filter(|_| artifact.kind.0 == ArtifactKind::FILES) {
        Some(folder) => {
            let to = folder.join(port);
            Files::read(store, &artifact.digest)?.place(store, &to)?;
            text(&to)?
        }
        None => text(&store.blob_path(&artifact.digest)?)?,
    };
    let refs = artifact.refs.iter().map(|digest| blob(store, digest)).collect::<Result<_, _>>()?;
    Ok(WireInput { kind: artifact.kind.0.clone(), digest: artifact.digest, path, refs })
}

pub(super) fn blob(store: &Store, digest: &Digest) -> Result<WireBlob, WorkerError> {
    Ok(WireBlob { digest: *digest, path: text(&store.blob_path(digest)?)? })
}

pub(super) fn text(path: &Path) -> Result<String, WorkerError> {
    let not_utf8 = || WireError::NotUtf8 { path: path.display().to_string() };
    Ok(path.to_str().ok_or_else(not_utf8)?.to_owned())
}
