//! Stages outside the engine's own process: commands, plugins, and built-in stages that want to be alone.
//!
//! | module | holds |
//! |---|---|
//! | [`launch`] | a command as a process group that cannot outlive the engine |
//! | [`scratch`] | folders for one job each |
//! | [`files`] | the `files` artifact: what commands and plugins make |
//!
//! What runs there is not believed: outputs are looked for where they were declared, hashed and stored by the engine.

pub mod files;
pub mod launch;
pub mod scratch;
