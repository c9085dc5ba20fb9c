//! The expanded study: cells, and the distinct nodes they share. Everything here is decided before anything
//! is hashed or run; it is a pure function of the manifest's text and the overrides.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use qpipe_sdk::{Params, Value};
use serde::Serialize;

use crate::run::FailureMode;
use crate::sources::Sources;

/// Index of a node in [`Study::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct NodeId(pub usize);

/// Index of a cell in [`Study::cells`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct CellId(pub usize);

/// A place in the texts of a study, in bytes; see [`Sources`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Span {
    pub offset: usize,
    pub len: usize,
}

/// A study, expanded: what `plan` and `run` work on.
#[derive(Clone, Debug)]
pub struct Study {
    pub name: String,
    /// The manifest and what it includes, for diagnostics and for the run record.
    pub sources: Arc<Sources>,
    pub cells: Vec<Cell>,
    /// Distinct nodes in topological order: inputs come before their users.
    pub nodes: Vec<Node>,
    pub report: ReportSpec,
    /// What a failed stage means for the others, if the manifest's `defaults` say so.
    pub failure: Option<FailureMode>,
    /// `--set` overrides that were applied, as given.
    pub overrides: Vec<(String, String)>,
}

impl Study {
    /// The manifest's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.sources.root().path
    }

    /// The manifest's text.
    pub fn text(&self) -> &str {
        &self.sources.root().text
    }
}

/// One cell: the template graph with a set of overrides.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    pub id: CellId,
    /// Readable and stable: `baseline`, `scheme=fp4`, `double-quant=false`.
    pub name: String,
    /// The `ablate`, `sweep` or `run` it comes from.
    pub group: String,
    pub overrides: Vec<Override>,
    /// The cell that this one is compared with.
    pub baseline: Option<CellId>,
    /// The node of each of the template's stages in this cell.
    pub nodes: BTreeMap<String, NodeId>,
}

/// One override of a cell: `weights.scheme` = `fp4`.
#[derive(Clone, Debug, Serialize)]
pub struct Override {
    /// `STAGE.PARAM…`.
    pub path: String,
    pub value: Value,
    pub span: Span,
}

/// One distinct piece of work.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    pub id: NodeId,
    /// The stage type: `quantize`.
    pub kind: String,
    /// The stage's name in the manifest: `weights`. Never part of a key.
    pub stage: String,
    /// `weights` or, where cells differ, `weights [scheme=fp4]`.
    pub label: String,
    /// Effective parameters: defaults filled in, inapplicable ones dropped.
    pub params: Params,
    /// Where each given parameter stands in the manifest (the override's place, for an overridden one).
    pub spans: BTreeMap<String, Span>,
    /// Place of the stage in the manifest.
    pub span: Span,
    /// Input port → node.
    pub inputs: BTreeMap<String, NodeId>,
    /// The cells that use it, in order.
    pub cells: Vec<CellId>,
}

/// `report { … }`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReportSpec {
    /// Metrics for the summary table as `STAGE.METRIC`; empty: the headline metrics of every stage.
    pub columns: Vec<String>,
}
