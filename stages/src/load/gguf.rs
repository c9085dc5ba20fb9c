//! A GGUF file: every tensor is dequantized into a blob of its own, names and rows as Hugging Face has them.

use std::sync::atomic::{AtomicUsize, Ordering};

use qpipe_cache::KeyDoc;
use qpipe_formats::gguf::LlamaWeights;
use qpipe_formats::{DType, Gguf, Tokenizer};
use qpipe_sdk::{Context, StageError};

use super::{GGUF, Loaded, MODULE_SEMANTICS, dense, module_name, one_tensor, weight_of};

pub(super) fn load(ctx: &Context<'_>, dtype: Option<DType>) -> Result<Loaded, StageError> {
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
