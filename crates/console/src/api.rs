//! The JSON routes under `/api/v1`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use countersign_model::{Agent, NewAgent, OutcomeStatus, RecordId};
use countersign_store::NewKey;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::LocalAccess;
use crate::answer::{ApiError, ErrorBody, json_response};
use crate::limits::{
    BODY_BYTES_MAX, BODY_READ_TIMEOUT, OPERATOR_TIMEOUT, OVERLAP_MS_MAX, REASON_BYTES_MAX,
};
use crate::openapi::{Denied, Refusals};
use crate::role::Caller;
use crate::{Console, OperatorError, UpstreamSpec};

pub(crate) type Answer = Result<Response, ApiError>;

pub(crate) fn routes() -> OpenApiRouter<Arc<Console>> {
    OpenApiRouter::default()
        .routes(routes!(list_agents, add_agent))
        .routes(routes!(show_agent))
        .routes(routes!(disable_agent))
        .routes(routes!(rotate_key))
        .routes(routes!(reload_policy))
        .routes(routes!(pin))
        .routes(routes!(add_upstream))
        .routes(routes!(reconcile))
        .routes(routes!(erase))
        .routes(routes!(set_hold))
        .routes(routes!(lift_hold))
        .routes(routes!(record_access))
}

/// Lists all agents
#[utoipa::path(
    get,
    path = "/api/v1/agents",
    tag = "agents",
    responses(
        (status = 200, description = "`{\"agents\": […]}`", body = Object),
        Denied,
    )
)]
async fn list_agents(State(console): State<Arc<Console>>) -> Response {
    let agents = console.store.agents().list();
    let agents: Vec<&Agent> = agents.iter().map(Arc::as_ref).collect();
    json_response(StatusCode::OK, &json!({"agents": agents}))
}

/// Shows one agent
#[utoipa::path(
    get,
    path = "/api/v1/agents/{name}",
    tag = "agents",
    params(("name" = String, Path, description = "The agent's name")),
    responses(
        (status = 200, description = "`{\"agent\": {…}}`", body = Object),
        (status = 404, description = "There is no such agent", body = ErrorBody),
        Denied,
    )
)]
async fn show_agent(State(console): State<Arc<Console>>, Path(name): Path<String>) -> Answer {
    let agent = console.store.agents().get(&name);
    let agent = agent.ok_or_else(|| ApiError::not_found(&format!("there is no agent `{name}`")))?;
    Ok(json_response(StatusCode::OK, &json!({"agent": *agent})))
}

/// Registers an agent; the answer is the only time that its key is seen
#[utoipa::path(
    post,
    path = "/api/v1/agents",
    tag = "agents",
    request_body = Object,
    responses(
        (status = 201, description = "`{\"agent\": {…}, \"key_id\": \"…\", \"key\": \"csk_…\"}`", body = Object),
        Refusals,
    )
)]
async fn add_agent(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer {
    let new: NewAgent = read(body).await?;
    let (agent, key) = console.store.agents().add(new, &caller.actor).await?;
    let mut answer = json!({"agent": agent});
    show_key(&mut answer, &key);
    Ok(json_response(StatusCode::CREATED, &answer))
}

/// Refuses every credential of an agent from now on
#[utoipa::path(
    post,
    path = "/api/v1/agents/{name}/disable",
    tag = "agents",
    params(("name" = String, Path, description = "The agent's name")),
    responses(
        (status = 200, description = "`{\"agent\": {…}}`", body = Object),
        Refusals,
    )
)]
async fn disable_agent(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Answer {
    let agent = console.store.agents().disable(&name, &caller.actor).await?;
    Ok(json_response(StatusCode::OK, &json!({"agent": agent})))
}

/// The body of `rotate-key`.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct Rotation {
    /// How long the old keys stay good, in milliseconds.
    overlap_ms: u64,
}

