//! What a caller hears for each refusal; a changed snapshot is a changed contract.

use countersign_gateway::refusal::Refusal;
use countersign_model::{Reason, ReasonCode, RecordId, Stage, Verdict};
use serde_json::{Value, json};
use uuid::Uuid;

fn heard(refusal: &Refusal) -> Value {
    let error = refusal.to_rpc_error();
    json!({
        "tool_result": refusal.to_tool_result(),
        "error": {"http_status": error.status, "body": error.to_json()},
    })
}

fn decided(verdict: Verdict, stage: Stage, code: ReasonCode, rule: Option<&str>) -> Refusal {
    let reason =
        Reason { stage, code, rule: rule.map(str::to_owned), detail: "the detail".to_owned() };
    Refusal::Decided { evaluation_id: RecordId(Uuid::nil()), verdict, reason }
}

#[test]
fn each_refusal_has_its_answer() {
    let evaluation_id = RecordId(Uuid::nil());
    let bounds = ReasonCode::parse("BOUNDS").unwrap();
    let error = serde_json::value::to_raw_value(&json!({"code": -32000, "message": "no"})).unwrap();
    let refusals = [
        ("denied", decided(Verdict::Deny, Stage::Bounds, bounds, Some("rule-1"))),
        ("schema", decided(Verdict::Deny, Stage::Schema, ReasonCode::SCHEMA, None)),
        ("held", decided(Verdict::Hold, Stage::Approval, ReasonCode::FORBIDDEN, Some("rule-2"))),
        (
            "conflict",
            decided(
                Verdict::Deny,
                Stage::Idempotency,
                ReasonCode::IDEMPOTENCY_PAYLOAD_MISMATCH,
                None,
            ),
        ),
        (
            "gone",
            decided(Verdict::Deny, Stage::Idempotency, ReasonCode::IDEMPOTENCY_RESULT_GONE, None),
        ),
        ("unknown tool", Refusal::Unknown { evaluation_id, what: "tool" }),
        ("not recorded", Refusal::NotRecorded { evaluation_id, forwarded: false }),
        ("unanchored", Refusal::Unanchored { evaluation_id }),
        ("outcome not recorded", Refusal::NotRecorded { evaluation_id, forwarded: true }),
        ("unreachable", Refusal::Upstream { evaluation_id, sent: false, detail: "refused".into() }),
        ("lost", Refusal::Upstream { evaluation_id, sent: true, detail: "timeout".into() }),
        ("upstream error", Refusal::UpstreamError { evaluation_id, error }),
    ];
    let heard: Vec<_> =
        refusals.iter().map(|(name, refusal)| json!({ *name: heard(refusal) })).collect();
    insta::assert_json_snapshot!(heard);
}

#[test]
fn every_code_is_explained() {
    let page = include_str!("../../../spec/codes.md");
    for code in ReasonCode::ALL {
        assert!(page.contains(&format!("`{code}`")), "{code} is not in spec/codes.md");
    }
}
