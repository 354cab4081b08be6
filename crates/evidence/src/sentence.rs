//! One sentence per record (R-071): the same record, the same sentence.

use countersign_model::ReasonCode;

use crate::{Record, shown};

/// Says in a sentence what a record says; `principal` is the person, if the name is open.
#[must_use]
pub fn sentence(record: &Record, principal: Option<&str>) -> String {
    let text = match record.kind() {
        "decision" => decision(record, principal),
        "outcome" => outcome(record),
        "auth" => auth(record),
        "change" => change(record),
        "detection" => detection(record),
        "access" => access(record),
        "heartbeat" => heartbeat(record).to_owned(),
        "gap" => gap(record).to_owned(),
        kind => format!("A record of kind `{kind}`."),
    };
    shown(&text)
}

fn heartbeat(record: &Record) -> &'static str {
    match record.text("event") {
        Some("start") => "The recorder started.",
        Some("stop") => "The recorder was stopped.",
        _ => "The recorder gave a sign of life.",
    }
}

fn gap(record: &Record) -> &'static str {
    match record.text("gap") {
        Some("database_failed") => {
            "The database failed; what was asked for until here was refused, and not all of it recorded."
        }
        _ => "The recorder stopped without a clean end; records may be missing here.",
    }
}

/// Names the agent of a record.
#[must_use]
pub fn agent(record: &Record) -> String {
    match (record.text("agent_name"), record.text("agent")) {
        (Some(name), _) => format!("`{name}`"),
        (None, Some(id)) => format!("agent {id}"),
        (None, None) => "an unknown client".to_owned(),
    }
}

/// Names what was asked for.
#[must_use]
pub fn asked(record: &Record) -> String {
    match (record.text("tool"), record.text("method")) {
        (Some(tool), _) => format!("`{tool}`"),
        (None, Some(method)) => {
            format!("`{method}` of `{}`", record.text("server").unwrap_or("an unnamed server"))
        }
        (None, None) => "something".to_owned(),
    }
}

/// Explains a code by which a call is denied that policy allowed.
#[must_use]
pub(crate) fn claim(code: &str) -> Option<&'static str> {
    Some(match code {
        _ if code == ReasonCode::IDEMPOTENCY_PAYLOAD_MISMATCH.as_str() => {
            "its idempotency key was used before with other arguments"
        }
        _ if code == ReasonCode::IDEMPOTENCY_IN_FLIGHT.as_str() => {
            "a call with the same idempotency key was still running"
        }
        _ if code == ReasonCode::IDEMPOTENCY_OUTCOME_UNKNOWN.as_str() => {
            "the outcome of the first call with its idempotency key is not known"
        }
        _ if code == ReasonCode::IDEMPOTENCY_RESULT_GONE.as_str() => {
            "the first call with its idempotency key was executed, and its result is no longer kept"
        }
        _ if code == ReasonCode::AUDIT_UNAVAILABLE.as_str() => {
            "the log had not been anchored for too long"
        }
        _ => return None,
    })
}

/// Returns the code by which a decision that policy allowed became a denial, if it did: it lost its claim on an
/// idempotency key, or the log was not anchored.
pub(crate) fn lost_claim(record: &Record) -> Option<&str> {
    record.list("reasons").first().copied().filter(|code| claim(code).is_some())
}

fn decision(record: &Record, principal: Option<&str>) -> String {
    let whom = principal.map_or_else(String::new, |person| format!(" for {person}"));
    let (who, what) = (agent(record), asked(record));
    let call = match record.text("origin") {
        Some("mcp-server") => {
            let server = record.text("server").unwrap_or("a server");
            let method = record.text("method").unwrap_or("something");
            format!("Server `{server}` asked the client of {who}{whom} for `{method}`")
        }
        _ => format!("{who}{whom} asked for {what}"),
    };
    let verdict = match record.result() {
        "allow" => "allowed",
        "deny" => "denied",
        "hold" => "held for approval",
        other => other,
    };
    let codes = record.list("reasons").join(", ");
    let why = if codes.is_empty() { String::new() } else { format!(" ({codes})") };
    let rules = match record.list("rules").as_slice() {
        [] => String::new(),
        rules => format!(
            " by {}",
            rules.iter().map(|rule| format!("`{rule}`")).collect::<Vec<_>>().join(", ")
        ),
    };
    let would = record
        .text("would_be")
        .map_or_else(String::new, |would| format!("; enforced, it would be {would}"));
    capital(&format!("{call}: {verdict}{rules}{why}{would}."))
}

fn outcome(record: &Record) -> String {
    let what = match (record.text("tool"), record.text("method")) {
        (None, None) => format!("The call {}", record.evaluation_id()),
        _ => format!("The call of {} by {}", asked(record), agent(record)),
    };
    let settled = record.fields().get("reconciled").is_some_and(|it| it == true);
    if settled {
        return format!("{what} was settled by an operator as {}.", record.result());
    }
    let after = record
        .integer("duration_ms")
        .map_or_else(String::new, |ms| format!(" after {}", crate::time::duration(ms)));
    match record.result() {
        "executed" => format!("{what} was executed{after}."),
        "failed" => format!("{what} failed{after}."),
        "not_forwarded" => format!("{what} was not forwarded."),
        _ => format!("{what} has no known outcome."),
    }
}

fn auth(record: &Record) -> String {
    let who = capital(&agent(record));
    let key = record.text("key_id").map_or_else(String::new, |key| format!(" with key `{key}`"));
    if record.result() == "accepted" {
        return format!("{who}{key} was let in.");
    }
    format!("{who}{key} was turned away ({}).", record.list("reasons").join(", "))
}

