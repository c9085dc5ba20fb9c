//! How to run.

use std::num::NonZeroUsize;

use qpipe_sdk::Cancel;
use serde::{Deserialize, Serialize};

/// What a failed stage means for the others. Whatever finished is kept in every mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureMode {
    /// Start nothing new, and ask what runs to stop.
    #[default]
    FailFast,
    /// Skip only what depends on the failed node.
    KeepGoing,
}

/// Options of one run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    pub failure: FailureMode,
    /// How many nodes may run at once.
    pub slots: NonZeroUsize,
    /// `auto`, `cpu` or `cuda:N`, handed to the stages.
    pub device: String,
    /// Requested from outside to stop; a fail-fast run requests it too.
    pub cancel: Cancel,
}

impl Default for RunOptions {
    fn default() -> Self {
        let (failure, cancel) = (FailureMode::default(), Cancel::default());
        Self { failure, slots: NonZeroUsize::MIN, device: "auto".into(), cancel }
    }
}
