//! The folder a command runs in.
//!
//! ```text
//! SCRATCH/work/     the working folder: the inputs under their names
//! SCRATCH/home/     HOME
//! SCRATCH/tmp/      TMPDIR
//! SCRATCH/stdout    SCRATCH/stderr
//! ```

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use qpipe_sdk::{Artifact, ArtifactKind, Context, Source, SourceData, StageError};

use super::spec::{INPUT, variables};
use crate::worker::Machine;
use crate::worker::files::{Files, place_blob};
use crate::worker::scratch::Scratch;

/// Most files of one input folder.
const MAX_FILES: usize = 10_000;
/// Deepest folder within an input folder.
const MAX_DEPTH: usize = 32;

/// What a command reads, file by file: `input.NAME` for a file, `input.NAME/PATH` for each of a folder's.
pub(super) fn sources(inputs: &[(&str, &Path)]) -> Result<Vec<Source>, StageError> {
    let mut all = Vec::new();
    for (name, path) in inputs {
        if !path.is_dir() {
            all.push(Source { name: (*name).to_owned(), data: SourceData::File((*path).to_owned()) });
            continue;
        }
        let before = all.len();
        folder(name, path, 0, &mut all)?;
        if all.len() == before {
            let message = format!("the folder `{}` of `{name}` holds no file", path.display());
            return Err(StageError::Config(message));
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

fn folder(prefix: &str, path: &Path, depth: usize, all: &mut Vec<Source>) -> Result<(), StageError> {
    let refuse = |reason: &str| StageError::Config(format!("folder `{}`: {reason}", path.display()));
    if depth == MAX_DEPTH {
        return Err(refuse("it is nested too deep"));
    }
    for entry in fs::read_dir(path).map_err(|e| refuse(&e.to_string()))? {
        let entry = entry.map_err(|e| refuse(&e.to_string()))?;
        let Ok(name) = entry.file_name().into_string() else {
            return Err(refuse("it holds a name that is not UTF-8"));
        };
        let (name, kind) =
            (format!("{prefix}/{name}"), entry.file_type().map_err(|e| refuse(&e.to_string()))?);
        if kind.is_dir() {
            folder(&name, &entry.path(), depth + 1, all)?;
        } else if all.len() == MAX_FILES {
            return Err(refuse(&format!("the inputs have more than {MAX_FILES} files")));
        } else {
            all.push(Source { name, data: SourceData::File(entry.path()) });
        }
    }
    Ok(())
}

/// A folder, ready for a command.
pub(super) struct Job {
    scratch: Scratch,
    pub(super) work: PathBuf,
    pub(super) env: Vec<(OsString, OsString)>,
}

impl Job {
    pub(super) fn prepare(ctx: &Context<'_>, machine: &Machine) -> Result<Self, StageError> {
        let scratch = Scratch::new(ctx.store)?;
        let (work, home, tmp) = (scratch.folder("work")?, scratch.folder("home")?, scratch.folder("tmp")?);
        for (name, digest) in ctx.sources {
            let to = work.join(name.strip_prefix(INPUT).unwrap_or(name));
            make_parent(&to)?;
            place_blob(ctx.store, digest, &to, false)?;
        }
        for (port, artifact) in ctx.inputs {
            place_artifact(ctx, artifact, &work.join(port.strip_prefix(INPUT).unwrap_or(port)))?;
        }
        let mut env = machine.environment(home, tmp);
        // the last of two values for one name counts
        env.extend(variables(ctx.params).into_iter().map(|(name, value)| (name.into(), value.into())));
        Ok(Self { scratch, work, env })
    }

    pub(super) fn stdout(&self) -> PathBuf {
        self.scratch.path().join("stdout")
    }

    pub(super) fn stderr(&self) -> PathBuf {
        self.scratch.path().join("stderr")
    }

    pub(super) fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

fn make_parent(path: &Path) -> Result<(), StageError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent)
        .map_err(|e| StageError::Transient(format!("failed to create `{}`: {e}", parent.display())))
}

/// A `files` artifact as a folder of its outputs; of any other kind the root document as a file.
fn place_artifact(ctx: &Context<'_>, artifact: &Artifact, to: &Path) -> Result<(), StageError> {
    if artifact.kind.0 == ArtifactKind::FILES {
        Ok(Files::read(ctx.store, &artifact.digest)?.place(ctx.store, to)?)
    } else {
        Ok(place_blob(ctx.store, &artifact.digest, to, false)?)
    }
}
