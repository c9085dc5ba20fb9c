//! The memory of nodes: the last key document seen under a node's name.
//!
//! Names never enter keys, so a miss alone cannot say what changed. With the document that the same node (study, stage,
//! cell) had last time, it can: the two are compared field by field. This is advice for a person and nothing else, so
//! a lost or damaged entry is no entry, and nothing is synced.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::key::{ActionKey, KeyDoc};
use crate::sealed::{self, Format};
use crate::store::Store;

const NODE: Format = Format { name: "qpipe-node", version: 1 };

/// What a node was, the last time it was planned or run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeMemory {
    /// The node's name, as given to [`Store::remember`].
    pub node: String,
    /// The key of `doc`.
    pub key: ActionKey,
    /// The document.
    pub doc: KeyDoc,
    /// When it was remembered, milliseconds since the Unix epoch.
    pub unix_ms: u64,
}

impl Store {
    /// The last document remembered under a node's name.
    pub fn last_doc(&self, node: &str) -> Option<NodeMemory> {
        let text = fs::read(self.layout().node(node)).ok()?;
        let memory: NodeMemory = sealed::open(NODE, &text).ok()?;
        (memory.node == node && memory.doc.key() == memory.key).then_some(memory)
    }

    /// Remembers a node's document; one that is remembered already is not written again.
    pub fn remember(&self, node: &str, doc: &KeyDoc) -> Result<(), StoreError> {
        let key = doc.key();
        if self.is_marked(node, &key) {
            return Ok(());
        }
        if self.last_doc(node).is_some_and(|memory| memory.key == key) {
            self.mark(node, &key);
            return Ok(());
        }
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let memory = NodeMemory { node: node.to_owned(), key, doc: doc.clone(), unix_ms };
        let to = self.layout().node(node);
        self.publish_advisory(&sealed::seal_for(NODE, &memory, &to)?, &to)?;
        self.mark(node, &key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_document_is_remembered_per_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (old, new) = (KeyDoc::new("q", 1).param("block", 64), KeyDoc::new("q", 1).param("block", 128));
        assert_eq!(store.last_doc("ablation/weights/base"), None);
        store.remember("ablation/weights/base", &old).unwrap();
        store.remember("ablation/weights/base", &new).unwrap();
        store.remember("other/../weights", &old).unwrap();
        assert_eq!(store.last_doc("ablation/weights/base").unwrap().doc, new);
        assert_eq!(store.last_doc("other/../weights").unwrap().key, old.key());
    }

    #[test]
    fn a_damaged_memory_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.remember("n", &KeyDoc::new("q", 1)).unwrap();
        let path = store.layout().node("n");
        let text = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert_eq!(store.last_doc("n"), None);
        store.remember("n", &KeyDoc::new("q", 2)).unwrap();
        assert_eq!(store.last_doc("n").unwrap().doc.semantics, 2);
    }
}
