//! A Hugging Face folder: tensors in the wanted dtype stay where they are, others are converted, and those that
//! `bitsandbytes` quantized become quantized modules.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use qpipe_cache::{Digest, KeyDoc, Mapped};
use qpipe_formats::{DType, FormatError, LlamaConfig, TensorFile, TensorView, bitsandbytes as bnb};
use qpipe_sdk::{Context, StageError};

use super::{Loaded, MODULE_SEMANTICS, bitsandbytes, dense, module_name, one_tensor, weight_of};
use crate::artifact::{Module, TensorRef};

pub(super) fn load(ctx: &Context<'_>, dtype: Option<DType>) -> Result<Loaded, StageError> {
    let json = ctx.store.read(&ctx.source("config.json")?)?;
    let quantization = bnb::quantization_config(&json).map_err(StageError::config)?;
    let config = match &quantization {
        Some(_) => LlamaConfig::from_quantized_hf_json(&json),
        None => LlamaConfig::from_hf_json(&json),
    };
    let config = config.map_err(StageError::config)?;
    let (shards, done) = (Shards::open(ctx)?, AtomicUsize::new(0));
    let expected = config.expected_tensors();
    let modules = crate::parallel::map(&expected, |(tensor, shape)| {
        let (name, module) = match &quantization {
            Some(about) if bitsandbytes::is_quantized(&shards, tensor) => {
                bitsandbytes::module(ctx, &shards, about, tensor, shape)?
            }
            _ => (module_name(tensor).to_owned(), plain(ctx, &shards, tensor, shape, dtype)?),
        };
        ctx.progress(done.fetch_add(1, Ordering::SeqCst) + 1, expected.len(), "tensors");
        Ok((name, module))
    })?;
    let tokenizer = ctx.sources.get("tokenizer.json").copied();
    let tokenizer = tokenizer.ok_or_else(|| StageError::config("the checkpoint has no `tokenizer.json`"))?;
    Ok((config, tokenizer, modules.into_iter().collect()))
}

/// The safetensors files of one checkpoint, mapped.
pub(super) struct Shards {
    files: Vec<(Digest, TensorFile<Mapped>)>,
    /// By tensor: its file.
    holders: BTreeMap<String, usize>,
}

impl Shards {
    fn open(ctx: &Context<'_>) -> Result<Self, StageError> {
        let is_shard = |name: &str| Path::new(name).extension().is_some_and(|e| e == "safetensors");
        let (mut files, mut holders) = (Vec::new(), BTreeMap::new());
        for (name, digest) in ctx.sources.iter().filter(|(name, _)| is_shard(name)) {
            let in_shard = |error: FormatError| StageError::config(format!("`{name}`: {error}"));
            let file = TensorFile::parse(ctx.store.map(digest)?).map_err(in_shard)?;
            for tensor in file.names() {
                if holders.insert(tensor.to_owned(), files.len()).is_some() {
                    let tensor = tensor.to_owned();
                    return Err(in_shard(FormatError::DuplicateTensor { tensor }));
                }
            }
            files.push((*digest, file));
        }
        Ok(Self { files, holders })
    }

    pub(super) fn contains(&self, tensor: &str) -> bool {
        self.holders.contains_key(tensor)
    }

    /// A tensor, and where it lies.
    pub(super) fn get(&self, tensor: &str) -> Result<(TensorView<'_>, TensorRef), StageError> {
        let missing = || StageError::config(FormatError::MissingTensor { tensor: tensor.to_owned() });
        let (blob, file) = &self.files[*self.holders.get(tensor).ok_or_else(missing)?];
        let view = file.get(tensor).map_err(StageError::config)?;
        let (dtype, shape) = (view.dtype, view.shape.clone());
        Ok((view, TensorRef { blob: *blob, name: tensor.to_owned(), dtype, shape }))
    }

    /// A tensor that must have this dtype and shape.
    pub(super) fn exactly(
        &self,
        tensor: &str,
        dtype: DType,
        shape: &[usize],
    ) -> Result<(TensorView<'_>, TensorRef), StageError> {
        let (view, place) = self.get(tensor)?;
        check_shape(tensor, shape, &view)?;
        if view.dtype != dtype {
            let found = view.dtype;
            return Err(StageError::config(format!("tensor `{tensor}` has dtype {found}, expected {dtype}")));
        }
        Ok((view, place))
    }
}

fn plain(
    ctx: &Context<'_>,
    shards: &Shards,
    tensor: &str,
    shape: &[usize],
    dtype: Option<DType>,
) -> Result<Module, StageError> {
    let (view, place) = shards.get(tensor)?;
    check_shape(tensor, shape, &view)?;
    if !matches!(view.dtype, DType::F32 | DType::F16 | DType::BF16) {
        let found = view.dtype;
        return Err(StageError::config(format!("tensor `{tensor}` has dtype {found}, not a floating one")));
    }
    Ok(dense(
        shape,
        match dtype {
            Some(to) if to != view.dtype => cast(ctx, place.blob, tensor, &view, to)?,
            _ => place,
        },
    ))
}

fn check_shape(tensor: &str, expected: &[usize], view: &TensorView<'_>) -> Result<(), StageError> {
    if view.shape == expected {
        return Ok(());
    }
    let (tensor, expected, found) = (tensor.to_owned(), expected.to_vec(), view.shape.clone());
    Err(StageError::config(FormatError::WrongShape { tensor, expected, found }))
}

/// One converted tensor: a unit of its own.
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
        let bytes = qpipe_formats::cast(view, to)
            .map_err(|error| StageError::config(format!("tensor `{tensor}`: {error}")))?;
        one_tensor(ctx.store, to, &view.shape, &bytes)
    })?;
    weight_of(&record, to, &view.shape)
}
