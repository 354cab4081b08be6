//! One MCP client on one kept-alive connection: opens, calls `tools/call`, checks every answer.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::net::TcpStream;

use crate::wire::{
    Arguments, Capabilities, Era, LEGACY_VERSION, METHOD_HEADER, MODERN_VERSION, Meta, NAME_HEADER,
    SESSION_HEADER, VERSION_HEADER,
};

/// The longest wait for one answer; after it the call counts as failed.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a wrong answer is shown.
const DETAIL_CHARS_MAX: usize = 300;
/// Prose without names, numbers or addresses, so that no scanner has cause to change it.
const WORDS: &str =
    "the quick harbour clerk counts green crates while slow rain falls on the quay ";

/// What is called, where and how; the same for all connections of a run.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: Uri,
    pub(crate) era: Era,
    pub(crate) tool: String,
    pub(crate) bearer: Option<String>,
    /// Put before the number of each call to make its idempotency key; none, no key.
    pub(crate) idempotency_prefix: Option<String>,
    /// The text of the arguments.
    pub(crate) text: String,
}

impl Target {
    /// Returns prose such that the arguments object takes `bytes` bytes of JSON, near enough.
    pub(crate) fn text_for(bytes: usize) -> String {
        let frame = r#"{"text":"","n":1000000}"#.len();
        WORDS.chars().cycle().take(bytes.saturating_sub(frame)).collect()
    }
}

/// Why a call does not count as answered.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Word under which failures are counted.
    pub(crate) kind: &'static str,
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(kind: &'static str, detail: impl fmt::Display) -> Self {
        Self { kind, detail: detail.to_string().chars().take(DETAIL_CHARS_MAX).collect() }
    }
}

/// A client that has opened its connection, and in the legacy era its session.
#[derive(Debug)]
pub(crate) struct Client {
    target: Target,
    sender: SendRequest<Full<Bytes>>,
    /// Headers of every `tools/call`.
    headers: HeaderMap,
}

#[derive(Serialize)]
struct RpcRequest<'a, P> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    method: &'a str,
    params: P,
}

#[derive(Serialize)]
struct CallParams<'a> {
    name: &'a str,
    arguments: Arguments<'a>,
    #[serde(rename = "_meta", skip_serializing_if = "Meta::is_empty")]
    meta: Meta<'a>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    result: Option<CallResult<'a>>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CallResult<'a> {
    #[serde(borrow)]
    result_type: Option<Cow<'a, str>>,
    #[serde(default)]
    is_error: bool,
    #[serde(borrow)]
    content: Vec<TextContent<'a>>,
}

#[derive(Deserialize)]
struct TextContent<'a> {
    #[serde(borrow)]
    text: Cow<'a, str>,
}

impl Client {
    /// Connects and opens: `server/discover` or `initialize`, as the era has it.
    pub(crate) async fn open(target: &Target) -> anyhow::Result<Self> {
        let authority = target.url.authority().context("the URL has no host")?;
        if target.url.scheme_str() != Some("http") {
            bail!("`{}` is not an http URL", target.url);
        }
        let address = (authority.host(), authority.port_u16().unwrap_or(80));
        let stream = TcpStream::connect(address).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let headers = common_headers(target, authority.as_str())?;
        let mut client = Self { target: target.clone(), sender, headers };
        match target.era {
            Era::Modern => client.discover().await.context("cannot discover the server")?,
            Era::Legacy => client.initialize().await.context("cannot open a session")?,
        }
        Ok(client)
    }

    async fn discover(&mut self) -> anyhow::Result<()> {
        self.set(VERSION_HEADER, MODERN_VERSION)?;
        self.set(METHOD_HEADER, "server/discover")?;
        let params = serde_json::json!({"_meta": modern_meta()});
        let (_, answer) = self.ask("server/discover", &params).await?;
        let versions = answer.pointer("/result/supportedVersions").and_then(|v| v.as_array());
        if !versions.is_some_and(|versions| versions.iter().any(|v| v == MODERN_VERSION)) {
            bail!("the server does not offer {MODERN_VERSION}: {answer}");
        }
        self.set(METHOD_HEADER, "tools/call")?;
        let tool = self.target.tool.clone();
        self.set(NAME_HEADER, &tool)
    }

