//! Texts that a run's stages generated, for people to look at.

use std::fmt::Write;

use qpipe_cache::{ActionKey, ActionRecord, Lookup, Store};
use qpipe_sdk::ArtifactKind;
use qpipe_sdk::generation::{Generation, Sample};
use serde::Serialize;

use super::summary::RunSummary;
use crate::graph::Study;
use crate::plan::OUTPUT;
use crate::run::RunResult;

/// Samples of one node that are shown; its artifact holds all.
const SHOWN: usize = 3;

/// The first texts of one node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeSamples {
    pub node: String,
    /// How many texts there are.
    pub all: usize,
    pub samples: Vec<Sample>,
}

/// The texts of a run that has just ended.
pub fn samples(study: &Study, result: &RunResult, store: &Store) -> Vec<NodeSamples> {
    let nodes = study.nodes.iter().zip(&result.nodes);
    nodes.filter_map(|(node, ended)| of_record(&node.label, ended.record()?, store)).collect()
}

/// The texts of an earlier run, as far as the store still holds them.
pub fn samples_of(summary: &RunSummary, store: &Store) -> Vec<NodeSamples> {
    let of_node = |node: &super::summary::NodeSummary| {
        let key: ActionKey = node.key.as_ref()?.parse().ok()?;
        match store.lookup(&key) {
            Lookup::Hit(record) => of_record(&node.label, &record, store),
            _ => None,
        }
    };
    summary.nodes.iter().filter_map(of_node).collect()
}

fn of_record(node: &str, record: &ActionRecord, store: &Store) -> Option<NodeSamples> {
    let output = record.outputs.get(OUTPUT).filter(|output| output.kind == ArtifactKind::GENERATION)?;
    let mut samples = Generation::read(&store.read(&output.digest).ok()?)?.samples;
    let all = samples.len();
    samples.truncate(SHOWN);
    Some(NodeSamples { node: node.to_owned(), all, samples })
}

/// Samples as Markdown; nothing where there are none.
pub(crate) fn markdown(nodes: &[NodeSamples]) -> String {
    let mut out = String::new();
    for NodeSamples { node, all, samples } in nodes {
        let _ = write!(out, "\n## {node}\n");
        for Sample { prompt, text, .. } in samples {
            let _ = write!(out, "\n{}\n", quoted(&format!("**{}**{}", literal(prompt), literal(text))));
        }
        if *all > samples.len() {
            let _ = write!(out, "\n{} of {all} texts\n", samples.len());
        }
    }
    out
}

/// A block quote; line ends stay.
fn quoted(text: &str) -> String {
    text.lines().map(|line| format!("> {line}  ")).collect::<Vec<_>>().join("\n")
}

/// Text that Markdown shows as it is.
fn literal(text: &str) -> String {
    let special = |c: char| "\\`*_{}[]<>#|".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_shows_texts_as_they_are() {
        let sample = Sample {
            prompt: "a *b*".into(),
            text: " c\n# d".into(),
            prompt_tokens: vec![1],
            tokens: vec![2],
            finish: "length".into(),
        };
        let nodes = [NodeSamples { node: "texts".into(), all: 2, samples: vec![sample] }];
        let shown = markdown(&nodes);
        assert_eq!(shown, "\n## texts\n\n> **a \\*b\\*** c  \n> \\# d  \n\n1 of 2 texts\n");
        assert_eq!(markdown(&[]), "");
    }
}
