//! What Streamable HTTP asks of a request, and the responses it gets.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, ORIGIN, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::link::{Out, Reply};
use super::message;
use crate::gateway::GatewayConfig;
use crate::identity::AuthRefusal;
use crate::limits::{BODY_BYTES_MAX, BODY_READ_TIMEOUT, KEEP_ALIVE};
use crate::refusal::{RpcError, code};

/// Header by which HTTP clients learn that an answer repeats an earlier one.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Refuses a foreign `Host` or `Origin` (DNS rebinding; MCP, Streamable HTTP, "Security Warning").
pub(crate) fn check_origin(
    config: &GatewayConfig,
    headers: &HeaderMap,
) -> Result<(), Box<Response>> {
    let forbidden = |what: &str| {
        Box::new(rpc_error(
            None,
            &RpcError { status: 403, ..RpcError::new(code::INVALID_REQUEST, what) },
        ))
    };
    let host = headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !config.host_allowed(host) {
        return Err(forbidden("the `Host` header names a host that is not served here"));
    }
    match headers.get(ORIGIN) {
        None => Ok(()),
        Some(origin) if origin.to_str().is_ok_and(|origin| config.origin_allowed(origin)) => Ok(()),
        Some(_) => Err(forbidden("the `Origin` header names an origin that is not allowed")),
    }
}

/// Demands a JSON body, and a client that reads both JSON and event streams.
pub(crate) fn check_media(headers: &HeaderMap) -> Result<(), Box<Response>> {
    let refuse = |status: u16, what: &str| {
        let error = RpcError { status, ..RpcError::new(code::INVALID_REQUEST, what) };
        Box::new(rpc_error(None, &error))
    };
    let content = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = content.and_then(|content| content.split(';').next()).map(str::trim);
    if !media.is_some_and(|media| media.eq_ignore_ascii_case("application/json")) {
        return Err(refuse(415, "the `Content-Type` header must be `application/json`"));
    }
    let accept: Vec<_> =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    if accepts(&accept, "application/json") && accepts(&accept, "text/event-stream") {
        Ok(())
    } else {
        Err(refuse(406, "the `Accept` header must list `application/json` and `text/event-stream`"))
    }
}

/// Tells whether the `Accept` headers list a media type, by itself or by a range (RFC 9110, 12.5.1).
pub(crate) fn accepts(headers: &[&str], media: &str) -> bool {
    let range = media.split_once('/').map(|(kind, _)| format!("{kind}/*")).unwrap_or_default();
    headers.iter().flat_map(|header| header.split(',')).any(|item| {
        let item = item.split(';').next().unwrap_or_default().trim();
        item == "*/*" || item.eq_ignore_ascii_case(media) || item.eq_ignore_ascii_case(&range)
    })
}

/// Reads a request body within its limits.
pub(crate) async fn read(body: Body) -> Result<Bytes, Box<Response>> {
    let refuse = |status: u16, what: String| {
        let error = RpcError { status, ..RpcError::new(code::INVALID_REQUEST, what) };
        Box::new(rpc_error(None, &error))
    };
    let body = Limited::new(body, BODY_BYTES_MAX).collect();
    match tokio::time::timeout(BODY_READ_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(refuse(413, format!("a message has at most {BODY_BYTES_MAX} bytes")))
        }
        Ok(Err(_)) => Err(refuse(400, "the body could not be read".into())),
        Err(_) => Err(refuse(408, "the body did not come in time".into())),
    }
}

/// Gives the JSON response of one request.
pub(crate) fn json(status: u16, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// Gives the response of a request that succeeded.
pub(crate) fn result(id: &RawValue, result: &str) -> Response {
    json(200, message::response(id, result))
}

/// Gives the response of a request that failed.
pub(crate) fn rpc_error(id: Option<&RawValue>, error: &RpcError) -> Response {
    json(error.status, message::rpc_error(id, error))
}

/// Gives an empty response.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Says that there is no such endpoint.
pub(crate) fn not_found() -> Response {
    let error = RpcError::new(code::INVALID_REQUEST, "there is no such MCP endpoint");
    rpc_error(None, &RpcError { status: 404, ..error })
}

/// Says that the credential was refused (RFC 6750, section 3), without saying why.
pub(crate) fn unauthorized(refusal: AuthRefusal) -> Response {
    let (status, code, text) = match refusal {
        AuthRefusal::Rejected => {
            (401, 1401, "a valid API key is needed: `Authorization: Bearer csk_…`")
        }
        AuthRefusal::NotRecorded => {
            (503, code::UNAVAILABLE, "AUDIT_UNAVAILABLE: the attempt could not be recorded")
        }
    };
    let mut response = rpc_error(None, &RpcError { status, ..RpcError::new(code, text) });
    let headers = response.headers_mut();
    if status == 401 {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"countersign\""));
    } else {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}

