//! One bounded exchange over HTTP or HTTPS with somebody who vouches for checkpoints.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// How long one exchange may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Characters of a refusal that are shown.
const SHOWN: usize = 200;

/// A client.
#[derive(Clone)]
pub(super) struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Http {
    pub(super) fn new() -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_webpki_roots()
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Self(Client::builder(TokioExecutor::new()).build(connector))
    }

    /// Sends a request and reads the whole answer, of at most `bytes_max` bytes.
    pub(super) async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        bytes_max: usize,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let exchange = async {
            let response = self.0.request(request).await.context("it cannot be reached")?;
            let status = response.status();
            let body = Limited::new(response.into_body(), bytes_max).collect().await;
            Ok((status, body.map_err(|error| anyhow!(error))?.to_bytes()))
        };
        let exchanged = tokio::time::timeout(TIMEOUT, exchange).await;
        exchanged.unwrap_or_else(|_| bail!("it did not answer within {TIMEOUT:?}"))
    }
}

/// Returns an answer that is `200 OK`; any other is an error that shows its beginning.
pub(super) fn accepted((status, answer): (StatusCode, Bytes)) -> anyhow::Result<Bytes> {
    if status != StatusCode::OK {
        let text = String::from_utf8_lossy(&answer);
        let said: String = text.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        bail!("it answered {status}: {said}");
    }
    Ok(answer)
}

/// Reads a URL of the configuration.
pub(super) fn url(text: &str) -> anyhow::Result<Uri> {
    let url = text.parse::<Uri>().ok();
    let url = url.filter(|url| matches!(url.scheme_str(), Some("http" | "https")));
    url.with_context(|| format!("`{text}` is no http or https URL"))
}
