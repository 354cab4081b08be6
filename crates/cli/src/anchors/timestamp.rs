//! Has the log's checkpoints time-stamped by an RFC 3161 authority.
//!
//! What is stamped is the published checkpoint as it was signed; the answer is kept beside it only after
//! all of it was verified.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use countersign_console::BoxFuture;
use countersign_evidence::timestamp::{self, RESPONSE_BYTES_MAX, Roots, token_path};
use countersign_ledger::{Checkpoint, Note};
use countersign_store::Store;
use http_body_util::Full;
use hyper::{Request, Uri, header};

use super::Anchor;
use super::http::{Http, accepted, url};
use crate::config;
use crate::paths::Paths;

/// An authority.
pub(super) struct Authority {
    store: Store,
    log: PathBuf,
    http: Http,
    url: Uri,
    roots: Roots,
}

impl Authority {
    /// Reads the roots that its certificate must lead to.
    pub(super) fn new(
        store: &Store,
        config: &config::Timestamp,
        paths: &Paths,
        http: &Http,
    ) -> anyhow::Result<Self> {
        let url = url(&config.url).context("anchors.timestamp.url")?;
        let roots =
            read_roots(&paths.root.join(&config.roots)).context("anchors.timestamp.roots")?;
        let (store, log, http) = (store.clone(), paths.log(), http.clone());
        Ok(Self { store, log, http, url, roots })
    }

    /// Gets a token for a checkpoint, unless it has one: a later one would say less.
    async fn stamp(&self, checkpoint: &Checkpoint, note: &Note) -> anyhow::Result<()> {
        if self.log.join(token_path(checkpoint.size)).exists() {
            return Ok(());
        }
        let stamped = note.to_bytes();
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).context("there is no randomness")?;
        let nonce = u64::from_be_bytes(nonce);
        let request = Request::post(&self.url)
            .header(header::CONTENT_TYPE, "application/timestamp-query")
            .body(Full::from(timestamp::request(&stamped, nonce)?))?;
        let answer = accepted(self.http.exchange(request, RESPONSE_BYTES_MAX).await?)?;
        timestamp::verify(&answer, &stamped, Some(nonce), &self.roots)?;
        Ok(self.store.put_timestamp(&token_path(checkpoint.size), answer.into()).await?)
    }
}

impl Anchor for Authority {
    fn name(&self) -> &'static str {
        "timestamp"
    }

    fn anchor<'a>(
        &'a mut self,
        checkpoint: &'a Checkpoint,
        note: &'a Note,
    ) -> BoxFuture<'a, anyhow::Result<u64>> {
        Box::pin(async move {
            self.stamp(checkpoint, note).await?;
            Ok(checkpoint.size.0)
        })
    }
}

/// Reads a file with the roots of timestamp authorities.
pub(crate) fn read_roots(path: &Path) -> anyhow::Result<Roots> {
    let of = || path.display().to_string();
    let pem = std::fs::read(path).with_context(of)?;
    Roots::parse(&pem).with_context(of)
}
