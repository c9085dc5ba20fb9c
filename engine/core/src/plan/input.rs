//! What a port gets of the stage that is connected to it: the artifact, or the metrics as a document.

use qpipe_cache::{ActionRecord, Digest};
use qpipe_sdk::{Artifact, ArtifactKind, metrics};

use super::OUTPUT;
use super::assess::Assessor;
use crate::graph::Node;

impl Assessor<'_> {
    /// Content of what a port gets: what its node's key contains.
    pub(crate) fn input_digest(&self, node: &Node, port: &str, record: &ActionRecord) -> Digest {
        match self.document(node, port, record) {
            Some(document) => Digest::of_bytes(&document),
            None => record.outputs[OUTPUT].digest,
        }
    }

    /// What a port gets. A document is not in the store before the node runs.
    pub(crate) fn input(&self, node: &Node, port: &str, record: &ActionRecord) -> Artifact {
        if let Some(document) = self.document(node, port, record) {
            return Artifact::single(ArtifactKind::METRICS, Digest::of_bytes(&document));
        }
        let output = &record.outputs[OUTPUT];
        let kind = ArtifactKind::new(output.kind.clone());
        Artifact { kind, digest: output.digest, refs: record.refs.clone() }
    }

    /// The document of a record's metrics, where the port takes them.
    pub(crate) fn document(&self, node: &Node, port: &str, record: &ActionRecord) -> Option<Vec<u8>> {
        let inputs = &self.stage(node).ok()?.spec().inputs;
        let port = inputs.iter().find(|known| known.name == port)?;
        (port.kind.0 == ArtifactKind::METRICS).then(|| metrics::document(&record.doc.kind, &record.metrics))
    }
}
