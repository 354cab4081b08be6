//! Drafts of the records that a call leaves.

use countersign_model::{
    Decision, Draft, Facts, Kind, OutcomeStatus, ReasonCode, RecordId, Verdict,
};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Values that a leaf lists at most; more are cut, with a count.
const LIST_MAX: usize = 32;

/// Drafts the decision record of a call.
pub(crate) fn decision(facts: &Facts, decision: &Decision, parent: Option<RecordId>) -> Draft {
    let codes = decision.reasons.iter().map(|reason| reason.code.as_str());
    let draft = call_fields(Draft::new(facts.evaluation_id, Kind::Decision), facts)
        .with("decision", decision.verdict.to_string())
        .with("mode", decision.mode().to_string())
        .with("bundle", decision.bundle.as_str())
        .with("rules", list(decision.rules.iter().map(|rule| rule.id.as_str())))
        .with("reasons", list(codes))
        .with_some("would_be", decision.would_be.map(|verdict| verdict.to_string()))
        .with_some("tool_pin", decision.tool_pin.as_deref())
        .with_some("parent", parent.map(|id| id.to_string()));
    let draft = seal_arguments(draft, &facts.call.arguments);
    let draft = draft.sealed("principal", principal(facts)).sealed("facts", sealed_facts(facts));
    match serde_json::to_value(&decision.reasons) {
        Ok(reasons) if !decision.reasons.is_empty() => draft.sealed("reasons", reasons),
        _ => draft,
    }
}

/// Adds what the client claimed about its identity; kept, and used for nothing.
pub(crate) fn with_claims(draft: Draft, claims: &Map<String, Value>) -> Draft {
    if claims.is_empty() { draft } else { draft.sealed("claimed", claims.clone()) }
}

/// Gives the public fields of the denial that is recorded when an allowed call loses its claim.
pub(crate) fn claim_denial(allowed: &Map<String, Value>, code: &ReasonCode) -> Map<String, Value> {
    let mut public = allowed.clone();
    public.insert("decision".into(), Verdict::Deny.to_string().into());
    public.insert("mode".into(), "enforce".into());
    public.insert("reasons".into(), vec![Value::from(code.as_str())].into());
    public.remove("would_be");
    public
}

/// Drafts the outcome record of a forwarded call.
pub(crate) fn outcome(
    record_id: RecordId,
    facts: &Facts,
    status: OutcomeStatus,
    detail: Option<&str>,
    answer: Option<&RawValue>,
    duration_ms: i64,
) -> Draft {
    let draft = call_fields(Draft::new(record_id, Kind::Outcome), facts)
        .with("parent", facts.evaluation_id.to_string())
        .with("outcome", status.as_str())
        .with("duration_ms", duration_ms)
        .with_some("detail", detail);
    match answer {
        // As text: the exact bytes are the evidence.
        Some(answer) => draft.sealed("result", answer.get()),
        None => draft,
    }
}

/// Adds the public fields that every record of a call has, so that each can be found by them.
fn call_fields(draft: Draft, facts: &Facts) -> Draft {
    draft
        .about(facts.principal.id.as_str())
        .with("origin", facts.origin.as_str())
        .with("environment", facts.agent.environment.as_str())
        .with("agent", facts.agent.id.to_string())
        .with("agent_name", facts.agent.name.as_str())
        .with("method", facts.call.method.as_str())
        .with("server", facts.call.server.as_str())
        .with_some("tool", facts.call.tool.as_ref().map(ToString::to_string))
        .with_some("session", facts.session.as_deref())
}

/// Seals each argument under its own name, so that one can be shown without the others.
fn seal_arguments(mut draft: Draft, arguments: &Value) -> Draft {
    match arguments {
        Value::Object(members) => {
            for (name, value) in members {
                draft = draft.sealed(format!("arguments.{name}"), value.clone());
            }
            draft
        }
        Value::Null => draft,
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            draft.sealed("arguments", arguments.clone())
        }
    }
}

/// Gives the facts as they are sealed: arguments that [`seal_arguments`] seals one by one are not there
/// again.
fn sealed_facts(facts: &Facts) -> Value {
    let apart = facts.call.arguments.as_object().is_some_and(|members| !members.is_empty());
    if !apart {
        return serde_json::to_value(facts).unwrap_or(Value::Null);
    }
    let facts = Facts {
        agent: facts.agent.clone(),
        call: facts.call.without_arguments(),
        evaluation_id: facts.evaluation_id,
        origin: facts.origin.clone(),
        principal: facts.principal.clone(),
        session: facts.session.clone(),
        tenant: facts.tenant.clone(),
        ..*facts
    };
    let mut value = serde_json::to_value(facts).unwrap_or(Value::Null);
    if let Some(call) = value.get_mut("call").and_then(Value::as_object_mut) {
        call.remove("arguments");
    }
    value
}

fn principal(facts: &Facts) -> Value {
    let mut principal = Map::new();
    principal.insert("id".into(), facts.principal.id.as_str().into());
    principal
        .insert("type".into(), serde_json::to_value(facts.principal.kind).unwrap_or(Value::Null));
    principal.insert("provenance".into(), "registry".into());
    Value::Object(principal)
}

/// Lists values, cut to what a leaf holds.
fn list<'a>(values: impl ExactSizeIterator<Item = &'a str>) -> Vec<Value> {
    let more = values.len().saturating_sub(LIST_MAX);
    let mut list: Vec<Value> = values.take(LIST_MAX).map(Value::from).collect();
    if more > 0 {
        list.push(format!("and {more} more").into());
    }
    list
}
