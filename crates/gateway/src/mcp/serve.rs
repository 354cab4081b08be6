//! Serving one request, whatever its era.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::response::Response;
use countersign_model::{Draft, Kind, ReasonCode};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::call::{self, Governed};
use super::link::{Attached, Link, Reply};
use super::parking::{Binding, Resumed};
use super::route::Route;
use super::session::LegacySession;
use super::{http, lists, message, result, subscriptions};
use crate::envelope::{Edit, edit_object, member};
use crate::gateway::Gateway;
use crate::identity::Caller;
use crate::limits::{IDEMPOTENCY_KEY_BYTES_MAX, STREAM_QUEUE};
use crate::pipeline::{Answer, CallRequest};
use crate::refusal::{Refusal, RpcError, code};
use crate::upstream::{ClientProfile, OwnerKey};

/// The client of one request.
#[derive(Clone, Debug)]
pub(crate) enum Client {
    /// A session of the stateful era.
    Legacy(Arc<LegacySession>),
    /// A request of the stateless era, which describes its client itself.
    Modern { profile: ClientProfile },
}

/// Everything known about a request before its method is looked at.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) route: Route,
    pub(crate) caller: Caller,
    pub(crate) client: Client,
    /// The `Idempotency-Key` header.
    pub(crate) idempotency_key: Option<String>,
}

impl Context {
    /// Tells whether the client is of the stateless era.
    pub(crate) fn is_modern(&self) -> bool {
        matches!(self.client, Client::Modern { .. })
    }

    /// Returns what the client declared about itself.
    pub(crate) fn profile(&self) -> &ClientProfile {
        match &self.client {
            Client::Legacy(session) => &session.profile,
            Client::Modern { profile } => profile,
        }
    }

    /// Returns whose upstream sessions this client uses: its own session's, or, without sessions,
    /// those of its agent with the same capabilities.
    pub(crate) fn owner(&self) -> OwnerKey {
        match &self.client {
            Client::Legacy(session) => session_owner(&session.id),
            Client::Modern { profile } => {
                OwnerKey::new(format!("a {} {}", self.caller.agent.id, profile.capabilities.get()))
            }
        }
    }

    /// Returns the gateway's session id.
    pub(crate) fn session_id(&self) -> Option<String> {
        match &self.client {
            Client::Legacy(session) => Some(session.id.clone()),
            Client::Modern { .. } => None,
        }
    }
}

/// Names a session of the stateful era as the owner of upstream sessions.
pub(crate) fn session_owner(id: &str) -> OwnerKey {
    OwnerKey::new(format!("s {id}"))
}

/// Reads the `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header).
pub(crate) fn idempotency_header(headers: &HeaderMap) -> Option<String> {
    http::header(headers, "idempotency-key").map(|key| key.trim_matches('"').to_owned())
}

/// Gives a client's capabilities as servers hear of them: without extensions and tasks, which the
/// gateway does not pass on.
pub(crate) fn passed_capabilities(declared: &RawValue) -> Box<RawValue> {
    let edits = [Edit::remove(&["extensions"]), Edit::remove(&["tasks"])];
    edit_object(declared, &edits).unwrap_or_else(|_| message::raw("{}".into()))
}