/// Gives an agent a new key and lets its old ones end
#[utoipa::path(
    post,
    path = "/api/v1/agents/{name}/rotate-key",
    tag = "agents",
    params(("name" = String, Path, description = "The agent's name")),
    request_body = Rotation,
    responses(
        (status = 200, description = "`{\"key_id\": \"…\", \"key\": \"csk_…\"}`", body = Object),
        Refusals,
    )
)]
async fn rotate_key(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    body: Body,
) -> Answer {
    let Rotation { overlap_ms } = read(body).await?;
    if overlap_ms > OVERLAP_MS_MAX {
        return Err(ApiError::invalid(format!("`overlap_ms` is at most {OVERLAP_MS_MAX}")));
    }
    let key = console.store.agents().rotate_key(&name, overlap_ms, &caller.actor).await?;
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

/// Reads the policy bundle again
#[utoipa::path(
    post,
    path = "/api/v1/policy/reload",
    tag = "gateway",
    responses(
        (status = 200, description = "`{\"bundle\": \"…\"}`, the hash of the one in force", body = Object),
        Refusals,
    )
)]
async fn reload_policy(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
) -> Answer {
    let bundle = asked(console.operator.reload_policy(&caller.actor)).await?;
    Ok(json_response(StatusCode::OK, &json!({"bundle": bundle})))
}

/// Pins the tools that a server offers now
#[utoipa::path(
    post,
    path = "/api/v1/pins/{server}",
    tag = "gateway",
    params(("server" = String, Path, description = "The server's name")),
    responses(
        (status = 200, description = "`{\"server\": \"…\", \"tools\": 3}`", body = Object),
        Refusals,
    )
)]
async fn pin(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    Path(server): Path<String>,
) -> Answer {
    let server = server.parse().map_err(invalid)?;
    let tools = asked(console.operator.pin(&server, &caller.actor)).await?;
    Ok(json_response(StatusCode::OK, &json!({"server": server, "tools": tools})))
}

/// The body of `upstreams`.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct NewUpstream {
    name: String,
    command: Vec<String>,
    env: BTreeMap<String, String>,
    #[schema(value_type = Option<String>)]
    cwd: Option<PathBuf>,
}

/// Puts a stdio server behind the gateway until it stops
#[utoipa::path(
    post,
    path = "/api/v1/upstreams",
    tag = "gateway",
    request_body = NewUpstream,
    responses(
        (status = 201, description = "`{\"upstream\": {\"name\": \"…\"}}`", body = Object),
        Refusals,
    )
)]
async fn add_upstream(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer {
    let NewUpstream { name, command, env, cwd } = read(body).await?;
    let missing = required([("name", name.is_empty()), ("command", command.is_empty())]);
    if !missing.is_empty() {
        return Err(ApiError::missing(missing));
    }
    let name = name.parse().map_err(invalid)?;
    let upstream = UpstreamSpec { name, command, env, cwd };
    let answer = json!({"upstream": {"name": upstream.name}});
    asked(console.operator.add_upstream(upstream, &caller.actor)).await?;
    Ok(json_response(StatusCode::CREATED, &answer))
}

/// The body of `reconcile`.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct Reconciliation {
    /// What really came of the call: `executed`, `failed` or `not_forwarded`.
    #[schema(value_type = Option<String>)]
    outcome: Option<OutcomeStatus>,
    /// How the operator knows.
    reason: String,
}

/// Settles a call whose outcome is unknown
#[utoipa::path(
    post,
    path = "/api/v1/calls/{evaluation_id}/reconcile",
    tag = "gateway",
    params(("evaluation_id" = String, Path, description = "The id of the decision")),
    request_body = Reconciliation,
    responses(
        (status = 200, description = "`{\"record_id\": \"…\", \"index\": 3}`", body = Object),
        Refusals,
    )
)]
async fn reconcile(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
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
    let place = console.store.reconcile(call, outcome, &caller.actor, &reason).await?;
    let answer = json!({"record_id": place.record_id, "index": place.index.map(|index| index.0)});
    Ok(json_response(StatusCode::OK, &answer))
}

