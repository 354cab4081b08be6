use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

pub(crate) type HttpClient = Client<HttpConnector, Body>;

pub(crate) fn client() -> HttpClient {
    Client::builder(TokioExecutor::new()).build(HttpConnector::new())
}

/// An HTTP answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }
}

/// Posts a message with the headers that a modern request needs, and more.
pub(crate) async fn post(
    client: &HttpClient,
    url: &str,
    message: &Value,
    more: &[(&str, &str)],
) -> Result<Reply, String> {
    let mut request = Request::post(url)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream");
    if message.pointer("/params/_meta").is_some() {
        request = request
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", message["method"].as_str().unwrap());
        if let Some(name) = message.pointer("/params/name") {
            request = request.header("mcp-name", name.as_str().unwrap());
        }
    }
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(message.to_string())).unwrap();
    let response = client.request(request).await.map_err(|error| error.to_string())?;
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(Body::new(body), usize::MAX).await.map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes.to_vec()).map_err(|error| error.to_string())?;
    Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, text })
}
