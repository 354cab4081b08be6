mod sse;

pub(crate) use self::sse::next_change;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::era::{Era, LEGACY_VERSIONS};
use crate::fixture::{Call, Fixture};
use crate::headers::{self, VERSION_HEADER};
use crate::jsonrpc::{
    Fault, INVALID_REQUEST, LEGACY_BAD_REQUEST, META_VERSION, PARSE_ERROR, meta, text_at,
};
use crate::session::{Frame, STREAM_QUEUE, Session, random_id};
use crate::sync::locked;

/// The largest request body that is read, in bytes.
const MAX_BODY: usize = 8 * 1024 * 1024;

/// Name of the header that carries a legacy session's id.
const SESSION_HEADER: &str = "mcp-session-id";

/// Serves a fixture over Streamable HTTP at `/mcp` until the future is dropped.
///
/// # Errors
///
/// Fails if the listener can no longer accept.
pub async fn serve_http(fixture: Arc<Fixture>, listener: TcpListener) -> io::Result<()> {
    let server = Arc::new(HttpServer::new(fixture));
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let server = Arc::clone(&server);
        connections.spawn(async move {
            serve_connection(
                stream,
                service_fn(move |request| {
                    let server = Arc::clone(&server);
                    async move { Ok::<_, Infallible>(server.handle(request).await) }
                }),
            )
            .await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection; how it ends is the client's business.
pub(crate) async fn serve_connection<S>(stream: TcpStream, service: S)
where
    S: hyper::service::HttpService<Incoming, ResBody = Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _how_it_ended = connection.await;
}

/// A fixture with the legacy sessions of its HTTP clients.
#[derive(Debug)]
pub(crate) struct HttpServer {
    fixture: Arc<Fixture>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
}

impl HttpServer {
    pub(crate) fn new(fixture: Arc<Fixture>) -> Self {
        Self { fixture, sessions: Mutex::default() }
    }

    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        match axum::body::to_bytes(Body::new(body), MAX_BODY).await {
            Ok(body) => self.respond(&parts.method, parts.uri.path(), &parts.headers, &body).await,
            Err(_) => plain(StatusCode::PAYLOAD_TOO_LARGE),
        }
    }

    /// Answers one HTTP request.
    pub(crate) async fn respond(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Response<Body> {
        if path != "/mcp" {
            return plain(StatusCode::NOT_FOUND);
        }
        if !headers::is_local(headers) {
            return plain(StatusCode::FORBIDDEN);
        }
        match *method {
            Method::POST => self.post(headers, body).await.unwrap_or_else(|fault| *fault),
            Method::GET => self.get(headers).unwrap_or_else(|fault| *fault),
            Method::DELETE => self.delete(headers),
            _ => plain(StatusCode::METHOD_NOT_ALLOWED),
        }
    }

    async fn post(&self, headers: &HeaderMap, body: &[u8]) -> Answer {
        if !accepts(headers, "application/json") || !accepts(headers, "text/event-stream") {
            return Err(Box::new(plain(StatusCode::NOT_ACCEPTABLE)));
        }
        let message: Value = serde_json::from_slice(body).map_err(|error| {
            refuse(&Fault::new(400, PARSE_ERROR, error.to_string()), &Value::Null)
        })?;
        let id = message.get("id").cloned();
        let method = text_at(&message, "/method");
        let is_answer = message.get("result").is_some() || message.get("error").is_some();
        if method.is_empty() && !is_answer {
            let fault = Fault::new(400, INVALID_REQUEST, "not a JSON-RPC message");
            return Err(refuse(&fault, &Value::Null));
        }
        match (self.era_of(headers, &message), id) {
            (Era::Modern, None) => Ok(plain(StatusCode::ACCEPTED)),
            (Era::Modern, Some(id)) => self.post_modern(headers, message, &id).await,
            (Era::Legacy, Some(_)) if method == "initialize" => Ok(self.initialize(&message)),
            (Era::Legacy, id) => self.post_legacy(headers, message, id, is_answer).await,
        }
    }

    fn era_of(&self, headers: &HeaderMap, message: &Value) -> Era {
        let version = text_header(headers, VERSION_HEADER);
        let modern_header = version.is_some_and(|version| !LEGACY_VERSIONS.contains(&version));
        self.fixture.mode().classify(modern_header || meta(message, META_VERSION).is_some())
    }

    async fn post_modern(&self, headers: &HeaderMap, message: Value, id: &Value) -> Answer {
        headers::check_modern(headers, &message, &self.fixture.tools())
            .map_err(|fault| refuse(&fault, id))?;
        Ok(self.execute(message, None).await)
    }

    fn initialize(&self, message: &Value) -> Response<Body> {
        let empty = json!({});
        let session = Session::open(message.get("params").unwrap_or(&empty));
        let id = message.get("id").unwrap_or(&Value::Null);
        let greeting = crate::jsonrpc::response(id, &Fixture::greet(&session));
        let session_id = random_id();
        let response = json_response(200, &greeting, Some(&session_id));
        locked(&self.sessions).insert(session_id, Arc::new(session));
        response
    }

    async fn post_legacy(
        &self,
        headers: &HeaderMap,
        message: Value,
        id: Option<Value>,
        is_answer: bool,
    ) -> Answer {
        let (_, session) = self.session(headers)?;
        if is_answer {
            session.deliver(message);
            return Ok(plain(StatusCode::ACCEPTED));
        }
        if id.is_none() {
            if text_at(&message, "/method") == "notifications/cancelled" {
                session.cancel(&message);
            }
            return Ok(plain(StatusCode::ACCEPTED));
        }
        Ok(self.execute(message, Some(session)).await)
    }

    /// Runs a request in a task of its own and answers with JSON, or with a stream as soon as
    /// something else than the answer comes first.
    async fn execute(&self, message: Value, session: Option<Arc<Session>>) -> Response<Body> {
        let (out, mut frames) = mpsc::channel(STREAM_QUEUE);
        let fixture = Arc::clone(&self.fixture);
        let call_session = session.clone();
        let id = message.get("id").cloned().unwrap_or(Value::Null);
        let task = tokio::spawn(async move {
            let method = text_at(&message, "/method");
            let call = Call::new(&message, call_session, out.clone(), fixture.seal());
            let (status, answer) = fixture.answer(method, &call.id, &call).await;
            let _client_may_be_gone = out.send(Frame::Answer(status, answer)).await;
        });
        // In the modern era a closed connection is the cancel; a legacy call goes on.
        let guard = match &session {
            Some(session) => {
                session.started(&id, task.abort_handle());
                None
            }
            None => Some(sse::AbortOnDrop(task)),
        };
        match frames.recv().await {
            Some(Frame::Answer(status, answer)) => json_response(status, &answer, None),
            Some(first) => sse::answer_stream(first, frames, session, guard),
            // Cancelled before it said anything.
            None => plain(StatusCode::ACCEPTED),
        }
    }

    fn get(&self, headers: &HeaderMap) -> Answer {
        if self.fixture.mode().classify(false) == Era::Modern {
            return Err(Box::new(plain(StatusCode::METHOD_NOT_ALLOWED)));
        }
        let (_, session) = self.session(headers)?;
        match text_header(headers, "last-event-id") {
            Some(event) => {
                let stream = event.rsplit_once('-').map_or(event, |(stream, _)| stream);
                let parked = locked(&session.parked).remove(stream);
                let parked = parked.ok_or_else(|| Box::new(plain(StatusCode::NOT_FOUND)))?;
                Ok(sse::resumed_stream(stream, parked, session))
            }
            None => Ok(sse::change_stream(self.fixture.listen(), session)),
        }
    }

    fn delete(&self, headers: &HeaderMap) -> Response<Body> {
        if self.fixture.mode().classify(false) == Era::Modern {
            return plain(StatusCode::METHOD_NOT_ALLOWED);
        }
        match self.session(headers) {
            Ok((id, _)) => {
                locked(&self.sessions).remove(&id);
                plain(StatusCode::OK)
            }
            Err(response) => *response,
        }
    }

    /// The session that a legacy request names; otherwise what SDK servers answer.
    fn session(&self, headers: &HeaderMap) -> Result<(String, Arc<Session>), Box<Response<Body>>> {
        let bad = |status, text: &str| {
            refuse(&Fault::new(status, LEGACY_BAD_REQUEST, text), &Value::Null)
        };
        if let Some(version) = text_header(headers, VERSION_HEADER)
            && !LEGACY_VERSIONS.contains(&version)
        {
            return Err(bad(400, "unsupported protocol version"));
        }
        let Some(id) = text_header(headers, SESSION_HEADER) else {
            return Err(bad(400, "the header `Mcp-Session-Id` is missing"));
        };
        let session = locked(&self.sessions).get(id).cloned();
        session.map(|session| (id.to_owned(), session)).ok_or_else(|| bad(404, "no such session"))
    }
}

/// A response, or the boxed one that refuses.
type Answer = Result<Response<Body>, Box<Response<Body>>>;

fn refuse(fault: &Fault, id: &Value) -> Box<Response<Body>> {
    Box::new(json_response(fault.status, &fault.to_response(id), None))
}

fn text_header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains(kind) || value.contains("*/*"))
}

pub(crate) fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

pub(crate) fn json_response(status: u16, body: &Value, session_id: Option<&str>) -> Response<Body> {
    let mut builder =
        Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    if let Some(id) = session_id {
        builder = builder.header(SESSION_HEADER, id);
    }
    builder
        .body(Body::from(body.to_string()))
        .unwrap_or_else(|_| plain(StatusCode::INTERNAL_SERVER_ERROR))
}
