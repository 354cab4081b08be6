//! Why evidence could not be given.

use countersign_store::StoreError;

/// Why a question about the records has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored leaf is no record.
    #[error("leaf {index} is not a record: {reason}")]
    NotARecord {
        /// Its position in the log.
        index: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such record.
    #[error("there is no record `{0}`")]
    UnknownRecord(String),
    /// The record is not a decision, or belongs to none.
    #[error("record `{id}` is of kind `{kind}`, and belongs to no decision")]
    NoDecision {
        /// The record.
        id: String,
        /// Its kind.
        kind: String,
    },
    /// No agent was ever registered under this name.
    #[error("there is no agent `{0}`")]
    UnknownAgent(String),
    /// The text is no time.
    #[error(
        "`{0}` is not a time; write 2026-03-15T03:00:00Z, 2026-03-15T03:00:00+01:00 or 2026-03-15"
    )]
    BadTime(String),
    /// A period ends before it begins, or as it begins.
    #[error("the period is empty: its end is left out; for one day, name the next one")]
    EmptyPeriod,
    /// A filter's value is not one of those that there are.
    #[error("`{value}` is no {name}: expected {expected}")]
    BadFilter {
        /// The filter.
        name: &'static str,
        /// What was asked for.
        value: String,
        /// What there is.
        expected: String,
    },
    /// A record file cannot be read.
    #[error("it is not a record file: {0}")]
    MalformedFile(String),
    /// A record file does not prove what it says.
    #[error("record `{id}`: {reason}")]
    NotProven {
        /// The record in the file.
        id: String,
        /// What does not hold.
        reason: String,
    },
    /// The rows cannot be written.
    #[error("the rows cannot be written: {0}")]
    Csv(#[from] csv::Error),
}
