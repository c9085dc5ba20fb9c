//! One node: its sources, its key document, and the cache's answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;

use qpipe_cache::{
    ActionKey, ActionRecord, Answer, Digest, Found, KeyDoc, KeyValue, OutputRecord, RECORD_SCHEMA, Store,
};
use qpipe_sdk::{Schema, Source, SourceData, Stage, StageError, StageRegistry, Value, metrics};

use super::OUTPUT;
use super::error::NodeError;
use super::reason::{MissReason, SOURCE_PREFIX, differences};
use crate::graph::{Node, NodeId, Study};

/// Whether to run what the cache already holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Force {
    /// Take every hit.
    #[default]
    Nothing,
    /// Run these nodes again.
    Nodes(BTreeSet<NodeId>),
    /// Run every node again.
    Everything,
}

impl Force {
    /// Whether a node runs even if its result is there.
    pub(crate) fn applies(&self, id: NodeId) -> bool {
        match self {
            Self::Nothing => false,
            Self::Nodes(nodes) => nodes.contains(&id),
            Self::Everything => true,
        }
    }
}

/// What is known of a node before it runs.
#[derive(Clone, Debug)]
pub enum NodeState {
    /// The cache holds its result: a record with an output `out` and readable metrics.
    Hit(Box<ActionRecord>),
    /// It must run; there is at least one reason.
    Miss { doc: KeyDoc, reasons: Vec<MissReason> },
    /// Its key is not known before these inputs ran.
    Pending { on: Vec<NodeId> },
}

impl NodeState {
    /// The node's action key, where it is known.
    pub fn key(&self) -> Option<ActionKey> {
        match self {
            Self::Hit(record) => Some(record.key),
            Self::Miss { doc, .. } => Some(doc.key()),
            Self::Pending { .. } => None,
        }
    }
}

/// Decides the state of single nodes; shared by the planner and the runner so that both always agree.
#[derive(Clone, Copy)]
pub(crate) struct Assessor<'a> {
    pub(crate) study: &'a Study,
    pub(crate) registry: &'a StageRegistry,
    pub(crate) store: &'a Store,
    pub(crate) force: &'a Force,
}

impl<'a> Assessor<'a> {
    pub(crate) fn node(&self, id: NodeId) -> &'a Node {
        &self.study.nodes[id.0]
    }

    pub(crate) fn stage(&self, node: &Node) -> Result<&'a dyn Stage, StageError> {
        let unknown = || StageError::Config(format!("no stage type is called `{}`", node.kind));
        self.registry.get(&node.kind).ok_or_else(unknown)
    }

    /// Digests of everything outside the study that the node reads: files are linked and hashed, embedded bytes
    /// stored.
    pub(crate) fn sources(&self, node: &Node) -> Result<BTreeMap<String, Digest>, Box<NodeError>> {
        let fail = |param: Option<&str>, error| Box::new(NodeError::new(self.study, node, param, error));
        let declared = self.stage(node).and_then(|s| s.sources(&node.params)).map_err(|e| fail(None, e))?;
        let mut digests = BTreeMap::new();
        for source in declared {
            let digest = source_digest(self.store, &source).map_err(|e| fail(Some(&source.name), e))?;
            digests.insert(source.name, digest);
        }
        Ok(digests)
    }

    /// The node's key document. `inputs`: content digest per connected port.
    pub(crate) fn key_doc(
        &self,
        node: &Node,
        sources: &BTreeMap<String, Digest>,
        inputs: &BTreeMap<String, Digest>,
    ) -> Result<KeyDoc, StageError> {
        let stage = self.stage(node)?;
        let mut params = key_params(&stage.spec().schema, &node.params.0);
        params.extend(stage.key_entries(&node.params));
        let named = sources.iter().map(|(name, digest)| (format!("{SOURCE_PREFIX}{name}"), *digest));
        Ok(KeyDoc {
            kind: node.kind.to_string(),
            semantics: stage.spec().semantics,
            params,
            inputs: inputs.iter().map(|(port, digest)| (port.clone(), *digest)).chain(named).collect(),
            numerics: stage.numerics(&node.params),
        })
    }

    /// Hit or miss, for a node whose inputs are all known.
    pub(crate) fn assess(
        &self,
        node: &Node,
        sources: &BTreeMap<String, Digest>,
        inputs: &BTreeMap<String, Digest>,
    ) -> Result<NodeState, StageError> {
        let doc = self.key_doc(node, sources, inputs)?;
        let asked = !self.force.applies(node.id);
        let answer = asked.then(|| self.store.lookup_many(&[doc.key()]).pop()).flatten();
        Ok(self.state(node, doc, answer))
    }

    /// Hit or miss, by the store's answer; none where it was not asked, since the node is forced to run.
    pub(crate) fn state(&self, node: &Node, doc: KeyDoc, answer: Option<Answer>) -> NodeState {
        let damaged =
            |doc, fault: String| NodeState::Miss { doc, reasons: vec![MissReason::RecordDamaged { fault }] };
        match answer {
            None => NodeState::Miss { doc, reasons: vec![MissReason::Forced] },
            Some(Answer::Absent) => NodeState::Miss { reasons: self.why_absent(node, &doc), doc },
            Some(Answer::Damaged(fault)) => damaged(doc, fault.to_string()),
            Some(Answer::Hit(found)) => match record(&found, &doc) {
                Ok(record) => NodeState::Hit(Box::new(record)),
                Err(fault) => damaged(doc, fault),
            },
        }
    }

    fn why_absent(&self, node: &Node, doc: &KeyDoc) -> Vec<MissReason> {
        let memory = memory_names(self.study, node).into_iter().find_map(|name| self.store.last_doc(&name));
        let Some(memory) = memory else { return vec![MissReason::NeverRan] };
        let reasons = differences(self.study, node, (&memory.doc, doc), &|name| self.file_of(node, name));
        if reasons.is_empty() { vec![MissReason::RecordGone] } else { reasons }
    }

    /// The name of the file that a source of a node is.
    fn file_of(&self, node: &Node, name: &str) -> Option<String> {
        let sources = self.stage(node).and_then(|stage| stage.sources(&node.params)).ok()?;
        let source = sources.into_iter().find(|source| source.name == name)?;
        let SourceData::File(path) = source.data else { return None };
        Some(path.file_name()?.to_string_lossy().into_owned())
    }
}

