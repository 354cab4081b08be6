//! The JSON routes under `/api/v1`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use countersign_model::{Agent, NewAgent, OutcomeStatus, RecordId};
use countersign_store::NewKey;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::answer::{ApiError, json_response};
use crate::limits::{
    BODY_BYTES_MAX, BODY_READ_TIMEOUT, OPERATOR_TIMEOUT, OVERLAP_MS_MAX, REASON_BYTES_MAX,
};
use crate::{ACTOR, Console, OperatorError, UpstreamSpec};

type Answer = Result<Response, ApiError>;

pub(crate) fn routes() -> Router<Arc<Console>> {
    Router::new()
        .route("/agents", get(list_agents).post(add_agent))
        .route("/agents/{name}", get(show_agent))
        .route("/agents/{name}/disable", post(disable_agent))
        .route("/agents/{name}/rotate-key", post(rotate_key))
        .route("/policy/reload", post(reload_policy))
        .route("/pins/{server}", post(pin))
        .route("/upstreams", post(add_upstream))
        .route("/calls/{evaluation_id}/reconcile", post(reconcile))
        .route("/subjects/erase", post(erase))
        .route("/holds/set", post(set_hold))
        .route("/holds/lift", post(lift_hold))
}

async fn list_agents(State(console): State<Arc<Console>>) -> Response {
    let agents = console.store.agents().list();
    let agents: Vec<&Agent> = agents.iter().map(Arc::as_ref).collect();
    json_response(StatusCode::OK, &json!({"agents": agents}))
}

async fn show_agent(State(console): State<Arc<Console>>, Path(name): Path<String>) -> Answer {
    let agent = console.store.agents().get(&name);
    let agent = agent.ok_or_else(|| ApiError::not_found(&format!("there is no agent `{name}`")))?;
    Ok(json_response(StatusCode::OK, &json!({"agent": *agent})))
}

/// Registers an agent; the answer is the only time that its key is seen.
async fn add_agent(State(console): State<Arc<Console>>, body: Body) -> Answer {
    let new: NewAgent = read(body).await?;
    let (agent, key) = console.store.agents().add(new, ACTOR).await?;
    let mut answer = json!({"agent": agent});
    show_key(&mut answer, &key);
    Ok(json_response(StatusCode::CREATED, &answer))
}

async fn disable_agent(State(console): State<Arc<Console>>, Path(name): Path<String>) -> Answer {
    let agent = console.store.agents().disable(&name, ACTOR).await?;
    Ok(json_response(StatusCode::OK, &json!({"agent": agent})))
}

/// The body of `rotate-key`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rotation {
    /// How long the old keys stay good, in milliseconds.
    overlap_ms: u64,
}

async fn rotate_key(
    State(console): State<Arc<Console>>,
    Path(name): Path<String>,
    body: Body,
) -> Answer {
    let Rotation { overlap_ms } = read(body).await?;
    if overlap_ms > OVERLAP_MS_MAX {
        return Err(ApiError::invalid(format!("`overlap_ms` is at most {OVERLAP_MS_MAX}")));
    }
    let key = console.store.agents().rotate_key(&name, overlap_ms, ACTOR).await?;
    let mut answer = json!({});
    show_key(&mut answer, &key);
    Ok(json_response(StatusCode::OK, &answer))
}

fn show_key(answer: &mut Value, key: &NewKey) {
    if let Some(object) = answer.as_object_mut() {
        object.insert("key_id".into(), key.id.as_str().into());
        object.insert("key".into(), key.text.as_str().into());
    }
}

async fn reload_policy(State(console): State<Arc<Console>>) -> Answer {
    let bundle = asked(console.operator.reload_policy(ACTOR)).await?;
    Ok(json_response(StatusCode::OK, &json!({"bundle": bundle})))
}

async fn pin(State(console): State<Arc<Console>>, Path(server): Path<String>) -> Answer {
    let server = server.parse().map_err(invalid)?;
    let tools = asked(console.operator.pin(&server, ACTOR)).await?;
    Ok(json_response(StatusCode::OK, &json!({"server": server, "tools": tools})))
}

/// The body of `upstreams`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct NewUpstream {
    name: String,
    command: Vec<String>,
    env: BTreeMap<String, String>,
    cwd: Option<PathBuf>,
}

async fn add_upstream(State(console): State<Arc<Console>>, body: Body) -> Answer {
    let NewUpstream { name, command, env, cwd } = read(body).await?;
    let missing = required([("name", name.is_empty()), ("command", command.is_empty())]);
    if !missing.is_empty() {
        return Err(ApiError::missing(missing));
    }
    let name = name.parse().map_err(invalid)?;
    let upstream = UpstreamSpec { name, command, env, cwd };
    let answer = json!({"upstream": {"name": upstream.name}});
    asked(console.operator.add_upstream(upstream, ACTOR)).await?;
    Ok(json_response(StatusCode::CREATED, &answer))
}

