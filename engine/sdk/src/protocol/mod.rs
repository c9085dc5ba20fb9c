//! `qstage/1`: how the engine and a stage in a process of its own talk. The written specification is
//! `docs/protocol.md`; these types are the only place where its words are spelled.
//!
//! | module | holds |
//! |---|---|
//! | [`message`] | [`Request`] (engine → worker) and [`Reply`] (worker → engine) |
//! | [`describe`] | a stage type's declaration as a document, and back |
//! | [`wire`] | parameters and numbers as JSON |
//! | [`line`] | one bounded line ↔ one message |
//! | [`transport`] | a conversation in two files, where standard streams do not reach |
//! | `host` | a job in a plugin's process, with a store of its own |
//! | [`serve`] | the worker's side: any [`crate::Stage`] of a registry over a pair of streams |
//!
//! Two rules make old and new speak to each other: a field that is not known is ignored, a message that is not known
//! is refused.

pub mod describe;
mod host;
pub mod line;
pub mod message;
pub mod serve;
pub mod transport;
pub mod wire;

pub use describe::{DescribeError, Described, KeyedBy, OutputFile, StageDescription};
pub use line::{LineError, MAX_LINE, decode, encode, read_line};
pub use message::{
    Capability, FailureClass, Keyed, Problem, Reply, Request, RunRequest, Versions, WireBlob, WireInput,
};
pub use serve::{ServeError, panic_text, serve, serve_plugin};
pub use wire::{WireError, WireMetric, WireParams};

/// The version of the protocol.
pub const PROTOCOL: u32 = 1;
/// Its minor version: optional fields and capabilities that came since.
pub const MINOR: u32 = 1;
