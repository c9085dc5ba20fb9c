//! Parameters and inputs for a job of a stage type that nobody here knows: made from what it declares, or given.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use qpipe_cache::{Digest, Store};
use qpipe_sdk::metrics::{self, Measured};
use qpipe_sdk::protocol::wire::params_from_json;
use qpipe_sdk::{Artifact, ArtifactKind, Better, Metric, NodeForm, ParamType, Params, StageSpec};
use serde_json::Value as Json;

use super::program::Told;
use super::report::{Outcome, Tried, failed, skipped};
use crate::worker::files::{Files, is_file_name};

/// Where an artifact of a kind comes from, such as a model.
pub type Provider<'a> = dyn FnMut(&str) -> Option<Artifact> + 'a;

/// What jobs are given. A parameter is named by its path, or by its stage type and its path: `top`, `tally.top`.
pub struct Samples<'a> {
    /// Values in place of those that would be made.
    pub sets: Vec<(String, String)>,
    /// Files for parameters.
    pub files: Vec<(String, PathBuf)>,
    /// Folders for inputs of kind `files` and documents for those of kind `metrics`, by port.
    pub inputs: Vec<(String, PathBuf)>,
    /// Artifacts of other kinds, which lie in the store of the test.
    pub provider: &'a mut Provider<'a>,
}

/// A job.
pub(super) struct Sample {
    pub(super) params: Params,
    pub(super) inputs: BTreeMap<String, Artifact>,
    /// The parameters' files, in the store.
    pub(super) sources: BTreeMap<String, Digest>,
}

impl Samples<'_> {
    /// What was given for something that no stage type has.
    pub(super) fn all_known(&self, stages: &[Told]) -> Tried<()> {
        let named = self.sets.iter().map(|(name, _)| name).chain(self.files.iter().map(|(name, _)| name));
        let specs = || stages.iter().map(|one| &one.described.spec);
        let has = |name: &str| {
            specs().any(|spec| {
                let schema = &spec.schema;
                [name, own(spec, name)]
                    .iter()
                    .any(|path| schema.param(path).is_some() || schema.is_presence(path))
            })
        };
        if let Some(name) = named.into_iter().find(|name| !has(name)) {
            return failed(format!("no stage type has a parameter `{name}`"));
        }
        let is_port = |name: &str| specs().any(|spec| spec.inputs.iter().any(|port| port.name == name));
        match self.inputs.iter().find(|(name, _)| !is_port(name)) {
            Some((name, _)) => failed(format!("no stage type has an input `{name}`")),
            None => Ok(()),
        }
    }

    /// A job of a stage type; files are made in `folder`, and kept in the store.
    pub(super) fn of(&mut self, spec: &StageSpec, store: &Store, folder: &Path) -> Tried<Sample> {
        let params = self.params(spec, folder)?;
        let mut sources = BTreeMap::new();
        for (name, path) in params.files() {
            let bytes = fs::read(path).or_else(|error| failed(format!("`{}`: {error}", path.display())))?;
            sources.insert(name.to_owned(), store.put_bytes(&bytes).or_else(failed)?);
        }
        Ok(Sample { inputs: self.inputs(spec, store, folder)?, params, sources })
    }

    fn params(&self, spec: &StageSpec, folder: &Path) -> Tried<Params> {
        let mut given = BTreeMap::new();
        for node in spec.schema.nodes() {
            if let NodeForm::Keyed { choices, required: true } = &node.form
                && let Some(first) = choices.first()
            {
                given.insert(format!("{}.{}", node.name, first.name), Json::Bool(true));
            }
        }
        for (path, param) in spec.schema.params() {
            if param.required {
                given.insert(path.to_owned(), made(spec.kind, path, &param.ty, folder)?);
            }
        }
        for (path, text) in self.sets.iter().map(|(name, text)| (own(spec, name).to_owned(), text)) {
            if spec.schema.is_presence(&path) {
                given.insert(path, Json::Bool(text == "true"));
            } else if let Some(param) = spec.schema.param(&path) {
                given.insert(path, parsed(&param.ty, text));
            }
        }
        for (path, file) in self.files.iter().map(|(name, file)| (own(spec, name).to_owned(), file)) {
            if spec.schema.param(&path).is_some() {
                let copy = folder.join(format!("{}.{path}", spec.kind));
                let unreadable = |error| failed(format!("`{}`: {error}", file.display()));
                fs::copy(file, &copy).or_else(unreadable)?;
                given.insert(path, Json::from(copy.to_string_lossy()));
            }
        }
        let params = params_from_json(&spec.schema, &given).or_else(failed)?;
        Ok(spec.schema.effective(&params))
    }

    fn inputs(
        &mut self,
        spec: &StageSpec,
        store: &Store,
        folder: &Path,
    ) -> Tried<BTreeMap<String, Artifact>> {
        let mut inputs = BTreeMap::new();
        for port in &spec.inputs {
            let given = self.inputs.iter().find(|(name, _)| name == port.name).map(|(_, folder)| folder);
            let artifact = match (given, port.kind.0.as_str()) {
                (Some(folder), ArtifactKind::FILES) => of_folder(store, folder)?,
                (Some(file), ArtifactKind::METRICS) => of_metrics(store, file)?,
                (Some(_), kind) => {
                    return failed(format!("`{}` takes {kind}; a folder is of kind `files`", port.name));
                }
                (None, _) if !port.required => continue,
                (None, ArtifactKind::FILES) => {
                    let made = folder.join(format!("{}.{}", spec.kind, port.name));
                    fs::create_dir_all(&made).or_else(failed)?;
                    fs::write(made.join(port.name), text_for(spec.kind, port.name)).or_else(failed)?;
                    of_folder(store, &made)?
                }
                (None, ArtifactKind::METRICS) => {
                    let some = Metric::new("sample", 0.5, "", Better::Higher).n(2).stderr(0.1).headline();
                    metrics::keep(store, "sample", &[some]).or_else(failed)?
                }
                (None, kind) => match (self.provider)(kind) {
                    Some(artifact) => artifact,
                    None => {
                        return skipped(format!(
                            "its input `{}` takes {kind}, and there is none here",
                            port.name
                        ));
                    }
                },
            };
            inputs.insert(port.name.to_owned(), artifact);
        }
        Ok(inputs)
    }
}

