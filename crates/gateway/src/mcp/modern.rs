//! The stateless era (MCP 2026-07-28): every request describes itself.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::json;
use serde_json::value::RawValue;

use super::route::Route;
use super::serve::{Client, Context, idempotency_header, passed_capabilities, serve};
use super::{LEGACY_VERSIONS, MODERN_VERSION, headers, http, lists};
use crate::envelope::{Envelope, MessageKind, member, string};
use crate::gateway::Gateway;
use crate::identity::Caller;
use crate::refusal::{RpcError, code};
use crate::upstream::ClientProfile;

const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// Header by which `countersign wrap` says that its client has no headers of its own.
const BRIDGE: &str = "countersign-bridge";

/// Tells whether a message is of the stateless era: it says so itself, or its version header names no
/// revision of the stateful era.
pub(crate) fn is_modern(envelope: &Envelope<'_>, headers: &HeaderMap) -> bool {
    let meta = envelope.params.and_then(|params| member(params, "_meta"));
    if meta.is_some_and(|meta| member(meta, META_VERSION).is_some()) {
        return true;
    }
    let version = http::header(headers, headers::VERSION);
    version.is_some_and(|version| !LEGACY_VERSIONS.contains(&version))
        && envelope.method.as_deref() != Some("initialize")
}

/// Serves a message.
pub(crate) async fn handle(
    gateway: Arc<Gateway>,
    route: Route,
    caller: Caller,
    headers: &HeaderMap,
    envelope: &Envelope<'_>,
) -> Response {
    match envelope.kind() {
        MessageKind::Request => {}
        // The stateless era has no client notifications over HTTP: closing the response cancels.
        MessageKind::Notification => return http::empty(StatusCode::ACCEPTED),
        MessageKind::Response => {
            let text = "a response belongs to no request in this protocol version";
            return http::rpc_error(None, &RpcError::new(code::INVALID_REQUEST, text));
        }
    }
    let (Some(id), Some(method)) = (envelope.id, envelope.method.as_deref()) else {
        return http::rpc_error(None, &RpcError::new(code::INVALID_REQUEST, "no request"));
    };
    let profile = match check(headers, method, envelope.params) {
        Ok(profile) => profile,
        Err(error) => return http::rpc_error(Some(id), &error),
    };
    let context = Context {
        gateway,
        route,
        caller,
        client: Client::Modern { profile },
        idempotency_key: idempotency_header(headers),
    };
    if let Err(error) = check_params(&context, headers, method, envelope.params) {
        return http::rpc_error(Some(id), &error);
    }
    if method == "server/discover" {
        return match lists::discover(&context).await {
            Ok(text) => http::result(id, &text),
            Err(error) => http::rpc_error(Some(id), &error),
        };
    }
    serve(context, id, method, envelope.params).await
}

/// Checks what every request of this era has to bring, and gives what it says about its client.
fn check(
    headers: &HeaderMap,
    method: &str,
    params: Option<&RawValue>,
) -> Result<ClientProfile, RpcError> {
    let meta = params.and_then(|params| member(params, "_meta"));
    let field = |name: &str| {
        meta.and_then(|meta| member(meta, name)).ok_or_else(|| {
            RpcError::new(code::INVALID_PARAMS, format!("`params._meta[\"{name}\"]` is missing"))
        })
    };
    let version = string(field(META_VERSION)?).map_err(|_| {
        RpcError::new(code::INVALID_PARAMS, format!("`{META_VERSION}` must be a string"))
    })?;
    let capabilities = field(META_CAPABILITIES)?;
    if !capabilities.get().trim_start().starts_with('{') {
        let text = format!("`{META_CAPABILITIES}` must be an object");
        return Err(RpcError::new(code::INVALID_PARAMS, text));
    }
    headers::check_standard(headers, &version, method, params)?;
    if version != MODERN_VERSION {
        let text = format!("protocol version `{version}` is not served");
        return Err(RpcError::new(code::UNSUPPORTED_VERSION, text)
            .with_data(json!({"supported": [MODERN_VERSION], "requested": version})));
    }
    Ok(ClientProfile { capabilities: passed_capabilities(capabilities), version: None })
}

/// Compares the headers that a tool asks for with the call's arguments.
fn check_params(
    context: &Context,
    headers: &HeaderMap,
    method: &str,
    params: Option<&RawValue>,
) -> Result<(), RpcError> {
    // A stdio client behind `countersign wrap` has no headers; there is nothing to compare.
    if method != "tools/call" || headers.contains_key(BRIDGE) {
        return Ok(());
    }
    let Some(params) = params else { return Ok(()) };
    let name = member(params, "name").and_then(|raw| string(raw).ok());
    let tool = name.and_then(|name| lists::find_tool(context, &name));
    match tool {
        Some(definition) if definition.get().contains("x-mcp-header") => {
            let definition = serde_json::from_str(definition.get()).unwrap_or_default();
            let arguments = member(params, "arguments")
                .and_then(|raw| serde_json::from_str(raw.get()).ok())
                .unwrap_or_default();
            headers::check_params(headers, &definition, &arguments)
        }
        _ => Ok(()),
    }
}