/// Serves a request.
pub(crate) async fn serve(
    context: Context,
    id: &RawValue,
    method: &str,
    params: Option<&RawValue>,
) -> Response {
    if let Some(list) = lists::List::of(method) {
        return match lists::list(&context, list, params).await {
            Ok(text) => http::result(id, &text),
            Err(error) => http::rpc_error(Some(id), &error),
        };
    }
    if method == "subscriptions/listen" && context.is_modern() {
        return subscriptions::listen(context, id, params);
    }
    let Some(governed) = Governed::of(method, context.is_modern()) else {
        return unknown_method(&context, id, method).await;
    };
    let request = match call::parse(&context, governed, params) {
        Ok(request) => request,
        Err(error) => return http::rpc_error(Some(id), &error),
    };
    if let Some(key) = &request.idempotency_key
        && (key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX)
    {
        let text = format!("an idempotency key has 1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
        return http::rpc_error(Some(id), &RpcError::new(code::INVALID_PARAMS, text));
    }
    let state = params.and_then(|params| member(params, "requestState"));
    let answers = params.and_then(|params| member(params, "inputResponses"));
    match (&context.client, state) {
        (Client::Modern { .. }, Some(state)) => {
            resume(&context, id, &request, state, answers).await
        }
        _ => start(context, id, request, answers).await,
    }
}

/// Starts a call in a task of its own and waits for what it says.
async fn start(
    context: Context,
    id: &RawValue,
    request: CallRequest,
    answers: Option<&RawValue>,
) -> Response {
    let (out, messages) = mpsc::channel(STREAM_QUEUE);
    let attached = Attached { id: id.to_owned(), out };
    let link = match &context.client {
        Client::Legacy(session) => {
            let cancel = session.start(id);
            Link::legacy(attached, Arc::clone(session), cancel)
        }
        Client::Modern { .. } => {
            let parking = Arc::clone(&context.gateway.parking);
            Link::modern(attached, parking, answers.map(ToOwned::to_owned))
        }
    };
    let id = id.to_owned();
    tokio::spawn(async move {
        let shape = result::Shape::of(&context, &request);
        let outcome = context.gateway.pipeline.run(request, &context, &link).await;
        link.finish(|id| reply(id, &shape, outcome)).await;
        if let Client::Legacy(session) = &context.client {
            session.end(&id);
        }
    });
    http::respond(messages).await
}

/// Hands a client's retry to the call that waits for it.
async fn resume(
    context: &Context,
    id: &RawValue,
    request: &CallRequest,
    state: &RawValue,
    answers: Option<&RawValue>,
) -> Response {
    let state = serde_json::from_str::<String>(state.get()).ok();
    let responses = answers.map_or_else(|| message::raw("{}".into()), ToOwned::to_owned);
    let (out, messages) = mpsc::channel(STREAM_QUEUE);
    let retry = Resumed { attached: Attached { id: id.to_owned(), out }, responses };
    let parking = &context.gateway.parking;
    let resumed =
        state.is_some_and(|state| parking.resume(&state, &binding(request), retry).is_ok());
    if resumed {
        return http::respond(messages).await;
    }
    let draft = Draft::new(context.gateway.record_id(), Kind::Detection)
        .with("type", "request_state_invalid")
        .with("agent", context.caller.agent.id.to_string())
        .with("server", request.server.as_str())
        .about(context.caller.principal.id.as_str());
    if context.gateway.store().append(draft).await.is_err() {
        let text = "AUDIT_UNAVAILABLE: the attempt could not be recorded";
        return http::rpc_error(Some(id), &RpcError::new(code::UNAVAILABLE, text));
    }
    let text = "`requestState` is unknown, used, expired, or belongs to another request";
    http::rpc_error(Some(id), &RpcError::new(code::INVALID_PARAMS, text))
}

/// Binds a call to the retry that may answer its questions.
pub(crate) fn binding(request: &CallRequest) -> Binding {
    let name = request.tool.as_ref().map(ToString::to_string);
    let name = name.or_else(|| request.target.clone()).unwrap_or_default();
    Binding {
        agent: request.caller.agent.id,
        principal: request.caller.principal.id.clone(),
        method: request.method.to_owned(),
        digest: countersign_decision::arguments_digest(&name, &request.arguments),
        name,
    }
}

/// Writes the response of a call.
fn reply(id: &RawValue, shape: &result::Shape, outcome: Result<Answer, Refusal>) -> Reply {
    match outcome {
        Ok(answer) => Reply {
            status: 200,
            body: message::response(id, &shape.result(&answer)),
            replayed: answer.replayed,
        },
        Err(Refusal::UpstreamError { error, .. }) => {
            let (status, error) = shape.upstream_error(&error);
            Reply { status, body: message::error(Some(id), &error), replayed: false }
        }
        Err(refusal) => match refusal.to_tool_result().filter(|_| shape.is_tool_call()) {
            Some(result) => Reply {
                status: 200,
                body: message::response(id, &shape.own_result(result)),
                replayed: false,
            },
            None => {
                let error = refusal.to_rpc_error();
                Reply {
                    status: error.status,
                    body: message::rpc_error(Some(id), &error),
                    replayed: false,
                }
            }
        },
    }
}

/// Refuses a method that is not passed, and records it.
pub(crate) async fn unknown_method(context: &Context, id: &RawValue, method: &str) -> Response {
    let shown: String = method.chars().take(128).collect();
    let server = match &context.route {
        Route::One(server) => Some(server.as_str().to_owned()),
        Route::All => None,
    };
    let rules = context.gateway.rules().current();
    let draft = Draft::new(context.gateway.record_id(), Kind::Decision)
        .with("origin", "mcp")
        .with("decision", "deny")
        .with("mode", "enforce")
        .with("agent", context.caller.agent.id.to_string())
        .with("agent_name", context.caller.agent.name.as_str())
        .with("environment", context.caller.agent.environment.as_str())
        .with_some("server", server)
        .with("bundle", rules.bundle.hash())
        .with("rules", Vec::<Value>::new())
        .with("reasons", vec![Value::from(ReasonCode::METHOD_NOT_ALLOWED.as_str())])
        .about(context.caller.principal.id.as_str())
        .sealed("method", shown.as_str());
    drop(rules);
    let error = match context.gateway.store().append(draft).await {
        Ok(_) => {
            let error = RpcError::new(code::METHOD_NOT_FOUND, format!("unknown method `{shown}`"));
            let status = if context.is_modern() { 404 } else { 200 };
            RpcError { status, ..error }
        }
        Err(_) => {
            let text = "AUDIT_UNAVAILABLE: the decision could not be recorded";
            RpcError::new(code::UNAVAILABLE, text)
        }
    };
    http::rpc_error(Some(id), &error)
}
