//! A folder with plugins, a store beside it, and studies over them.

#![allow(dead_code, reason = "each test file uses its own part of the laboratory")]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::fs;
use std::path::{Path, PathBuf};

use qpipe_cache::Store;
use qpipe_engine::graph::Study;
use qpipe_engine::manifest::{LoadOptions, ManifestErrors, load_plugins, load_study};
use qpipe_engine::plan::{MissReason, NodeState, Plan, PlanOptions, plan};
use qpipe_engine::run::{NodeResult, RunEvent, RunOptions, RunResult, run};
use qpipe_engine::worker::Machine;
use qpipe_engine::worker::files::Files;
use qpipe_sdk::{ErrorClass, StageRegistry};

/// The kit of plugins in Python.
pub(crate) const KIT: &str = "../sdk/python/qpipe_stage.py";

/// A file of the package.
pub(crate) fn package(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join(name)
}

/// The environment and the scratch folders of workers.
pub(crate) fn machine(folder: &Path) -> Machine {
    let path = std::env::var_os("PATH").map(|path| ("PATH".into(), path));
    Machine::new(path, &folder.join("temp"))
}

pub(crate) struct PluginLab {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) machine: Machine,
}

impl PluginLab {
    /// With files of the package in its folder.
    pub(crate) fn new(files: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        for from in files.iter().map(|name| package(name)) {
            fs::copy(&from, dir.path().join(from.file_name().unwrap())).unwrap();
        }
        Self { machine: machine(dir.path()), dir, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What a file holds; it is removed.
    pub(crate) fn taken(&self, name: &str) -> String {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        let _none = fs::remove_file(self.path(name));
        text
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.path("lab.kdl")
    }

    /// The plugins of a text beside other stage types.
    pub(crate) fn plugins(
        &self,
        text: &str,
        others: &StageRegistry,
        store: Option<&Store>,
    ) -> Result<StageRegistry, ManifestErrors> {
        load_plugins(&self.manifest(), &headed(text), &LoadOptions::default(), others, &self.machine, store)
    }

    pub(crate) fn study(&self, text: &str, registry: &StageRegistry) -> Result<Study, ManifestErrors> {
        load_study(&self.manifest(), &headed(text), &LoadOptions::default(), registry)
    }

    pub(crate) fn plan(&self, study: &Study, registry: &StageRegistry) -> Plan {
        plan(study, registry, &self.store, &PlanOptions::default()).unwrap()
    }

    /// Plans a study and runs it.
    pub(crate) fn run_study(
        &self,
        study: &Study,
        registry: &StageRegistry,
        options: &RunOptions,
    ) -> (RunResult, Vec<RunEvent>) {
        let (plan, mut events) = (self.plan(study, registry), Vec::new());
        (run(study, &plan, registry, &self.store, options, &mut events), events)
    }

    /// A text among a node's outputs.
    pub(crate) fn output(&self, node: &NodeResult, name: &str) -> String {
        output(&self.store, node, name)
    }
}

/// A manifest of these nodes.
pub(crate) fn headed(text: &str) -> String {
    format!("qpipe 1 name=lab\n{text}")
}

/// What is wrong with a manifest, a line for each error.
#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
pub(crate) fn told(errors: ManifestErrors) -> String {
    errors.errors().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Why a node must run; nothing where it need not.
pub(crate) fn why(state: &NodeState) -> Vec<String> {
    match state {
        NodeState::Miss { reasons, .. } => reasons.iter().map(MissReason::to_string).collect(),
        _ => Vec::new(),
    }
}

/// The first failure of a run.
pub(crate) fn failure(result: &RunResult) -> (ErrorClass, String) {
    let (_, class, message) = result.failures().next().expect("it fails");
    (class, message.to_owned())
}

/// A text among the outputs of a node.
pub(crate) fn output(store: &Store, node: &NodeResult, name: &str) -> String {
    let files = Files::read(store, &node.record().expect("it is done").outputs["out"].digest).unwrap();
    let (_, entry) = files.entries().find(|(path, _)| path == Path::new(name)).expect("it is there");
    String::from_utf8(store.read(&entry.digest).unwrap()).unwrap()
}
