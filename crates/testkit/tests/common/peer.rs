use std::sync::Arc;
use std::time::Duration;

use countersign_testkit::{CallLog, EraMode, Fixture, serve_stdio};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, DuplexStream, Lines, ReadHalf, WriteHalf};

/// How long a message may take before the test fails.
const LONG: Duration = Duration::from_secs(20);

/// A fixture at the other end of a pipe.
pub(crate) struct Peer {
    lines: Lines<tokio::io::BufReader<ReadHalf<DuplexStream>>>,
    writer: WriteHalf<DuplexStream>,
}

impl Peer {
    pub(crate) fn new(mode: EraMode) -> Self {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (input, output) = tokio::io::split(theirs);
        let fixture = Arc::new(Fixture::new(mode, CallLog::default()));
        tokio::spawn(serve_stdio(fixture, input, output));
        let (reader, writer) = tokio::io::split(ours);
        Self { lines: tokio::io::BufReader::new(reader).lines(), writer }
    }

    pub(crate) async fn send(&mut self, message: &Value) {
        self.writer.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    pub(crate) async fn receive(&mut self) -> Value {
        let line = tokio::time::timeout(LONG, self.lines.next_line()).await.unwrap();
        serde_json::from_str(&line.unwrap().unwrap()).unwrap()
    }

    pub(crate) async fn ask(&mut self, message: &Value) -> Value {
        self.send(message).await;
        self.receive().await
    }

    pub(crate) async fn initialize(&mut self, version: &str) -> Value {
        self.ask(&json!({"jsonrpc": "2.0", "id": "open", "method": "initialize", "params": {
            "protocolVersion": version, "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "test", "version": "1"}}}))
            .await
    }
}

/// A request without `_meta`, as legacy ones are.
pub(crate) fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}