    async fn initialize(&mut self) -> anyhow::Result<()> {
        let params = serde_json::json!({
            "protocolVersion": LEGACY_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "mcp-bench", "version": env!("CARGO_PKG_VERSION")},
        });
        let (headers, answer) = self.ask("initialize", &params).await?;
        let version = answer.pointer("/result/protocolVersion").and_then(|v| v.as_str());
        let version = version.with_context(|| format!("no version in {answer}"))?.to_owned();
        self.set(VERSION_HEADER, &version)?;
        if let Some(session) = headers.get(SESSION_HEADER) {
            self.headers.insert(HeaderName::from_static(SESSION_HEADER), session.clone());
        }
        let initialized = RpcRequest {
            jsonrpc: "2.0",
            id: None,
            method: "notifications/initialized",
            params: serde_json::json!({}),
        };
        let response = self.send(Method::POST, serde_json::to_vec(&initialized)?).await?;
        let status = response.status();
        response.into_body().collect().await?;
        if !status.is_success() {
            bail!("`notifications/initialized` was answered with {status}");
        }
        Ok(())
    }

    /// Ends the legacy session, if there is one; the connection ends with the client.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        if self.headers.contains_key(SESSION_HEADER) {
            self.send(Method::DELETE, Vec::new()).await?.into_body().collect().await?;
        }
        Ok(())
    }

    /// Calls the tool and checks that call number `n` was answered, and with what was sent.
    pub(crate) async fn call(&mut self, n: u64) -> Result<(), Failure> {
        match tokio::time::timeout(CALL_TIMEOUT, self.call_unbounded(n)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::new("timeout", format!("no answer in {CALL_TIMEOUT:?}"))),
        }
    }

    async fn call_unbounded(&mut self, n: u64) -> Result<(), Failure> {
        let body = self.call_body(n).map_err(|e| Failure::new("request", e))?;
        let io = |e: anyhow::Error| Failure::new("connection", format!("{e:#}"));
        let response = self.send(Method::POST, body).await.map_err(io)?;
        let status = response.status();
        let streamed = is_event_stream(&response);
        let body = response.into_body().collect().await.map_err(|e| io(e.into()))?.to_bytes();
        if status != StatusCode::OK {
            let text = String::from_utf8_lossy(&body);
            return Err(Failure::new("status", format!("{status}: {text}")));
        }
        let data = if streamed { last_event(&body) } else { Cow::Borrowed(&*body) };
        self.check(n, &data)
    }

    fn call_body(&self, n: u64) -> serde_json::Result<Vec<u8>> {
        let target = &self.target;
        let mut meta = match target.era {
            Era::Modern => modern_meta(),
            Era::Legacy => Meta::default(),
        };
        let prefix = target.idempotency_prefix.as_ref();
        meta.idempotency_key = prefix.map(|prefix| format!("{prefix}-{n}").into());
        let arguments = Arguments { text: Cow::Borrowed(&target.text), n: Some(n) };
        let params = CallParams { name: &target.tool, arguments, meta };
        serde_json::to_vec(&RpcRequest {
            jsonrpc: "2.0",
            id: Some(n),
            method: "tools/call",
            params,
        })
    }

    fn check(&self, n: u64, body: &[u8]) -> Result<(), Failure> {
        let wrong = |kind| Failure::new(kind, String::from_utf8_lossy(body));
        let answer: Answer<'_> = serde_json::from_slice(body).map_err(|_| wrong("malformed"))?;
        if answer.error.is_some() {
            return Err(wrong("rpc_error"));
        }
        let result = answer.result.ok_or_else(|| wrong("malformed"))?;
        if result.is_error {
            return Err(wrong("tool_error"));
        }
        let complete = result.result_type.as_deref() == Some("complete");
        if complete != (self.target.era == Era::Modern) {
            return Err(wrong("result_type"));
        }
        let text = result.content.first().map(|content| &*content.text).unwrap_or_default();
        let echoed: Arguments<'_> = serde_json::from_str(text).map_err(|_| wrong("mismatch"))?;
        if answer.id != Some(n) || echoed.n != Some(n) || echoed.text != self.target.text {
            return Err(wrong("mismatch"));
        }
        Ok(())
    }

    /// Sends a request that opens, and returns the answer's headers and JSON.
    async fn ask(
        &mut self,
        method: &str,
        params: &serde_json::Value,
    ) -> anyhow::Result<(HeaderMap, serde_json::Value)> {
        let request = RpcRequest { jsonrpc: "2.0", id: Some(0), method, params };
        let response = self.send(Method::POST, serde_json::to_vec(&request)?).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let streamed = is_event_stream(&response);
        let body = response.into_body().collect().await?.to_bytes();
        if status != StatusCode::OK {
            return Err(anyhow!("{status}: {}", String::from_utf8_lossy(&body)));
        }
        let data = if streamed { last_event(&body) } else { Cow::Borrowed(&*body) };
        Ok((headers, serde_json::from_slice(&data)?))
    }

    async fn send(&mut self, method: Method, body: Vec<u8>) -> anyhow::Result<Response<Incoming>> {
        let path = self.target.url.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse()?;
        *request.headers_mut() = self.headers.clone();
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    fn set(&mut self, name: &'static str, value: &str) -> anyhow::Result<()> {
        let value = value.parse().with_context(|| format!("`{value}` does not fit a header"))?;
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(())
    }
}

fn common_headers(target: &Target, authority: &str) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, authority.parse()?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    if let Some(bearer) = &target.bearer {
        headers.insert(AUTHORIZATION, format!("Bearer {bearer}").parse()?);
    }
    Ok(headers)
}

fn modern_meta() -> Meta<'static> {
    Meta {
        protocol_version: Some(Cow::Borrowed(MODERN_VERSION)),
        client_capabilities: Some(Capabilities::default()),
        idempotency_key: None,
    }
}

fn is_event_stream(response: &Response<Incoming>) -> bool {
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    content_type.is_some_and(|v| v.starts_with("text/event-stream"))
}

/// Returns the data of the last event, which is the answer; what came before is progress.
fn last_event(body: &[u8]) -> Cow<'_, [u8]> {
    let text = String::from_utf8_lossy(body).replace("\r\n", "\n");
    let event = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
    let data: Vec<&str> = event.lines().filter_map(|line| line.strip_prefix("data:")).collect();
    Cow::Owned(data.join("\n").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_event_of_a_stream_is_the_answer() {
        let body = b": hi\n\nid: 1\ndata:\n\ndata: {\"a\":1}\n\nid: 3\ndata: {\"b\":\ndata: 2}\n\n";
        assert_eq!(*last_event(body), *b" {\"b\":\n 2}");
    }

    #[test]
    fn arguments_take_the_size_asked_for() {
        let text = Target::text_for(1024);
        let arguments = Arguments { text: text.into(), n: Some(1_234_567) };
        assert_eq!(serde_json::to_vec(&arguments).unwrap().len(), 1024);
    }
}
