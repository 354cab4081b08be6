//! Asks witnesses to cosign the log's checkpoints (C2SP tlog-witness, the client's side).
//!
//! A cosignature is stored only if the key in the operator's policy verifies it; a witness that answers
//! otherwise is asked again at the next round.

use std::path::Path;

use anyhow::{Context as _, ensure};
use countersign_console::BoxFuture;
use countersign_ledger::note::Signature;
use countersign_ledger::policy::PolicyWitness;
use countersign_ledger::witness::{AddCheckpoint, read_answer};
use countersign_ledger::{Checkpoint, Note, Policy, TreeSize, VerifierKey};
use countersign_store::Store;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use tokio::task::JoinSet;

use super::Anchor;
use super::http::{Http, accepted, url};

/// Size limit of an answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// The witnesses of a policy.
pub(super) struct Witnesses {
    store: Store,
    policy: Policy,
    asked: Vec<Asked>,
}

impl Witnesses {
    /// Reads the policy.
    pub(super) fn new(store: &Store, path: &Path, http: &Http) -> anyhow::Result<Self> {
        let of = || format!("anchors.policy, {}", path.display());
        let text = std::fs::read_to_string(path).with_context(of)?;
        let policy = Policy::parse(&text).with_context(of)?;
        let asked = policy.witnesses().iter().filter_map(|witness| Asked::new(witness, http));
        let asked = asked.collect::<anyhow::Result<Vec<_>>>().with_context(of)?;
        if asked.is_empty() {
            return Err(anyhow::anyhow!("no `witness` line has a URL")).with_context(of);
        }
        can_be_satisfied(&policy).with_context(of)?;
        Ok(Self { store: store.clone(), policy, asked })
    }

    /// Asks every witness at once about a checkpoint.
    async fn ask_all(&mut self, checkpoint: &Checkpoint, note: &Note) -> anyhow::Result<()> {
        let (mut note, mut cosigned) = (note.clone(), false);
        let mut asking = JoinSet::new();
        for mut witness in self.asked.iter().cloned() {
            let (store, checkpoint, note) = (self.store.clone(), checkpoint.clone(), note.clone());
            asking.spawn(async move {
                let answer = witness.ask(&store, &checkpoint, &note).await;
                (witness, answer)
            });
        }
        let answers = asking.join_all().await;
        self.asked.clear();
        for (mut witness, answer) in answers {
            let failed = match answer {
                Ok(cosignature) => {
                    cosigned |= note.add_once(&cosignature);
                    None
                }
                Err(error) => Some(error),
            };
            match &failed {
                Some(error) if !witness.failing => {
                    tracing::warn!(witness = witness.name, "no cosignature: {error:#}");
                }
                None if witness.failing => {
                    tracing::warn!(witness = witness.name, "it cosigns again");
                }
                Some(_) | None => {}
            }
            witness.failing = failed.is_some();
            self.asked.push(witness);
        }
        if cosigned {
            self.store.publish_cosigned(checkpoint.size, &note).await?;
        }
        let satisfied = self.policy.satisfied_with(&note.to_bytes(), &self.store.log_keys());
        satisfied.map(drop).context("the quorum of anchors.policy did not cosign")
    }
}

impl Anchor for Witnesses {
    fn name(&self) -> &'static str {
        "witnesses"
    }

    fn anchor<'a>(
        &'a mut self,
        checkpoint: &'a Checkpoint,
        note: &'a Note,
    ) -> BoxFuture<'a, anyhow::Result<u64>> {
        Box::pin(async move {
            self.ask_all(checkpoint, note).await?;
            Ok(checkpoint.size.0)
        })
    }
}

/// Checks that a policy asks for cosignatures, and only for such as can come: else nothing, or anything, would
/// count as anchored.
fn can_be_satisfied(policy: &Policy) -> anyhow::Result<()> {
    ensure!(policy.quorum().is_some(), "`quorum none` asks for no cosignature");
    let missing: Vec<String> = policy.unreachable().iter().map(ToString::to_string).collect();
    let missing = missing.join("; ");
    ensure!(missing.is_empty(), "the quorum needs witnesses without a URL: missing {missing}");
    Ok(())
}

/// A witness that is asked.
#[derive(Clone)]
struct Asked {
    name: String,
    key: VerifierKey,
    url: Uri,
    http: Http,
    /// The size that it is thought to have cosigned last, and its cosignature of that.
    last: (TreeSize, Option<Signature>),
    /// Whether it did not cosign the last time.
    failing: bool,
}

impl Asked {
    /// Reads a line of the policy; `None` if it has no URL.
    fn new(witness: &PolicyWitness, http: &Http) -> Option<anyhow::Result<Self>> {
        let prefix = witness.url.as_deref()?;
        let url = url(&format!("{}/add-checkpoint", prefix.trim_end_matches('/')));
        let asked = url.map(|url| Self {
            name: witness.name.clone(),
            key: witness.key.clone(),
            url,
            http: http.clone(),
            last: (TreeSize(0), None),
            failing: false,
        });
        Some(asked)
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
        let mut answered = self.submit(store, checkpoint, note).await?;
        if let (StatusCode::CONFLICT, size) = &answered {
            // The witness says what it cosigned last; that it names the size twice ends the matter.
            self.last = (cosigned_size(size, checkpoint.size)?, None);
            answered = self.submit(store, checkpoint, note).await?;
        }
        let answer = accepted(answered)?;
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
        self.http.exchange(request, ANSWER_BYTES_MAX).await
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
