//! `run.json` as a text, written as it is walked: a sweep's is long. Its middle, `"cells":[…],"nodes":[…]`, says nothing of
//! when and where the run was, so that of another run with the same results can stand in its place.

use std::ops::Range;
use std::path::PathBuf;

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

use super::environment::Environment;
use super::id::RunId;
use super::summary::{IncludeSummary, NodeStatus, RUN_SCHEMA, Started, include_name, status};
use crate::graph::{Cell, Node, NodesByName, Override, Study};
use crate::plan::Plan;
use crate::run::{Counts, RunOutcome, RunResult};
use crate::sources::SourceFile;

/// What `run.json` says before the cells; see [`super::RunSummary`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunHead {
    pub(super) schema: u32,
    pub(crate) run: RunId,
    pub(crate) study: String,
    pub(crate) manifest: PathBuf,
    pub(super) sources_digest: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) includes: Vec<IncludeSummary>,
    pub(super) overrides: Vec<(String, String)>,
    pub(crate) started: String,
    pub(crate) elapsed_ms: u64,
    pub(crate) outcome: RunOutcome,
    pub(crate) counts: Counts,
    pub(crate) saved_ms: u64,
}

impl RunHead {
    pub(super) fn new(study: &Study, result: &RunResult, started: &Started) -> Self {
        Self {
            schema: RUN_SCHEMA,
            run: started.run.clone(),
            study: study.name.clone(),
            manifest: study.path().to_owned(),
            sources_digest: study.sources.digest().to_string(),
            includes: includes(study),
            overrides: study.overrides.clone(),
            started: started.started.clone(),
            elapsed_ms: result.elapsed_ms,
            outcome: result.outcome,
            counts: result.counts(),
            saved_ms: result.saved_ms(),
        }
    }
}

fn includes(study: &Study) -> Vec<IncludeSummary> {
    let summary = |(index, file): (usize, &SourceFile)| IncludeSummary {
        path: file.path.clone(),
        file: include_name(index, &file.path),
    };
    study.sources.includes().iter().enumerate().map(summary).collect()
}

/// The whole text, and where in it the middle is. `middle` appends that to what it is given.
pub(super) fn run_text(
    head: &RunHead,
    middle: impl FnOnce(&mut Vec<u8>) -> serde_json::Result<()>,
) -> serde_json::Result<(Vec<u8>, Range<usize>)> {
    let mut text = head_text(head)?;
    let start = text.len();
    middle(&mut text)?;
    let end = text.len();
    text.extend(tail_text()?);
    Ok((text, start..end))
}

/// What stands before the middle.
pub(super) fn head_text(head: &RunHead) -> serde_json::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(head)?;
    text.pop();
    text.push(b',');
    Ok(text)
}

/// What follows the middle: where this process runs.
pub(super) fn tail_text() -> serde_json::Result<Vec<u8>> {
    let mut text = b",\"environment\":".to_vec();
    serde_json::to_writer(&mut text, &Environment::probe())?;
    text.push(b'}');
    Ok(text)
}

/// Appends the cells and nodes of a run.
pub(super) fn write_middle(
    out: &mut Vec<u8>,
    study: &Study,
    plan: &Plan,
    result: &RunResult,
) -> serde_json::Result<()> {
    out.extend(b"\"cells\":");
    let cells = study.cells.iter().map(|cell| CellDoc::new(study, cell));
    serde_json::Serializer::new(&mut *out).collect_seq(cells)?;
    out.extend(b",\"nodes\":");
    let nodes = study.nodes.iter().map(|node| NodeDoc::new(study, plan, result, node));
    serde_json::Serializer::new(out).collect_seq(nodes)
}

/// As [`super::CellSummary`].
#[derive(Serialize)]
struct CellDoc<'a> {
    cell: &'a str,
    group: &'a str,
    baseline: Option<&'a str>,
    overrides: Overrides<'a>,
    nodes: Nodes<'a>,
}

impl<'a> CellDoc<'a> {
    fn new(study: &'a Study, cell: &'a Cell) -> Self {
        Self {
            cell: &cell.name,
            group: &cell.group,
            baseline: cell.baseline.map(|id| study.cells[id.0].name.as_ref()),
            overrides: Overrides(cell.overrides.iter().map(AsRef::as_ref).collect()),
            nodes: Nodes(&cell.nodes),
        }
    }
}

struct Overrides<'a>(Vec<&'a Override>);

impl Serialize for Overrides<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut sorted = self.0.clone();
        sorted.sort_by(|a, b| a.path.cmp(&b.path));
        let mut map = to.serialize_map(Some(sorted.len()))?;
        for o in sorted {
            map.serialize_key(&o.path)?;
            map.serialize_value(&Shown(&o.value))?;
        }
        map.end()
    }
}

/// A value as a text.
struct Shown<'a>(&'a qpipe_sdk::Value);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self.0)
    }
}

struct Nodes<'a>(&'a NodesByName);

impl Serialize for Nodes<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter())
    }
}

/// As [`super::NodeSummary`].
#[derive(Serialize)]
struct NodeDoc<'a> {
    label: &'a str,
    stage: &'a str,
    kind: &'a str,
    key: Option<qpipe_cache::ActionKey>,
    #[serde(flatten)]
    status: NodeStatus,
}

impl<'a> NodeDoc<'a> {
    fn new(study: &Study, plan: &Plan, result: &RunResult, node: &'a Node) -> Self {
        let ended = &result.nodes[node.id.0];
        let planned = || plan.nodes[node.id.0].state.key();
        Self {
            label: &node.label,
            stage: &node.stage,
            kind: &node.kind,
            key: ended.record().map(|record| record.key).or_else(planned),
            status: status(study, ended),
        }
    }
}
