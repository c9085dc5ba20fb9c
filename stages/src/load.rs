//! `load`: a checkpoint becomes a model artifact. Safetensors in the wanted dtype are linked as they are; anything
//! else is converted module by module, each module a unit of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use qpipe_cache::{Digest, KeyDoc, Mapped, Store};
use qpipe_formats::gguf::LlamaWeights;
use qpipe_formats::{DType, Gguf, HfDir, LlamaConfig, TensorFile, TensorView, Tokenizer};
use qpipe_sdk::{
    ArtifactKind, Better, Context, Determinism, Metric, NodeSpec, Outcome, ParamSpec, ParamType, Params,
    Schema, Source, SourceData, Stage, StageError, StageSpec, UnitOutput, Value,
};

use crate::artifact::{Encoding, FORMAT, ModelArtifact, Module, TensorRef};
use crate::embedded;
use crate::model::compute::ComputeDtype;

/// Raised when the conversion of one module changes.
const MODULE_SEMANTICS: u32 = 1;

const GGUF: &str = "model.gguf";

/// Models compiled into the program.
const EMBEDDED: &[&str] = &["tiny"];

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
        }
    }
}

fn schema() -> Schema {
    let any = "Where the checkpoint is: an embedded model's name, a Hugging Face folder or a `.gguf` file; or, instead, \
               exactly one of the properties.";
    let from = NodeSpec::value(ParamSpec::new("from", ParamType::FileOr(EMBEDDED), any).location())
        .prop(
            ParamSpec::new("embedded", ParamType::Choice(EMBEDDED), "A model compiled into the program.")
                .location(),
        )
        .prop(
            ParamSpec::new(
                "path",
                ParamType::File,
                "A Hugging Face folder: config.json, tokenizer.json, safetensors.",
            )
            .location(),
        )
        .prop(ParamSpec::new("file", ParamType::File, "A .gguf file.").location());
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
        let places = ["from", "from.embedded", "from.path", "from.file"];
        if places.iter().filter(|p| params.has(p)).count() == 1 {
            return Vec::new();
        }
        let message =
            "exactly one of an argument, `embedded`, `path` and `file` says where the checkpoint is";
        vec![("from".into(), message.into())]
    }

    fn sources(&self, params: &Params) -> Result<Vec<Source>, StageError> {
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
            Some(Place::Folder(path)) => {
                let dir = HfDir::open(path).map_err(StageError::config)?;
                let name =
                    |p: &Path| p.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
                let source = |p: std::path::PathBuf| Source { name: name(&p), data: SourceData::File(p) };
                Ok(dir.files().into_iter().map(source).collect())
            }
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
            from_gguf(ctx, dtype)?
        } else {
            from_safetensors(ctx, dtype)?
        };
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

type Loaded = (LlamaConfig, Digest, BTreeMap<String, Module>);

fn dense(shape: &[usize], weight: TensorRef) -> Module {
    Module { shape: shape.to_vec(), encoding: Encoding::Dense, parts: [("weight".to_owned(), weight)].into() }
}

fn module_name(tensor: &str) -> &str {
    tensor.strip_suffix(".weight").unwrap_or(tensor)
}

fn from_safetensors(ctx: &Context<'_>, dtype: Option<DType>) -> Result<Loaded, StageError> {
    let config = LlamaConfig::from_hf_json(&ctx.store.read(&ctx.source("config.json")?)?)
        .map_err(StageError::config)?;
    let (shards, done) = (shards(ctx)?, AtomicUsize::new(0));
    let expected = config.expected_tensors();
    let modules = crate::parallel::map(&expected, |(tensor, shape)| {
        let Some((blob, file)) = shards.iter().find(|(_, file)| file.contains(tensor)) else {
            return Err(StageError::config(format!("the checkpoint lacks tensor `{tensor}`")));
        };
        let view = file.get(tensor).map_err(StageError::config)?;
        check_shape(tensor, shape, &view)?;
        let weight = match dtype {
            Some(to) if to != view.dtype => cast(ctx, *blob, tensor, &view, to)?,
            _ => TensorRef { blob: *blob, name: tensor.clone(), dtype: view.dtype, shape: shape.clone() },
        };
        ctx.progress(done.fetch_add(1, Ordering::SeqCst) + 1, expected.len(), "tensors");
        Ok((module_name(tensor).to_owned(), dense(shape, weight)))
    })?;
    let tokenizer = ctx.sources.get("tokenizer.json").copied();
    let tokenizer = tokenizer.ok_or_else(|| StageError::config("the checkpoint has no `tokenizer.json`"))?;
    Ok((config, tokenizer, modules.into_iter().collect()))
}