/// Waits for what a call has to say: one JSON response, or an event stream if there is more.
pub(crate) async fn respond(mut messages: mpsc::Receiver<Out>) -> Response {
    match tokio::time::timeout(KEEP_ALIVE, messages.recv()).await {
        Ok(Some(Out::Last(reply))) => single(reply),
        Ok(Some(first @ (Out::Message(_) | Out::Cancelled))) => stream(Some(first), messages),
        Ok(None) => {
            let error = RpcError::new(code::INTERNAL_ERROR, "the call ended without an answer");
            rpc_error(None, &RpcError { status: 500, ..error })
        }
        Err(_) => stream(None, messages),
    }
}

fn single(reply: Reply) -> Response {
    let status = reply.status;
    let mut response = json(status, reply.body);
    if reply.replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    if status == 503 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    response
}

/// Streams a call's messages as server-sent events until its response.
fn stream(first: Option<Out>, messages: mpsc::Receiver<Out>) -> Response {
    let events =
        futures_util::stream::unfold((first, Some(messages)), |(first, messages)| async move {
            let mut messages = messages?;
            let next = match first {
                Some(first) => Ok(Some(first)),
                None => tokio::time::timeout(KEEP_ALIVE, messages.recv()).await,
            };
            match next {
                Ok(Some(Out::Message(text))) => Some((event(&text), (None, Some(messages)))),
                Ok(Some(Out::Last(reply))) => Some((event(&reply.body), (None, None))),
                Ok(Some(Out::Cancelled) | None) => None,
                Err(_) => Some((keep_alive(), (None, Some(messages)))),
            }
        });
    event_stream(Body::from_stream(events))
}

/// Streams the messages of a session or subscription until its queue closes.
pub(crate) fn message_stream(messages: mpsc::Receiver<String>) -> Response {
    let events = futures_util::stream::unfold(messages, |mut messages| async move {
        match tokio::time::timeout(KEEP_ALIVE, messages.recv()).await {
            Ok(Some(text)) => Some((event(&text), messages)),
            Ok(None) => None,
            Err(_) => Some((keep_alive(), messages)),
        }
    });
    // The first comment goes out at once, so that the client knows that the stream is open.
    let opened = futures_util::stream::iter([keep_alive()]);
    event_stream(Body::from_stream(futures_util::StreamExt::chain(opened, events)))
}

fn event_stream(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, EVENT_STREAM);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// Writes one server-sent event. A line break in a message can only be white space between tokens.
fn event(message: &str) -> Result<Bytes, Infallible> {
    let mut text = String::with_capacity(message.len() + 32);
    text.push_str("event: message\ndata: ");
    if message.contains(['\n', '\r']) {
        text.push_str(&message.replace(['\n', '\r'], " "));
    } else {
        text.push_str(message);
    }
    text.push_str("\n\n");
    Ok(Bytes::from(text))
}

fn keep_alive() -> Result<Bytes, Infallible> {
    Ok(Bytes::from_static(b": keep-alive\n\n"))
}

/// Reads a header's single value; `None` if it is absent or no text.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_headers() {
        for (header, both) in [
            ("application/json, text/event-stream", true),
            ("text/event-stream;q=0.9,application/json;q=1", true),
            ("*/*", true),
            ("application/*, text/*", true),
            ("application/json", false),
            ("text/event-stream", false),
            ("", false),
        ] {
            let found =
                accepts(&[header], "application/json") && accepts(&[header], "text/event-stream");
            assert_eq!(found, both, "{header:?}");
        }
    }
}
