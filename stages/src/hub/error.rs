//! Why a repository cannot be had.

use std::path::PathBuf;

use qpipe_formats::FormatError;
use qpipe_sdk::StageError;

/// One typed reason per way a download can fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// What cannot be the name of anything on the hub.
    #[error("`{name}` is no {what} of the hub: expected letters, digits, `-`, `_`, `.`")]
    BadName { what: &'static str, name: String },
    /// What cannot be a file of a data set.
    #[error(
        "`{name}` is no file of the hub: expected `ORG/NAME/PATH`, or `ORG/NAME@REVISION/PATH`, of letters, digits, `-`, \
         `_`, `.`"
    )]
    BadFile { name: String },
    /// It is not in the cache folder, and may not be downloaded.
    #[error(
        "`{repo}` is not in `{}`, and HF_HUB_OFFLINE forbids to download it", cache.display()
    )]
    Offline { repo: String, cache: PathBuf },
    /// It is not in the cache folder, and nobody asked for it to be downloaded.
    #[error("`{repo}` is not downloaded yet: `qpipe run` does that")]
    NotDownloaded { repo: String },
    /// The hub wants to know who asks, or refuses who did.
    #[error("the hub refuses `{repo}` ({status}): it is private, gated or not there; {}",
        if *with_token { "the token in HF_TOKEN may not read it" } else { "set HF_TOKEN to a token that may read it" })]
    Unauthorized { repo: String, status: u16, with_token: bool },
    /// The hub knows no such repository or revision.
    #[error("the hub has no `{repo}`")]
    NoSuchRepo { repo: String },
    /// The repository has no such file.
    #[error("`{repo}` has no `{file}`")]
    NoSuchFile { repo: String, file: String },
    /// A status that says nothing about the repository.
    #[error("the hub answers {status} for `{url}`")]
    Status { url: String, status: u16 },
    /// An answer that is not the hub's.
    #[error("`{url}` does not answer as a hub does: {reason}")]
    Answer { url: String, reason: String },
    /// The connection failed, or was cut more often than it is worth to go on.
    #[error("cannot download `{url}`: {reason}")]
    Connection { url: String, reason: String },
    /// What arrived is not what was announced.
    #[error("`{file}` arrived damaged: {reason}; it was removed")]
    Damaged { file: String, reason: String },
    /// The cache folder cannot be read or written.
    #[error("cannot use `{}`: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    /// A file of the checkpoint is damaged.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The program was built into something without one.
    #[error("this program has no hub to load from")]
    NoHub,
    /// The run was asked to stop.
    #[error("stopped on request")]
    Cancelled,
}

impl HubError {
    pub(super) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

impl From<HubError> for StageError {
    fn from(error: HubError) -> Self {
        match error {
            HubError::Cancelled => Self::Cancelled,
            HubError::Connection { .. } | HubError::Damaged { .. } => Self::Transient(error.to_string()),
            HubError::Status { status, .. } if status == 429 || status >= 500 => {
                Self::Transient(error.to_string())
            }
            _ => Self::config(error),
        }
    }
}
