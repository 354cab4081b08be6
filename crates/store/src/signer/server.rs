//! The signer as a process of its own: answers on a Unix socket.
//!
//! Who may connect is decided by the socket's file permissions alone. Whoever may connect can get a tree
//! signed that extends the last signed one, and nothing else.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::SignerFolder;
use super::wire::{Code, REQUEST_BYTES_MAX, Refused, Reply, Request, to_record, to_sign};
use crate::StoreError;
use crate::subject::blocking;

/// How long a client has for its request, and again to take the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(2);
/// Most connections at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 32;
/// How long running requests have once the signer stops.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// The pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers on `listener` until `stop` is done.
pub async fn serve_signer(
    folder: SignerFolder,
    listener: UnixListener,
    stop: impl Future<Output = ()>,
) {
    let folder = Arc::new(folder);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut running = JoinSet::new();
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
            Some(_) = running.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                let folder = Arc::clone(&folder);
                running.spawn(async move {
                    if let Err(error) = answer(&folder, stream).await {
                        tracing::info!(%error, "a connection broke off");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let ended = async { while running.join_next().await.is_some() {} };
    let _ = timeout(STOP_GRACE, ended).await;
}

async fn answer(folder: &Arc<SignerFolder>, mut stream: UnixStream) -> io::Result<()> {
    let line = timeout(CLIENT_TIMEOUT, read_line(&mut stream)).await??;
    let reply = match line {
        None => Reply::refused(Code::Malformed, format!("over {REQUEST_BYTES_MAX} bytes")),
        Some(line) => match serde_json::from_slice(&line) {
            Err(error) => Reply::refused(Code::Malformed, error.to_string()),
            Ok(request) => decide(Arc::clone(folder), request).await,
        },
    };
    if let Reply::Refused(refused) = &reply {
        tracing::warn!(?refused, "a request was refused");
    }
    let mut bytes = serde_json::to_vec(&reply)?;
    bytes.push(b'\n');
    timeout(CLIENT_TIMEOUT, async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await
    })
    .await?
}

/// Reads a line; `None` if it is too long.
async fn read_line(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let limit = u64::try_from(REQUEST_BYTES_MAX).unwrap_or(u64::MAX);
    let mut line = Vec::new();
    BufReader::new(stream.take(limit)).read_until(b'\n', &mut line).await?;
    match line.last() {
        Some(b'\n') => Ok(Some(line)),
        _ if line.len() >= REQUEST_BYTES_MAX => Ok(None),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Runs to its end even if the client goes away.
async fn decide(folder: Arc<SignerFolder>, request: Request) -> Reply {
    if request.origin() != folder.origin() {
        let reason = format!("this is the signer of `{}`", folder.origin());
        return Reply::refused(Code::Origin, reason);
    }
    let done = blocking(move || match request {
        Request::Status { .. } => folder.status().map(|status| Reply::Status(status.into())),
        Request::Sign { old, size, root, proof, .. } => {
            folder.sign(&to_sign(old, size, &root, &proof)?).map(Reply::Note)
        }
        Request::Recorded { index, leaf, proof, .. } => {
            folder.recorded(&to_record(index, &leaf, &proof)?).map(|()| Reply::Recorded(index))
        }
    });
    done.await.unwrap_or_else(|error: StoreError| Reply::Refused(Refused::from(&error)))
}
