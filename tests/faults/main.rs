//! What survives when things go wrong: kills at random moments, failing store operations, full and read-only disks,
//! signals. The program is the real one with cheap stages; it is this very test program, run again with its arguments in
//! the environment, so that a run costs milliseconds and hundreds of them can be killed.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; these helpers stand outside its functions"
)]

mod codes;
mod disks;
mod kills;
mod operations;
mod program;
mod signals;
mod stages;
mod together;
