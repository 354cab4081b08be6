use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use crate::era::{Era, MODERN_VERSION};
use crate::fixture::{Call, Fixture};
use crate::headers::{check_meta, check_version};
use crate::http::next_change;
use crate::jsonrpc::{
    Fault, INVALID_REQUEST, META_VERSION, METHOD_NOT_FOUND, PARSE_ERROR, UNSUPPORTED_VERSION, meta,
    response, text_at,
};
use crate::session::{Frame, STREAM_QUEUE, Session};

/// Serves a fixture over newline-delimited JSON until the input ends.
///
/// Requests run side by side; `notifications/cancelled` stops one. When the input ends, requests
/// that still run are dropped.
///
/// # Errors
///
/// Fails if the streams fail.
pub async fn serve_stdio(
    fixture: Arc<Fixture>,
    input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let (out, mut frames) = mpsc::channel(STREAM_QUEUE);
    let mut server =
        StdioServer { fixture, out, session: None, tasks: JoinSet::new(), running: HashMap::new() };
    let read = async move {
        let mut lines = BufReader::new(input).lines();
        while let Some(line) = lines.next_line().await? {
            server.receive(&line).await;
        }
        Ok(())
    };
    let write = async {
        while let Some(frame) = frames.recv().await {
            write_frame(&mut output, frame).await?;
        }
        Ok(())
    };
    tokio::try_join!(read, write).map(|((), ())| ())
}

async fn write_frame(output: &mut (impl AsyncWrite + Unpin), frame: Frame) -> io::Result<()> {
    let (Frame::Message(message) | Frame::Answer(_, message)) = frame else { return Ok(()) };
    let mut line = message.to_string();
    line.push('\n');
    output.write_all(line.as_bytes()).await?;
    output.flush().await
}

struct StdioServer {
    fixture: Arc<Fixture>,
    out: mpsc::Sender<Frame>,
    session: Option<Arc<Session>>,
    tasks: JoinSet<()>,
    running: HashMap<String, AbortHandle>,
}

impl StdioServer {
    async fn receive(&mut self, line: &str) {
        while self.tasks.try_join_next().is_some() {}
        let message: Value = match serde_json::from_str(line) {
            Ok(message) => message,
            Err(error) => {
                let fault = Fault::new(400, PARSE_ERROR, error.to_string());
                return self.reply(fault.to_response(&Value::Null)).await;
            }
        };
        let Some(method) = message.get("method").and_then(Value::as_str) else {
            if let Some(session) = &self.session {
                session.deliver(message);
            }
            return;
        };
        match message.get("id").cloned() {
            None if method == "notifications/cancelled" => self.cancel(&message),
            None => {}
            Some(id) => match self.admit(method, &message) {
                Ok(Admitted::Greeting(greeting)) => self.reply(response(&id, &greeting)).await,
                Ok(Admitted::Request(session)) => self.execute(message, &id, session),
                Err(fault) => self.reply(fault.to_response(&id)).await,
            },
        }
    }

    fn admit(&mut self, method: &str, message: &Value) -> Result<Admitted, Fault> {
        let looks_modern = meta(message, META_VERSION).is_some();
        match self.fixture.mode().classify(looks_modern) {
            Era::Modern if method == "initialize" && !looks_modern => {
                let data = json!({
                    "supported": [MODERN_VERSION],
                    "requested": text_at(message, "/params/protocolVersion"),
                });
                let text = "this server does not speak any version with `initialize`";
                Err(Fault::new(400, UNSUPPORTED_VERSION, text).with_data(data))
            }
            Era::Modern => {
                check_meta(message)?;
                check_version(message)?;
                Ok(Admitted::Request(None))
            }
            Era::Legacy if method == "initialize" => {
                let empty = json!({});
                let session = Arc::new(Session::open(message.get("params").unwrap_or(&empty)));
                let greeting = Fixture::greet(&session);
                self.tell_changes(&session);
                self.session = Some(session);
                Ok(Admitted::Greeting(greeting))
            }
            Era::Legacy => match &self.session {
                Some(session) => Ok(Admitted::Request(Some(Arc::clone(session)))),
                None if method == "ping" => Ok(Admitted::Greeting(json!({}))),
                None if method == "server/discover" => {
                    Err(Fault::new(200, METHOD_NOT_FOUND, "unknown method `server/discover`"))
                }
                None => Err(Fault::new(400, INVALID_REQUEST, "the session is not initialized")),
            },
        }
    }

    fn tell_changes(&mut self, session: &Arc<Session>) {
        let (out, session, mut changes) =
            (self.out.clone(), Arc::clone(session), self.fixture.listen());
        self.tasks.spawn(async move {
            while let Some(message) = next_change(&mut changes, &session).await {
                let _output_may_be_gone = out.send(Frame::Message(message)).await;
            }
        });
    }

    fn execute(&mut self, message: Value, id: &Value, session: Option<Arc<Session>>) {
        let (fixture, out) = (Arc::clone(&self.fixture), self.out.clone());
        let task = self.tasks.spawn(async move {
            let method = text_at(&message, "/method");
            let call = Call::new(&message, session, out.clone(), fixture.seal());
            let (status, answer) = fixture.answer(method, &call.id, &call).await;
            let _output_may_be_gone = out.send(Frame::Answer(status, answer)).await;
        });
        self.running.retain(|_, task| !task.is_finished());
        self.running.insert(id.to_string(), task);
    }

    fn cancel(&mut self, message: &Value) {
        let id = message.pointer("/params/requestId").map(Value::to_string).unwrap_or_default();
        if let Some(task) = self.running.remove(&id) {
            task.abort();
        }
    }

    async fn reply(&self, message: Value) {
        let _output_may_be_gone = self.out.send(Frame::Message(message)).await;
    }
}

/// What to do with a request.
enum Admitted {
    /// Answer at once with this result.
    Greeting(Value),
    /// Execute it, in a legacy session or without one.
    Request(Option<Arc<Session>>),
}