/// A value of a type.
fn made(kind: &str, path: &str, ty: &ParamType, folder: &Path) -> Tried<Json> {
    let word = |words: &[&str]| Json::from(words.first().copied().unwrap_or_default());
    Ok(match ty {
        ParamType::Bool => Json::Bool(false),
        ParamType::Int { min, max } => Json::from(if *min == i64::MIN { 1.min(*max) } else { *min }),
        ParamType::Float { min, max } => Json::from(if min.is_finite() { *min } else { 0.5_f64.min(*max) }),
        ParamType::Text => Json::from("sample"),
        ParamType::Choice(words) => word(words),
        ParamType::FileOr(words) if words.iter().any(|word| !word.ends_with('*')) => {
            Json::from(words.iter().find(|word| !word.ends_with('*')).copied().unwrap_or_default())
        }
        ParamType::File | ParamType::FileOr(_) => {
            let file = folder.join(format!("{kind}.{path}.txt"));
            fs::write(&file, text_for(kind, path)).or_else(failed)?;
            Json::from(file.to_string_lossy())
        }
        ParamType::List(of) => Json::Array(vec![made(kind, path, of, folder)?]),
    })
}

/// A parameter's path, without its stage type.
fn own<'n>(spec: &StageSpec, name: &'n str) -> &'n str {
    name.strip_prefix(spec.kind).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name)
}

/// A few words of its own for each file: one that is damaged damages no other.
fn text_for(kind: &str, name: &str) -> String {
    format!("a small text for the sample of {name} of {kind}\nand a second line of it\n")
}

/// The `files` artifact of a folder's entries.
fn of_folder(store: &Store, folder: &Path) -> Tried<Artifact> {
    let unreadable = |error| -> Outcome { Outcome::Failed(format!("`{}`: {error}", folder.display())) };
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
        if !is_file_name(&name) {
            return failed(format!("`{name}` in `{}` cannot be the name of an output", folder.display()));
        }
        names.push(name);
    }
    let files = Files::collect(store, folder, names.iter().map(|name| (name.as_str(), name.as_str())));
    files.or_else(failed)?.commit(store).or_else(failed)
}

/// The `metrics` artifact that a file holds.
fn of_metrics(store: &Store, file: &Path) -> Tried<Artifact> {
    let wrong = |error: &dyn fmt::Display| Outcome::Failed(format!("`{}`: {error}", file.display()));
    let bytes = fs::read(file).map_err(|error| wrong(&error))?;
    Measured::read(&bytes).map_err(|error| wrong(&error))?;
    Ok(Artifact::single(ArtifactKind::METRICS, store.put_bytes(&bytes).or_else(failed)?))
}

/// The JSON of a word of the command line. What is none of its type is refused with the rest.
fn parsed(ty: &ParamType, text: &str) -> Json {
    let as_text = || Json::from(text);
    match ty {
        ParamType::Bool => text.parse().map_or_else(|_| as_text(), Json::Bool),
        ParamType::Int { .. } => text.parse::<i64>().map_or_else(|_| as_text(), Json::from),
        ParamType::Float { .. } => text.parse::<f64>().map_or_else(|_| as_text(), Json::from),
        ParamType::List(of) => Json::Array(text.split(',').map(|item| parsed(of, item)).collect()),
        _ => as_text(),
    }
}
