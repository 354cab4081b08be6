//! What a server asks of the client within a call: elicitation, sampling, roots.
//!
//! A server that asks is an untrusted party speaking to a user or a model, so each question is a
//! decision of its own, recorded with the call as its parent.

use std::borrow::Cow;

use countersign_decision::decide;
use countersign_model::{CallFacts, Decision, Facts, OutcomeStatus, ReasonCode, RecordId, Verdict};
use serde_json::json;
use serde_json::value::RawValue;

use crate::envelope::{member, string};
use crate::forward::{Call, input_requests};
use crate::mcp::link::{NoAnswer, Question};
use crate::mcp::{object, raw};
use crate::pipeline::NotRecorded;
use crate::records;
use crate::refusal::{RpcError, code};

/// The methods that a server may send to a client within a call.
const METHODS: [&str; 3] = ["elicitation/create", "sampling/createMessage", "roots/list"];
/// Origin of decisions on what a server asks.
const ORIGIN: &str = "mcp-server";

/// The client's answers to a round of questions.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The `inputResponses` object; `None` if the server asked nothing.
    pub(crate) responses: Option<Box<RawValue>>,
}

/// What policy says to one question.
enum Judged {
    /// The client may be asked; the answer is owed an outcome.
    Ask(Box<Facts>),
    /// The client is not asked; this is what the server hears.
    Declined(Box<RawValue>),
    /// The client is not asked, and the protocol has no word for that.
    Refused(String),
}

/// Answers one request that a server of the stateful era sends within a call.
pub(crate) async fn server_request(
    call: &Call<'_>,
    method: String,
    params: Option<Box<RawValue>>,
) -> Result<Box<RawValue>, Box<RawValue>> {
    let error = |code: i64, text: &str| Err(raw(RpcError::new(code, text).to_json().to_string()));
    if !METHODS.contains(&method.as_str()) {
        return error(code::METHOD_NOT_FOUND, "this request is not passed on");
    }
    let question = Question { key: "question".into(), method, params };
    let facts = match judge(call, &question).await {
        Ok(Judged::Ask(facts)) => facts,
        Ok(Judged::Declined(answer)) => return Ok(answer),
        Ok(Judged::Refused(reason)) => return error(code::DENIED, &reason),
        Err(reason) => return error(code::UNAVAILABLE, reason),
    };
    let answer = call.ask(std::slice::from_ref(&question)).await;
    if settle(call, &facts, answer.as_ref().ok().map(AsRef::as_ref)).await.is_err() {
        return error(code::UNAVAILABLE, "AUDIT_UNAVAILABLE: the answer could not be recorded");
    }
    match answer {
        Ok(responses) => match member(&responses, &question.key) {
            Some(answer) => Ok(answer.to_owned()),
            None => error(code::INVALID_REQUEST, "the client did not answer"),
        },
        Err(NoAnswer::Error(error)) => Err(error),
        Err(NoAnswer::Gone) => error(code::INVALID_REQUEST, "the client did not answer"),
    }
}

/// Gets the answers that a server of the stateless era wants before it goes on.
///
/// # Errors
///
/// Says why the call ends without them.
pub(crate) async fn input_required(call: &Call<'_>, required: &RawValue) -> Result<Asked, String> {
    let questions = input_requests(required);
    if questions.is_empty() {
        // The server only wants the same request again, with its state.
        let answered = call.ask(&[]).await.map_err(|_| "the client did not come back")?;
        drop(answered);
        return Ok(Asked { responses: None });
    }
    let mut asked = Vec::new();
    let mut answers = Vec::new();
    let mut owed = Vec::new();
    for question in questions {
        if !METHODS.contains(&question.method.as_str()) {
            return Err(format!(
                "the server asked for `{}`, which is not passed on",
                question.method
            ));
        }
        match judge(call, &question).await? {
            Judged::Ask(facts) => {
                owed.push(facts);
                asked.push(question);
            }
            Judged::Declined(answer) => answers.push((question.key, answer)),
            Judged::Refused(reason) => return Err(reason),
        }
    }
    let responses = if asked.is_empty() { Ok(raw("{}".into())) } else { call.ask(&asked).await };
    for facts in &owed {
        let answer = responses.as_ref().ok().map(AsRef::as_ref);
        settle(call, facts, answer).await.map_err(|_| "the answer could not be recorded")?;
    }
    let responses = responses.map_err(|missing| match missing {
        NoAnswer::Error(error) => {
            let text = member(&error, "message").and_then(|raw| string(raw).ok());
            text.map_or_else(|| "the client refused".into(), Cow::into_owned)
        }
        NoAnswer::Gone => "the client did not answer".into(),
    })?;
    Ok(Asked { responses: Some(merge(&responses, &answers)) })
}

/// Decides on a question and records the decision.
async fn judge(call: &Call<'_>, question: &Question) -> Result<Judged, &'static str> {
    let arguments = question.params.as_ref().and_then(|raw| serde_json::from_str(raw.get()).ok());
    let facts = Facts {
        evaluation_id: RecordId((call.pipeline.ids)()),
        origin: ORIGIN.into(),
        call: CallFacts {
            method: question.method.clone(),
            server: call.request.server.clone(),
            tool: None,
            target: None,
            arguments: arguments.unwrap_or_else(|| json!({})),
            keyed: false,
            pin_mismatch: false,
        },
        ..call.facts.clone()
    };
    let decision = decide(&call.pipeline.rules.current().bundle, &facts);
    let mut draft = records::decision(&facts, &decision, Some(call.evaluation_id()));
    let allowed = decision.verdict == Verdict::Allow;
    let unanchored = allowed && call.pipeline.gate.is_closed();
    if unanchored {
        draft.public = records::claim_denial(&draft.public, &ReasonCode::AUDIT_UNAVAILABLE);
    }
    let recorded = if allowed && !unanchored {
        call.pipeline.commit_unclaimed(draft).await.is_ok()
    } else {
        call.pipeline.store.append(draft).await.is_ok()
    };
    if !recorded {
        return Err("the decision could not be recorded");
    }
    if unanchored {
        return Err("the log is not anchored, so the client is not asked");
    }
    Ok(judged(facts, &decision))
}

fn judged(facts: Facts, decision: &Decision) -> Judged {
    if decision.verdict == Verdict::Allow {
        return Judged::Ask(Box::new(facts));
    }
    if facts.call.method == "elicitation/create" {
        return Judged::Declined(raw(json!({"action": "decline"}).to_string()));
    }
    Judged::Refused(format!("policy does not let this server ask for `{}`", facts.call.method))
}

/// Records what came of a question that was asked.
async fn settle(
    call: &Call<'_>,
    facts: &Facts,
    answer: Option<&RawValue>,
) -> Result<(), NotRecorded> {
    let status = if answer.is_some() { OutcomeStatus::Executed } else { OutcomeStatus::Failed };
    call.pipeline.settle(facts, status, answer).await
}

/// Adds the answers that the client was not asked for.
fn merge(responses: &RawValue, own: &[(String, Box<RawValue>)]) -> Box<RawValue> {
    if own.is_empty() {
        return responses.to_owned();
    }
    let given = crate::envelope::members(responses).unwrap_or_default();
    let mut all: Vec<(&str, Box<RawValue>)> =
        given.iter().map(|member| (member.name.as_ref(), member.value.to_owned())).collect();
    all.extend(own.iter().map(|(key, answer)| (key.as_str(), answer.clone())));
    object(&all)
}
