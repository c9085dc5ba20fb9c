//! The messages. Each is one JSON object with its `type`; see `docs/protocol.md` for when which may be sent.

use std::collections::BTreeMap;

use qpipe_cache::Digest;
use serde::{Deserialize, Deserializer, Serialize};

use super::describe::StageDescription;
use super::line::Message;
use super::wire::{WireMetric, WireParams};
use crate::error::StageError;
use crate::stage::Artifact;

/// Versions of the protocol that one side speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub min: u32,
    pub max: u32,
}

/// What a worker can do beyond the least. A capability that is not known counts as absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Capability {
    /// It answers `key`.
    Key,
    /// It answers `estimate`.
    Estimate,
    /// It obeys `cancel` by itself, before any signal.
    Cancel,
    /// It sends a `heartbeat` at the interval that `hello` asked for, whatever it is doing.
    Heartbeat,
    /// It commits to the store itself and answers `done` with an artifact: only a worker of the engine's own program.
    Store,
    /// It hands the engine units of work to keep, and takes those that earlier tries of a job kept. Since minor 1.
    Resume,
}

impl Capability {
    /// The capability of a word in a `hello`.
    pub fn parse(word: &str) -> Option<Self> {
        serde_json::from_value(serde_json::Value::String(word.to_owned())).ok()
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Estimate => "estimate",
            Self::Cancel => "cancel",
            Self::Heartbeat => "heartbeat",
            Self::Store => "store",
            Self::Resume => "resume",
        }
    }
}

/// A blob that a worker may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireBlob {
    pub digest: Digest,
    /// Absolute path of a file that must only be read.
    pub path: String,
}

/// An input artifact. A `files` artifact lies at `path` as a folder; of any other, `path` is its root blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireInput {
    pub kind: String,
    pub digest: Digest,
    pub path: String,
    /// Every blob that the root reaches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refs: Vec<WireBlob>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRequest {
    pub id: u64,
    pub stage: String,
    /// Effective parameters; one that is a file holds the path of its content.
    pub params: WireParams,
    #[serde(default)]
    pub inputs: BTreeMap<String, WireInput>,
    #[serde(default)]
    pub sources: BTreeMap<String, WireBlob>,
    /// Absolute path of an empty folder, where outputs are written. It is gone after the job.
    pub scratch: String,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// The store's root, for a worker with the capability `store`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// A number that follows from the job's key, below 2⁵³: equal jobs draw equally. Since minor 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How long the job may take, milliseconds from now, where that is limited. Since minor 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// What earlier tries of this job kept, by unit, for a worker with the capability `resume`. Since minor 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub units: BTreeMap<String, WireBlob>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks of such a function")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What the engine says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Request {
    /// Always first.
    Hello {
        protocol: Versions,
        /// The minor version that it was written for, informational: what is new in one is told by optional fields.
        #[serde(default, skip_serializing_if = "is_zero")]
        minor: u32,
        /// Program and version, for logs.
        engine: String,
        /// How often a worker with the capability `heartbeat` says that it lives, milliseconds.
        heartbeat_ms: u64,
    },
    /// Which stage types are there.
    Describe { id: u64 },
    /// What a stage's key contains beyond parameters and files, and rules that one parameter alone cannot state.
    Key { id: u64, stage: String, params: WireParams },
    /// What a run would need.
    Estimate { id: u64, stage: String, params: WireParams },
    /// Do a job. One at a time.
    Run(RunRequest),
    /// Stop the job, keeping what is worth keeping.
    Cancel { id: u64 },
    /// The engine lives. Over files alone, where its end cannot be seen. Since minor 1.
    Heartbeat,
    /// The conversation is over. Over files alone. Since minor 1.
    Bye,
}

/// A rule that parameters break.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Dotted path of the parameter.
    pub path: String,
    pub message: String,
}

/// The answer to `key`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyed {
    pub id: u64,
    /// Numerics class or machine fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numerics: Option<String>,
    /// Files that are read besides the files among the parameters: absolute paths by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

/// Why a job failed, as a worker states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    Config,
    Device,
    OomDevice,
    OomHost,
    Store,
    Transient,
    Bug,
}

/// A class of a later minor version is a defect to this one: nothing else is known of it.
impl<'de> Deserialize<'de> for FailureClass {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let all = [Self::Config, Self::Device, Self::OomDevice, Self::OomHost, Self::Store, Self::Transient];
        let word = String::deserialize(from)?;
        Ok(all.into_iter().find(|class| class.word() == word).unwrap_or(Self::Bug))
    }
}

