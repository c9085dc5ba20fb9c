//! Why a parquet file cannot be read.

/// One typed reason per way a parquet file can be wrong, or beyond what is read here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParquetError {
    /// The bytes end before something that the file promised.
    #[error("parquet data ends early: {what} is cut off")]
    Truncated {
        /// What is cut off.
        what: String,
    },
    /// A description lacks a field.
    #[error("parquet: {what} has no `{field}`")]
    Missing {
        /// Whose description.
        what: String,
        /// The field, by its name in the format.
        field: &'static str,
    },
    /// Something contradicts the format or the rest of the file.
    #[error("parquet: {what} is invalid: {reason}")]
    Invalid {
        /// The part.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A size is beyond the reader's limit.
    #[error("parquet: {what} has {found}, more than the limit of {limit}")]
    TooLarge {
        /// What is counted.
        what: String,
        /// The claim.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// Something of the format that is not read here.
    #[error("parquet: column `{column}` has {what} {value}, which is not supported (supported: {supported})")]
    Unsupported {
        /// The column's path.
        column: String,
        /// The kind of thing: `encoding`, `compression`, `type`.
        what: &'static str,
        /// The value found, by its name or number in the format.
        value: String,
        /// What would be read.
        supported: &'static str,
    },
}

impl ParquetError {
    pub(super) fn missing(what: &str, field: &'static str) -> Self {
        Self::Missing { what: what.to_owned(), field }
    }

    pub(super) fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), reason: reason.into() }
    }
}