fn change(record: &Record) -> String {
    let object = record.text("object").unwrap_or("something");
    let which = ["agent", "server", "bundle"].into_iter().find_map(|name| record.text(name));
    let which = which.map_or_else(String::new, |which| format!(" `{which}`"));
    format!("Change of {object}{which}: {}.", record.result())
}

fn access(record: &Record) -> String {
    let role = record.text("role").unwrap_or("reader");
    let key = record.text("key_id").map_or_else(String::new, |key| format!(" with key `{key}`"));
    if let Some(needs) = record.text("needs") {
        return format!("A token of role `{role}`{key} was refused what takes `{needs}`.");
    }
    let count = match record.integer("count").unwrap_or_default() {
        1 => "1 record".to_owned(),
        count => format!("{count} records"),
    };
    if let Some(command) = record.text("command") {
        let count = if record.integer("count").is_some() { count } else { "records".to_owned() };
        return format!("Somebody with access to the installation read {count} by `{command}`.");
    }
    let route = record.text("route").unwrap_or_default();
    format!("A token of role `{role}`{key} read {count} over `{route}`.")
}

fn detection(record: &Record) -> String {
    let server = record.text("server").map_or_else(String::new, |it| format!(" at server `{it}`"));
    format!("Noticed{server}: {}.", record.result())
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn say(leaf: &Value) -> String {
        let record = Record::parse(0, leaf.to_string().into_bytes()).unwrap();
        sentence(&record, (record.kind() == "decision").then_some("ada@example.com"))
    }

    #[test]
    fn r_071_one_sentence_per_record() {
        let call = |more: Value| {
            let mut leaf = json!({"kind": "decision", "agent_name": "billing-bot", "method": "tools/call",
                "server": "crm", "tool": "crm/refund", "origin": "mcp"});
            leaf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            leaf
        };
        let all: Vec<String> = [
            call(json!({"decision": "allow", "rules": ["allow-crm"]})),
            call(json!({"decision": "deny", "rules": ["refund-bounds"], "reasons": ["BOUNDS"]})),
            call(json!({"decision": "hold", "rules": ["approve-refund"], "reasons": ["FORBIDDEN"]})),
            call(json!({"decision": "allow", "rules": ["allow-crm"], "would_be": "deny"})),
            call(json!({"decision": "deny", "origin": "mcp-server", "tool": null, "method": "sampling/createMessage"})),
            call(json!({"kind": "outcome", "outcome": "executed", "duration_ms": 142})),
            call(json!({"kind": "outcome", "outcome": "failed", "duration_ms": 3200})),
            call(json!({"kind": "outcome", "outcome": "not_forwarded"})),
            json!({"kind": "outcome", "outcome": "unknown", "parent": "0190"}),
            json!({"kind": "outcome", "outcome": "executed", "parent": "0190", "reconciled": true}),
            json!({"kind": "auth", "result": "accepted", "agent": "0191", "key_id": "k1"}),
            json!({"kind": "auth", "result": "rejected", "reasons": ["CREDENTIAL_MISSING"]}),
            json!({"kind": "change", "object": "agent", "action": "disabled", "agent": "0191"}),
            json!({"kind": "change", "object": "tool_pins", "event": "pinned", "server": "crm"}),
            json!({"kind": "detection", "type": "tool_pin_mismatch", "server": "crm"}),
            json!({"kind": "access", "result": "read", "role": "auditor", "key_id": "k2", "count": 25,
                "route": "/api/v1/records"}),
            json!({"kind": "access", "result": "refused", "role": "viewer", "key_id": "k3", "needs": "auditor"}),
            json!({"kind": "access", "result": "read", "role": "admin", "command": "sample", "count": 1}),
            json!({"kind": "access", "result": "read", "role": "admin", "command": "evidence-package"}),
            json!({"kind": "gap", "gap": "unclean_stop"}),
            json!({"kind": "heartbeat"}),
            json!({"kind": "heartbeat", "event": "start"}),
        ]
        .into_iter()
        .map(|leaf| say(&leaf))
        .collect();
        insta::assert_snapshot!(all.join("\n"), @r##"
`billing-bot` for ada@example.com asked for `crm/refund`: allowed by `allow-crm`.
`billing-bot` for ada@example.com asked for `crm/refund`: denied by `refund-bounds` (BOUNDS).
`billing-bot` for ada@example.com asked for `crm/refund`: held for approval by `approve-refund` (FORBIDDEN).
`billing-bot` for ada@example.com asked for `crm/refund`: allowed by `allow-crm`; enforced, it would be deny.
Server `crm` asked the client of `billing-bot` for ada@example.com for `sampling/createMessage`: denied.
The call of `crm/refund` by `billing-bot` was executed after 142 ms.
The call of `crm/refund` by `billing-bot` failed after 3.2 s.
The call of `crm/refund` by `billing-bot` was not forwarded.
The call 0190 has no known outcome.
The call 0190 was settled by an operator as executed.
Agent 0191 with key `k1` was let in.
An unknown client was turned away (CREDENTIAL_MISSING).
Change of agent `0191`: disabled.
Change of tool_pins `crm`: pinned.
Noticed at server `crm`: tool_pin_mismatch.
A token of role `auditor` with key `k2` read 25 records over `/api/v1/records`.
A token of role `viewer` with key `k3` was refused what takes `auditor`.
Somebody with access to the installation read 1 record by `sample`.
Somebody with access to the installation read records by `evidence-package`.
The recorder stopped without a clean end; records may be missing here.
The recorder gave a sign of life.
The recorder started.
"##);
    }
}
