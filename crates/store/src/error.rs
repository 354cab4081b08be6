//! Why the store refused.

use std::path::PathBuf;

use countersign_model::RecordId;

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The record is not durable in time, or it is not known whether it is: the caller must refuse.
    #[error("the ledger cannot record now: {reason}")]
    Unavailable {
        /// What stands in the way.
        reason: &'static str,
    },
    /// The caller asked for something that is not a valid record.
    #[error("the record is not valid: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// The record's public part is larger than a leaf may be.
    #[error("the record's public part has {bytes} bytes, more than {max}")]
    TooLarge {
        /// Bytes found.
        bytes: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Another process uses the data folder.
    #[error("the data folder `{}` is in use by another process", .0.display())]
    Locked(PathBuf),
    /// There is no store in the folder.
    #[error("`{}` does not exist; create the store first", .0.display())]
    Missing(PathBuf),
    /// The folder already has a store.
    #[error("`{}` exists already", .0.display())]
    Exists(PathBuf),
    /// What was published or signed is ahead of the database: an old backup was restored.
    #[error(
        "{what} has {there} leaves, the database {here}: the database is older than what was published"
    )]
    Behind {
        /// What is ahead.
        what: &'static str,
        /// Leaves that it covers.
        there: u64,
        /// Leaves in the database.
        here: u64,
    },
    /// `migrate` has moved the ledger from SQLite, or began to and was broken off: it must not go on here.
    #[error(
        "the ledger of {size} records moved to `{to}` or may have, says `moved.json` in the data folder: set \
         store.url and start the gateway; if `countersign migrate` broke off, run it again first"
    )]
    Elsewhere {
        /// The databases.
        to: String,
        /// Leaves that moved.
        size: u64,
    },
    /// What was published or signed is not a prefix of the tree in the database.
    #[error("{what} of size {size} has another root than the database")]
    Forked {
        /// What differs.
        what: &'static str,
        /// Its size in leaves.
        size: u64,
    },
    /// The signer signed another tree meanwhile; the next attempt starts from that one.
    #[error("the signer has signed a tree of {size} leaves meanwhile")]
    Moved {
        /// The size that it signed last.
        size: u64,
    },
    /// The signer, a process of its own, is away, or answers what it must not.
    #[error("the signer: {0}")]
    Signer(String),
    /// The signer refuses.
    #[error("the signer refuses: {0}")]
    Refused(String),
    /// Stored data contradicts itself; `fsck` names the place.
    #[error("the store is damaged: {0}")]
    Corrupt(String),
    /// The SQLite library or its settings are not what the store needs.
    #[error("SQLite setting `{name}` is `{found}`, expected `{expected}`")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What was asked for.
        expected: String,
        /// What SQLite says.
        found: String,
    },
    /// No such agent is registered.
    #[error("there is no agent `{0}`")]
    UnknownAgent(String),
    /// The name was given before; names are never given twice.
    #[error("the agent name `{0}` was given before")]
    NameTaken(String),
    /// The new agent's fields are not valid.
    #[error(transparent)]
    NewAgent(#[from] countersign_model::NewAgentError),
    /// There is no such record.
    #[error("there is no record `{0}`")]
    UnknownRecord(String),
    /// A key is missing or destroyed.
    #[error("the keystore has no key `{0}`")]
    NoKey(String),
    /// A sealed section cannot be opened.
    #[error("{reason}")]
    Unsealable {
        /// The record.
        record: String,
        /// Why not: the person was erased, or something is wrong.
        reason: String,
    },
    /// No record concerns the person, and none ever did.
    #[error("no record concerns `{0}`")]
    UnknownSubject(String),
    /// A legal hold forbids the erasure.
    #[error("`{0}` is under a legal hold; lift it first")]
    Held(String),
    /// A hold is there already, is not there, or comes too late.
    #[error("{0}")]
    Hold(&'static str),
    /// No day of the log was closed for long: no gateway ran, or the clock jumped. Nothing is purged by age.
    #[error(
        "the clock went from {from} to {to} without a day of the log closed in between: either no gateway ran, or \
         it is wrong. Nothing is purged by age until `countersign retention purge --yes --clock-is-right`"
    )]
    ClockGap {
        /// The last day (UTC) before.
        from: String,
        /// The first day after.
        to: String,
    },
    /// Another gateway changed something that this depends on.
    #[error("another gateway changed something at the same moment: try again")]
    Overtaken,
    /// A file cannot be read or written.
    #[error("`{}`: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The operating system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

impl StoreError {
    pub(crate) fn unavailable(reason: &'static str) -> Self {
        Self::Unavailable { reason }
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }

    pub(crate) fn unsealable(record: RecordId, reason: impl Into<String>) -> Self {
        Self::Unsealable { record: record.to_string(), reason: reason.into() }
    }

    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt(what.into())
    }
}