fn shards(ctx: &Context<'_>) -> Result<Vec<(Digest, TensorFile<Mapped>)>, StageError> {
    let is_shard = |name: &str| std::path::Path::new(name).extension().is_some_and(|e| e == "safetensors");
    let parse = |(name, digest): (&String, &Digest)| {
        let file = TensorFile::parse(ctx.store.map(digest)?)
            .map_err(|e| StageError::config(format!("`{name}`: {e}")))?;
        Ok((*digest, file))
    };
    ctx.sources.iter().filter(|(name, _)| is_shard(name)).map(parse).collect()
}

fn check_shape(tensor: &str, expected: &[usize], view: &TensorView<'_>) -> Result<(), StageError> {
    if view.shape != expected {
        let found = &view.shape;
        return Err(StageError::config(format!(
            "tensor `{tensor}` has shape {found:?}, expected {expected:?}"
        )));
    }
    if !matches!(view.dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Err(StageError::config(format!(
            "tensor `{tensor}` has dtype {}, not a floating one",
            view.dtype
        )));
    }
    Ok(())
}

/// One converted module: a unit of its own.
fn cast(
    ctx: &Context<'_>,
    blob: Digest,
    tensor: &str,
    view: &TensorView<'_>,
    to: DType,
) -> Result<TensorRef, StageError> {
    let doc = KeyDoc::new("load/cast", MODULE_SEMANTICS)
        .param("dtype", to.name())
        .param("tensor", tensor)
        .input("file", blob);
    let record = ctx.unit(tensor, &doc, || {
        let bytes = qpipe_formats::cast(view, to).map_err(StageError::config)?;
        one_tensor(ctx.store, to, &view.shape, &bytes)
    })?;
    weight_of(&record, to, &view.shape)
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

fn from_gguf(ctx: &Context<'_>, dtype: Option<DType>) -> Result<Loaded, StageError> {
    let blob = ctx.source(GGUF)?;
    let map = ctx.store.map(&blob)?;
    let gguf = Gguf::parse(&map).map_err(StageError::config)?;
    let weights = LlamaWeights::new(&gguf).map_err(StageError::config)?;
    let tokenizer =
        Tokenizer::from_gguf(&gguf).and_then(|t| Ok(t.to_json_bytes()?)).map_err(StageError::config)?;
    let tokenizer = ctx.store.put_bytes(&tokenizer)?;
    let to = dtype.unwrap_or(DType::F32);
    let (expected, done) = (weights.config().expected_tensors(), AtomicUsize::new(0));
    let modules = crate::parallel::map(&expected, |(tensor, shape)| {
        let doc = KeyDoc::new("load/gguf", MODULE_SEMANTICS)
            .param("dtype", to.name())
            .param("tensor", tensor.as_str())
            .input("file", blob);
        let record = ctx.unit(tensor, &doc, || {
            let values =
                weights.get(tensor).map_err(StageError::config)?.to_f32().map_err(StageError::config)?;
            let bytes = qpipe_formats::values::from_f32(&values, to).map_err(StageError::config)?;
            one_tensor(ctx.store, to, shape, &bytes)
        })?;
        ctx.progress(done.fetch_add(1, Ordering::SeqCst) + 1, expected.len(), "tensors");
        Ok((module_name(tensor).to_owned(), dense(shape, weight_of(&record, to, shape)?)))
    })?;
    Ok((weights.config().clone(), tokenizer, modules.into_iter().collect()))
}
