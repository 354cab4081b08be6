use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode, header};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::service::service_fn;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::call_log::{CallLog, CallRecord};
use crate::era::EraMode;
use crate::fixture::Fixture;
use crate::http::{HttpServer, json_response, plain, serve_connection};
use crate::jsonrpc::text_at;
use crate::sync::locked;

/// The largest body that a fake upstream reads or damages, in bytes.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// Requests that are remembered; later ones are not.
const MAX_SEEN: usize = 100_000;

/// What a fake upstream does with a `tools/call`.
///
/// Everything else it answers as it should, so that a client can open a session and list tools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// Executes the call and answers.
    #[default]
    Normal,
    /// Executes the call and never answers.
    Stall,
    /// Executes the call and answers after this time.
    Late(Duration),
    /// Closes the connection without reading the request; nothing is executed. Concerns every
    /// request, for nobody can know the method of what was not read.
    HangUpBeforeReading,
    /// Executes the call and closes the connection without an answer.
    HangUpAfterReading,
    /// Executes the call, announces the whole answer, sends half of it and closes the connection.
    HangUpInAnswer,
    /// Executes the call and answers with bytes that are not JSON.
    Garbage,
    /// Executes the call and answers to a request that nobody sent.
    ForeignId,
    /// Executes the call and answers with a text of this many bytes.
    Oversized(usize),
    /// Executes the call and answers that the tool failed.
    ToolError,
    /// Answers with this HTTP status and no body; nothing is executed.
    Status(u16),
}

/// One HTTP request as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenRequest {
    /// The HTTP method.
    pub http_method: String,
    /// Header names in lower case, with their values, in order of arrival.
    pub headers: Vec<(String, String)>,
    /// The body; `null` if there is none or it is not JSON.
    pub body: Value,
}

impl SeenRequest {
    /// The JSON-RPC method, or an empty text.
    #[must_use]
    pub fn method(&self) -> &str {
        text_at(&self.body, "/method")
    }

    /// The value of the first header with this lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// An MCP server over HTTP that misbehaves on demand and counts what it executed.
///
/// It offers the tools of [`Fixture`], `echo` among them. It stops, and closes its connections,
/// when it is dropped.
#[derive(Debug)]
pub struct FakeUpstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl FakeUpstream {
    /// Starts an upstream that speaks both eras on a free port of the loopback interface.
    ///
    /// # Errors
    ///
    /// Fails if no port can be bound.
    pub async fn start() -> io::Result<Self> {
        Self::start_era(EraMode::Both).await
    }

    /// Starts an upstream that speaks the given eras.
    ///
    /// # Errors
    ///
    /// Fails if no port can be bound.
    pub async fn start_era(mode: EraMode) -> io::Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let fixture = Arc::new(Fixture::new(mode, CallLog::default()));
        let shared = Arc::new(Shared {
            server: HttpServer::new(Arc::clone(&fixture)),
            fixture,
            behaviour: Mutex::default(),
            next: Mutex::default(),
            seen: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// The URL of the MCP endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }

    /// Behaves so from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *locked(&self.shared.behaviour) = behaviour;
    }

    /// Behaves so for the next `tools/call` only; may be called several times to queue up.
    pub fn behave_once(&self, behaviour: Behaviour) {
        locked(&self.shared.next).push(behaviour);
    }

    /// The executed calls, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<CallRecord> {
        self.shared.fixture.log().records()
    }

    /// How often a tool was executed.
    #[must_use]
    pub fn count(&self, tool: &str) -> usize {
        self.calls().iter().filter(|call| call.tool == tool).count()
    }

    /// How often a call with this idempotency key was executed.
    #[must_use]
    pub fn count_key(&self, key: &str) -> usize {
        self.calls().iter().filter(|call| call.idempotency_key.as_deref() == Some(key)).count()
    }

    /// Waits until at least `count` calls were executed.
    pub async fn wait_for_calls(&self, count: usize) {
        self.shared.fixture.log().wait_for(count).await;
    }

    /// The HTTP requests that were read, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<SeenRequest> {
        locked(&self.shared.seen).clone()
    }

    /// Changes a tool's description, as a rug-pull does, and announces it.
    pub fn redescribe(&self, tool: &str, description: &str) {
        self.shared.fixture.redescribe(tool, description);
    }
}

impl Drop for FakeUpstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(serve_connection(
            stream,
            service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { shared.handle(request).await }
            }),
        ));
        while connections.try_join_next().is_some() {}
    }
}

