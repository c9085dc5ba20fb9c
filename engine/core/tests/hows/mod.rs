//! How the nodes of a run went, a letter each.

use qpipe_engine::run::{How, NodeResult};

/// `r`an, `c`ached, `F`ailed, `s`kipped, stopped (`.`), not selected (`-`).
pub(crate) fn hows(nodes: &[NodeResult]) -> String {
    let letter = |node: &NodeResult| match node {
        NodeResult::Done { how: How::Ran, .. } => 'r',
        NodeResult::Done { how: How::Cached, .. } => 'c',
        NodeResult::Failed { .. } => 'F',
        NodeResult::Skipped { .. } => 's',
        NodeResult::Stopped => '.',
        NodeResult::Unselected => '-',
    };
    nodes.iter().map(letter).collect()
}
