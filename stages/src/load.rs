//! `load`: a checkpoint becomes a model artifact. Safetensors in the wanted dtype are linked as they are, and so are
//! the codes of a checkpoint that is already quantized; anything else is converted module by module, each module a
//! unit of its own.

mod bitsandbytes;
mod gguf;
mod safetensors;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qpipe_cache::{Digest, Store};
use qpipe_formats::{DType, HfDir, LlamaConfig};
use qpipe_sdk::{
    ArtifactKind, Better, Cancel, Context, Determinism, EventSink, Metric, NodeSpec, Outcome, ParamSpec,
    ParamType, Params, Schema, Source, SourceData, Stage, StageError, StageSpec, UnitOutput, Value,
};

use crate::artifact::{Encoding, FORMAT, ModelArtifact, Module, TensorRef};
use crate::embedded;
use crate::hub::{Hub, HubError, PREFIX, Repo};
use crate::model::compute::ComputeDtype;

/// Raised when the conversion of one module changes.
const MODULE_SEMANTICS: u32 = 1;

const GGUF: &str = "model.gguf";

/// Models compiled into the program.
const EMBEDDED: &[&str] = &["tiny"];
/// What a bare value may be beside a path.
const WORDS: &[&str] = &["tiny", "hub:*"];

/// Where a checkpoint is.
enum Place<'a> {
    Embedded,
    Folder(&'a Path),
    Gguf(&'a Path),
}

impl<'a> Place<'a> {
    /// From the parameters; a bare path is a folder if there is a folder, else a GGUF file.
    fn of(params: &'a Params) -> Option<Self> {
        let bare = || params.file("from").map(|p| if p.is_dir() { Self::Folder(p) } else { Self::Gguf(p) });
        let embedded = || params.text("from.embedded").or(params.text("from")).map(|_| Self::Embedded);
        let folder = params.file("from.path").map(Self::Folder);
        folder.or_else(|| params.file("from.file").map(Self::Gguf)).or_else(bare).or_else(embedded)
    }
}

pub struct Load {
    spec: StageSpec,
    hub: Option<Hub>,
}

impl Load {
    /// One that can load from a hub.
    #[must_use]
    pub fn with_hub(hub: Hub) -> Self {
        Self { hub: Some(hub), ..Self::default() }
    }

    fn hub(&self) -> Result<&Hub, StageError> {
        self.hub.as_ref().ok_or_else(|| HubError::NoHub.into())
    }

    /// The folder of a repository that was downloaded.
    fn snapshot(&self, repo: &Repo) -> Result<PathBuf, StageError> {
        let snapshot = self.hub()?.snapshot(repo)?;
        Ok(snapshot.ok_or_else(|| HubError::NotDownloaded { repo: repo.to_string() })?)
    }
}

/// The repository that `from hub=`, or a bare `hub:ORG/NAME`, names; the latter with `@REVISION` where it is not `main`.
fn repo(params: &Params) -> Result<Option<Repo>, StageError> {
    let bare = params.text("from").and_then(|from| from.strip_prefix(PREFIX));
    let (name, revision) =
        match (params.text("from.hub"), bare.map(|bare| bare.split_once('@').unwrap_or((bare, "main")))) {
            (Some(name), _) => (name, params.text("from.revision").unwrap_or("main")),
            (None, Some(named)) => named,
            (None, None) => return Ok(None),
        };
    Ok(Some(Repo::new(name, revision)?))
}

impl Default for Load {
    fn default() -> Self {
        Self {
            spec: StageSpec {
                kind: "load",
                semantics: 1,
                doc: "Loads a checkpoint. Local files are linked, not copied.",
                inputs: Vec::new(),
                output: ArtifactKind::new(ArtifactKind::MODEL),
                schema: schema(),
                determinism: Determinism::Exact,
            },
            hub: None,
        }
    }
}

fn schema() -> Schema {
    let any = "Where the checkpoint is: an embedded model's name, a Hugging Face folder, a `.gguf` file, or a repository \
               of the hub as `hub:ORG/NAME`, with `@REVISION` if it is not `main`; or, instead, exactly one of the \
               properties.";
    let from = NodeSpec::value(ParamSpec::new("from", ParamType::FileOr(WORDS), any).location())
        .prop(
            ParamSpec::new("embedded", ParamType::Choice(EMBEDDED), "A model compiled into the program.")
                .location(),
        )
        .prop(
            ParamSpec::new(
                "path",
                ParamType::File,
                "A Hugging Face folder: config.json, tokenizer.json, and safetensors in one file or in shards; plain, or \
                 as bitsandbytes quantizes them (4-bit, int8).",
            )
            .location(),
        )
        .prop(
            ParamSpec::new(
                "file",
                ParamType::File,
                "A .gguf file of F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K or Q6_K tensors.",
            )
            .location(),
        )
        .prop(
            ParamSpec::new(
                "hub",
                ParamType::Text,
                "A repository of the hub, `org/name`: `run` downloads its folder once, to the cache folder of the hub's \
                 own tools (HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE count).",
            )
            .location(),
        )
        .prop(
            ParamSpec::new(
                "revision",
                ParamType::Text,
                "A branch, tag or commit of `hub`, by default `main`. A branch stands for the commit that it was when it \
                 was downloaded.",
            )
            .location(),
        );
    Schema::new(vec![
        from,
        NodeSpec::value(
            ParamSpec::new(
                "dtype",
                ParamType::Choice(&["auto", "f32", "f16", "bf16"]),
                "Dtype of the weights, rounded to nearest even. `auto`: as stored in safetensors; f32 from a GGUF.",
            )
            .default(Value::Text("auto".into())),
        ),
        NodeSpec::value(
            ParamSpec::new(
                "compute-dtype",
                ParamType::Choice(&["auto", "f32", "f16", "bf16"]),
                "Dtype of activations. `auto`: the weights' dtype.",
            )
            .default(Value::Text("auto".into())),
        ),
    ])
}

impl Stage for Load {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn check(&self, params: &Params) -> Vec<(String, String)> {
        let places = ["from", "from.embedded", "from.path", "from.file", "from.hub"];
        let mut wrong = Vec::new();
        if places.iter().filter(|p| params.has(p)).count() != 1 {
            let message = "exactly one of an argument, `embedded`, `path`, `file` and `hub` says where the checkpoint is";
            wrong.push(("from".into(), message.into()));
        }
        if params.has("from.revision") && !params.has("from.hub") {
            wrong.push(("from.revision".into(), "only a checkpoint of the `hub` has revisions".into()));
        }
        if let Err(error) = repo(params) {
            let place = if params.has("from.hub") { "from.hub" } else { "from" };
            wrong.push((place.into(), error.to_string()));
        }
        wrong
    }

    fn fetch(&self, params: &Params, events: &dyn EventSink, cancel: &Cancel) -> Result<(), StageError> {
        if let Some(repo) = repo(params)? {
            self.hub()?.fetch(&repo, events, cancel)?;
        }
        Ok(())
    }

    fn sources(&self, params: &Params) -> Result<Vec<Source>, StageError> {
        if let Some(repo) = repo(params)? {
            return folder_sources(&self.snapshot(&repo)?);
        }
        match Place::of(params) {
            None => Err(StageError::config("`from` names no checkpoint")),
            Some(Place::Embedded) => {
                let source = |f: &embedded::EmbeddedFile| Source {
                    name: f.name.into(),
                    data: SourceData::Embedded(f.bytes),
                };
                Ok(embedded::TINY.iter().map(source).collect())
            }
            Some(Place::Gguf(path)) => {
                Ok(vec![Source { name: GGUF.into(), data: SourceData::File(path.to_owned()) }])
            }
            Some(Place::Folder(path)) => folder_sources(path),
        }
    }

    fn run(&self, ctx: &Context<'_>) -> Result<Outcome, StageError> {
        let dtype = match ctx.params.text("dtype") {
            Some("f32") => Some(DType::F32),
            Some("f16") => Some(DType::F16),
            Some("bf16") => Some(DType::BF16),
            _ => None,
        };
        let (config, tokenizer, modules) = if ctx.sources.contains_key(GGUF) {
            gguf::load(ctx, dtype)?
        } else {
            safetensors::load(ctx, dtype)?
        };
        crate::weights::read_tokenizer(ctx.store, &tokenizer, &config)?;
        let stored = modules.get("model.embed_tokens").and_then(|m| m.parts.get("weight")).map(|t| t.dtype);
        let default = match stored {
            Some(DType::F16) => ComputeDtype::F16,
            Some(DType::BF16) => ComputeDtype::Bf16,
            _ => ComputeDtype::F32,
        };
        let compute_dtype = crate::weights::compute_dtype(ctx.params.text("compute-dtype"), default);
        let model = ModelArtifact { format: FORMAT.into(), config, compute_dtype, tokenizer, modules };
        let parameters: usize = model.modules.values().map(|m| m.shape.iter().product::<usize>()).sum();
        let metrics = vec![
            Metric::new("parameters", parameters as f64, "", Better::Neither),
            Metric::new("bytes", model.weight_bytes() as f64, "bytes", Better::Lower),
        ];
        Ok(Outcome { artifact: model.save(ctx.store)?, metrics })
    }
}

fn folder_sources(path: &Path) -> Result<Vec<Source>, StageError> {
    let dir = HfDir::open(path).map_err(StageError::config)?;
    let name = |p: &Path| p.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    Ok(dir.files().into_iter().map(|p| Source { name: name(&p), data: SourceData::File(p) }).collect())
}

type Loaded = (LlamaConfig, Digest, BTreeMap<String, Module>);

fn dense(shape: &[usize], weight: TensorRef) -> Module {
    Module { shape: shape.to_vec(), encoding: Encoding::Dense, parts: [("weight".to_owned(), weight)].into() }
}

fn module_name(tensor: &str) -> &str {
    tensor.strip_suffix(".weight").unwrap_or(tensor)
}

fn weight_of(
    record: &qpipe_cache::ActionRecord,
    dtype: DType,
    shape: &[usize],
) -> Result<TensorRef, StageError> {
    let output =
        record.outputs.get("module").ok_or_else(|| StageError::bug("a unit's record lacks its blob"))?;
    Ok(TensorRef { blob: output.digest, name: "weight".into(), dtype, shape: shape.to_vec() })
}

/// A blob of one tensor, `weight`.
fn one_tensor(store: &Store, dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<UnitOutput, StageError> {
    crate::blobs::write(store, &[("weight", dtype, shape.to_vec(), bytes)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(params: &[(&str, &str)]) -> Result<Option<(String, String)>, String> {
        let given = params.iter().map(|(path, text)| ((*path).to_owned(), Value::Text((*text).into())));
        let params = Params(given.collect());
        let wrong = Load::default().check(&params);
        match repo(&params) {
            Ok(repo) => Ok(repo.map(|repo| (repo.to_string(), wrong.len().to_string()))),
            Err(error) => Err(format!("{}: {error}", wrong[0].0)),
        }
    }

    #[test]
    fn a_repository_is_named_by_a_property_or_a_bare_word() {
        let found = |text: &str| Ok(Some((text.to_owned(), "0".to_owned())));
        assert_eq!(named(&[("from", "tiny")]), Ok(None));
        assert_eq!(named(&[("from", "hub:a/b")]), named(&[("from.hub", "a/b")]));
        assert_eq!(named(&[("from", "hub:a/b@v1")]), named(&[("from.hub", "a/b"), ("from.revision", "v1")]));
        assert_eq!(named(&[("from.hub", "a/b")]), found(&Repo::new("a/b", "main").unwrap().to_string()));
        assert!(named(&[("from", "hub:a/b/c")]).unwrap_err().starts_with("from: "));
        assert!(named(&[("from.hub", "a/../c")]).unwrap_err().starts_with("from.hub: "));
    }
}
