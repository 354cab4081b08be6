//! What a decision says.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ReasonCode;

/// The answer to "may this call go on".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The call is forwarded.
    Allow,
    /// The call is refused.
    Deny,
    /// A person must say yes first.
    Hold,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Hold => "hold",
        })
    }
}

/// How strictly a policy is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The policy's effect is recorded, nothing else.
    Observe,
    /// The policy's effect is recorded and the caller is told.
    Warn,
    /// The policy's effect is applied.
    Enforce,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Observe => "observe",
            Self::Warn => "warn",
            Self::Enforce => "enforce",
        })
    }
}

/// The step of the pipeline that refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Whether the agent may use the tool at all.
    Permission,
    /// Whether the arguments fit the tool's schema.
    Schema,
    /// Whether the arguments are within what policy allows.
    Bounds,
    /// Whether a person has said yes.
    Approval,
    /// Whether the same call was made before.
    Idempotency,
    /// Whether the decision could be written down.
    Record,
    /// Whether the upstream server could be reached and answered.
    Upstream,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Permission => "permission",
            Self::Schema => "schema",
            Self::Bounds => "bounds",
            Self::Approval => "approval",
            Self::Idempotency => "idempotency",
            Self::Record => "record",
            Self::Upstream => "upstream",
        })
    }
}

/// One reason of a verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The step that found it.
    pub stage: Stage,
    /// The stable code.
    pub code: ReasonCode,
    /// The policy that says so, if one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// One sentence or expression for the caller; no secrets, no argument values.
    pub detail: String,
}

/// A policy that determined the verdict, or would have in a stricter mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeterminingRule {
    /// The policy's `@id`.
    pub id: String,
    /// Its mode.
    pub mode: Mode,
}

/// The result of evaluating one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is done.
    pub verdict: Verdict,
    /// What would have been done if every policy were enforced, where that differs.
    pub would_be: Option<Verdict>,
    /// The policies that determined the verdict (and `would_be`), sorted by id.
    pub rules: Vec<DeterminingRule>,
    /// Why, most important first; for an `allow`, what policies in mode `warn` or `observe` found.
    pub reasons: Vec<Reason>,
    /// SHA-256 of the bundle that decided, in lower-case hexadecimal.
    pub bundle: String,
    /// The pinned definition of the tool, SHA-256 in lower-case hexadecimal.
    pub tool_pin: Option<String>,
}

impl Decision {
    /// Returns the weakest mode among the determining rules; `Enforce` if there are none.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.rules.iter().map(|rule| rule.mode).min().unwrap_or(Mode::Enforce)
    }
}
