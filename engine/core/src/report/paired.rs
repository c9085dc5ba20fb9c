//! Paired differences in the table: what each is compared with, and what remains of its p-value when a study makes
//! many comparisons.
//!
//! The family of a correction is one metric of one stage over the study's distinct nodes: cells that share a node make
//! one comparison, and a model that meets itself makes none.

use std::collections::BTreeMap;

use super::table::Row;
use crate::graph::{NodeId, Study};

/// Below this corrected p-value a difference is marked.
pub(super) const LEVEL: f64 = 0.05;

/// What stands beside a metric's own paired difference.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The stage whose model it is compared with.
    pub against: String,
    /// The p-value after Holm's correction; `None` where there is nothing to test.
    pub adjusted_p: Option<f64>,
    /// Comparisons that the correction counts.
    pub family: usize,
}

impl Comparison {
    pub fn is_significant(&self) -> bool {
        self.adjusted_p.is_some_and(|p| p < LEVEL)
    }
}

/// A comparison that a node made, with its p-value.
type Tested = (NodeId, f64);

/// Fills in the comparisons of all entries that have a paired difference; `rows` are the study's cells in order.
pub(super) fn compare(study: &Study, rows: &mut [Row]) {
    let mut families: BTreeMap<(String, String), Vec<Tested>> = BTreeMap::new();
    for (row, cell) in rows.iter().zip(&study.cells) {
        for entry in &row.entries {
            let p = entry.metric.paired.as_ref().and_then(|paired| paired.p);
            let (Some(p), Some(node)) = (p, cell.nodes.get(&entry.stage)) else { continue };
            let family = families.entry((entry.stage.clone(), entry.metric.name.clone())).or_default();
            if !family.iter().any(|(known, _)| *known == node) {
                family.push((node, p));
            }
        }
    }
    let corrected: BTreeMap<_, _> =
        families.into_iter().map(|(of, tested)| (of, corrected(&tested))).collect();
    for (row, cell) in rows.iter_mut().zip(&study.cells) {
        for entry in &mut row.entries {
            let (Some(paired), Some(node)) = (&entry.metric.paired, cell.nodes.get(&entry.stage)) else {
                continue;
            };
            let against = study.nodes[node.0].inputs.get(&paired.port);
            let family = corrected.get(&(entry.stage.clone(), entry.metric.name.clone()));
            entry.comparison = Some(Comparison {
                against: against
                    .map_or_else(|| paired.port.clone(), |id| study.nodes[id.0].stage.to_string()),
                adjusted_p: paired.p.and(family.and_then(|family| family.get(&node).copied())),
                family: family.map_or(0, BTreeMap::len),
            });
        }
    }
}

fn corrected(tested: &[Tested]) -> BTreeMap<NodeId, f64> {
    let adjusted = holm(&tested.iter().map(|(_, p)| *p).collect::<Vec<_>>());
    tested.iter().map(|(node, _)| *node).zip(adjusted).collect()
}

/// P-values corrected for their number by Holm's step-down procedure (Holm 1979, Scand. J. Statist. 6): the k-th
/// smallest of m, from 0, times `m − k`, never below the one before and at most 1.
fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let (mut adjusted, mut least) = (vec![1.0; p.len()], 0.0_f64);
    for (k, at) in order.into_iter().enumerate() {
        least = least.max((p[at] * (p.len() - k) as f64).min(1.0));
        adjusted[at] = least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holm_agrees_with_the_published_procedure() {
        // R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        let expected = [0.03, 0.06, 0.06, 0.02];
        assert!(adjusted.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{adjusted:?}");
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert_eq!(holm(&[]), [0.0; 0]);
    }
}
