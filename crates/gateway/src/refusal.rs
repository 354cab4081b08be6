//! Refusals: the only file that knows which answer a caller gets when a call does not go on.

use countersign_model::{Decision, Reason, ReasonCode, RecordId, Stage, Verdict};
use serde_json::{Value, json};

/// A JSON-RPC error with the HTTP status that goes with it.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// The HTTP status of the answer.
    pub status: u16,
    /// The JSON-RPC error code.
    pub code: i64,
    /// The message; names what is wrong, never a secret.
    pub message: String,
    /// The error's `data`.
    pub data: Option<Value>,
}

/// Codes of JSON-RPC 2.0, section 5.1, and of MCP 2026-07-28.
pub mod code {
    /// The body is not JSON.
    pub const PARSE_ERROR: i64 = -32700;
    /// The body is no JSON-RPC message that can be served.
    pub const INVALID_REQUEST: i64 = -32600;
    /// The method does not exist here.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The parameters break the method's rules.
    pub const INVALID_PARAMS: i64 = -32602;
    /// The gateway or the upstream failed.
    pub const INTERNAL_ERROR: i64 = -32603;
    /// A resource does not exist (revisions up to 2025-11-25).
    pub const RESOURCE_NOT_FOUND: i64 = -32002;
    /// The request's headers and body differ (2026-07-28).
    pub const HEADER_MISMATCH: i64 = -32020;
    /// The client did not declare a capability that the request needs (2026-07-28).
    pub const MISSING_CAPABILITY: i64 = -32021;
    /// The protocol version is not served here (2026-07-28).
    pub const UNSUPPORTED_VERSION: i64 = -32022;
    /// Policy refuses a method other than `tools/call`.
    pub const DENIED: i64 = 1403;
    /// An idempotency key collides.
    pub const CONFLICT: i64 = 1409;
    /// The result of the first execution is no longer kept.
    pub const GONE: i64 = 1410;
    /// The upstream server did not answer.
    pub const BAD_GATEWAY: i64 = 1502;
    /// The ledger cannot be written, or is not anchored.
    pub const UNAVAILABLE: i64 = 1503;
}

impl RpcError {
    /// Makes an error with the HTTP status that MCP names for the code.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        let status = match code {
            code::METHOD_NOT_FOUND => 404,
            code::INTERNAL_ERROR | code::DENIED | code::RESOURCE_NOT_FOUND => 200,
            code::CONFLICT => 409,
            code::GONE => 410,
            code::BAD_GATEWAY => 502,
            code::UNAVAILABLE => 503,
            _ => 400,
        };
        Self { status, code, message: message.into(), data: None }
    }

    /// Adds the error's `data`.
    #[must_use]
    pub fn with_data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// Gives the `error` member of a JSON-RPC response.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut error = json!({"code": self.code, "message": self.message});
        if let (Some(data), Some(object)) = (&self.data, error.as_object_mut()) {
            object.insert("data".into(), data.clone());
        }
        error
    }
}

/// Whether sending the same call again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    Never,
    AfterChange,
    After { seconds: u32 },
}

/// Why a call does not go on, or why its answer does not leave.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// Policy or an earlier call with the same key stands in the way; recorded.
    Decided {
        /// The decision record.
        evaluation_id: RecordId,
        /// The verdict: deny or hold.
        verdict: Verdict,
        /// The most important reason.
        reason: Reason,
    },
    /// The tool or method does not exist for this caller; recorded. Unknown and forbidden names give
    /// the same text, so that the answer tells nothing about other agents' tools.
    Unknown {
        /// The decision record.
        evaluation_id: RecordId,
        /// What was asked for.
        what: &'static str,
    },
    /// The decision or the outcome could not be made durable.
    NotRecorded {
        /// The id that the call would have had, or has.
        evaluation_id: RecordId,
        /// Whether the call had been forwarded when recording failed.
        forwarded: bool,
    },
    /// Policy allows the call, but the log has not been anchored for too long; recorded.
    Unanchored {
        /// The decision record.
        evaluation_id: RecordId,
    },
    /// The upstream could not be reached (nothing was sent), or did not answer; recorded.
    Upstream {
        /// The decision record.
        evaluation_id: RecordId,
        /// Whether the upstream may have acted.
        sent: bool,
        /// What happened, for the caller: no addresses, no file names.
        detail: String,
    },
    /// The upstream answered with a JSON-RPC error; recorded, passed on as it came.
    UpstreamError {
        /// The decision record.
        evaluation_id: RecordId,
        /// The `error` member, as received.
        error: Box<serde_json::value::RawValue>,
    },
}

