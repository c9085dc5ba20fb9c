//! How a stage fails. The class decides what the engine does (retry, blame the manifest, exit code); the
//! message names the thing.

use std::time::Duration;

use qpipe_cache::StoreError;
use serde::{Deserialize, Serialize};

/// The class of a stage's failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorClass {
    /// The study asks for something impossible: a missing file, a wrong architecture, a value out of range.
    Config,
    /// There is no such device, or it cannot be used.
    Device,
    /// The device ran out of memory.
    OomDevice,
    /// The host ran out of memory.
    OomHost,
    /// Worth trying again: a network fault, a lost worker.
    Transient,
    /// The store failed.
    Store,
    /// It took longer than it may.
    Timeout,
    /// The run was asked to stop.
    Cancelled,
    /// A defect of the stage.
    Bug,
}

/// Why a stage failed.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error("{0}")]
    Config(String),
    #[error("{0}")]
    Device(String),
    #[error("out of device memory: {0}")]
    OomDevice(String),
    #[error("out of host memory: {0}")]
    OomHost(String),
    #[error("{0}")]
    Transient(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store failed in another process, which says how.
    #[error("{0}")]
    StoreElsewhere(String),
    #[error("timed out after {after}", after = seconds(.0))]
    Timeout(Duration),
    #[error("stopped on request")]
    Cancelled,
    #[error("{0}")]
    Bug(String),
}

impl StageError {
    /// A configuration error from anything that can be displayed.
    pub fn config(error: impl std::fmt::Display) -> Self {
        Self::Config(error.to_string())
    }

    /// A defect, from anything that can be displayed.
    pub fn bug(error: impl std::fmt::Display) -> Self {
        Self::Bug(error.to_string())
    }

    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Config(_) => ErrorClass::Config,
            Self::Device(_) => ErrorClass::Device,
            Self::OomDevice(_) => ErrorClass::OomDevice,
            Self::OomHost(_) => ErrorClass::OomHost,
            Self::Transient(_) => ErrorClass::Transient,
            Self::Store(_) | Self::StoreElsewhere(_) => ErrorClass::Store,
            Self::Timeout(_) => ErrorClass::Timeout,
            Self::Cancelled => ErrorClass::Cancelled,
            Self::Bug(_) => ErrorClass::Bug,
        }
    }
}

fn seconds(duration: &Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}
