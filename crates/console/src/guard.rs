//! Who may ask: the check before every route.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use countersign_model::{Draft, Kind, RecordId};

use crate::answer::ApiError;
use crate::role::{Caller, Rejected, Role};
use crate::{Console, access};

/// Names of this machine as its own programs use them.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// What a request brings to prove its right.
enum Credential<'a> {
    Absent,
    Bearer(&'a str),
    Unusable,
}

/// Refuses foreign hosts, wrong credentials, missing ones where the route is not public, and tokens whose
/// role does not suffice; what passes has its [`Caller`] with it.
pub(crate) async fn guard(
    State(console): State<Arc<Console>>,
    mut request: Request,
    next: Next,
) -> Response {
    if !host_allowed(request.headers(), &console.hosts) {
        return ApiError::foreign_host().into_response();
    }
    let needed = needed_role(request.method(), request.uri().path());
    let caller = match credential(request.headers()) {
        Credential::Absent if needed.is_none() => return next.run(request).await,
        Credential::Bearer(presented) => identify(&console, presented).await,
        Credential::Absent | Credential::Unusable => None,
    };
    let Some(caller) = caller else { return ApiError::unauthorized().into_response() };
    if let Some(needed) = needed
        && let Err(refused) = require(&console, &caller, needed, request.uri().path()).await
    {
        return refused.into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Tells whose token it is; a rejected one is recorded.
async fn identify(console: &Console, presented: &str) -> Option<Caller> {
    if console.control.fits(presented) {
        return Some(Caller::control());
    }
    let now_ms = console.store.config().clock.now_ms();
    match console.tokens.authenticate(presented, now_ms) {
        Ok(caller) => Some(caller),
        Err(rejected) => {
            record_rejection(console, presented, rejected).await;
            None
        }
    }
}

/// Refuses a caller whose role does not suffice, and records that.
///
/// # Errors
/// Names the role that it takes.
pub(crate) async fn require(
    console: &Console,
    caller: &Caller,
    needed: Role,
    path: &str,
) -> Result<(), ApiError> {
    if caller.role >= needed {
        return Ok(());
    }
    access::record_refusal(console, caller, needed, path).await;
    Err(ApiError::forbidden(needed, caller.role))
}

/// Returns the role that a route takes, `None` if it takes no credential: signs of life, checkpoints and
/// hash tiles. What is not named here takes an administrator.
fn needed_role(method: &Method, path: &str) -> Option<Role> {
    if method != Method::GET && method != Method::HEAD {
        return Some(Role::Admin);
    }
    if let Some(file) = path.strip_prefix("/log/").and_then(|rest| rest.split_once('/')) {
        return match file.1 {
            "checkpoint" => None,
            file if file.starts_with("tile/entries") => Some(Role::Auditor),
            file if file.starts_with("tile/") => None,
            _ => Some(Role::Admin),
        };
    }
    match path {
        "/healthz" => None,
        "/api/v1/records" | "/api/v1/consistency" | "/api/v1/openapi.json" => Some(Role::Viewer),
        path if path.starts_with("/api/v1/records/") => Some(Role::Viewer),
        path if is_audit(path) => Some(Role::Viewer),
        _ => Some(Role::Admin),
    }
}

/// Tells whether a path is that of the audit list, or its alias below a tenant's name.
fn is_audit(path: &str) -> bool {
    let below = path.strip_suffix("/api/v1/audit").and_then(|rest| rest.strip_prefix('/'));
    path == "/api/v1/audit" || below.is_some_and(|tenant| !tenant.contains('/'))
}

/// Tells whether the `Host` header names this server. A page of another site that was made to resolve
/// to this address still sends its own name.
fn host_allowed(headers: &HeaderMap, hosts: &[String]) -> bool {
    let mut values = headers.get_all(HOST).iter();
    let (Some(host), None) = (values.next(), values.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let known = LOOPBACK.into_iter().chain(hosts.iter().map(String::as_str));
    known.into_iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Reads `Authorization: Bearer` (RFC 6750, section 2.1).
fn credential(headers: &HeaderMap) -> Credential<'_> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, more) = (values.next(), values.next());
    let Some(value) = value else { return Credential::Absent };
    let bearer = value.to_str().ok().and_then(|value| value.split_once(' '));
    match bearer {
        Some((scheme, token)) if more.is_none() && scheme.eq_ignore_ascii_case("bearer") => {
            Credential::Bearer(token.trim())
        }
        _ => Credential::Unusable,
    }
}

/// Records a rejected credential, with the agent if it is an agent's key. The refusal does not depend
/// on it.
async fn record_rejection(console: &Console, presented: &str, rejected: Rejected) {
    let store = &console.store;
    let (agent, key_id) = match store.authenticate(presented) {
        Ok(accepted) => (Some(accepted.agent.id), Some(accepted.key_id)),
        Err(failure) => (failure.agent, failure.key_id.or(rejected.key_id)),
    };
    let draft = Draft::new(RecordId((store.config().ids)()), Kind::Auth)
        .with("result", "rejected")
        .with("plane", "control")
        .with("reasons", vec![rejected.reason.as_str()])
        .with_some("key_id", key_id)
        .with_some("agent", agent.map(|id| id.to_string()));
    if let Err(error) = store.append(draft).await {
        tracing::warn!(%error, "a rejected credential cannot be recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_takes_a_role_unless_it_is_public() {
        let (viewer, auditor, admin) = (Some(Role::Viewer), Some(Role::Auditor), Some(Role::Admin));
        for (method, path, role) in [
            ("GET", "/healthz", None),
            ("HEAD", "/healthz", None),
            ("GET", "/log/acme/checkpoint", None),
            ("GET", "/log/acme/tile/0/000", None),
            ("GET", "/log/acme/tile/entries/000", auditor),
            ("GET", "/log/acme/tile/entries", auditor),
            ("POST", "/log/acme/checkpoint", admin),
            ("GET", "/log/acme/signer-state", admin),
            ("GET", "/log/checkpoint", admin),
            ("GET", "/api/v1/records", viewer),
            ("HEAD", "/api/v1/records", viewer),
            ("GET", "/api/v1/records/1/proof", viewer),
            ("POST", "/api/v1/records", admin),
            ("GET", "/api/v1/recordsx", admin),
            ("GET", "/api/v1/consistency", viewer),
            ("GET", "/api/v1/openapi.json", viewer),
            ("GET", "/api/v1/audit", viewer),
            ("GET", "/acme/api/v1/audit", viewer),
            ("GET", "/a/b/api/v1/audit", admin),
            ("GET", "//api/v1/audit", viewer),
            ("GET", "/api/v1/agents", admin),
            ("GET", "/api/v1/tokens", admin),
            ("GET", "/", admin),
        ] {
            let found = needed_role(&method.parse().unwrap(), path);
            assert_eq!(found, role, "{method} {path}");
        }
    }

    #[test]
    fn hosts() {
        let own = ["audit.example".to_owned()];
        for (values, ok) in [
            (vec!["localhost:7701"], true),
            (vec!["127.0.0.1"], true),
            (vec!["[::1]:7701"], true),
            (vec!["Audit.example:443"], true),
            (vec!["evil.example"], false),
            (vec!["127.0.0.1.evil.example:7701"], false),
            (vec![""], false),
            (vec!["localhost", "evil.example"], false),
            (vec![], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append(HOST, value.parse().unwrap());
            }
            assert_eq!(host_allowed(&headers, &own), ok, "{values:?}");
        }
    }
}
