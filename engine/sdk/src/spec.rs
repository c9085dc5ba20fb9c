//! What a stage type is: its kind, ports, parameters, and how repeatable its results are.

use serde::{Deserialize, Serialize};

use crate::schema::Schema;

/// The kind of an artifact; ports connect only equal kinds. A port of the kind [`METRICS`](Self::METRICS) connects to any
/// stage: it gets what that stage told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ArtifactKind(pub String);

impl ArtifactKind {
    pub const MODEL: &'static str = "model";
    pub const EVALUATION: &'static str = "evaluation";
    pub const BENCHMARK: &'static str = "benchmark";
    /// Generated texts: [`crate::generation`].
    pub const GENERATION: &'static str = "generation";
    /// Metrics of a stage: [`crate::metrics`].
    pub const METRICS: &'static str = "metrics";
    /// Named files and folders, as commands and plugins make them.
    pub const FILES: &'static str = "files";

    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }
}

impl std::fmt::Display for ArtifactKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How repeatable a stage's outputs are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Determinism {
    /// Equal inputs give equal bytes, everywhere.
    Exact,
    /// Equal inputs and numerics class give equal bytes.
    Seeded,
    /// A measurement of this machine: the machine's fingerprint is part of the key.
    Measurement,
}

/// An input port.
#[derive(Clone, Debug)]
pub struct PortSpec {
    pub name: &'static str,
    pub doc: &'static str,
    pub kind: ArtifactKind,
    pub required: bool,
}

/// The declaration of a stage type.
#[derive(Clone, Debug)]
pub struct StageSpec {
    /// The node name in a manifest: `load`, `quantize`, …
    pub kind: &'static str,
    /// Raised whenever equal inputs may give other outputs than before; part of every key.
    pub semantics: u32,
    pub doc: &'static str,
    pub inputs: Vec<PortSpec>,
    /// The one artifact that `STAGE` as a port value refers to.
    pub output: ArtifactKind,
    pub schema: Schema,
    pub determinism: Determinism,
}