impl Refusal {
    /// Makes the refusal that a decision calls for.
    pub fn of(evaluation_id: RecordId, decision: &Decision) -> Self {
        let reason = decision.reasons.first().cloned().unwrap_or_else(|| Reason {
            stage: Stage::Permission,
            code: ReasonCode::NOT_ALLOWLISTED,
            rule: None,
            detail: "no policy permits this call".into(),
        });
        Self::Decided { evaluation_id, verdict: decision.verdict, reason }
    }

    /// Returns the id of the call's decision record.
    pub fn evaluation_id(&self) -> RecordId {
        match self {
            Self::Decided { evaluation_id, .. }
            | Self::Unknown { evaluation_id, .. }
            | Self::NotRecorded { evaluation_id, .. }
            | Self::Unanchored { evaluation_id }
            | Self::Upstream { evaluation_id, .. }
            | Self::UpstreamError { evaluation_id, .. } => *evaluation_id,
        }
    }

    /// Returns the stage, the code, the rule and the text for the caller.
    fn parts(&self) -> (Stage, ReasonCode, Option<&str>, String, Retry) {
        match self {
            Self::Decided { verdict: Verdict::Hold, reason, .. } => (
                Stage::Approval,
                ReasonCode::APPROVALS_NOT_SET_UP,
                reason.rule.as_deref(),
                "A person must approve this call, and approvals are not set up here.".into(),
                Retry::AfterChange,
            ),
            Self::Decided { reason, .. } => (
                reason.stage,
                reason.code.clone(),
                reason.rule.as_deref(),
                decided_text(reason),
                decided_retry(&reason.code),
            ),
            Self::Unknown { what, .. } => (
                Stage::Permission,
                ReasonCode::NOT_ALLOWLISTED,
                None,
                format!("unknown {what}"),
                Retry::Never,
            ),
            Self::NotRecorded { forwarded: false, .. } => (
                Stage::Record,
                ReasonCode::AUDIT_UNAVAILABLE,
                None,
                "The decision could not be recorded, so the call was not made.".into(),
                Retry::After { seconds: 5 },
            ),
            Self::NotRecorded { forwarded: true, .. } => (
                Stage::Record,
                ReasonCode::AUDIT_UNAVAILABLE,
                None,
                "The call was made, but its outcome could not be recorded, so the answer is \
                 withheld. Do not repeat the call blindly."
                    .into(),
                Retry::Never,
            ),
            Self::Unanchored { .. } => (
                Stage::Record,
                ReasonCode::AUDIT_UNAVAILABLE,
                None,
                "The log of calls has not been anchored for too long, so the call was not made."
                    .into(),
                Retry::After { seconds: 60 },
            ),
            Self::Upstream { sent: false, detail, .. } => (
                Stage::Upstream,
                ReasonCode::UPSTREAM_UNREACHABLE,
                None,
                format!("The server could not be reached; nothing was sent ({detail})."),
                Retry::After { seconds: 5 },
            ),
            Self::Upstream { sent: true, detail, .. } => (
                Stage::Upstream,
                ReasonCode::OUTCOME_UNKNOWN,
                None,
                format!(
                    "The outcome of this call is unknown ({detail}). Do not repeat it blindly."
                ),
                Retry::Never,
            ),
            Self::UpstreamError { .. } => (
                Stage::Upstream,
                ReasonCode::OUTCOME_UNKNOWN,
                None,
                "the server answered with an error".into(),
                Retry::Never,
            ),
        }
    }

