//! An MCP server over Streamable HTTP with one tool, `echo`, that answers with its arguments.
//!
//! It speaks the legacy era (`initialize`, sessions) and the modern one (2026-07-28, stateless) on
//! one path, answers in JSON, and keeps connections alive. Out of scope: streams, server requests,
//! encoded `Mcp-Name` values, JSON-RPC batches.

use std::borrow::Cow;
use std::collections::HashSet;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::wire::{
    Arguments, LEGACY_VERSION, LEGACY_VERSIONS, METHOD_HEADER, MODERN_VERSION, Meta, NAME_HEADER,
    SESSION_HEADER, VERSION_HEADER,
};

/// The largest request body that is read.
const BODY_BYTES_MAX: usize = 1 << 20;
/// The most sessions that are open at once; one more is refused.
const SESSIONS_MAX: usize = 4096;
/// How long clients may keep the list of tools.
const TTL_MS: u64 = 60_000;

const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;
const PARSE_ERROR: i32 = -32700;
const HEADER_MISMATCH: i32 = -32020;
const UNSUPPORTED_VERSION: i32 = -32022;

#[derive(Args)]
pub(crate) struct EchoArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// How long each call takes
    #[arg(long, default_value_t = 0)]
    service_time_ms: u64,
    /// Call at whose arrival the server stalls once, to see whether a generator notices
    #[arg(long, requires = "stall_ms")]
    stall_at_call: Option<u64>,
    /// How long the stall lasts
    #[arg(long, requires = "stall_at_call")]
    stall_ms: Option<u64>,
    /// Threads of the server
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

/// Serves until the process is ended.
pub(crate) fn run(args: &EchoArgs) -> anyhow::Result<()> {
    let stall = args.stall_at_call.zip(args.stall_ms.map(Duration::from_millis));
    let echo = Arc::new(Echo::new(Duration::from_millis(args.service_time_ms), stall));
    crate::runtime(args.threads)?.block_on(async {
        let listener = TcpListener::bind(args.listen).await?;
        crate::say(&format!("http://{}/mcp", listener.local_addr()?))?;
        serve(listener, echo).await.map_err(Into::into)
    })
}

/// Accepts connections and serves each on a task of its own.
pub(crate) async fn serve(listener: TcpListener, echo: Arc<Echo>) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let echo = Arc::clone(&echo);
        let service = service_fn(move |request| {
            let echo = Arc::clone(&echo);
            async move { Ok::<_, Infallible>(echo.answer(request).await) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new());
        // A connection that breaks concerns its client alone, who sees it.
        tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
    }
}

/// The server's state.
#[derive(Debug)]
pub(crate) struct Echo {
    service_time: Duration,
    /// The call that stalls, and with it everything that comes meanwhile.
    stall: Option<(u64, Duration)>,
    calls: AtomicU64,
    gate: tokio::sync::RwLock<()>,
    sessions: Mutex<HashSet<String>>,
    session_ids: RandomState,
    sessions_opened: AtomicU64,
}

#[derive(Deserialize)]
struct RpcRequest<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    params: Params<'a>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Params<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    protocol_version: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "_meta", default)]
    meta: Meta<'a>,
}

#[derive(Serialize)]
struct RpcResult<'a, R> {
    jsonrpc: &'static str,
    id: &'a RawValue,
    result: R,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CallResult<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    result_type: Option<&'static str>,
    content: [TextContent<'a>; 1],
    is_error: bool,
}

#[derive(Serialize)]
struct TextContent<'a> {
    r#type: &'static str,
    text: &'a str,
}

type Answer = Response<Full<Bytes>>;

/// A JSON-RPC error with the HTTP status it travels under.
struct Refusal {
    status: StatusCode,
    code: i32,
    message: &'static str,
    data: Value,
}

impl Refusal {
    fn bad(code: i32, message: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, message, data: Value::Null }
    }
}

