//! Stages outside the engine's own process: commands, plugins, and built-in stages that want to be alone.
//!
//! | module | holds |
//! |---|---|
//! | [`machine`] | what such a process sees of the machine |
//! | [`launch`] | a command as a process group that cannot outlive the engine |
//! | [`wall`] | what such a process can reach, held by the kernel |
//! | `calls` | which calls of the kernel it does not have |
//! | `support` | what of all this the kernel can hold |
//! | `procfs` | what it can reach of `/proc` |
//! | `reach` | what a plugin's wall lets through |
//! | [`scratch`] | folders for one job each |
//! | [`temp`] | the engine's folder for temporary files |
//! | `room` | those of a worker behind a wall |
//! | [`files`] | the `files` artifact: what commands and plugins make |
//! | `document` | a document of a plugin's, with its blobs |
//! | [`session`] | the engine's side of a `qstage/1` conversation |
//! | [`job`] | one job of it, as the engine hears it |
//! | `streams` | its two directions |
//! | [`units`] | what a job's tries leave to the next one |
//! | `memory`, `log` | what a worker takes of memory, and of the disk by its log |
//! | [`process`], [`pool`] | a worker process, and a pool of them |
//! | [`search`] | where a plugin is found that names no program |
//! | `command` | a plugin as a manifest names it |
//! | `content` | what a plugin consists of, and the digest of it |
//! | `notes` | what plugins said of themselves, kept in the store |
//! | [`program`] | a plugin's program, which described itself |
//! | [`plugin`] | a stage type that a plugin brings |
//! | `workers` | the program's own workers: of GPUs, and of stages that want to be alone |
//! | [`isolate`] | a built-in stage in one of them |
//!
//! What runs there is not believed: outputs are looked for where they were declared, hashed and stored by the engine.
//! A worker that breaks the protocol, falls silent or dies costs one node, as a typed error, and is replaced.

mod calls;
mod command;
mod content;
pub(crate) mod document;
pub mod error;
pub mod isolate;
pub mod job;
pub mod launch;
pub(crate) mod log;
pub mod machine;
mod memory;
mod notes;
pub mod plugin;
pub mod pool;
pub mod process;
mod procfs;
pub mod program;
pub(crate) mod reach;
pub(crate) mod request;
mod room;
pub mod scratch;
pub mod search;
pub mod session;
mod streams;
mod support;
pub mod temp;
pub mod units;
pub mod wall;
mod workers;

pub use qpipe_sdk::files;

pub use command::{PluginCommand, Sandbox};
pub(crate) use content::SCRIPT;
pub use content::{PluginDigest, PluginDigestError};
pub use error::WorkerError;
pub use isolate::isolate;
pub use job::{Finished, Made};
pub use machine::Machine;
pub use plugin::PluginStage;
pub use pool::Pool;
pub use process::{Worker, WorkerCommand};
pub use program::Program;
pub(crate) use program::READS;
pub use session::{Description, Estimate, Greeting, Limits, Session, Transport, Watch};
pub use temp::TempError;
pub use workers::Workers;