    /// Gives the structured refusal of `_meta["dev.countersign/refusal"]`.
    pub fn to_meta(&self) -> Value {
        let (stage, code, rule, _, retry) = self.parts();
        let mut meta = json!({
            "code": code,
            "stage": stage,
            "evaluation_id": self.evaluation_id(),
            "retry": match retry {
                Retry::Never => "never",
                Retry::AfterChange => "after_change",
                Retry::After { .. } => "after",
            },
        });
        if let Some(object) = meta.as_object_mut() {
            if let Some(rule) = rule {
                object.insert("rule_id".into(), rule.into());
            }
            if let Retry::After { seconds } = retry {
                object.insert("retry_after_s".into(), seconds.into());
            }
        }
        meta
    }

    /// Gives the `CallToolResult` that lets a model understand the refusal, or `None` where the
    /// protocol wants a JSON-RPC error.
    pub fn to_tool_result(&self) -> Option<Value> {
        match self {
            Self::Unknown { .. }
            | Self::NotRecorded { .. }
            | Self::Unanchored { .. }
            | Self::UpstreamError { .. } => None,
            Self::Decided { reason, .. } if is_conflict(&reason.code) => None,
            Self::Decided { .. } | Self::Upstream { .. } => {
                let (stage, code, rule, text, _) = self.parts();
                let rule = rule.map(|rule| format!(", rule {rule}")).unwrap_or_default();
                let text = format!(
                    "Refused by Countersign: {text} [{code}, stage {stage}{rule}, evaluation {}]",
                    self.evaluation_id()
                );
                Some(json!({
                    "content": [{"type": "text", "text": text}],
                    "isError": true,
                    "_meta": {"dev.countersign/refusal": self.to_meta()},
                }))
            }
        }
    }

    /// Gives the JSON-RPC error for methods that have no error result, and for failures that are not
    /// the tool's.
    pub fn to_rpc_error(&self) -> RpcError {
        let (_, code, _, text, _) = self.parts();
        let number = match self {
            Self::Unknown { what: "method", .. } => code::METHOD_NOT_FOUND,
            Self::Unknown { .. } => code::INVALID_PARAMS,
            Self::NotRecorded { .. } | Self::Unanchored { .. } => code::UNAVAILABLE,
            Self::Upstream { .. } => code::BAD_GATEWAY,
            Self::UpstreamError { .. } => code::INTERNAL_ERROR,
            Self::Decided { reason, .. } => match &reason.code {
                gone if *gone == ReasonCode::IDEMPOTENCY_RESULT_GONE => code::GONE,
                other if is_conflict(other) => code::CONFLICT,
                _ => code::DENIED,
            },
        };
        let mut error = RpcError::new(number, format!("{code}: {text}"));
        if matches!(self, Self::Unknown { .. }) {
            error.message = text;
            if number == code::INVALID_PARAMS {
                error.status = 200;
            }
        }
        error.with_data(json!({"dev.countersign/refusal": self.to_meta()}))
    }
}

/// Tells whether the code speaks of an earlier call with the same key.
fn is_conflict(code: &ReasonCode) -> bool {
    [
        ReasonCode::IDEMPOTENCY_PAYLOAD_MISMATCH,
        ReasonCode::IDEMPOTENCY_IN_FLIGHT,
        ReasonCode::IDEMPOTENCY_OUTCOME_UNKNOWN,
        ReasonCode::IDEMPOTENCY_RESULT_GONE,
    ]
    .contains(code)
}

/// Says in one sentence why policy refused.
fn decided_text(reason: &Reason) -> String {
    match &reason.code {
        code if *code == ReasonCode::SCHEMA => {
            format!("The arguments do not fit the tool's schema: {}.", reason.detail)
        }
        code if is_conflict(code) => reason.detail.clone(),
        code => format!("Policy does not allow this call: {code} {}.", reason.detail),
    }
}

/// Says whether repeating a refused call can help.
fn decided_retry(code: &ReasonCode) -> Retry {
    if *code == ReasonCode::IDEMPOTENCY_IN_FLIGHT {
        Retry::After { seconds: 5 }
    } else if [ReasonCode::SCHEMA, ReasonCode::IDEMPOTENCY_KEY_REQUIRED].contains(code)
        || code.as_str() == "BOUNDS"
    {
        Retry::AfterChange
    } else {
        Retry::Never
    }
}
