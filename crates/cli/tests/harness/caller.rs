//! An agent: calls one tool through the gateway and reads what came back.

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// An HTTP client with an agent's key.
#[derive(Clone)]
pub(crate) struct Caller {
    http: Client<HttpConnector, Full<Bytes>>,
    key: String,
}

/// What came back for one call.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The code of the refusal; empty if the call went through.
    pub(crate) code: String,
    /// The decision record.
    pub(crate) evaluation_id: String,
    /// Whether it is the stored answer of an earlier call.
    pub(crate) replayed: bool,
}

impl Answer {
    /// Whether the server's result came through.
    pub(crate) fn is_result(&self) -> bool {
        self.status == 200 && self.code.is_empty() && !self.evaluation_id.is_empty()
    }
}

impl Caller {
    pub(crate) fn new(key: &str) -> Self {
        Self { http: Client::builder(TokioExecutor::new()).build_http(), key: key.to_owned() }
    }

    /// Calls the tool `echo`. An error is a connection that broke before the answer was complete.
    pub(crate) async fn echo(
        &self,
        url: &str,
        text: &str,
        idempotency_key: &str,
    ) -> Result<Answer, String> {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
            "dev.countersign/idempotency-key": idempotency_key,
        });
        let params = json!({"name": "echo", "arguments": {"text": text}, "_meta": meta});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let request = hyper::Request::post(url)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("authorization", format!("Bearer {}", self.key))
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", "tools/call")
            .header("mcp-name", "echo")
            .body(Full::from(body.to_string()))
            .unwrap();
        let response = self.http.request(request).await.map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        let body: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        let replayed = head.headers.contains_key("idempotent-replayed");
        Ok(read(head.status.as_u16(), replayed, &body))
    }
}

/// Finds the decision's id and the refusal, wherever the protocol puts them.
fn read(status: u16, replayed: bool, body: &Value) -> Answer {
    let refusal = body
        .pointer("/result/_meta/dev.countersign~1refusal")
        .or_else(|| body.pointer("/error/data/dev.countersign~1refusal"));
    let id = body
        .pointer("/result/_meta/dev.countersign~1evaluation-id")
        .or_else(|| refusal.and_then(|refusal| refusal.get("evaluation_id")));
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut code = text(refusal.and_then(|refusal| refusal.get("code")));
    if code.is_empty() && body.get("result").is_none() {
        code = format!("error {}", body.get("error").unwrap_or(body));
    }
    Answer { status, code, evaluation_id: text(id), replayed }
}
