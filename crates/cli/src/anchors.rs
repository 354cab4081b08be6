//! Asks witnesses to cosign the log's checkpoints (C2SP tlog-witness, the client's side).
//!
//! Nothing here holds up a call. A cosignature is stored only if the key in the operator's policy
//! verifies it; a witness that answers otherwise is asked again at the next round.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use countersign_ledger::note::Signature;
use countersign_ledger::policy::PolicyWitness;
use countersign_ledger::witness::{AddCheckpoint, read_answer};
use countersign_ledger::{Checkpoint, Note, Policy, TreeSize, VerifierKey};
use countersign_store::Store;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use crate::config;

/// How long a witness has to answer one request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Size limit of an answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

type Http = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Starts to ask the witnesses of the configured policy; `None` if there is none.
pub(crate) fn start(
    store: &Store,
    config: &config::Anchors,
    root: &Path,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let Some(path) = &config.policy else { return Ok(None) };
    let path = root.join(path);
    let of = || format!("anchors.policy, {}", path.display());
    let text = std::fs::read_to_string(&path).with_context(of)?;
    let policy = Policy::parse(&text).with_context(of)?;
    let http = http();
    let witnesses = policy.witnesses().iter().filter_map(|witness| Asked::new(witness, &http));
    let witnesses = witnesses.collect::<anyhow::Result<Vec<_>>>().with_context(of)?;
    if witnesses.is_empty() {
        return Err(anyhow::anyhow!("no `witness` line has a URL")).with_context(of);
    }
    let anchors = Anchors {
        store: store.clone(),
        policy,
        witnesses,
        max_unanchored_age: config.max_unanchored_age.0,
    };
    Ok(Some(tokio::spawn(anchors.run(config.interval.0))))
}

fn http() -> Http {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_connect_timeout(Some(ANSWER_TIMEOUT));
    let connector = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// The rounds of asking.
struct Anchors {
    store: Store,
    policy: Policy,
    witnesses: Vec<Asked>,
    max_unanchored_age: Duration,
}

impl Anchors {
    async fn run(mut self, interval: Duration) {
        let mut rounds = tokio::time::interval(interval);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut anchored = Instant::now();
        loop {
            rounds.tick().await;
            match self.round().await {
                Ok(true) => anchored = Instant::now(),
                Ok(false) => {}
                Err(error) => tracing::warn!("the log cannot be anchored: {error:#}"),
            }
            if anchored.elapsed() > self.max_unanchored_age {
                let seconds = anchored.elapsed().as_secs();
                tracing::warn!(
                    seconds,
                    "the quorum of anchors.policy has cosigned nothing so long"
                );
            }
        }
    }

    /// Asks every witness about the published checkpoint; returns whether their quorum cosigned it.
    async fn round(&mut self) -> anyhow::Result<bool> {
        let Some((checkpoint, mut note)) = self.store.published_checkpoint().await? else {
            return Ok(false);
        };
        let mut asking = JoinSet::new();
        for mut witness in std::mem::take(&mut self.witnesses) {
            let (store, checkpoint, note) = (self.store.clone(), checkpoint.clone(), note.clone());
            asking.spawn(async move {
                let answer = witness.ask(&store, &checkpoint, &note).await;
                (witness, answer)
            });
        }
        for (witness, answer) in asking.join_all().await {
            match answer {
                Ok(cosignature) => note.add(cosignature),
                Err(error) => {
                    tracing::warn!(witness = witness.name, "no cosignature: {error:#}");
                }
            }
            self.witnesses.push(witness);
        }
        Ok(self.policy.satisfied_with(&note.to_bytes(), &self.store.log_keys()).is_ok())
    }
}

/// A witness that is asked.
struct Asked {
    name: String,
    key: VerifierKey,
    url: Uri,
    http: Http,
    /// The size that it is thought to have cosigned last, and its cosignature of that.
    last: (TreeSize, Option<Signature>),
}

impl Asked {
    /// Reads a line of the policy; `None` if it has no URL.
    fn new(witness: &PolicyWitness, http: &Http) -> Option<anyhow::Result<Self>> {
        let prefix = witness.url.as_deref()?;
        let url = format!("{}/add-checkpoint", prefix.trim_end_matches('/')).parse::<Uri>();
        let url = url.ok().filter(|url| matches!(url.scheme_str(), Some("http" | "https")));
        let asked = url.map(|url| Self {
            name: witness.name.clone(),
            key: witness.key.clone(),
            url,
            http: http.clone(),
            last: (TreeSize(0), None),
        });
        Some(asked.with_context(|| format!("`{prefix}` is no http or https URL")))
    }

    /// Gets the cosignature of a checkpoint, verified and stored.
    async fn ask(
        &mut self,
        store: &Store,
        checkpoint: &Checkpoint,
        note: &Note,
    ) -> anyhow::Result<Signature> {
        if let (size, Some(cosignature)) = &self.last
            && *size == checkpoint.size
        {
            return Ok(cosignature.clone());
        }
        let (mut status, mut answer) = self.submit(store, checkpoint, note).await?;
        if status == StatusCode::CONFLICT {
            // The witness says what it cosigned last; that it names the size twice ends the matter.
            self.last = (cosigned_size(&answer, checkpoint.size)?, None);
            (status, answer) = self.submit(store, checkpoint, note).await?;
        }
        if status != StatusCode::OK {
            let said = String::from_utf8_lossy(&answer);
            let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
            bail!("it answered {status}: {said}");
        }
        let cosignature = read_answer(&answer, note.text(), &self.key)
            .context("its answer does not verify by its key in the policy")?;
        store.put_cosignature(checkpoint.size, &cosignature).await?;
        self.last = (checkpoint.size, Some(cosignature.clone()));
        Ok(cosignature)
    }

    async fn submit(
        &self,
        store: &Store,
        checkpoint: &Checkpoint,
        note: &Note,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let old = self.last.0;
        let proof = store.consistency_proof(old, checkpoint.size).await?;
        let body = AddCheckpoint { old, proof, checkpoint: note.clone() }.to_string();
        let request = Request::post(&self.url).body(Full::from(body))?;
        let exchange = async {
            let response = self.http.request(request).await.context("it cannot be reached")?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok((status, body.map_err(|error| anyhow::anyhow!(error))?.to_bytes()))
        };
        let exchanged = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await;
        exchanged.unwrap_or_else(|_| bail!("it did not answer within {ANSWER_TIMEOUT:?}"))
    }
}

/// Reads the size in a 409 answer.
fn cosigned_size(answer: &[u8], ours: TreeSize) -> anyhow::Result<TreeSize> {
    let size = str::from_utf8(answer).ok().and_then(|text| text.trim_end().parse().ok());
    let size = TreeSize(size.context("it answered 409 Conflict without a size")?);
    ensure!(
        size <= ours,
        "it has cosigned {size} records of this log, which has only {ours}: \
         the log was rolled back, or another one runs under its key"
    );
    Ok(size)
}
