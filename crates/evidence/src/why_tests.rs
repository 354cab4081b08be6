use countersign_model::{Agent, AgentId, AgentStatus, Mode, ReasonCode, TimestampMs};
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::time::{Edge, parse};

/// A Sunday at three.
fn sunday() -> i64 {
    parse("2026-03-15T03:00:07.142Z", Edge::Start).unwrap()
}

fn opened(leaf: &Value, private: &Value) -> Opened {
    let record = Record::parse(812, leaf.to_string().into_bytes()).unwrap();
    let private = private.as_object().unwrap().clone().into_iter().collect();
    Opened { private, ..Opened::public(record) }
}

/// A decision of `backup-bot`, with more public fields.
fn call(more: &Value, private: &Value) -> Case {
    let mut leaf = json!({"v": 1, "kind": "decision", "record_id": "0190-call", "origin": "mcp",
        "time": {"ms": sunday(), "n": 0}, "agent": Uuid::nil().to_string(), "agent_name": "backup-bot",
        "environment": "prod", "principal": "p5eud0", "method": "tools/call", "server": "s3",
        "tool": "s3/delete_bucket", "decision": "allow", "mode": "enforce", "rules": [], "reasons": [],
        "bundle": "3f2a9c1b0d4e5f60718293a4b5c6d7e8f90112233445566778899aabbccddeeff"});
    leaf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Case {
        main: opened(&leaf, private),
        outcomes: Vec::new(),
        agent: Some(Agent {
            id: AgentId(Uuid::nil()),
            name: "backup-bot".parse().unwrap(),
            purpose: "nightly backups".into(),
            owner: "ada@example.com".into(),
            environment: "prod".parse().unwrap(),
            roles: Vec::new(),
            status: AgentStatus::Active,
            created: TimestampMs(0),
        }),
        policies: Vec::new(),
        proof: Err("no published checkpoint covers the record yet".into()),
    }
}

fn open_fields() -> Value {
    json!({"principal": {"id": "ada@example.com", "type": "human", "provenance": "registry"},
        "arguments.bucket": "logs", "arguments.force": true})
}

fn outcome(leaf: &Value, private: &Value) -> Opened {
    let mut all = json!({"kind": "outcome", "record_id": "0190-outcome", "parent": "0190-call",
        "time": {"ms": sunday() + 142, "n": 0}});
    all.as_object_mut().unwrap().extend(leaf.as_object().unwrap().clone());
    opened(&all, private)
}

fn policy(id: &str, effect: Effect, mode: Mode) -> PolicyInfo {
    PolicyInfo {
        id: id.into(),
        effect,
        mode,
        code: ReasonCode::FORBIDDEN,
        reason: None,
        approval: None,
        file: "policies/30-roles.cedar".into(),
        line: 12,
    }
}

