//! Whatever can be formatted is formatted by doing it once.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use qpipe_engine::manifest::{ManifestError, format};

fuzz_target!(|text: &str| {
    match format(Path::new("fuzz.kdl"), text) {
        Ok(once) => assert_eq!(format(Path::new("fuzz.kdl"), &once).ok(), Some(once)),
        Err(errors) => {
            let failed = errors.errors().iter().any(|error| matches!(error, ManifestError::FormatFailed {}));
            assert!(!failed, "cannot be laid out");
        }
    }
});