/// The record of a hit: what the index tells of it, and the document that was looked up, which is its own. An error says
/// why it is still no node's result.
fn record(found: &Found, doc: &KeyDoc) -> Result<ActionRecord, String> {
    let outputs = found.outputs().map(|output| {
        let record = OutputRecord { kind: output.kind.into(), digest: output.digest, bytes: output.bytes };
        (output.name.into(), record)
    });
    let metrics = serde_json::from_str(found.metrics()).map_err(|error| error.to_string())?;
    let record = ActionRecord {
        schema: RECORD_SCHEMA,
        key: found.key(),
        doc: doc.clone(),
        outputs: outputs.collect(),
        refs: found.refs().map(|(digest, _)| digest).collect(),
        metrics,
        started_unix_ms: found.started_unix_ms(),
        elapsed_ms: found.elapsed_ms(),
        tool: String::new(), // the index does not tell, and nobody asks
    };
    unusable(&record).map_or(Ok(record), Err)
}

/// Why a record that the store vouches for is still no node's result.
pub(crate) fn unusable(record: &ActionRecord) -> Option<String> {
    if !record.outputs.contains_key(OUTPUT) {
        return Some(format!("it has no output `{OUTPUT}`"));
    }
    metrics::decode(&record.metrics).err().map(|error| error.to_string())
}

/// The digest of what a source holds: a file is linked, and hashed unless it is as it was; embedded bytes are stored.
pub(crate) fn source_digest(store: &Store, source: &Source) -> Result<Digest, StageError> {
    match &source.data {
        SourceData::Embedded(bytes) => Ok(store.put_bytes(bytes)?),
        SourceData::File(path) => {
            let unreadable = |e| format!("cannot read `{}` at `{}`: {e}", source.name, path.display());
            readable_file(path).map_err(|e| StageError::Config(unreadable(e)))?;
            Ok(store.link_file(path)?)
        }
    }
}

/// Asked before the store is, so that a missing file is the study's fault and not the store's.
fn readable_file(path: &Path) -> io::Result<()> {
    if File::open(path)?.metadata()?.is_file() { Ok(()) } else { Err(io::Error::other("it is not a file")) }
}

/// The parameters that enter the key: not files (their content is a source), not those that only locate one.
fn key_params(schema: &Schema, params: &BTreeMap<String, Value>) -> BTreeMap<String, KeyValue> {
    let in_key = |path: &str| schema.param(path).is_none_or(|spec| spec.in_key);
    let entry = |(path, value): (&String, &Value)| Some((path.clone(), value.to_key()?));
    params.iter().filter(|(path, _)| in_key(path)).filter_map(entry).collect()
}

/// The names under which the cache remembers the node's last key document: `STUDY/CELL/STAGE`, one for every
/// use, since cells that share a node today may part tomorrow.
pub(crate) fn memory_names(study: &Study, node: &Node) -> Vec<String> {
    let uses = node.cells.iter().flat_map(|cell| {
        let cell = &study.cells[cell.0];
        let stages = cell.nodes.iter().filter(|(_, id)| *id == node.id).map(|(stage, _)| stage);
        stages.map(|stage| format!("{}/{}/{stage}", study.name, cell.name))
    });
    uses.collect()
}
