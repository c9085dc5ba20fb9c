//! Tests that need Python, on machines without it.

use std::io::Write;

/// Whether there is a `python3` on the search path. Where there is none, says that the test is skipped, past the
/// harness's capture.
pub(crate) fn is_here(test: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join("python3").is_file());
    if !found {
        let _unseen = writeln!(std::io::stderr(), "skipped: {test} needs python3");
    }
    found
}