impl FailureClass {
    pub fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Device => "device",
            Self::OomDevice => "oom-device",
            Self::OomHost => "oom-host",
            Self::Store => "store",
            Self::Transient => "transient",
            Self::Bug => "bug",
        }
    }

    /// What an engine of a minor version is told in its place.
    pub(super) fn known_to(self, minor: u32) -> Self {
        match self {
            Self::Device if minor < 1 => Self::Config,
            Self::Store if minor < 1 => Self::Bug,
            other => other,
        }
    }

    /// The error that the engine makes of it.
    pub fn error(self, message: String) -> StageError {
        match self {
            Self::Config => StageError::Config(message),
            Self::Device => StageError::Device(message),
            Self::OomDevice => StageError::OomDevice(message),
            Self::OomHost => StageError::OomHost(message),
            Self::Store => StageError::StoreElsewhere(message),
            Self::Transient => StageError::Transient(message),
            Self::Bug => StageError::Bug(message),
        }
    }

    /// The class and message of a stage's error; `None` where the stage was stopped on request.
    pub fn of(error: &StageError) -> Option<(Self, String)> {
        let class = match error {
            StageError::Cancelled => return None,
            // the class says what these messages begin with
            StageError::OomDevice(message) => return Some((Self::OomDevice, message.clone())),
            StageError::OomHost(message) => return Some((Self::OomHost, message.clone())),
            StageError::Config(_) => Self::Config,
            StageError::Device(_) => Self::Device,
            StageError::Store(_) | StageError::StoreElsewhere(_) => Self::Store,
            StageError::Transient(_) => Self::Transient,
            StageError::Timeout(_) | StageError::Bug(_) => Self::Bug,
        };
        Some((class, error.to_string()))
    }
}

/// What a worker says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Reply {
    /// Answers `hello`, always first.
    Hello {
        /// The version both will speak, one of those offered.
        protocol: u32,
        /// Program and version, for logs.
        worker: String,
        /// The minor version of the protocol that it was written for.
        #[serde(default, skip_serializing_if = "is_zero")]
        minor: u32,
        #[serde(default)]
        capabilities: Vec<String>,
    },
    Description {
        id: u64,
        stages: Vec<StageDescription>,
        /// Files that belong to the program besides itself: absolute paths by name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sources: Option<BTreeMap<String, String>>,
    },
    Keyed(Keyed),
    Estimated {
        id: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<f64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host_bytes: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device_bytes: Option<u64>,
    },
    Progress {
        id: u64,
        done: u64,
        total: u64,
        #[serde(default)]
        what: String,
    },
    Log {
        id: u64,
        message: String,
    },
    Metric {
        id: u64,
        #[serde(flatten)]
        metric: WireMetric,
    },
    /// An output is complete: at `path`, relative to the scratch folder, or as the file of a unit. One of the two.
    Artifact {
        id: u64,
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// Since minor 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unit: Option<String>,
    },
    /// A unit of work inside the job is kept for good, or was found. With `path`, relative to the scratch folder, the
    /// engine is to keep this file of it.
    Checkpoint {
        id: u64,
        name: String,
        #[serde(default)]
        cached: bool,
        /// From a worker with the capability `resume`. Since minor 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    Heartbeat,
    /// Ends a job.
    Done {
        id: u64,
        /// From a worker with the capability `store`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        artifact: Option<Artifact>,
    },
    /// Ends a job that was cancelled.
    Cancelled {
        id: u64,
    },
    /// Ends a job or answers a question; without `id` it is about the conversation itself.
    Error {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        class: FailureClass,
        message: String,
    },
}

impl Reply {
    /// The request that it is about.
    pub fn id(&self) -> Option<u64> {
        match self {
            Self::Hello { .. } | Self::Heartbeat => None,
            Self::Error { id, .. } => *id,
            Self::Keyed(keyed) => Some(keyed.id),
            Self::Description { id, .. }
            | Self::Estimated { id, .. }
            | Self::Progress { id, .. }
            | Self::Log { id, .. }
            | Self::Metric { id, .. }
            | Self::Artifact { id, .. }
            | Self::Checkpoint { id, .. }
            | Self::Done { id, .. }
            | Self::Cancelled { id } => Some(*id),
        }
    }

    /// Its `type`, for messages.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::Description { .. } => "description",
            Self::Keyed(_) => "keyed",
            Self::Estimated { .. } => "estimated",
            Self::Progress { .. } => "progress",
            Self::Log { .. } => "log",
            Self::Metric { .. } => "metric",
            Self::Artifact { .. } => "artifact",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Heartbeat => "heartbeat",
            Self::Done { .. } => "done",
            Self::Cancelled { .. } => "cancelled",
            Self::Error { .. } => "error",
        }
    }
}

impl Message for Request {
    const TYPES: &'static [&'static str] =
        &["hello", "describe", "key", "estimate", "run", "cancel", "heartbeat", "bye"];
}

impl Message for Reply {
    const TYPES: &'static [&'static str] = &[
        "hello",
        "description",
        "keyed",
        "estimated",
        "progress",
        "log",
        "metric",
        "artifact",
        "checkpoint",
        "heartbeat",
        "done",
        "cancelled",
        "error",
    ];
}
