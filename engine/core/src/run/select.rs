//! What of a study is asked for: `--only`, `--from`, `--until`, by `STAGE`, `STAGE/CELL` or `/CELL`.
//!
//! | asked | goals | what they need and the store does not hold |
//! |---|---|---|
//! | `only X` | `X` | is an error: nothing else runs |
//! | `until X` | `X` and what it depends on | is among the goals |
//! | `from X` | `X` and what depends on it | runs too |
//!
//! Several names of one option add up; several options narrow each other down.

use std::collections::BTreeSet;

use miette::Diagnostic;

use crate::graph::{NodeId, Study};
use crate::manifest::suggest;
use crate::plan::{NodeState, Plan};

/// What the command line says, as given.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    pub only: Vec<String>,
    pub from: Vec<String>,
    pub until: Vec<String>,
}

/// The nodes that a run is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goals {
    pub nodes: BTreeSet<NodeId>,
    /// Whether anything else may run, if they need it.
    pub strict: bool,
}

/// Why a selection cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Diagnostic)]
pub enum SelectError {
    #[error("the study has no stage `{name}`")]
    #[diagnostic(code(qpipe::select::unknown_stage))]
    UnknownStage {
        name: String,
        #[help]
        help: Option<String>,
    },
    #[error("the study has no cell `{name}`")]
    #[diagnostic(code(qpipe::select::unknown_cell))]
    UnknownCell {
        name: String,
        #[help]
        help: Option<String>,
    },
    #[error("nothing is selected")]
    #[diagnostic(
        code(qpipe::select::nothing),
        help("`--only`, `--from` and `--until` narrow each other down; no node is left")
    )]
    Nothing,
    #[error("`{node}` needs `{input}`, which the store does not hold")]
    #[diagnostic(
        code(qpipe::select::missing_input),
        help("`--only` runs nothing else; `--until` also runs what is needed")
    )]
    MissingInput { node: String, input: String },
}

/// The nodes that any of `names` names.
///
/// # Errors
/// A stage or cell that the study does not have.
pub fn named(study: &Study, names: &[String]) -> Result<BTreeSet<NodeId>, SelectError> {
    let mut nodes = BTreeSet::new();
    for name in names {
        let (stage, cell) = match name.split_once('/') {
            Some((stage, cell)) => (stage, Some(known_cell(study, cell)?)),
            None => (name.as_str(), None),
        };
        if !stage.is_empty() || cell.is_none() {
            known_stage(study, stage)?;
        }
        let cells =
            study.cells.iter().enumerate().filter(|(index, _)| cell.is_none_or(|cell| cell == *index));
        let uses = cells.flat_map(|(_, cell)| cell.nodes.iter());
        nodes.extend(uses.filter(|(known, _)| stage.is_empty() || *known == stage).map(|(_, id)| id));
    }
    Ok(nodes)
}

/// Refuses names that are neither stages nor stage types of the study.
///
/// # Errors
/// The first such name.
pub fn check_stage_names<'n>(
    study: &Study,
    names: impl IntoIterator<Item = &'n String>,
) -> Result<(), SelectError> {
    let known: BTreeSet<&str> = study.nodes.iter().flat_map(|node| [&*node.stage, &*node.kind]).collect();
    let Some(name) = names.into_iter().find(|name| !known.contains(name.as_str())) else { return Ok(()) };
    Err(SelectError::UnknownStage { name: name.clone(), help: suggest(name, "stages", known) })
}

fn known_stage(study: &Study, name: &str) -> Result<(), SelectError> {
    let stages: BTreeSet<&str> = study.nodes.iter().map(|node| node.stage.as_ref()).collect();
    if stages.contains(name) {
        return Ok(());
    }
    Err(SelectError::UnknownStage { name: name.to_owned(), help: suggest(name, "stages", stages) })
}

fn known_cell(study: &Study, name: &str) -> Result<usize, SelectError> {
    let cells = || study.cells.iter().map(|cell| cell.name.as_ref());
    let unknown =
        || SelectError::UnknownCell { name: name.to_owned(), help: suggest(name, "cells", cells()) };
    cells().position(|cell| cell == name).ok_or_else(unknown)
}

impl Selection {
    pub fn is_everything(&self) -> bool {
        self.only.is_empty() && self.from.is_empty() && self.until.is_empty()
    }

    /// The goals, or `None` for everything.
    ///
    /// # Errors
    /// An unknown name, or a selection of nothing.
    pub fn goals(&self, study: &Study) -> Result<Option<Goals>, SelectError> {
        if self.is_everything() {
            return Ok(None);
        }
        let (only, from, until) =
            (named(study, &self.only)?, named(study, &self.from)?, named(study, &self.until)?);
        let (after, before) = (with_users(study, from), with_inputs(study, until));
        let kept = |id: &NodeId| {
            let within = |asked: &[String], nodes: &BTreeSet<NodeId>| asked.is_empty() || nodes.contains(id);
            within(&self.only, &only) && within(&self.from, &after) && within(&self.until, &before)
        };
        let nodes: BTreeSet<NodeId> = study.nodes.iter().map(|node| node.id).filter(kept).collect();
        if nodes.is_empty() {
            return Err(SelectError::Nothing);
        }
        Ok(Some(Goals { nodes, strict: !self.only.is_empty() }))
    }
}

/// The nodes and everything that depends on them.
fn with_users(study: &Study, mut nodes: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    for node in &study.nodes {
        if node.inputs.ids().any(|input| nodes.contains(&input)) {
            nodes.insert(node.id);
        }
    }
    nodes
}

/// The nodes and everything they depend on.
fn with_inputs(study: &Study, mut nodes: BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    for node in study.nodes.iter().rev() {
        if nodes.contains(&node.id) {
            nodes.extend(node.inputs.ids());
        }
    }
    nodes
}

impl Goals {
    /// Whether everything that strict goals need is there or among them.
    ///
    /// # Errors
    /// The first input that is neither.
    pub fn check(&self, study: &Study, plan: &Plan) -> Result<(), SelectError> {
        if !self.strict {
            return Ok(());
        }
        for node in self.nodes.iter().map(|id| &study.nodes[id.0]) {
            let there =
                |id: &NodeId| self.nodes.contains(id) || matches!(plan.nodes[id.0].state, NodeState::Hit(_));
            if let Some(input) = node.inputs.ids().find(|input| !there(input)) {
                let label = |id: NodeId| study.nodes[id.0].label.clone();
                return Err(SelectError::MissingInput { node: label(node.id), input: label(input) });
            }
        }
        Ok(())
    }
}

/// Per node: whether the run may have to run it. Of what is no goal, that is what an unfinished goal needs and the
/// store does not hold.
pub fn needed(study: &Study, plan: &Plan, goals: Option<&Goals>) -> Vec<bool> {
    let Some(goals) = goals else { return vec![true; study.nodes.len()] };
    let mut needed: Vec<bool> = study.nodes.iter().map(|node| goals.nodes.contains(&node.id)).collect();
    for node in study.nodes.iter().rev() {
        let runs = needed[node.id.0] && !matches!(plan.nodes[node.id.0].state, NodeState::Hit(_));
        for input in node.inputs.ids().filter(|_| runs) {
            needed[input.0] = true;
        }
    }
    needed
}