impl Echo {
    /// Makes a server whose calls take `service_time` each, and which stalls once, at call
    /// number `stall.0`, for `stall.1`.
    pub(crate) fn new(service_time: Duration, stall: Option<(u64, Duration)>) -> Self {
        Self {
            service_time,
            stall,
            calls: AtomicU64::new(0),
            gate: tokio::sync::RwLock::new(()),
            sessions: Mutex::new(HashSet::new()),
            session_ids: RandomState::new(),
            sessions_opened: AtomicU64::new(0),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        if head.uri.path() != "/mcp" {
            return plain(StatusCode::NOT_FOUND);
        }
        match head.method {
            Method::POST => {}
            Method::DELETE => return plain(self.end_session(&head.headers)),
            _ => return plain(StatusCode::METHOD_NOT_ALLOWED),
        }
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            return plain(StatusCode::PAYLOAD_TOO_LARGE);
        };
        let body = body.to_bytes();
        let request: RpcRequest<'_> = match serde_json::from_slice(&body) {
            Ok(request) => request,
            Err(e) if e.is_data() => {
                return refuse(None, &Refusal::bad(INVALID_REQUEST, "not a request"));
            }
            Err(_) => return refuse(None, &Refusal::bad(PARSE_ERROR, "not JSON")),
        };
        let answered = match &request.params.meta.protocol_version {
            Some(version) => self.answer_modern(&request, version, &head.headers).await,
            None => self.answer_legacy(&request, &head.headers).await,
        };
        answered.unwrap_or_else(|refusal| refuse(request.id, &refusal))
    }

    async fn answer_modern(
        &self,
        request: &RpcRequest<'_>,
        version: &str,
        headers: &HeaderMap,
    ) -> Result<Answer, Refusal> {
        check_modern(request, version, headers)?;
        let Some(id) = request.id else { return Ok(plain(StatusCode::ACCEPTED)) };
        match &*request.method {
            "server/discover" => Ok(success(id, &discovery())),
            "tools/list" => Ok(success(id, &modern_list())),
            "tools/call" => self.call(id, &request.params, Some("complete")).await,
            _ => Err(unknown_method(StatusCode::NOT_FOUND)),
        }
    }

    async fn answer_legacy(
        &self,
        request: &RpcRequest<'_>,
        headers: &HeaderMap,
    ) -> Result<Answer, Refusal> {
        let method = &*request.method;
        if let ("initialize", Some(id)) = (method, request.id) {
            return Ok(self.initialize(id, request.params.protocol_version.as_deref()));
        }
        let Some(session) = header(headers, SESSION_HEADER) else {
            return Err(Refusal::bad(INVALID_REQUEST, "neither a session nor modern `_meta`"));
        };
        if !self.sessions().contains(session) {
            return Ok(plain(StatusCode::NOT_FOUND));
        }
        let Some(id) = request.id else { return Ok(plain(StatusCode::ACCEPTED)) };
        match method {
            "ping" => Ok(success(id, &json!({}))),
            "tools/list" => Ok(success(id, &json!({"tools": tools()}))),
            "tools/call" => self.call(id, &request.params, None).await,
            _ => Err(unknown_method(StatusCode::OK)),
        }
    }

    fn initialize(&self, id: &RawValue, requested: Option<&str>) -> Answer {
        let version = LEGACY_VERSIONS.into_iter().find(|known| Some(*known) == requested);
        let number = self.sessions_opened.fetch_add(1, Ordering::Relaxed);
        let session = format!("{:016x}-{number}", self.session_ids.hash_one(number));
        let Ok(value) = HeaderValue::from_str(&session) else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR);
        };
        {
            let mut sessions = self.sessions();
            if sessions.len() >= SESSIONS_MAX {
                return plain(StatusCode::SERVICE_UNAVAILABLE);
            }
            sessions.insert(session);
        }
        let result = json!({
            "protocolVersion": version.unwrap_or(LEGACY_VERSION),
            "capabilities": {"tools": {}},
            "serverInfo": server_info(),
        });
        let mut answer = success(id, &result);
        answer.headers_mut().insert(SESSION_HEADER, value);
        answer
    }

    fn end_session(&self, headers: &HeaderMap) -> StatusCode {
        let ended = header(headers, SESSION_HEADER).is_some_and(|id| self.sessions().remove(id));
        if ended { StatusCode::OK } else { StatusCode::NOT_FOUND }
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call(
        &self,
        id: &RawValue,
        params: &Params<'_>,
        result_type: Option<&'static str>,
    ) -> Result<Answer, Refusal> {
        if params.name.as_deref() != Some("echo") {
            return Err(Refusal::bad(INVALID_PARAMS, "unknown tool"));
        }
        self.take_time().await;
        let arguments = params.arguments.map_or("{}", RawValue::get);
        let valid = serde_json::from_str::<Arguments<'_>>(arguments).is_ok();
        let text = if valid { arguments } else { "`text` must be a string and `n` an integer" };
        let content = [TextContent { r#type: "text", text }];
        Ok(success(id, &CallResult { result_type, content, is_error: !valid }))
    }

    async fn take_time(&self) {
        if !self.service_time.is_zero() {
            tokio::time::sleep(self.service_time).await;
        }
        if let Some((stalling_call, duration)) = self.stall {
            if self.calls.fetch_add(1, Ordering::Relaxed) + 1 == stalling_call {
                let _closed = self.gate.write().await;
                tokio::time::sleep(duration).await;
            } else {
                drop(self.gate.read().await);
            }
        }
    }
}

/// Checks what every modern request must carry, and the headers against the body.
fn check_modern(
    request: &RpcRequest<'_>,
    version: &str,
    headers: &HeaderMap,
) -> Result<(), Refusal> {
    let named = request.method != "tools/call"
        || header(headers, NAME_HEADER) == request.params.name.as_deref();
    if header(headers, VERSION_HEADER) != Some(version)
        || header(headers, METHOD_HEADER) != Some(&*request.method)
        || !named
    {
        return Err(Refusal::bad(HEADER_MISMATCH, "headers differ from the body"));
    }
    if version != MODERN_VERSION {
        let data = json!({"supported": [MODERN_VERSION], "requested": version});
        return Err(Refusal { data, ..Refusal::bad(UNSUPPORTED_VERSION, "unsupported version") });
    }
    if request.params.meta.client_capabilities.is_none() {
        return Err(Refusal::bad(INVALID_PARAMS, "no client capabilities"));
    }
    Ok(())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn server_info() -> Value {
    json!({"name": "mcp-bench-echo", "version": env!("CARGO_PKG_VERSION")})
}

fn tools() -> Value {
    json!([{
        "name": "echo",
        "description": "Answers with its arguments.",
        "inputSchema": {
            "type": "object",
            "properties": {"text": {"type": "string"}, "n": {"type": "integer"}},
            "required": ["text"],
        },
    }])
}

fn discovery() -> Value {
    json!({
        "resultType": "complete",
        "supportedVersions": [MODERN_VERSION],
        "capabilities": {"tools": {}},
        "ttlMs": TTL_MS,
        "cacheScope": "public",
        "_meta": {"io.modelcontextprotocol/serverInfo": server_info()},
    })
}

fn modern_list() -> Value {
    json!({
        "resultType": "complete",
        "tools": tools(),
        "ttlMs": TTL_MS,
        "cacheScope": "public",
    })
}

fn success(id: &RawValue, result: &impl Serialize) -> Answer {
    match serde_json::to_vec(&RpcResult { jsonrpc: "2.0", id, result }) {
        Ok(body) => json_answer(StatusCode::OK, body),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn unknown_method(status: StatusCode) -> Refusal {
    Refusal { status, ..Refusal::bad(METHOD_NOT_FOUND, "unknown method") }
}

fn refuse(id: Option<&RawValue>, refusal: &Refusal) -> Answer {
    let mut error = json!({"code": refusal.code, "message": refusal.message});
    if let (Some(error), false) = (error.as_object_mut(), refusal.data.is_null()) {
        error.insert("data".to_owned(), refusal.data.clone());
    }
    let body = json!({"jsonrpc": "2.0", "id": id, "error": error});
    json_answer(refusal.status, body.to_string().into_bytes())
}

fn json_answer(status: StatusCode, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn plain(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}
