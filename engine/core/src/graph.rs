//! The expanded study: cells, and the distinct nodes they share. Everything here is decided before anything
//! is hashed or run; it is a pure function of the manifest's text and the overrides.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use qpipe_sdk::{Params, Value};
use serde::Serialize;

use crate::limits::Limits;
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
    /// What its nodes may take, as far as the manifest's `defaults` say.
    pub limits: Limits,
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
#[derive(Clone, Debug)]
pub struct Cell {
    pub id: CellId,
    /// Readable and stable: `baseline`, `scheme=fp4`, `double-quant=false`.
    pub name: Name,
    /// The `ablate`, `sweep` or `run` it comes from.
    pub group: Name,
    pub overrides: Vec<Arc<Override>>,
    /// The cell that this one is compared with.
    pub baseline: Option<CellId>,
    /// The node of each of the template's stages in this cell.
    pub nodes: NodesByName,
}

/// One override of a cell: `weights.scheme` = `fp4`.
#[derive(Clone, Debug)]
pub struct Override {
    /// `STAGE.PARAM…`.
    pub path: String,
    pub value: Value,
    pub span: Span,
}

/// One distinct piece of work.
#[derive(Clone, Debug)]
pub struct Node {
    pub id: NodeId,
    /// The stage type: `quantize`.
    pub kind: Name,
    /// The stage's name in the manifest: `weights`. Never part of a key.
    pub stage: Name,
    /// `weights` or, where cells differ, `weights [scheme=fp4]`.
    pub label: String,
    /// Effective parameters: defaults filled in, inapplicable ones dropped.
    pub params: Arc<Params>,
    /// Where each given parameter stands in the manifest (the override's place, for an overridden one).
    pub spans: Spans,
    /// Place of the stage in the manifest.
    pub span: Span,
    /// Input port → node.
    pub inputs: NodesByName,
    /// The cells that use it, in order.
    pub cells: Vec<CellId>,
}

/// A name that many nodes and cells share.
pub type Name = Arc<str>;

/// Nodes by the names of stages or ports. The names of a hundred thousand cells are the same: they are kept once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodesByName {
    /// Ascending.
    names: Arc<[Name]>,
    ids: Box<[NodeId]>,
}

impl NodesByName {
    /// `names`, ascending, with the node of each.
    pub(crate) fn new(names: Arc<[Name]>, ids: Vec<NodeId>) -> Self {
        debug_assert!(names.len() == ids.len() && names.is_sorted());
        Self { names, ids: ids.into() }
    }

    pub fn get(&self, name: &str) -> Option<NodeId> {
        let found = self.names.binary_search_by(|known| known.as_ref().cmp(name));
        found.ok().map(|at| self.ids[at])
    }

    /// Names ascending, with their nodes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, NodeId)> {
        self.names.iter().map(AsRef::as_ref).zip(self.ids())
    }

    /// The nodes, in the order of the names.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.ids.iter().copied()
    }
}

impl FromIterator<(String, NodeId)> for NodesByName {
    fn from_iter<T: IntoIterator<Item = (String, NodeId)>>(pairs: T) -> Self {
        let sorted: BTreeMap<String, NodeId> = pairs.into_iter().collect();
        let (names, ids): (Vec<Name>, Vec<NodeId>) =
            sorted.into_iter().map(|(name, id)| (Name::from(name), id)).unzip();
        Self::new(names.into(), ids)
    }
}

/// Places of parameters: those of a stage, which all its nodes share, and those of a node's own overrides.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    shared: Arc<BTreeMap<String, Span>>,
    own: Vec<(Name, Span)>,
}

impl Spans {
    /// These places, without those of `own`.
    pub(crate) fn with(&self, own: Vec<(Name, Span)>) -> Self {
        Self { shared: Arc::clone(&self.shared), own }
    }

    pub fn get(&self, path: &str) -> Option<Span> {
        let own = self.own.iter().find(|(known, _)| known.as_ref() == path).map(|(_, span)| *span);
        own.or_else(|| self.shared.get(path).copied())
    }

    /// The place of the first parameter below `path`: of `from.path` for `from`.
    pub(crate) fn below(&self, path: &str) -> Option<Span> {
        let within = |known: &str| known.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
        let own = self.own.iter().find(|(known, _)| within(known)).map(|(_, span)| *span);
        own.or_else(|| self.shared.iter().find(|(known, _)| within(known)).map(|(_, span)| *span))
    }
}

impl FromIterator<(String, Span)> for Spans {
    fn from_iter<T: IntoIterator<Item = (String, Span)>>(pairs: T) -> Self {
        Self { shared: Arc::new(pairs.into_iter().collect()), own: Vec::new() }
    }
}

/// `report { … }`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ReportSpec {
    /// Metrics for the summary table as `STAGE.METRIC`; empty: the headline metrics of every stage.
    pub columns: Vec<String>,
}
