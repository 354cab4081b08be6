//! Drafts of ledger records: what the caller knows before the ledger gives a record its place.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::RecordId;

/// The kinds of record, as `kind` in a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A verdict.
    Decision,
    /// What came of a forwarded call.
    Outcome,
    /// An accepted or rejected credential.
    Auth,
    /// A change of policy, tool, agent or configuration.
    Change,
    /// Something noticed that a person should look at.
    Detection,
    /// A sign of life when nothing else happened.
    Heartbeat,
    /// The recorder stopped, or may have lost something.
    Gap,
    /// A verification run, a restore test, an operator's reconciliation.
    Check,
    /// Somebody read or exported evidence.
    Access,
    /// A person's keys were destroyed.
    Erasure,
    /// A hold that forbids erasure was set or lifted.
    LegalHold,
    /// The totals of a day.
    Close,
    /// The key that signs the log was replaced.
    Key,
}

impl Kind {
    /// Returns the kind as leaves spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Outcome => "outcome",
            Self::Auth => "auth",
            Self::Change => "change",
            Self::Detection => "detection",
            Self::Heartbeat => "heartbeat",
            Self::Gap => "gap",
            Self::Check => "check",
            Self::Access => "access",
            Self::Erasure => "erasure",
            Self::LegalHold => "legal_hold",
            Self::Close => "close",
            Self::Key => "key",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What came of an allowed call, as `outcome` in an `outcome` leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeStatus {
    /// The upstream answered with a result.
    Executed,
    /// The upstream answered with an error.
    Failed,
    /// Nothing was sent to the upstream.
    NotForwarded,
    /// The call may or may not have been executed.
    Unknown,
}

impl OutcomeStatus {
    /// Returns the status as leaves spell it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Executed => "executed",
            Self::Failed => "failed",
            Self::NotForwarded => "not_forwarded",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for OutcomeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record before the ledger has given it a place, a time and a leaf.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    /// The record's id, chosen by whoever writes it.
    pub record_id: RecordId,
    /// What kind of record it is.
    pub kind: Kind,
    /// The kind's own fields of the public part: no personal data, no floats.
    ///
    /// The ledger adds `v`, `kind`, `record_id`, `tenant`, `gw`, `time`, `principal`, `_sd_alg` and
    /// `_sd`.
    pub public: Map<String, Value>,
    /// The person concerned: shown as a pseudonym in the leaf, and the data subject under whose key
    /// the private fields are sealed. `None` seals them under the tenant's own subject.
    pub principal: Option<String>,
    /// The fields that only their digests represent in the leaf.
    pub private: Vec<Private>,
}

/// A private field of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Private {
    /// The field's name, unique in its record: `arguments.amount`, `result`, `facts`.
    pub name: String,
    /// The field's value.
    pub value: Value,
}

impl Draft {
    /// Makes a draft without private fields.
    #[must_use]
    pub fn new(record_id: RecordId, kind: Kind) -> Self {
        Self { record_id, kind, public: Map::new(), principal: None, private: Vec::new() }
    }

    /// Adds a public field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.public.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a public field if there is a value.
    #[must_use]
    pub fn with_some(self, name: &str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds a private field.
    #[must_use]
    pub fn sealed(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.private.push(Private { name: name.into(), value: value.into() });
        self
    }

    /// Names the person concerned.
    #[must_use]
    pub fn about(mut self, principal: impl Into<String>) -> Self {
        self.principal = Some(principal.into());
        self
    }
}
