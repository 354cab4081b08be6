//! Asks a signer that is a process of its own.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::wire::{REPLY_BYTES_MAX, Reply, Request, recorded_request, sign_request};
use super::{Recorded, SignerStatus, ToSign};
use crate::StoreError;

/// How long the signer has for an answer: less than it takes to lose the lead over a shared log.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The way to a signer.
pub(crate) struct Socket {
    path: PathBuf,
    origin: String,
}

impl Socket {
    pub(super) fn new(path: &Path, origin: &str) -> Self {
        Self { path: path.to_owned(), origin: origin.to_owned() }
    }

    pub(super) async fn status(&self) -> Result<SignerStatus, StoreError> {
        match self.ask(&Request::Status { origin: self.origin.clone() }).await? {
            Reply::Status(status) => status.try_into(),
            Reply::Refused(refused) => Err(refused.into_error(0)),
            Reply::Note(_) | Reply::Recorded(_) => Err(another_question()),
        }
    }

    pub(super) async fn sign(&self, what: ToSign) -> Result<String, StoreError> {
        match self.ask(&sign_request(&self.origin, &what)).await? {
            Reply::Note(note) => Ok(note),
            Reply::Refused(refused) => Err(refused.into_error(what.size.0)),
            Reply::Status(_) | Reply::Recorded(_) => Err(another_question()),
        }
    }

    pub(super) async fn recorded(&self, what: Recorded) -> Result<(), StoreError> {
        match self.ask(&recorded_request(&self.origin, &what)).await? {
            Reply::Recorded(_) => Ok(()),
            Reply::Refused(refused) => Err(refused.into_error(0)),
            Reply::Status(_) | Reply::Note(_) => Err(another_question()),
        }
    }

    async fn ask(&self, request: &Request) -> Result<Reply, StoreError> {
        let failed = |error: &dyn std::fmt::Display| {
            StoreError::Signer(format!("`{}`: {error}", self.path.display()))
        };
        let mut line = serde_json::to_vec(request).map_err(|error| failed(&error))?;
        line.push(b'\n');
        match timeout(ANSWER_TIMEOUT, exchange(&self.path, &line)).await {
            Err(_) => Err(failed(&"it does not answer in time")),
            Ok(Err(error)) => Err(failed(&error)),
            Ok(Ok(answer)) => serde_json::from_slice(&answer).map_err(|error| failed(&error)),
        }
    }
}

async fn exchange(path: &Path, line: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path).await?;
    // A signer that refuses at once need not read all; its answer counts.
    let sent = stream.write_all(line).await;
    let mut answer = Vec::new();
    let limit = u64::try_from(REPLY_BYTES_MAX).unwrap_or(u64::MAX);
    (&mut stream).take(limit).read_to_end(&mut answer).await?;
    if answer.is_empty() {
        sent?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}

fn another_question() -> StoreError {
    StoreError::Signer("its answer is to another question".to_owned())
}
