//! How commands reach an installation: through its running gateway, or else its files.

use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign_console::ControlToken;
use countersign_store::{Store, StoreError};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde_json::Value;

use crate::config::Config;
use crate::paths::Paths;
use crate::run::store_config;

/// The name under which changes without a gateway are recorded.
pub(crate) const ACTOR: &str = "command-line";
/// How long a gateway has to say that it is there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a gateway has to answer a request; longer than its own limit for slow servers.
const CALL_TIMEOUT: Duration = Duration::from_secs(40);
/// Size limit of an answer, in bytes.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// `serve.json`: where a running gateway listens.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Addresses {
    /// Base URL for agents.
    pub(crate) data_plane: String,
    /// Base URL for people and the command line.
    pub(crate) control_plane: String,
    /// The gateway's process.
    pub(crate) pid: u32,
}

/// A running gateway's control plane.
pub(crate) struct Control {
    http: Client<HttpConnector, Full<Bytes>>,
    token: ControlToken,
    /// Where it listens.
    pub(crate) addresses: Addresses,
}

impl Control {
    /// Finds the gateway that runs over an installation, if it answers.
    pub(crate) async fn find(paths: &Paths) -> Option<Self> {
        let text = std::fs::read_to_string(paths.serve()).ok()?;
        let addresses: Addresses = serde_json::from_str(&text).ok()?;
        let token = ControlToken::read(&paths.token()).ok()?;
        let http = Client::builder(TokioExecutor::new()).build_http();
        let control = Self { http, token, addresses };
        // Without the token: another program may have the port by now.
        let url = format!("{}/healthz", control.addresses.control_plane);
        let request = Request::get(url).body(Full::default()).ok()?;
        let answer = tokio::time::timeout(PROBE_TIMEOUT, control.http.request(request)).await;
        answer.ok()?.ok()?.status().is_success().then_some(control)
    }

    /// Finds the gateway that runs over an installation.
    ///
    /// # Errors
    ///
    /// Fails if there is none, and says how to start it.
    pub(crate) async fn require(paths: &Paths) -> anyhow::Result<Self> {
        let found = Self::find(paths).await;
        found.context("this needs a running gateway: start it with `countersign serve`")
    }

    /// Returns the base URL for agents.
    pub(crate) fn data_plane(&self) -> &str {
        &self.addresses.data_plane
    }

    /// Asks for a change.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = Request::post(format!("{}{path}", self.addresses.control_plane))
            .header(AUTHORIZATION, format!("Bearer {}", self.token.expose()))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_string()))?;
        let answered = tokio::time::timeout(CALL_TIMEOUT, self.answer(request)).await;
        answered.context("the gateway did not answer in time")?
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Value> {
        let answer = self.http.request(request).await.context("the gateway cannot be reached")?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let bytes = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        let body: Value =
            serde_json::from_slice(&bytes).context("the gateway's answer is not JSON")?;
        if status.is_success() {
            return Ok(body);
        }
        match body.pointer("/error/message").and_then(Value::as_str) {
            Some(message) => bail!("{message}"),
            None => bail!("the gateway answered {status}"),
        }
    }
}

/// Opens the ledger of an installation whose gateway does not run, does something and closes it.
pub(crate) async fn with_store<T>(
    paths: &Paths,
    work: impl AsyncFnOnce(&Store) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let config = Config::read(&paths.config)?;
    let store = Store::open(&paths.data, store_config(&config)).await;
    let store = store.map_err(|error| {
        let hint = if matches!(error, StoreError::Locked(_)) {
            "a gateway has the ledger open but does not answer; is it starting or stopping?"
        } else if matches!(error, StoreError::Missing(_)) {
            "there is no ledger here; `countersign init` makes one"
        } else {
            "the ledger cannot be opened; `countersign doctor` says more"
        };
        anyhow::Error::from(error).context(hint)
    })?;
    let done = work(&store).await;
    let closed = store.shutdown().await.context("the ledger did not close cleanly");
    let done = done?;
    closed?;
    Ok(done)
}
