//! A small MCP client over Streamable HTTP, for `quickstart` and `wrap`.

use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// The revision that the client speaks: every request describes itself.
const VERSION: &str = "2026-07-28";
/// Size limit of an answer, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Time limit of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection to one MCP endpoint.
#[derive(Clone, Debug)]
pub(crate) struct McpClient {
    http: Client<HttpConnector, Full<Bytes>>,
    url: String,
    key: String,
}

/// What came back for one request.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// Whether the gateway marked it as that of an earlier call.
    pub(crate) replayed: bool,
    /// The JSON-RPC response.
    pub(crate) body: Value,
}

impl McpClient {
    /// Makes a client of an endpoint with an API key.
    pub(crate) fn new(url: String, key: String) -> Self {
        Self { http: Client::builder(TokioExecutor::new()).build_http(), url, key }
    }

    /// Makes the same client with another key.
    pub(crate) fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    /// Calls a tool.
    pub(crate) async fn call_tool(
        &self,
        name: &str,
        arguments: &Value,
        idempotency_key: Option<&str>,
    ) -> anyhow::Result<Answer> {
        let mut meta = json!({
            "io.modelcontextprotocol/protocolVersion": VERSION,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo":
                {"name": "countersign-client", "version": env!("CARGO_PKG_VERSION")},
        });
        if let (Some(key), Some(meta)) = (idempotency_key, meta.as_object_mut()) {
            meta.insert("dev.countersign/idempotency-key".into(), key.into());
        }
        let body = json!({
            "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": name, "arguments": arguments, "_meta": meta},
        });
        let request = self
            .request(Method::POST)
            .header("mcp-protocol-version", VERSION)
            .header("mcp-method", "tools/call")
            .header("mcp-name", name)
            .body(Full::from(body.to_string()))?;
        let answered = tokio::time::timeout(CALL_TIMEOUT, self.answer(request)).await;
        answered.context("the gateway did not answer in time")?
    }

    /// Starts a request with the headers that every one has.
    pub(crate) fn request(&self, method: Method) -> hyper::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(&self.url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .header(AUTHORIZATION, format!("Bearer {}", self.key))
    }

    /// Sends a request and gives the response with its body unread.
    pub(crate) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<Response<Incoming>> {
        self.http.request(request).await.context("the gateway cannot be reached")
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Answer> {
        let response = self.send(request).await?;
        let status = response.status().as_u16();
        let replayed = response.headers().contains_key("idempotent-replayed");
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        let body = serde_json::from_slice(&bytes).context("the gateway's answer is not JSON")?;
        Ok(Answer { status, replayed, body })
    }
}