/// The body of `reconcile`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Reconciliation {
    /// What really came of the call: `executed`, `failed` or `not_forwarded`.
    outcome: Option<OutcomeStatus>,
    /// How the operator knows.
    reason: String,
}

async fn reconcile(
    State(console): State<Arc<Console>>,
    Path(evaluation_id): Path<String>,
    body: Body,
) -> Answer {
    let call: RecordId =
        evaluation_id.parse().map_err(|_| ApiError::invalid("an evaluation id is a UUID"))?;
    let Reconciliation { outcome, reason } = read(body).await?;
    let no_reason = reason.trim().is_empty();
    let (Some(outcome), false) = (outcome, no_reason) else {
        return Err(ApiError::missing(required([
            ("outcome", outcome.is_none()),
            ("reason", no_reason),
        ])));
    };
    check_reason(Some(&reason))?;
    let place = console.store.reconcile(call, outcome, ACTOR, &reason).await?;
    let answer = json!({"record_id": place.record_id, "index": place.index.map(|index| index.0)});
    Ok(json_response(StatusCode::OK, &answer))
}

/// The body of `subjects/erase`. The person is not in a path: paths end in the logs of proxies.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ErasureOrder {
    subject: String,
    /// The ticket under which it is asked for; public.
    ticket: String,
    reason: Option<String>,
}

async fn erase(State(console): State<Arc<Console>>, body: Body) -> Answer {
    let ErasureOrder { subject, ticket, reason } = read(body).await?;
    let missing = required([("subject", subject.is_empty()), ("ticket", ticket.is_empty())]);
    if !missing.is_empty() {
        return Err(ApiError::missing(missing));
    }
    check_reason(reason.as_deref())?;
    let erased = console.store.erase(&subject, &ticket, reason.as_deref(), ACTOR).await?;
    Ok(json_response(StatusCode::OK, &erased.to_json()))
}

/// The body of `holds/set` and `holds/lift`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HoldOrder {
    subject: String,
    reason: Option<String>,
}

async fn set_hold(State(console): State<Arc<Console>>, body: Body) -> Answer {
    let HoldOrder { subject, reason } = read(body).await?;
    let reason = reason.unwrap_or_default();
    let no_reason = reason.trim().is_empty();
    let missing = required([("subject", subject.is_empty()), ("reason", no_reason)]);
    if !missing.is_empty() {
        return Err(ApiError::missing(missing));
    }
    check_reason(Some(&reason))?;
    let place = console.store.set_hold(&subject, &reason, ACTOR).await?;
    let answer = json!({"record_id": place.record_id, "index": place.index.map(|index| index.0)});
    Ok(json_response(StatusCode::CREATED, &answer))
}

async fn lift_hold(State(console): State<Arc<Console>>, body: Body) -> Answer {
    let HoldOrder { subject, reason } = read(body).await?;
    if subject.is_empty() {
        return Err(ApiError::missing(vec!["subject"]));
    }
    check_reason(reason.as_deref())?;
    let place = console.store.lift_hold(&subject, reason.as_deref(), ACTOR).await?;
    let answer = json!({"record_id": place.record_id, "index": place.index.map(|index| index.0)});
    Ok(json_response(StatusCode::OK, &answer))
}

fn check_reason(reason: Option<&str>) -> Result<(), ApiError> {
    if reason.is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
        return Err(ApiError::invalid(format!("a reason has at most {REASON_BYTES_MAX} bytes")));
    }
    Ok(())
}

fn required<const N: usize>(fields: [(&'static str, bool); N]) -> Vec<&'static str> {
    fields.into_iter().filter(|(_, missing)| *missing).map(|(field, _)| field).collect()
}

fn invalid(error: impl std::fmt::Display) -> ApiError {
    ApiError::invalid(error.to_string())
}

/// Waits for the gateway, though not for ever.
async fn asked<T>(answer: impl Future<Output = Result<T, OperatorError>>) -> Result<T, ApiError> {
    let late = |_| ApiError::unavailable(format!("no answer within {}", seconds(OPERATOR_TIMEOUT)));
    Ok(tokio::time::timeout(OPERATOR_TIMEOUT, answer).await.map_err(late)??)
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}

/// Reads a JSON body within its limits; an empty one is an empty object.
async fn read<T: DeserializeOwned + Default>(body: Body) -> Result<T, ApiError> {
    let bytes = Limited::new(body, BODY_BYTES_MAX).collect();
    let bytes = match tokio::time::timeout(BODY_READ_TIMEOUT, bytes).await {
        Ok(Ok(bytes)) => bytes.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Err(ApiError::too_large(BODY_BYTES_MAX));
        }
        Ok(Err(_)) => return Err(ApiError::unreadable("the body could not be read")),
        Err(_) => return Err(ApiError::timeout("the body did not come in time")),
    };
    if bytes.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(&bytes).map_err(|error| {
        if error.is_data() {
            ApiError::invalid(error.to_string())
        } else {
            ApiError::unreadable(format!("the body is not JSON: {error}"))
        }
    })
}
