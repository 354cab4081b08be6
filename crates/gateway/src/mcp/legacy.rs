//! The stateful era (MCP up to 2025-11-25): `initialize`, then a session id.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::{ACCEPT, HeaderName};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::json;
use serde_json::value::RawValue;

use super::route::Route;
use super::serve::{
    Client, Context, idempotency_header, passed_capabilities, serve, unknown_method,
};
use super::session::LegacySession;
use super::{LEGACY_LATEST, LEGACY_VERSIONS, MODERN_VERSION, admit, headers, http, lists, message};
use crate::envelope::{Envelope, MessageKind, member, string};
use crate::gateway::Gateway;
use crate::identity::Caller;
use crate::refusal::{RpcError, code};
use crate::upstream::{ClientNotification, ClientProfile, Housekeeping};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// Serves a message.
pub(crate) async fn handle(
    gateway: Arc<Gateway>,
    route: Route,
    caller: Caller,
    headers: &HeaderMap,
    envelope: &Envelope<'_>,
) -> Response {
    if let (Some(id), Some("initialize")) = (envelope.id, envelope.method.as_deref()) {
        return initialize(gateway, route, caller, id, envelope.params).await;
    }
    let session = match session(&gateway, &route, &caller, headers) {
        Ok(session) => session,
        Err(error) => return http::rpc_error(envelope.id, &error),
    };
    let idempotency_key = idempotency_header(headers);
    let client = Client::Legacy(Arc::clone(&session));
    let context = Context { gateway, route, caller, client, idempotency_key };
    match (envelope.kind(), envelope.id, envelope.method.as_deref()) {
        (MessageKind::Request, Some(id), Some(method)) => {
            request(context, &session, id, method, envelope.params).await
        }
        (MessageKind::Notification, _, Some(method)) => {
            notification(&session, method, envelope.params).await;
            http::empty(StatusCode::ACCEPTED)
        }
        _ => answer(&session, envelope),
    }
}

async fn request(
    context: Context,
    session: &Arc<LegacySession>,
    id: &RawValue,
    method: &str,
    params: Option<&RawValue>,
) -> Response {
    match method {
        "ping" => http::result(id, "{}"),
        "logging/setLevel" => match set_level(session, params).await {
            Ok(()) => http::result(id, "{}"),
            Err(error) => http::rpc_error(Some(id), &error),
        },
        "server/discover" => unknown_method(&context, id, method).await,
        _ => serve(context, id, method, params).await,
    }
}

/// Opens a session (MCP 2025-11-25, lifecycle, "Initialization").
async fn initialize(
    gateway: Arc<Gateway>,
    route: Route,
    caller: Caller,
    id: &RawValue,
    params: Option<&RawValue>,
) -> Response {
    let invalid =
        |text: &str| http::rpc_error(Some(id), &RpcError::new(code::INVALID_PARAMS, text));
    let Some(params) = params else { return invalid("`params` is missing") };
    let Some(offered) = member(params, "protocolVersion").and_then(|raw| string(raw).ok()) else {
        return invalid("`protocolVersion` is missing or no string");
    };
    let version = LEGACY_VERSIONS.iter().find(|known| **known == offered).unwrap_or(&LEGACY_LATEST);
    let capabilities = member(params, "capabilities")
        .map_or_else(|| message::raw("{}".into()), passed_capabilities);
    let profile = ClientProfile { capabilities, version: Some((*version).to_owned()) };
    let now = gateway.now_ms();
    let opened = gateway.sessions.open(&caller, route.clone(), (*version).to_owned(), profile, now);
    let Some(session) = opened else {
        let error = RpcError::new(code::INTERNAL_ERROR, "too many open sessions");
        return http::rpc_error(Some(id), &RpcError { status: 503, ..error });
    };
    let client = Client::Legacy(Arc::clone(&session));
    let context =
        Context { gateway: Arc::clone(&gateway), route, caller, client, idempotency_key: None };
    match lists::server(&context).await {
        Ok(server) => {
            let mut result = json!({
                "protocolVersion": session.version,
                "capabilities": server.capabilities,
                "serverInfo": server.info,
            });
            if let (Some(text), Some(object)) = (server.instructions, result.as_object_mut()) {
                object.insert("instructions".into(), text.into());
            }
            let mut response = http::result(id, &result.to_string());
            if let Ok(value) = HeaderValue::from_str(&session.id) {
                response.headers_mut().insert(SESSION, value);
            }
            response
        }
        Err(error) => {
            gateway.sessions.close(&session.id);
            http::rpc_error(Some(id), &error)
        }
    }
}

