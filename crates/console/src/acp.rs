//! A call in the shape of the audit record of "AI Audit Trails for SOC 2" (Agentic Control Plane, R-061).
//!
//! What is not known is null, never a value that says more than was looked at: `contentScan` is null inside
//! until contents are scanned, `sub`, `email` and `input` once the person is erased.

use countersign_evidence::case::open;
use countersign_evidence::time::utc;
use countersign_evidence::{EvidenceError, Opened, Record};
use countersign_model::RecordId;
use countersign_store::Reader;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// Private fields that the shape opens.
pub(crate) const OPENED: [&str; 2] = ["arguments", "principal"];

/// A call in the shape of Agentic Control Plane's audit record.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AcpRecord {
    /// When it was decided: RFC 3339 in UTC with milliseconds.
    #[schema(example = "2026-03-15T14:23:07.142Z")]
    timestamp: String,
    /// The principal's id; null if the person is erased.
    #[schema(required)]
    sub: Option<String>,
    /// The principal's id where it is an e-mail address.
    #[schema(required)]
    email: Option<String>,
    /// The tool as `<server>/<tool>`, or the MCP method of another request.
    tool: String,
    /// The arguments; null if the person is erased.
    #[schema(required, value_type = Option<Object>)]
    input: Option<Value>,
    /// Scopes that the caller had; agents have none yet.
    scopes: Vec<String>,
    /// Scopes that the tool takes; tools take none yet.
    scope_required: Vec<String>,
    /// `pass` if every scope that it takes was there, else `fail`.
    scope_result: String,
    content_scan: ContentScan,
    /// `success`, `error`, `denied`, `held`, `not_forwarded`, `unknown`, or `pending` without an outcome.
    result: String,
    /// Milliseconds from forwarding to answer; null if there was no answer.
    #[schema(required)]
    latency_ms: Option<i64>,
    /// The tenant.
    tenant_id: String,
    /// The agent's registered name.
    client_type: String,
    /// Null for a call that nobody delegated.
    #[schema(required)]
    delegation_chain: Option<Vec<String>>,
}

/// What a scan of the content found; null where nothing was scanned.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ContentScan {
    #[schema(required)]
    pii_detected: Option<bool>,
    #[schema(required)]
    risk_score: Option<f64>,
}

/// Shows a decision with its latest outcome, as far as the log had it at a size.
///
/// # Errors
/// [`EvidenceError::Store`].
pub(crate) async fn shape(
    reader: &Reader,
    decision: Record,
    tree_size: u64,
) -> Result<AcpRecord, EvidenceError> {
    let mut outcomes = match decision.id().parse::<RecordId>() {
        Ok(id) => reader.outcomes(id).await?,
        Err(_) => Vec::new(),
    };
    outcomes.retain(|outcome| outcome.index.0 < tree_size);
    let latest = outcomes.pop().map(Record::from);
    Ok(AcpRecord::of(&open(reader, decision).await?, latest.as_ref()))
}

impl AcpRecord {
    fn of(decision: &Opened, outcome: Option<&Record>) -> Self {
        let record = &decision.record;
        let text = |name: &str| record.text(name).unwrap_or_default().to_owned();
        let principal = decision.principal();
        let (scopes, scope_required) = (Vec::<String>::new(), Vec::<String>::new());
        let pass = scope_required.iter().all(|scope| scopes.contains(scope));
        Self {
            timestamp: utc(record.time_ms()),
            sub: principal.map(str::to_owned),
            email: principal.filter(|id| id.contains('@')).map(str::to_owned),
            tool: record.text("tool").map_or_else(|| text("method"), str::to_owned),
            input: decision.arguments().map(object),
            scopes,
            scope_required,
            scope_result: if pass { "pass" } else { "fail" }.to_owned(),
            content_scan: ContentScan { pii_detected: None, risk_score: None },
            result: result(record, outcome).to_owned(),
            latency_ms: outcome.and_then(|outcome| outcome.integer("duration_ms")),
            tenant_id: text("tenant"),
            client_type: text("agent_name"),
            delegation_chain: None,
        }
    }
}

/// Arguments are an object; those of other methods than `tools/call` may be anything.
fn object(arguments: Value) -> Value {
    if arguments.is_object() { arguments } else { json!({"arguments": arguments}) }
}

fn result<'a>(decision: &'a Record, outcome: Option<&'a Record>) -> &'a str {
    match (decision.result(), outcome.map(Record::result)) {
        ("deny", _) => "denied",
        ("hold", _) => "held",
        (_, Some("executed")) => "success",
        (_, Some("failed")) => "error",
        (_, Some(other)) => other,
        (_, None) => "pending",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results() {
        let record = |leaf: Value| Record::parse(0, leaf.to_string().into_bytes()).unwrap();
        let decision = |verdict: &str| record(json!({"kind": "decision", "decision": verdict}));
        let outcome = |status: &str| record(json!({"kind": "outcome", "outcome": status}));
        for (verdict, status, expected) in [
            ("deny", None, "denied"),
            ("hold", None, "held"),
            ("allow", None, "pending"),
            ("allow", Some("executed"), "success"),
            ("allow", Some("failed"), "error"),
            ("allow", Some("unknown"), "unknown"),
            ("allow", Some("not_forwarded"), "not_forwarded"),
        ] {
            let status = status.map(outcome);
            assert_eq!(result(&decision(verdict), status.as_ref()), expected, "{verdict}");
        }
    }
}
