//! What a token of the control plane may do.

use std::fmt;

use countersign_model::ReasonCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ACTOR;

/// A role; each may do what those before it may.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads records and proofs, no private field.
    Viewer,
    /// Reads records, proofs, private fields and the entries of the log.
    Auditor,
    /// Does everything.
    Admin,
}

impl Role {
    /// Returns the role with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Viewer, Self::Auditor, Self::Admin].into_iter().find(|role| role.as_str() == name)
    }

    /// Returns the role's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Auditor => "auditor",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose token came with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) role: Role,
    /// Under which name the records have what the caller does.
    pub(crate) actor: String,
    /// The id of a named token; not secret.
    pub(crate) key_id: Option<String>,
}

impl Caller {
    /// Whoever has the control token.
    pub(crate) fn control() -> Self {
        Self { role: Role::Admin, actor: ACTOR.to_owned(), key_id: None }
    }

    /// Whoever has a named token.
    pub(crate) fn named(name: &str, role: Role, key_id: &str) -> Self {
        Self { role, actor: format!("token:{name}"), key_id: Some(key_id.to_owned()) }
    }
}

/// A token that is not good, or not any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejected {
    pub(crate) reason: ReasonCode,
    /// The id of the named token whose secret it had.
    pub(crate) key_id: Option<String>,
}
