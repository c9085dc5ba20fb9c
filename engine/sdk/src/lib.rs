//! What a stage author sees: the [`Stage`] trait, typed parameters and ports, artifacts, metrics, events.
//!
//! A stage is a pure function of what its [`Context`] hands it: parameters, input artifacts, sources, the store.
//! Anything else it read would be a hidden input, and a hidden input is a bug: the action key could not name it.
//!
//! | module | holds |
//! |---|---|
//! | [`value`] | [`Value`], [`Params`]: typed parameter values by dotted path |
//! | [`schema`] | [`Schema`]: what a stage declares of its parameters; decoding, keys and docs are derived from it |
//! | [`spec`] | [`StageSpec`], ports, artifact kinds, determinism classes |
//! | [`stage`] | the [`Stage`] trait, its [`Context`] and [`Outcome`] |
//! | [`metric`] | [`Metric`]: one measured number with unit, count and spread |
//! | [`metrics`] | [`metrics::Measured`]: what a stage told, as a record keeps it and another stage reads it |
//! | [`event`] | what a running stage tells: progress, units, logs; and the request to stop |
//! | [`files`] | the `files` artifact: named files and folders |
//! | `collect`, `beneath` | outputs in a folder that somebody else may be changing |
//! | [`generation`] | what a stage that generates text leaves for people |
//! | [`resources`] | what a stage needs while it runs: a GPU, memory, the machine for itself |
//! | [`protocol`] | `qstage/1`: stages in processes of their own |
//! | [`plugin`] | one line that makes stages a program of their own |
//! | [`error`] | [`StageError`] and its classes |

mod beneath;
mod collect;
pub mod error;
pub mod event;
pub mod files;
pub mod generation;
mod intern;
pub mod metric;
pub mod metrics;
pub mod plugin;
pub mod protocol;
pub mod resources;
pub mod schema;
pub mod spec;
pub mod stage;
pub mod value;

pub use qpipe_cache as cache;

pub use error::{ErrorClass, StageError};
pub use event::{Cancel, EventSink, StageEvent};
pub use intern::{intern, intern_all};
pub use metric::{Better, Metric, Paired};
pub use protocol::{KeyedBy, OutputFile};
pub use resources::{GpuNeed, Resources};
pub use schema::{Applies, KeyedChoice, Names, NodeForm, NodeSpec, ParamSpec, ParamType, Schema};
pub use spec::{ArtifactKind, Determinism, PortSpec, StageSpec};
pub use stage::{Artifact, Context, Outcome, Source, SourceData, Stage, StageRegistry, UnitOutput};
pub use value::{Params, Value};
