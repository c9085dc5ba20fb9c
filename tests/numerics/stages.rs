//! Runs stages as the engine does, without an engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use qpipe_cache::Store;
use qpipe_sdk::{
    Artifact, Cancel, Context, EventSink, Outcome, Params, SourceData, Stage, StageError, Value,
};
use qpipe_stages::device::ComputeDevice;
use qpipe_stages::load::Load;
use qpipe_stages::quantize::Quantize;
use qpipe_stages::weights::{LoadedModel, load_model};

/// A store that goes with its folder.
pub(crate) struct Lab {
    folder: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        Self { folder, store }
    }

    pub(crate) fn run(
        &self,
        stage: &dyn Stage,
        params: &[(&str, Value)],
        inputs: &[(&str, &Artifact)],
    ) -> Result<Outcome, StageError> {
        self.run_with(stage, params, inputs, &())
    }

    /// Runs a stage and listens to it.
    pub(crate) fn run_with(
        &self,
        stage: &dyn Stage,
        params: &[(&str, Value)],
        inputs: &[(&str, &Artifact)],
        events: &dyn EventSink,
    ) -> Result<Outcome, StageError> {
        let given = Params(params.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect());
        let params = stage.spec().schema.effective(&given);
        let mut sources = BTreeMap::new();
        for source in stage.sources(&params)? {
            let digest = match source.data {
                SourceData::File(path) => self.store.link_file(&path)?,
                SourceData::Embedded(bytes) => self.store.put_bytes(bytes)?,
            };
            sources.insert(source.name, digest);
        }
        let inputs =
            inputs.iter().map(|(port, artifact)| ((*port).to_owned(), (*artifact).clone())).collect();
        let cancel = Cancel::default();
        stage.run(&Context {
            params: &params,
            inputs: &inputs,
            sources: &sources,
            store: &self.store,
            events,
            cancel: &cancel,
            device: "cpu",
            doc: None,
        })
    }

    /// A file in the laboratory's folder.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// A GGUF loaded in a dtype, computing in f32.
    pub(crate) fn load_gguf(&self, path: &Path, dtype: &str) -> Artifact {
        let params = [
            ("from.file", Value::File(path.to_owned())),
            ("dtype", text(dtype)),
            ("compute-dtype", text("f32")),
        ];
        self.run(&Load::default(), &params, &[]).unwrap().artifact
    }

    pub(crate) fn quantize(&self, model: &Artifact, params: &[(&str, Value)]) -> Outcome {
        self.run(&Quantize::default(), params, &[("model", model)]).unwrap()
    }

    pub(crate) fn model(&self, artifact: &Artifact) -> LoadedModel {
        load_model(&self.store, artifact, ComputeDevice::Cpu, 2048).unwrap()
    }
}

pub(crate) fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}
