//! A server behind Streamable HTTP, both eras (MCP, "Transports").

mod flow;
mod listen;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::http::header::{ACCEPT, CONTENT_TYPE};
use hyper::http::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::error::LostReason;
use super::limits::{ERROR_BODY_BYTES_MAX, GOODBYE_TIMEOUT, POOL_IDLE_MAX};
use super::mux::Mux;

pub(super) use flow::HttpFlow;

pub(super) const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
pub(super) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(super) const METHOD: HeaderName = HeaderName::from_static("mcp-method");
pub(super) const NAME: HeaderName = HeaderName::from_static("mcp-name");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const SSE: HeaderValue = HeaderValue::from_static("text/event-stream");
const JSON_OR_SSE: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");

/// One server's address and its pool of connections, shared by all its sessions.
#[derive(Debug)]
pub(super) struct Origin {
    url: Uri,
    headers: HeaderMap,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    result_bytes_max: usize,
}

impl Origin {
    pub(super) fn new(
        url: Uri,
        headers: &[(HeaderName, HeaderValue)],
        connect_timeout: Duration,
        result_bytes_max: usize,
    ) -> Arc<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect_timeout));
        let connector = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        // Its own retry is of requests that a closing connection never took: nothing was written.
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE_MAX)
            .pool_timer(TokioTimer::new())
            .build(connector);
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            let mut value = value.clone();
            value.set_sensitive(true);
            all.append(name.clone(), value);
        }
        Arc::new(Self { url, headers: all, client, result_bytes_max })
    }
}

/// One session with an HTTP server; for a modern server, no more than its requests' id space.
#[derive(Debug)]
pub(super) struct HttpLink {
    origin: Arc<Origin>,
    mux: Arc<Mux>,
    /// Named by a stateful legacy server in its answer to `initialize`.
    session_id: OnceLock<HeaderValue>,
    /// The negotiated version, for every legacy request after the opening.
    version: OnceLock<HeaderValue>,
    listener: OnceLock<AbortHandle>,
}

impl HttpLink {
    pub(super) fn new(origin: &Arc<Origin>) -> Arc<Self> {
        Arc::new(Self {
            origin: Arc::clone(origin),
            mux: Mux::new(),
            session_id: OnceLock::new(),
            version: OnceLock::new(),
            listener: OnceLock::new(),
        })
    }

    pub(super) fn mux(&self) -> &Arc<Mux> {
        &self.mux
    }

    /// Sets the version that a legacy session has negotiated.
    pub(super) fn negotiated(&self, version: &str) {
        if let Ok(version) = HeaderValue::from_str(version) {
            let _ = self.version.set(version);
        }
    }

    /// Opens the stream of session-level messages, if the server has sessions at all.
    pub(super) fn listen(self: &Arc<Self>) {
        if self.session_id.get().is_some() {
            let task = tokio::spawn(listen::listen(Arc::clone(self)));
            let _ = self.listener.set(task.abort_handle());
        }
    }

    /// Sends a notification or an answer.
    pub(super) async fn send(&self, body: String) -> Result<(), LostReason> {
        let response = self.post(body.into(), &[]).await.map_err(|error| lost(&error).0)?;
        let status = response.status();
        if status == StatusCode::NOT_FOUND && self.has_session() {
            self.mux.mark_dead();
            return Err(LostReason::SessionGone);
        }
        // Read to its end, so that the connection can be used again.
        let _ = Limited::new(response.into_body(), ERROR_BODY_BYTES_MAX).collect().await;
        if status.is_success() { Ok(()) } else { Err(LostReason::Status(status.as_u16())) }
    }

    /// Ends the session: with `DELETE` if the server has named one.
    pub(super) async fn close(&self) {
        self.mux.close(&LostReason::Stopped);
        if let Some(listener) = self.listener.get() {
            listener.abort();
        }
        if self.has_session() {
            let request = self.request(Method::DELETE, JSON_OR_SSE, Bytes::new(), &[]);
            let answer = timeout(GOODBYE_TIMEOUT, self.dispatch(request)).await;
            if !matches!(answer, Ok(Ok(_))) {
                tracing::debug!("session could not be ended");
            }
        }
    }

    fn has_session(&self) -> bool {
        self.session_id.get().is_some()
    }

    fn result_bytes_max(&self) -> usize {
        self.origin.result_bytes_max
    }

    fn post(&self, body: Bytes, headers: &[(HeaderName, HeaderValue)]) -> ResponseFuture {
        let mut request = self.request(Method::POST, JSON_OR_SSE, body, headers);
        request.headers_mut().insert(CONTENT_TYPE, JSON);
        self.dispatch(request)
    }

    /// Opens an event stream, from after `last_event` if there is one.
    fn get(&self, last_event: Option<&str>) -> ResponseFuture {
        let mut request = self.request(Method::GET, SSE, Bytes::new(), &[]);
        if let Some(id) = last_event.and_then(|id| HeaderValue::from_str(id).ok()) {
            request.headers_mut().insert(LAST_EVENT_ID, id);
        }
        self.dispatch(request)
    }

    fn dispatch(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        self.origin.client.request(request)
    }

    fn request(
        &self,
        method: Method,
        accept: HeaderValue,
        body: Bytes,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.origin.url.clone();
        let all = request.headers_mut();
        all.clone_from(&self.origin.headers);
        all.insert(ACCEPT, accept);
        if let Some(id) = self.session_id.get() {
            all.insert(SESSION_ID, id.clone());
        }
        if let Some(version) = self.version.get() {
            all.insert(PROTOCOL_VERSION, version.clone());
        }
        for (name, value) in headers {
            all.insert(name.clone(), value.clone());
        }
        request
    }
}

impl Drop for HttpLink {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.get() {
            listener.abort();
        }
    }
}

/// Returns why a request failed, and whether any of its bytes may have been written.
fn lost(error: &hyper_util::client::legacy::Error) -> (LostReason, bool) {
    let text = chain(error);
    if error.is_connect() {
        (LostReason::Connect(text), false)
    } else {
        (LostReason::Closed(text), true)
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn is_event_stream(response: &Response<Incoming>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("text/event-stream")
}
