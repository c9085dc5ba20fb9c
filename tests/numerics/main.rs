//! Numbers of the stages against vectors made by the reference implementations (`tests/golden`), not against
//! ourselves. What needs the real model or real data finds it through the environment and skips visibly:
//!
//! | variable | holds |
//! |---|---|
//! | `QPIPE_TEST_SMOLLM2` | path of SmolLM2-135M-Instruct.Q4_1.gguf |
//! | `QPIPE_TEST_DATA` | a folder with `data/wikitext2-raw/test.jsonl` |

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; these helpers stand outside its functions"
)]

mod architectures;
mod checkpoints;
mod evaluation;
mod generation;
mod schemes;
mod smollm2;
mod stages;
mod tiny;

use std::io::Write;
use std::path::PathBuf;

/// A folder of golden vectors.
fn golden(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests"))
        .join("../tests/golden")
        .join(name)
}

/// The path in an environment variable, or `None` after saying what is skipped.
fn path_in(variable: &str, test: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(PathBuf::from);
    if path.is_none() {
        // straight to the stream: the test harness hides what a passing test prints through the macros
        let _ = writeln!(std::io::stderr(), "skipped: {test} needs {variable}");
    }
    path
}