/// Ends the connection without a response.
#[derive(Debug)]
struct HungUp;

impl std::fmt::Display for HungUp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the upstream hung up")
    }
}

impl std::error::Error for HungUp {}

#[derive(Debug)]
struct Shared {
    server: HttpServer,
    fixture: Arc<Fixture>,
    behaviour: Mutex<Behaviour>,
    next: Mutex<Vec<Behaviour>>,
    seen: Mutex<Vec<SeenRequest>>,
}

impl Shared {
    async fn handle(&self, request: Request<Incoming>) -> Result<Response<Body>, HungUp> {
        if self.refuses_to_read() {
            return Err(HungUp);
        }
        let (parts, body) = request.into_parts();
        let body = to_bytes(Body::new(body), MAX_BODY).await.map_err(|_| HungUp)?;
        let seen = SeenRequest {
            http_method: parts.method.to_string(),
            headers: parts
                .headers
                .iter()
                .map(|(name, value)| {
                    (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
                })
                .collect(),
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        };
        let is_call = seen.method() == "tools/call";
        let id = seen.body.get("id").cloned().unwrap_or(Value::Null);
        self.remember(seen);
        let behaviour = if is_call { self.take_behaviour() } else { Behaviour::Normal };
        if let Behaviour::Status(status) = behaviour {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
            return Ok(plain(status));
        }
        let response =
            self.server.respond(&parts.method, parts.uri.path(), &parts.headers, &body).await;
        damage(behaviour, &id, response).await
    }

    fn refuses_to_read(&self) -> bool {
        let mut next = locked(&self.next);
        if next.first() == Some(&Behaviour::HangUpBeforeReading) {
            next.remove(0);
            return true;
        }
        next.is_empty() && *locked(&self.behaviour) == Behaviour::HangUpBeforeReading
    }

    fn take_behaviour(&self) -> Behaviour {
        let mut next = locked(&self.next);
        if next.is_empty() { *locked(&self.behaviour) } else { next.remove(0) }
    }

    fn remember(&self, request: SeenRequest) {
        let mut seen = locked(&self.seen);
        if seen.len() < MAX_SEEN {
            seen.push(request);
        }
    }
}

/// Turns the honest answer to an executed call into what the behaviour asks for.
async fn damage(
    behaviour: Behaviour,
    id: &Value,
    response: Response<Body>,
) -> Result<Response<Body>, HungUp> {
    let tool_result = |text: &str, is_error: bool| {
        let content = json!([{ "type": "text", "text": text }]);
        json!({ "resultType": "complete", "content": content, "isError": is_error })
    };
    match behaviour {
        Behaviour::Normal | Behaviour::HangUpBeforeReading | Behaviour::Status(_) => Ok(response),
        Behaviour::Stall => std::future::pending().await,
        Behaviour::Late(delay) => {
            tokio::time::sleep(delay).await;
            Ok(response)
        }
        Behaviour::HangUpAfterReading => Err(HungUp),
        Behaviour::HangUpInAnswer => half_of(response).await,
        Behaviour::Garbage => {
            let mut garbage = Response::new(Body::from("{\"jsonrpc\":\"2.0\",\u{1}<html>"));
            let kind = header::HeaderValue::from_static("application/json");
            garbage.headers_mut().insert(header::CONTENT_TYPE, kind);
            Ok(garbage)
        }
        Behaviour::ForeignId => Ok(answer(&json!("nobody-sent-this"), &tool_result("lie", false))),
        Behaviour::Oversized(size) => Ok(answer(id, &tool_result(&"x".repeat(size), false))),
        Behaviour::ToolError => Ok(answer(id, &tool_result("the tool failed", true))),
    }
}

fn answer(id: &Value, result: &Value) -> Response<Body> {
    json_response(200, &crate::jsonrpc::response(id, result), None)
}

/// The response with its full length announced and half of its body.
async fn half_of(response: Response<Body>) -> Result<Response<Body>, HungUp> {
    let (mut parts, body) = response.into_parts();
    let body = to_bytes(body, MAX_BODY).await.map_err(|_| HungUp)?;
    parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
    let half = body.slice(..body.len() / 2);
    let chunks = [Ok::<Bytes, HungUp>(half), Err(HungUp)];
    Ok(Response::from_parts(parts, Body::from_stream(futures_util::stream::iter(chunks))))
}