#[test]
fn r_070_an_executed_deletion_with_its_proof() {
    let mut case = call(&json!({"rules": ["allow-backup"]}), &open_fields());
    case.policies = vec![policy("allow-backup", Effect::Permit, Mode::Enforce)];
    case.outcomes = vec![outcome(&json!({"outcome": "executed", "duration_ms": 142}), &json!({}))];
    case.proof = Ok(Proof {
        leaf_index: 812,
        leaf_hash: "bGVhZg==".into(),
        tree_size: 1024,
        root: "cm9vdA==".into(),
        origin: "localhost/default".into(),
        vkey: "localhost/default+00000000+a2V5".into(),
        tlog_proof: String::new(),
    });
    insta::assert_snapshot!(Why::of(&case), @r##"
On Sunday, 15 March 2026 at 03:00:07.142 UTC, agent `backup-bot` (purpose: nightly backups; owner: ada@example.com; environment: prod), acting on behalf of ada@example.com, asked for `s3/delete_bucket` with arguments {"bucket":"logs","force":true}. It was allowed under policy bundle 3f2a9c1b0d4e, by rule `allow-backup` (permit, policies/30-roles.cedar:12). It was forwarded and executed after 142 ms.

Proof:
  record     0190-call is leaf 812 of 1024 in the log
  leaf hash  bGVhZg==
  root       cm9vdA==
  signed by  localhost/default
  log key    localhost/default+00000000+a2V5
Check it offline:
  countersign show 0190-call --proof record.json
  countersign verify --record record.json --vkey 'localhost/default+00000000+a2V5'
That the list is complete (every record counted, none missing):
  countersign verify --log countersign-data/log --vkey 'localhost/default+00000000+a2V5'
"##);
}

#[test]
fn denied_by_a_rule() {
    let reasons = json!([{"stage": "bounds", "code": "BOUNDS", "rule": "refund-bounds", "detail": "amount>5000"}]);
    let mut fields = open_fields();
    fields["reasons"] = reasons;
    let mut case = call(
        &json!({"decision": "deny", "rules": ["refund-bounds"], "reasons": ["BOUNDS"]}),
        &fields,
    );
    case.policies = vec![policy("refund-bounds", Effect::Forbid, Mode::Enforce)];
    insta::assert_snapshot!(Why::of(&case).paragraph, @r##"On Sunday, 15 March 2026 at 03:00:07.142 UTC, agent `backup-bot` (purpose: nightly backups; owner: ada@example.com; environment: prod), acting on behalf of ada@example.com, asked for `s3/delete_bucket` with arguments {"bucket":"logs","force":true}. It was denied under policy bundle 3f2a9c1b0d4e, by rule `refund-bounds` (forbid, policies/30-roles.cedar:12): amount>5000 (BOUNDS at bounds). Nothing was forwarded."##);
}

#[test]
fn denied_since_nothing_permits_it() {
    let case = call(&json!({"decision": "deny", "reasons": ["NOT_ALLOWLISTED"]}), &open_fields());
    insta::assert_snapshot!(Why::of(&case).paragraph, @r##"On Sunday, 15 March 2026 at 03:00:07.142 UTC, agent `backup-bot` (purpose: nightly backups; owner: ada@example.com; environment: prod), acting on behalf of ada@example.com, asked for `s3/delete_bucket` with arguments {"bucket":"logs","force":true}. It was denied under policy bundle 3f2a9c1b0d4e: NOT_ALLOWLISTED. Nothing was forwarded."##);
}

#[test]
fn held_for_a_person() {
    let case = call(
        &json!({"decision": "hold", "rules": ["a", "b"], "reasons": ["FORBIDDEN"]}),
        &json!({"principal": {"id": "backups@example.com", "type": "service_account"}}),
    );
    insta::assert_snapshot!(Why::of(&case).paragraph, @r##"On Sunday, 15 March 2026 at 03:00:07.142 UTC, agent `backup-bot` (purpose: nightly backups; owner: ada@example.com; environment: prod), acting on behalf of backups@example.com (service account), asked for `s3/delete_bucket` without arguments. It was held under policy bundle 3f2a9c1b0d4e, by rule `a` and rule `b`: FORBIDDEN. Nothing was forwarded: a person has to approve it first."##);
}

#[test]
fn allowed_though_an_observed_rule_would_not() {
    let mut case = call(
        &json!({"rules": ["allow-backup", "no-deletion"], "would_be": "deny", "mode": "observe"}),
        &open_fields(),
    );
    case.policies = vec![
        policy("allow-backup", Effect::Permit, Mode::Enforce),
        policy("no-deletion", Effect::Forbid, Mode::Observe),
    ];
    insta::assert_snapshot!(Why::of(&case).paragraph, @r##"On Sunday, 15 March 2026 at 03:00:07.142 UTC, agent `backup-bot` (purpose: nightly backups; owner: ada@example.com; environment: prod), acting on behalf of ada@example.com, asked for `s3/delete_bucket` with arguments {"bucket":"logs","force":true}. It was allowed under policy bundle 3f2a9c1b0d4e, by rule `allow-backup` (permit, policies/30-roles.cedar:12). If every policy were enforced, it would have been denied, by rule `no-deletion` (forbid, mode observe, policies/30-roles.cedar:12). No outcome is recorded yet."##);
}

#[test]
fn a_key_that_was_used_before() {
    let case = call(
        &json!({"decision": "deny", "rules": ["allow-backup"], "reasons": ["IDEMPOTENCY_PAYLOAD_MISMATCH"]}),
        &open_fields(),
    );
    insta::assert_snapshot!(Why::of(&case).paragraph, @r##"On Sunday, 15 March 2026 at 03:00:07.142 UTC, agent `backup-bot` (purpose: nightly backups; owner: ada@example.com; environment: prod), acting on behalf of ada@example.com, asked for `s3/delete_bucket` with arguments {"bucket":"logs","force":true}. Policy allowed it under policy bundle 3f2a9c1b0d4e, by rule `allow-backup`, but it was denied: its idempotency key was used before with other arguments (IDEMPOTENCY_PAYLOAD_MISMATCH). Nothing was forwarded."##);
}

#[test]
fn an_unknown_outcome_that_an_operator_settled() {
    let mut case = call(&json!({"rules": ["allow-backup"]}), &open_fields());
    case.outcomes = vec![
        outcome(&json!({"outcome": "unknown"}), &json!({})),
        outcome(
            &json!({"outcome": "executed", "reconciled": true}),
            &json!({"principal": "eve@example.com", "reason": "the bucket is gone"}),
        ),
    ];
    insta::assert_snapshot!(Why::of(&case).paragraph, @r##"On Sunday, 15 March 2026 at 03:00:07.142 UTC, agent `backup-bot` (purpose: nightly backups; owner: ada@example.com; environment: prod), acting on behalf of ada@example.com, asked for `s3/delete_bucket` with arguments {"bucket":"logs","force":true}. It was allowed under policy bundle 3f2a9c1b0d4e, by rule `allow-backup`. It may or may not have been executed: its outcome is unknown, as recorded on Sunday, 15 March 2026 at 03:00:07.284 UTC. On Sunday, 15 March 2026 at 03:00:07.284 UTC, eve@example.com settled it as executed, saying: “the bucket is gone”."##);
}

#[test]
fn erased_private_fields() {
    let mut case = call(&json!({"rules": ["allow-backup"]}), &json!({}));
    case.main.closed = Some("their keys are destroyed".into());
    insta::assert_snapshot!(Why::of(&case).paragraph, @r##"On Sunday, 15 March 2026 at 03:00:07.142 UTC, agent `backup-bot` (purpose: nightly backups; owner: ada@example.com; environment: prod), acting on behalf of a principal whose name is closed (pseudonym p5eud0), asked for `s3/delete_bucket` with arguments that are closed. It was allowed under policy bundle 3f2a9c1b0d4e, by rule `allow-backup`. No outcome is recorded yet. The private fields of the record are closed: their keys are destroyed."##);
}

#[test]
fn a_question_of_a_server() {
    let case = call(
        &json!({"origin": "mcp-server", "method": "sampling/createMessage", "tool": null,
            "decision": "deny", "reasons": ["NOT_ALLOWLISTED"]}),
        &json!({"arguments": {"messages": []}}),
    );
    insta::assert_snapshot!(Why::of(&case).paragraph, @r##"On Sunday, 15 March 2026 at 03:00:07.142 UTC, server `s3`, called by agent `backup-bot` (purpose: nightly backups; owner: ada@example.com; environment: prod), acting on behalf of a principal whose name is closed (pseudonym p5eud0), asked the client for `sampling/createMessage` with arguments {"messages":[]}. It was denied under policy bundle 3f2a9c1b0d4e: NOT_ALLOWLISTED. Nothing was forwarded."##);
}

#[test]
fn records_that_are_no_calls() {
    let mut case = call(&json!({}), &json!({}));
    let leaf = json!({"kind": "auth", "result": "rejected", "reasons": ["CREDENTIAL_EXPIRED"], "key_id": "k1",
        "time": {"ms": sunday(), "n": 0}});
    case.main = opened(&leaf, &json!({}));
    insta::assert_snapshot!(Why::of(&case).paragraph, @r##"On Sunday, 15 March 2026 at 03:00:07.142 UTC: An unknown client with key `k1` was turned away (CREDENTIAL_EXPIRED)."##);
}

#[test]
fn arguments_cannot_command_the_terminal() {
    let case = call(&json!({}), &json!({"arguments.x": "\u{9b}2J\u{202e}"}));
    let paragraph = Why::of(&case).paragraph;
    assert!(paragraph.contains("\\u{9b}2J\\u{202e}"), "{paragraph}");
}
