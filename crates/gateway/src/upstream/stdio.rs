//! A server as a child process: one JSON-RPC message per line (MCP, "stdio").

use std::io;
use std::process::Stdio;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::config::StdioCommand;
use super::error::LostReason;
use super::limits::{
    CHILD_EXIT_GRACE, ENVELOPE_BYTES_MAX, LINE_QUEUE_MAX, STDERR_BYTES_MAX, STDERR_LINE_BYTES_MAX,
};
use super::link::{Flow, Outgoing};
use super::mux::Mux;
use crate::envelope::Envelope;

/// A line for the child; a request has its id with it.
#[derive(Debug)]
struct Line {
    id: Option<u64>,
    bytes: Vec<u8>,
}

/// The child and its two pipes.
#[derive(Debug)]
pub(super) struct StdioLink {
    mux: Arc<Mux>,
    lines: mpsc::Sender<Line>,
    /// Dropping it, too, ends the child.
    closing: watch::Sender<bool>,
    exited: watch::Receiver<bool>,
}

impl StdioLink {
    /// Starts the child; its results have at most `bytes_max` bytes.
    pub(super) fn spawn(command: &StdioCommand, bytes_max: usize) -> io::Result<Arc<Self>> {
        let mut child = child(command)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(io::Error::other("the child has no pipes"));
        };
        let mux = Mux::new();
        let (lines, queue) = mpsc::channel(LINE_QUEUE_MAX);
        let (closing, closed) = watch::channel(false);
        let (exit, exited) = watch::channel(false);
        let reader = Reader { mux: Arc::clone(&mux), replies: lines.clone(), bytes_max };
        let pipes = Pipes { stdin, stdout, stderr };
        tokio::spawn(supervise(child, pipes, reader, queue, closed, exit));
        Ok(Arc::new(Self { mux, lines, closing, exited }))
    }

    pub(super) fn mux(&self) -> &Arc<Mux> {
        &self.mux
    }

    pub(super) async fn start(&self, outgoing: Outgoing) -> Result<Flow, LostReason> {
        let Outgoing { id, body, token, governed, .. } = outgoing;
        let (rx, registration) = self.mux.register(id, token, governed)?;
        self.push(Line { id: Some(id), bytes: line(body) }).await?;
        Ok(Flow::Channel { rx, _registration: registration })
    }

    pub(super) async fn send(&self, body: String) -> Result<(), LostReason> {
        self.push(Line { id: None, bytes: line(body) }).await
    }

    /// Closes the child's input and waits until it is gone.
    pub(super) async fn close(&self) {
        self.closing.send_replace(true);
        let mut exited = self.exited.clone();
        // An error means that the supervisor, and so the child, is gone.
        let _ = exited.wait_for(|gone| *gone).await;
    }

    async fn push(&self, line: Line) -> Result<(), LostReason> {
        let closed = |_| LostReason::Closed("the server has exited".to_owned());
        self.lines.send(line).await.map_err(closed)
    }
}

/// Ends the message with the only line feed in it.
fn line(body: String) -> Vec<u8> {
    let mut bytes = body.into_bytes();
    // A raw line feed is white space between tokens (RFC 8259, section 7 forbids it in strings);
    // left in, the rest would be read as a second message that nobody has decided on.
    for byte in &mut bytes {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    bytes.push(b'\n');
    bytes
}

fn child(command: &StdioCommand) -> io::Result<Child> {
    let Some((program, arguments)) = command.command.split_first() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the command is empty"));
    };
    let mut process = Command::new(program);
    process.args(arguments).env_clear().envs(&command.env);
    process.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    process.kill_on_drop(true);
    // Its own group: a terminal's interrupt is for the gateway, which closes its children in order.
    #[cfg(unix)]
    process.process_group(0);
    if let Some(cwd) = &command.cwd {
        process.current_dir(cwd);
    }
    process.spawn()
}

