//! Stages outside the engine's own process: commands, plugins, and built-in stages that want to be alone.
//!
//! | module | holds |
//! |---|---|
//! | [`machine`] | what such a process sees of the machine |
//! | [`launch`] | a command as a process group that cannot outlive the engine |
//! | [`scratch`] | folders for one job each |
//! | [`files`] | the `files` artifact: what commands and plugins make |
//! | `document` | a document of a plugin's, with its blobs |
//! | [`session`] | the engine's side of a `qstage/1` conversation |
//! | [`process`] | a worker process, and a pool of them |
//! | [`plugin`] | a stage type that a plugin brings |
//! | [`isolate`] | a built-in stage in a process of its own |
//!
//! What runs there is not believed: outputs are looked for where they were declared, hashed and stored by the engine.
//! A worker that breaks the protocol, falls silent or dies costs one node, as a typed error, and is replaced.

mod document;
pub mod error;
pub mod isolate;
pub mod launch;
pub mod machine;
pub mod plugin;
pub mod process;
mod request;
pub mod scratch;
pub mod session;

pub use qpipe_sdk::files;

pub use error::WorkerError;
pub use isolate::{Isolated, isolate};
pub use machine::Machine;
pub use plugin::{PluginCommand, PluginStage};
pub use process::{Pool, Worker, WorkerCommand};
pub use session::{Estimate, Finished, Limits, Session, Watch};