/// The body of `subjects/erase`. The person is not in a path: paths end in the logs of proxies.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct ErasureOrder {
    subject: String,
    /// The ticket under which it is asked for; public.
    ticket: String,
    reason: Option<String>,
}

/// Destroys what the ledger has of a person
#[utoipa::path(
    post,
    path = "/api/v1/subjects/erase",
    tag = "people",
    request_body = ErasureOrder,
    responses(
        (status = 200, description = "What was destroyed", body = Object),
        Refusals,
    )
)]
async fn erase(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer {
    let ErasureOrder { subject, ticket, reason } = read(body).await?;
    let missing = required([("subject", subject.is_empty()), ("ticket", ticket.is_empty())]);
    if !missing.is_empty() {
        return Err(ApiError::missing(missing));
    }
    check_reason(reason.as_deref())?;
    let erased = console.store.erase(&subject, &ticket, reason.as_deref(), &caller.actor).await?;
    Ok(json_response(StatusCode::OK, &erased.to_json()))
}

/// The body of `holds/set` and `holds/lift`.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct HoldOrder {
    subject: String,
    reason: Option<String>,
}

/// Forbids the erasure of a person
#[utoipa::path(
    post,
    path = "/api/v1/holds/set",
    tag = "people",
    request_body = HoldOrder,
    responses(
        (status = 201, description = "`{\"record_id\": \"…\", \"index\": 3}`", body = Object),
        Refusals,
    )
)]
async fn set_hold(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer {
    let HoldOrder { subject, reason } = read(body).await?;
    let reason = reason.unwrap_or_default();
    let no_reason = reason.trim().is_empty();
    let missing = required([("subject", subject.is_empty()), ("reason", no_reason)]);
    if !missing.is_empty() {
        return Err(ApiError::missing(missing));
    }
    check_reason(Some(&reason))?;
    let place = console.store.set_hold(&subject, &reason, &caller.actor).await?;
    let answer = json!({"record_id": place.record_id, "index": place.index.map(|index| index.0)});
    Ok(json_response(StatusCode::CREATED, &answer))
}

/// Allows the erasure of a person again
#[utoipa::path(
    post,
    path = "/api/v1/holds/lift",
    tag = "people",
    request_body = HoldOrder,
    responses(
        (status = 200, description = "`{\"record_id\": \"…\", \"index\": 3}`", body = Object),
        Refusals,
    )
)]
async fn lift_hold(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer {
    let HoldOrder { subject, reason } = read(body).await?;
    if subject.is_empty() {
        return Err(ApiError::missing(vec!["subject"]));
    }
    check_reason(reason.as_deref())?;
    let place = console.store.lift_hold(&subject, reason.as_deref(), &caller.actor).await?;
    let answer = json!({"record_id": place.record_id, "index": place.index.map(|index| index.0)});
    Ok(json_response(StatusCode::OK, &answer))
}

/// Records what the command line is about to show, which reads the files of the installation itself
#[utoipa::path(
    post,
    path = "/api/v1/access",
    tag = "records",
    request_body = LocalAccess,
    responses(
        (status = 201, description = "`{\"record_id\": \"…\", \"index\": 3}`", body = Object),
        Refusals,
    )
)]
async fn record_access(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    body: Body,
) -> Answer {
    let Some(access) = read::<Option<LocalAccess>>(body).await? else {
        return Err(ApiError::missing(vec!["account", "command", "tree_size", "filters"]));
    };
    let place = access.record(&console.store, caller.key_id.as_deref()).await?;
    let answer = json!({"record_id": place.record_id, "index": place.index.map(|index| index.0)});
    Ok(json_response(StatusCode::CREATED, &answer))
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
pub(crate) async fn read<T: DeserializeOwned + Default>(body: Body) -> Result<T, ApiError> {
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
