//! Between a client's stdio and the gateway's Streamable HTTP endpoint, for both eras of MCP.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::client::McpClient;

/// Answers that may wait for the client to read them.
const OUTPUT_QUEUE: usize = 256;
/// Calls that may run at the same time.
const RUNNING_MAX: usize = 256;
/// Time that running calls have to end after the client closed its side.
const GRACE: Duration = Duration::from_secs(10);
/// Pause before the stream for messages outside calls is opened again.
const REOPEN: Duration = Duration::from_secs(1);
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";

/// What the messages so far have settled.
#[derive(Clone, Debug, Default)]
struct Session {
    id: Option<String>,
    version: Option<String>,
}

struct Bridge {
    client: McpClient,
    session: Mutex<Session>,
    running: Mutex<HashMap<String, AbortHandle>>,
    output: mpsc::Sender<String>,
}

/// Passes messages until the client closes its side.
pub(crate) async fn run(client: McpClient) -> anyhow::Result<()> {
    let (output, lines) = mpsc::channel(OUTPUT_QUEUE);
    let writer = tokio::spawn(write(lines));
    let bridge =
        Arc::new(Bridge { client, session: Mutex::default(), running: Mutex::default(), output });
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let mut calls = JoinSet::new();
    let mut listening: Option<AbortHandle> = None;
    while let Some(line) = input.next_line().await? {
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            bridge.parse_error().await;
            continue;
        };
        let method = message.get("method").and_then(Value::as_str).unwrap_or_default().to_owned();
        if bridge.cancels_modern(&method, &message) {
            continue;
        }
        while calls.len() >= RUNNING_MAX {
            calls.join_next().await;
        }
        while calls.try_join_next().is_some() {}
        if method == "initialize" {
            // Everything after it needs the session that it opens.
            Arc::clone(&bridge).pass(message, line).await;
            continue;
        }
        if method == "notifications/initialized" && listening.is_none() {
            Arc::clone(&bridge).pass(message, line).await;
            listening = Some(tokio::spawn(Arc::clone(&bridge).listen()).abort_handle());
            continue;
        }
        let id = message.get("id").map(Value::to_string);
        let call = calls.spawn(Arc::clone(&bridge).pass(message, line));
        if let Some(id) = id {
            lock(&bridge.running).insert(id, call);
        }
    }
    let ended = async { while calls.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(GRACE, ended).await;
    if let Some(listening) = listening {
        listening.abort();
    }
    bridge.close().await;
    drop(bridge);
    calls.shutdown().await;
    let _ = tokio::time::timeout(GRACE, writer).await;
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes one message a line.
async fn write(mut lines: mpsc::Receiver<String>) -> std::io::Result<()> {
    let mut output = tokio::io::stdout();
    while let Some(line) = lines.recv().await {
        // A line break in a message can only be white space between tokens.
        let line = line.replace(['\n', '\r'], " ");
        output.write_all(line.as_bytes()).await?;
        output.write_all(b"\n").await?;
        output.flush().await?;
    }
    Ok(())
}

impl Bridge {
    /// Sends one message and writes what comes back for it.
    async fn pass(self: Arc<Self>, message: Value, line: String) {
        let id = message.get("id").filter(|_| message.get("method").is_some()).cloned();
        if let Err(error) = self.exchange(&message, line).await {
            tracing::warn!(error = %format!("{error:#}"), "a message was not passed on");
            if let Some(id) = &id {
                let error = json!({"code": 1502, "message": format!("{error:#}")});
                self.emit(json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string()).await;
            }
        }
        if let Some(id) = id {
            lock(&self.running).remove(&id.to_string());
        }
    }

    async fn exchange(&self, message: &Value, line: String) -> anyhow::Result<()> {
        let mut request = self.client.request(Method::POST);
        for (name, value) in self.headers(message) {
            request = request.header(name, value);
        }
        let response = self.client.send(request.body(Full::from(line))?).await?;
        if message.get("method").is_some_and(|method| method == "initialize") {
            let header = response.headers().get("mcp-session-id");
            lock(&self.session).id = header.and_then(|id| id.to_str().ok()).map(str::to_owned);
        }
        self.relay(response, message).await
    }

    /// Gives the headers that the message's era asks for.
    fn headers(&self, message: &Value) -> Vec<(&'static str, String)> {
        let text = |pointer: &str| message.pointer(pointer).and_then(Value::as_str);
        let modern = message.pointer("/params/_meta").and_then(|meta| meta.get(META_VERSION));
        if let Some(version) = modern.and_then(Value::as_str) {
            let method = text("/method").unwrap_or_default();
            let mut headers = vec![
                ("mcp-protocol-version", version.to_owned()),
                ("mcp-method", method.to_owned()),
                // A stdio client has no headers that could differ from its body.
                ("countersign-bridge", "stdio".to_owned()),
            ];
            let name =
                if method == "resources/read" { text("/params/uri") } else { text("/params/name") };
            headers
                .extend(name.map(|name| ("mcp-name", countersign_gateway::mcp::header_text(name))));
            return headers;
        }
        let session = lock(&self.session).clone();
        let id = session.id.map(|id| ("mcp-session-id", id));
        let version = session.version.map(|version| ("mcp-protocol-version", version));
        id.into_iter().chain(version).collect()
    }

    /// Writes the messages of a response: none, one, or a stream of them.
    async fn relay(&self, response: Response<Incoming>, message: &Value) -> anyhow::Result<()> {
        let status = response.status();
        if status == StatusCode::ACCEPTED || status == StatusCode::NO_CONTENT {
            return Ok(());
        }
        let stream = response
            .headers()
            .get(hyper::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if stream {
            return self.relay_events(response).await;
        }
        let bytes =
            response.into_body().collect().await.context("the answer broke off")?.to_bytes();
        let mut answer: Value = serde_json::from_slice(&bytes)
            .with_context(|| format!("the gateway answered with HTTP status {status}"))?;
        if message.get("method").is_some_and(|method| method == "initialize") {
            let version = answer.pointer("/result/protocolVersion").and_then(Value::as_str);
            lock(&self.session).version = version.map(str::to_owned);
        }
        if answer.get("id").is_some_and(Value::is_null)
            && let (Some(id), Some(object)) = (message.get("id"), answer.as_object_mut())
        {
            object.insert("id".into(), id.clone());
            self.emit(answer.to_string()).await;
            return Ok(());
        }
        if message.get("id").is_some() {
            self.emit(String::from_utf8_lossy(&bytes).into_owned()).await;
        }
        Ok(())
    }

    /// Writes the data of each server-sent event; the gateway puts one message in each.
    async fn relay_events(&self, response: Response<Incoming>) -> anyhow::Result<()> {
        let mut body = response.into_body();
        let mut buffer: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.context("the stream broke off")?.into_data() else { continue };
            buffer.extend_from_slice(&data);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if let Some(data) = line.trim_end().strip_prefix("data: ") {
                    self.emit(data.to_owned()).await;
                }
            }
        }
        Ok(())
    }

    /// Keeps the session's stream for messages outside calls open.
    async fn listen(self: Arc<Self>) {
        loop {
            let Some(id) = lock(&self.session).id.clone() else { return };
            let request = self.client.request(Method::GET).header("mcp-session-id", id);
            let Ok(request) = request.body(Full::<Bytes>::default()) else { return };
            match self.client.send(request).await {
                Ok(response) if response.status() == StatusCode::OK => {
                    let _ = self.relay_events(response).await;
                }
                Ok(_) => return,
                Err(_) => {}
            }
            tokio::time::sleep(REOPEN).await;
        }
    }

    /// Takes a cancellation of the stateless era: over HTTP it is the end of the response.
    fn cancels_modern(&self, method: &str, message: &Value) -> bool {
        if method != "notifications/cancelled" || lock(&self.session).id.is_some() {
            return false;
        }
        if let Some(id) = message.pointer("/params/requestId")
            && let Some(call) = lock(&self.running).remove(&id.to_string())
        {
            call.abort();
        }
        true
    }

    /// Ends the session at the gateway.
    async fn close(&self) {
        let Some(id) = lock(&self.session).id.clone() else { return };
        let request = self.client.request(Method::DELETE).header("mcp-session-id", id);
        if let Ok(request) = request.body(Full::<Bytes>::default()) {
            let _ = tokio::time::timeout(GRACE, self.client.send(request)).await;
        }
    }

    async fn parse_error(&self) {
        let error = json!({"code": -32700, "message": "this line is not JSON"});
        self.emit(json!({"jsonrpc": "2.0", "id": null, "error": error}).to_string()).await;
    }

    async fn emit(&self, line: String) {
        let _ = self.output.send(line).await;
    }
}
