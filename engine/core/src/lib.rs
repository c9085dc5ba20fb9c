//! The mind of qpipe: text in, decisions and events out. See `ARCHITECTURE.md` for the path of data.

pub mod graph;
pub mod manifest;
pub mod plan;
pub mod record;
pub mod report;
pub mod run;
pub mod sources;
mod study;
