//! The plan: for every node its key, and whether the cache already holds its result.
//!
//! A key holds the *content* of the node's inputs, so it is known only once those are. Hence three states:
//! [`NodeState::Hit`], [`NodeState::Miss`] with typed reasons, and [`NodeState::Pending`] on inputs that must run
//! first. The runner asks the same [`Assessor`] again when they did, which is what gives early cutoff.
//!
//! Which value enters which key:
//!
//! | in the key | never in the key |
//! |---|---|
//! | stage kind and semantics version | stage names, labels, cells |
//! | effective parameters of the schema | parameters that only locate (`in_key` false), paths of files |
//! | content digest per connected input port; of a port of the kind `metrics`, of the metrics | which node it came from |
//! | content digest per source, as `source:NAME` | modification times |
//! | the stage's numerics class, if it states one | device ordinals, thread counts |
//! | a plugin's files, or its `semantics` in their place | where they are |

mod assess;
mod doc;
mod error;
mod fetch;
mod input;
mod reason;
mod walk;

pub use assess::{Force, NodeState};
pub use doc::{PLAN_SCHEMA, PlanDoc, PlanNodeDoc, PlanStateDoc};
pub use error::{NodeError, PlanError};
pub use fetch::fetch;
pub use reason::MissReason;
pub use walk::{Plan, PlanOptions, PlannedNode, plan};

pub(crate) use assess::{Assessor, memory_names, source_digest, unusable};
pub(crate) use reason::changes;

/// The name of a stage's one output in an action record.
pub(crate) const OUTPUT: &str = "out";
