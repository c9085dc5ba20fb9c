//! The real program on the real stages: what a user does in a terminal.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; these helpers stand outside its functions"
)]

mod devices;
mod documents;
mod errors;
mod generate;
mod init;
mod pipelines;
mod plugins;
mod processes;
mod program;
#[path = "../support/python.rs"]
mod python;
mod quantize;
mod resume;
