//! The mind of qpipe: text in, decisions and events out. See `ARCHITECTURE.md` for the path of data.

pub mod conformance;
pub mod draw;
pub mod exec;
pub mod explain;
pub mod graph;
pub mod inventory;
pub mod limits;
pub mod manifest;
pub mod plan;
pub mod record;
pub mod report;
pub mod run;
pub mod schema;
pub mod sources;

mod study;
pub mod ticket;
pub mod worker;
