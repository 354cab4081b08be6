//! The MCP endpoints of the data plane: Streamable HTTP in both eras.
//!
//! "Legacy" is every revision up to 2025-11-25, opened by `initialize` and held together by a session
//! id. "Modern" is 2026-07-28, where every request describes itself. Both are served on the same
//! endpoint; the era is fixed for each request.

pub mod link;
pub mod names;
pub mod route;

mod call;
mod headers;
mod http;
mod legacy;
mod lists;
mod message;
mod modern;
mod parking;
mod result;
mod serve;
mod session;
mod subscriptions;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::post;
use countersign_model::ServerName;

pub use self::parking::Parking;
pub use self::session::{LegacySession, Sessions};

pub use self::headers::header_text;
pub(crate) use self::headers::params as param_headers;
pub(crate) use self::lists::{List, collect, open as upstream_session};
pub(crate) use self::message::{object, raw};
pub(crate) use self::result::EVALUATION_ID;
pub(crate) use self::serve::{Context, binding, session_owner};
pub(crate) use self::subscriptions::relay_updates;

use self::route::Route;
use crate::envelope::Envelope;
use crate::gateway::Gateway;
use crate::identity::Caller;
use crate::refusal::RpcError;

/// `_meta` key by which a client of the stateless era asks for log messages.
pub(crate) const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// The revisions of the stateful era that are served, oldest first.
pub const LEGACY_VERSIONS: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];
/// The newest revision of the stateful era.
pub const LEGACY_LATEST: &str = "2025-11-25";
/// The revision of the stateless era that is served.
pub const MODERN_VERSION: &str = "2026-07-28";

/// Routes `/mcp` and `/mcp/{server}`.
pub fn router(gateway: Arc<Gateway>) -> Router {
    let all = post(post_all).get(get_all).delete(delete_all);
    let one = post(post_one).get(get_one).delete(delete_one);
    Router::new().route("/mcp", all).route("/mcp/{server}", one).with_state(gateway)
}

async fn post_all(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    receive(gateway, Route::All, request).await
}

async fn post_one(
    State(gateway): State<Arc<Gateway>>,
    Path(server): Path<String>,
    request: Request,
) -> Response {
    match one(&gateway, &server) {
        Some(route) => receive(gateway, route, request).await,
        None => http::not_found(),
    }
}

async fn get_all(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    legacy::stream(gateway, Route::All, request).await
}

async fn get_one(
    State(gateway): State<Arc<Gateway>>,
    Path(server): Path<String>,
    request: Request,
) -> Response {
    match one(&gateway, &server) {
        Some(route) => legacy::stream(gateway, route, request).await,
        None => http::not_found(),
    }
}

async fn delete_all(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
    legacy::delete(gateway, Route::All, request).await
}

async fn delete_one(
    State(gateway): State<Arc<Gateway>>,
    Path(server): Path<String>,
    request: Request,
) -> Response {
    match one(&gateway, &server) {
        Some(route) => legacy::delete(gateway, route, request).await,
        None => http::not_found(),
    }
}

/// Gives the endpoint of one server, if there is such a server.
fn one(gateway: &Gateway, server: &str) -> Option<Route> {
    let server: ServerName = server.parse().ok()?;
    gateway.has_server(&server).then_some(Route::One(server))
}

/// Lets a request in: sent to this host, from an allowed origin, with a valid credential.
async fn admit(gateway: &Gateway, headers: &HeaderMap) -> Result<Caller, Box<Response>> {
    http::check_origin(&gateway.config, headers)?;
    let caller = gateway.identity.authenticate(headers).await;
    caller.map_err(|refusal| Box::new(http::unauthorized(refusal)))
}

/// Receives one POST: who, what, which era.
async fn receive(gateway: Arc<Gateway>, route: Route, request: Request) -> Response {
    gateway.touch();
    let (head, body) = request.into_parts();
    let caller = match admit(&gateway, &head.headers).await {
        Ok(caller) => caller,
        Err(response) => return *response,
    };
    if let Err(response) = http::check_media(&head.headers) {
        return *response;
    }
    let body = match http::read(body).await {
        Ok(body) => body,
        Err(response) => return *response,
    };
    let envelope = match Envelope::parse(&body) {
        Ok(envelope) => envelope,
        Err(error) => {
            return http::rpc_error(None, &RpcError::new(error.code(), error.to_string()));
        }
    };
    if modern::is_modern(&envelope, &head.headers) {
        modern::handle(gateway, route, caller, &head.headers, &envelope).await
    } else {
        legacy::handle(gateway, route, caller, &head.headers, &envelope).await
    }
}