#[derive(Debug)]
struct Pipes {
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// Carries messages until the child or the session ends, then makes sure that the child is gone.
async fn supervise(
    mut child: Child,
    pipes: Pipes,
    reader: Reader,
    queue: mpsc::Receiver<Line>,
    mut closed: watch::Receiver<bool>,
    exit: watch::Sender<bool>,
) {
    let mux = Arc::clone(&reader.mux);
    let reason = {
        let Pipes { stdin, stdout, stderr } = pipes;
        let log = async {
            log_stderr(stderr).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            reason = reader.run(stdout) => reason,
            reason = write_lines(stdin, queue, &mux) => reason,
            () = log => LostReason::Stopped,
            _ = closed.wait_for(|closing| *closing) => LostReason::Stopped,
        }
    };
    mux.close(&reason);
    if timeout(CHILD_EXIT_GRACE, child.wait()).await.is_err() {
        tracing::debug!("killing a server that did not exit after its input was closed");
        let _ = child.kill().await;
    }
    exit.send_replace(true);
}

async fn write_lines(
    mut stdin: ChildStdin,
    mut queue: mpsc::Receiver<Line>,
    mux: &Mux,
) -> LostReason {
    while let Some(Line { id, bytes }) = queue.recv().await {
        if id.is_some_and(|id| !mux.mark_sent(id)) {
            continue;
        }
        if let Err(error) = stdin.write_all(&bytes).await {
            return LostReason::Closed(error.to_string());
        }
    }
    LostReason::Stopped
}

/// Reads the child's messages.
#[derive(Debug)]
struct Reader {
    mux: Arc<Mux>,
    replies: mpsc::Sender<Line>,
    bytes_max: usize,
}

impl Reader {
    async fn run(self, stdout: ChildStdout) -> LostReason {
        let mut stdout = BufReader::with_capacity(64 << 10, stdout);
        let mut line = Vec::new();
        loop {
            line.clear();
            match read_line(&mut stdout, &mut line, self.bytes_max + ENVELOPE_BYTES_MAX).await {
                Ok(LineEnd::Whole) => self.read_message(&line),
                Ok(LineEnd::TooLong) => {
                    return LostReason::TooLarge { bytes_max: self.bytes_max };
                }
                Ok(LineEnd::Eof) => return LostReason::Closed("the server exited".to_owned()),
                Err(error) => return LostReason::Closed(error.to_string()),
            }
        }
    }

    fn read_message(&self, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        let envelope = match Envelope::parse_from_server(line, self.bytes_max + ENVELOPE_BYTES_MAX)
        {
            Ok(envelope) => envelope,
            Err(error) => {
                tracing::debug!(%error, "line of a server is no message");
                return;
            }
        };
        if let Some(reply) = self.mux.route(&envelope) {
            // A child that asks without reading our answers gets none.
            let _ = self.replies.try_send(Line { id: None, bytes: self::line(reply) });
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum LineEnd {
    Whole,
    TooLong,
    Eof,
}

/// Appends one line without its end to `line`, at most `bytes_max` bytes.
async fn read_line<R: AsyncRead + Unpin>(
    from: &mut BufReader<R>,
    line: &mut Vec<u8>,
    bytes_max: usize,
) -> io::Result<LineEnd> {
    loop {
        let chunk = from.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(LineEnd::Eof);
        }
        let mut parts = chunk.splitn(2, |byte| *byte == b'\n');
        let head = parts.next().unwrap_or_default();
        let whole = parts.next().is_some();
        if line.len() + head.len() > bytes_max {
            return Ok(LineEnd::TooLong);
        }
        line.extend_from_slice(head);
        let used = head.len() + usize::from(whole);
        from.consume(used);
        if whole {
            return Ok(LineEnd::Whole);
        }
    }
}

/// Logs what the child writes to its standard error, capped, and drops the rest.
async fn log_stderr(stderr: ChildStderr) {
    let mut stderr = BufReader::with_capacity(STDERR_LINE_BYTES_MAX, stderr);
    let mut left = STDERR_BYTES_MAX;
    while let Ok(chunk) = stderr.fill_buf().await {
        let used = chunk.len();
        if used == 0 {
            return;
        }
        if left > 0 {
            let text = String::from_utf8_lossy(chunk);
            tracing::debug!(stderr = text.trim_end(), "server writes");
        }
        left = left.saturating_sub(used);
        stderr.consume(used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_capped_and_joined_over_chunks() {
        let mut from =
            BufReader::with_capacity(4, &b"short\nlonger line\n12345678901234567890\n"[..]);
        let mut line = Vec::new();
        assert_eq!(read_line(&mut from, &mut line, 12).await.unwrap(), LineEnd::Whole);
        assert_eq!(line, b"short");
        line.clear();
        assert_eq!(read_line(&mut from, &mut line, 12).await.unwrap(), LineEnd::Whole);
        assert_eq!(line, b"longer line");
        line.clear();
        assert_eq!(read_line(&mut from, &mut line, 12).await.unwrap(), LineEnd::TooLong);
    }

    #[test]
    fn one_message_is_one_line() {
        assert_eq!(line("{\n\"a\":\r\n1}".to_owned()), b"{ \"a\":  1}\n");
    }
}
