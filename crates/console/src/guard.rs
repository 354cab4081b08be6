//! Who may ask: the check before every route.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use countersign_model::{Draft, Kind, ReasonCode, RecordId};

use crate::Console;
use crate::answer::ApiError;

/// Names of this machine as its own programs use them.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// What a request brings to prove its right.
enum Credential<'a> {
    Absent,
    Bearer(&'a str),
    Unusable,
}

/// Refuses foreign hosts, wrong credentials, and missing ones where the route is not public.
pub(crate) async fn guard(
    State(console): State<Arc<Console>>,
    request: Request,
    next: Next,
) -> Response {
    if !host_allowed(request.headers(), &console.hosts) {
        return ApiError::foreign_host().into_response();
    }
    let allowed = match credential(request.headers()) {
        Credential::Absent => is_public(request.method(), request.uri().path()),
        Credential::Bearer(presented) if console.token.fits(presented) => true,
        Credential::Bearer(presented) => {
            record_rejection(&console, presented).await;
            false
        }
        Credential::Unusable => false,
    };
    if allowed { next.run(request).await } else { ApiError::unauthorized().into_response() }
}

/// Tells whether a route needs no credential: signs of life, checkpoints and hash tiles.
fn is_public(method: &Method, path: &str) -> bool {
    let log_file = || {
        let (_tenant, file) = path.strip_prefix("/log/")?.split_once('/')?;
        Some(file == "checkpoint" || file.starts_with("tile/") && !file.starts_with("tile/entries"))
    };
    (method == Method::GET || method == Method::HEAD)
        && (path == "/healthz" || log_file().unwrap_or(false))
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
async fn record_rejection(console: &Console, presented: &str) {
    let store = &console.store;
    let (agent, key_id) = match store.authenticate(presented) {
        Ok(accepted) => (Some(accepted.agent.id), Some(accepted.key_id)),
        Err(failure) => (failure.agent, failure.key_id),
    };
    let draft = Draft::new(RecordId((store.config().ids)()), Kind::Auth)
        .with("result", "rejected")
        .with("plane", "control")
        .with("reasons", vec![ReasonCode::CREDENTIAL_INVALID.as_str()])
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
    fn only_signs_of_life_checkpoints_and_hash_tiles_are_public() {
        for (method, path, public) in [
            ("GET", "/healthz", true),
            ("HEAD", "/healthz", true),
            ("GET", "/log/acme/checkpoint", true),
            ("GET", "/log/acme/tile/0/000", true),
            ("GET", "/log/acme/tile/entries/000", false),
            ("GET", "/log/acme/tile/entries", false),
            ("POST", "/log/acme/checkpoint", false),
            ("GET", "/log/acme/signer-state", false),
            ("GET", "/log/checkpoint", false),
            ("GET", "/api/v1/agents", false),
            ("GET", "/", false),
        ] {
            let found = is_public(&method.parse().unwrap(), path);
            assert_eq!(found, public, "{method} {path}");
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
