//! Workers that are killed, that lie, that flood and that hold on: over real processes and a real store.

#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

#[path = "../../../../tests/support/python.rs"]
mod python;

#[path = "../hows/mod.rs"]
mod hows;

#[path = "../plugin_lab/mod.rs"]
mod plugin_lab;

mod devices;
mod hostile;
mod kit;
mod lab;
mod over_files;
mod units;
mod walled;
mod walled_processes;