/// Finds the session of a request.
fn session(
    gateway: &Gateway,
    route: &Route,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Arc<LegacySession>, RpcError> {
    let Some(id) = http::header(headers, SESSION.as_str()) else {
        let text = "the `Mcp-Session-Id` header is missing; open a session with `initialize`";
        return Err(RpcError::new(code::INVALID_REQUEST, text));
    };
    if let Some(version) = http::header(headers, headers::VERSION)
        && !LEGACY_VERSIONS.contains(&version)
    {
        let text = format!("protocol version `{version}` is not served in a session");
        return Err(RpcError::new(code::INVALID_REQUEST, text));
    }
    gateway.sessions.find(id, caller, route, gateway.now_ms()).ok_or_else(|| {
        let error = RpcError::new(code::INVALID_REQUEST, "there is no such session");
        RpcError { status: 404, ..error }
    })
}

/// Takes note of what a client tells.
async fn notification(session: &Arc<LegacySession>, method: &str, params: Option<&RawValue>) {
    match method {
        "notifications/cancelled" => {
            if let Some(id) = params.and_then(|params| member(params, "requestId")) {
                session.cancel(id);
            }
        }
        "notifications/roots/list_changed" => {
            for upstream in session.upstreams() {
                let _ = upstream.notify(ClientNotification::RootsListChanged).await;
            }
        }
        _ => {} // `initialized` needs no answer, and others mean nothing here
    }
}

/// Delivers the client's answer to a question of a server.
fn answer(session: &LegacySession, envelope: &Envelope<'_>) -> Response {
    let id = envelope.id.and_then(|id| string(id).ok());
    let answer = match (envelope.result, envelope.error) {
        (Some(result), None) => Some(Ok(result.to_owned())),
        (None, Some(error)) => Some(Err(error.to_owned())),
        _ => None,
    };
    match (id, answer) {
        (Some(id), Some(answer)) => {
            session.answer(&id, answer);
            http::empty(StatusCode::ACCEPTED)
        }
        _ => {
            let text = "a response has an id and either a result or an error";
            http::rpc_error(None, &RpcError::new(code::INVALID_REQUEST, text))
        }
    }
}

/// Sets the level of log messages, here and at the servers that the session uses.
async fn set_level(session: &LegacySession, params: Option<&RawValue>) -> Result<(), RpcError> {
    let level = params.and_then(|params| member(params, "level")).and_then(|raw| string(raw).ok());
    let levels = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
    let Some(level) = level.filter(|level| levels.contains(&level.as_ref())) else {
        return Err(RpcError::new(code::INVALID_PARAMS, "`level` is no log level"));
    };
    session.set_log_level(level.clone().into_owned());
    let params = message::raw(json!({"level": level}).to_string());
    for upstream in session.upstreams() {
        // A server without logging sends no log messages.
        let _ = upstream.housekeeping(Housekeeping::SetLogLevel, Some(params.clone())).await;
    }
    Ok(())
}

/// Opens the stream for messages outside any call (`GET`).
pub(crate) async fn stream(gateway: Arc<Gateway>, route: Route, request: Request) -> Response {
    let headers = request.headers();
    let caller = match admit(&gateway, headers).await {
        Ok(caller) => caller,
        Err(response) => return *response,
    };
    let accept: Vec<_> =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if !http::accepts(&accept, "text/event-stream") {
        let error = RpcError::new(code::INVALID_REQUEST, "`Accept` must list `text/event-stream`");
        return http::rpc_error(None, &RpcError { status: 406, ..error });
    }
    if http::header(headers, headers::VERSION) == Some(MODERN_VERSION) {
        return http::empty(StatusCode::METHOD_NOT_ALLOWED);
    }
    match session(&gateway, &route, &caller, headers) {
        Ok(session) => http::message_stream(session.open_stream()),
        Err(error) => http::rpc_error(None, &error),
    }
}

/// Ends a session (`DELETE`).
pub(crate) async fn delete(gateway: Arc<Gateway>, route: Route, request: Request) -> Response {
    let headers = request.headers();
    let caller = match admit(&gateway, headers).await {
        Ok(caller) => caller,
        Err(response) => return *response,
    };
    match session(&gateway, &route, &caller, headers) {
        Ok(session) => {
            gateway.sessions.close(&session.id);
            gateway.upstreams.close_owner(&super::serve::session_owner(&session.id)).await;
            http::empty(StatusCode::NO_CONTENT)
        }
        Err(error) => http::rpc_error(None, &error),
    }
}
