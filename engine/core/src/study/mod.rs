//! Template and groups → cells and the distinct nodes they share.
//!
//! | module | does |
//! |---|---|
//! | `cells` | the overrides of every cell, and the cell's name |
//! | `names` | how a parameter is called in a cell's name |
//! | `variants` | effective parameters of a stage under a set of overrides, checked once each |
//! | `ablation` | that a cell differs from the baseline in exactly one variable |
//! | `merge` | equal work of several cells → one node |
//!
//! The cost is that of the cells and nodes that come out: a stage's parameters are computed once per distinct set
//! of overrides on it, and equal nodes are found by hashing their identity, never by comparing pairs.

mod ablation;
mod cells;
mod expand;
mod merge;
mod names;
mod rules;
mod variants;

pub(crate) use expand::{Request, expand};
pub(crate) use merge::Expanded;
pub(crate) use rules::refuse_inapplicable;
