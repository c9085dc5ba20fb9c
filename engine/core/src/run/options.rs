//! How to run.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use qpipe_sdk::Cancel;
use serde::{Deserialize, Serialize};

use super::select::Goals;
use crate::limits::Limits;

/// What a failed stage means for the others. Whatever finished is kept in every mode, and what depends on a failed
/// node is skipped in every mode, since it has no input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureMode {
    /// Start nothing new, ask what runs to stop, and wait for it no longer than the grace period.
    #[default]
    FailFast,
    /// Run everything that does not depend on the failed node. `skip-dependents` is another word for it.
    KeepGoing,
}

/// What gives back the memory of a GPU, by ordinal; the default has nothing to give back.
#[derive(Clone, Default)]
pub struct FreeGpu(Option<Arc<dyn Fn(usize) + Send + Sync>>);

impl FreeGpu {
    pub fn by(free: impl Fn(usize) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(free)))
    }

    pub(super) fn free(&self, gpu: usize) {
        if let Some(free) = &self.0 {
            free(gpu);
        }
    }
}

impl fmt::Debug for FreeGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "FreeGpu(..)" } else { "FreeGpu" })
    }
}

/// Options of one run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    pub failure: FailureMode,
    /// How many nodes without a GPU may run at once.
    pub jobs: NonZeroUsize,
    /// The GPUs by ordinal; each is a slot of its own.
    pub gpus: Vec<usize>,
    /// Whether those were asked for: others are refused then, though the machine may have them.
    pub gpus_are_named: bool,
    /// Host memory that the estimates of what runs may add up to, bytes; `None`: not counted.
    pub memory: Option<u64>,
    /// Has what the run keeps on a GPU go, for a node that found no room there.
    pub free_gpu: FreeGpu,
    pub limits: Limits,
    /// How long a node that was asked to stop, by a failure or its timeout, may take before it is killed.
    pub grace: Duration,
    /// What stages without a GPU slot are handed as their device.
    pub device: String,
    /// What is asked for; `None`: everything.
    pub goals: Option<Goals>,
    /// Requested from outside to stop the run.
    pub cancel: Cancel,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            failure: FailureMode::default(),
            jobs: NonZeroUsize::MIN,
            gpus: Vec::new(),
            gpus_are_named: false,
            memory: None,
            free_gpu: FreeGpu::default(),
            limits: Limits::default(),
            grace: Duration::from_secs(10),
            device: "auto".into(),
            goals: None,
            cancel: Cancel::default(),
        }
    }
}
