//! Stable reason codes.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A stable, `UPPER_SNAKE` reason code; `spec/codes.md` lists the product's own.
///
/// Policies may bring codes of their own by the annotation `@code`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReasonCode(Cow<'static, str>);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        impl ReasonCode {
            $($(#[$doc])* pub const $name: Self = Self(Cow::Borrowed(stringify!($name)));)*
            /// Every code that the product itself gives.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

codes! {
    /// No policy permits the call, or the tool is unknown to the caller.
    NOT_ALLOWLISTED,
    /// A `forbid` policy applies that names no code of its own.
    FORBIDDEN,
    /// The arguments break the tool's JSON Schema.
    SCHEMA,
    /// A policy could not be evaluated, so the call is refused.
    POLICY_ERROR,
    /// A person must approve, and approvals are not set up.
    APPROVALS_NOT_SET_UP,
    /// The server's live definition of the tool differs from the pinned one.
    TOOL_PIN_MISMATCH,
    /// Calls of this tool need an idempotency key.
    IDEMPOTENCY_KEY_REQUIRED,
    /// The key was used before with other arguments.
    IDEMPOTENCY_PAYLOAD_MISMATCH,
    /// A call with the same key is still running.
    IDEMPOTENCY_IN_FLIGHT,
    /// The outcome of the first call with this key is not known.
    IDEMPOTENCY_OUTCOME_UNKNOWN,
    /// The first call with this key was executed; its result is no longer kept.
    IDEMPOTENCY_RESULT_GONE,
    /// The decision or outcome cannot be written to the ledger.
    AUDIT_UNAVAILABLE,
    /// The upstream could not be reached; nothing was sent.
    UPSTREAM_UNREACHABLE,
    /// The call was sent and no answer came.
    OUTCOME_UNKNOWN,
    /// No credential was sent.
    CREDENTIAL_MISSING,
    /// The credential is unknown or malformed.
    CREDENTIAL_INVALID,
    /// The credential has expired.
    CREDENTIAL_EXPIRED,
    /// The agent is disabled.
    AGENT_DISABLED,
    /// The method is not one that the gateway passes.
    METHOD_NOT_ALLOWED,
}

impl ReasonCode {
    /// Parses a code that a policy names: `[A-Z][A-Z0-9_]*`, at most 64 bytes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_uppercase());
        let rest = text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        (first && rest && text.len() <= 64).then(|| Self(Cow::Owned(text.to_owned())))
    }

    /// Returns the code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
