//! Consistency proofs from the published tiles (RFC 6962, section 2.1.2).

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use countersign_ledger::tile::{TileHashReader, TileReader};
use countersign_ledger::tree::{TreeError, consistency_proof, root, verify_consistency};
use countersign_ledger::verify::{CHECKPOINT_PATH, LogSource as _, SourceError};
use countersign_ledger::{Checkpoint, Hash, TilePath, TreeSize, VerifierKey};
use countersign_store::PublishedLog;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Console;
use crate::access::{self, Access};
use crate::answer::{ApiError, json_response};
use crate::openapi::ReadRefusals;
use crate::params::Params;
use crate::role::Caller;

/// The proof that the log of one size begins with the log of a smaller one.
#[derive(Serialize, ToSchema)]
pub(crate) struct Consistency {
    /// The smaller size.
    from: u64,
    /// The larger size.
    to: u64,
    /// The root at the smaller size, base64.
    from_root: String,
    /// The root at the larger size, base64.
    to_root: String,
    /// The hashes of the proof, base64.
    hashes: Vec<String>,
    /// The latest checkpoint, a C2SP signed note; where `to` is its size, it signs `to_root`.
    checkpoint: String,
}

/// Proves that the log only grew between two sizes
#[utoipa::path(
    get,
    path = "/api/v1/consistency",
    tag = "log",
    params(
        ("from" = u64, Query, description = "The smaller size, in records"),
        ("to" = Option<u64>, Query, description = "The larger size; that of the latest checkpoint if absent"),
    ),
    responses(
        (status = 200, description = "The proof", body = Consistency),
        ReadRefusals,
    )
)]
pub(crate) async fn consistency(
    State(console): State<Arc<Console>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let mut params = Params::of(&uri)?;
    let from = size("from", params.take("from"))?;
    let from = from.ok_or_else(|| ApiError::parameter("from", "it is missing"))?;
    let to = size("to", params.take("to"))?;
    params.finish()?;
    let (log, keys) = (PublishedLog::new(console.store.folder()), console.store.log_keys());
    let proof = tokio::task::spawn_blocking(move || {
        // A publication in between may replace the partial tiles of the checkpoint that was read.
        match prove(&log, &keys, from, to) {
            Err(Failure::Log(_)) => prove(&log, &keys, from, to),
            done => done,
        }
    });
    let proof = proof.await.map_err(|error| ApiError::internal(&error))?;
    let proof = proof.map_err(|failure| match failure {
        Failure::Refused(refused) => refused,
        Failure::Log(reason) => ApiError::internal(&reason),
    })?;
    let tree_size = Some(proof.to);
    let access = Access { route: "/api/v1/consistency", tree_size, ..Access::default() };
    access::record(&console, &caller, access).await?;
    Ok(json_response(StatusCode::OK, &proof))
}

fn size(name: &str, text: Option<String>) -> Result<Option<u64>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let size = text
        .parse()
        .map_err(|_| ApiError::parameter(name, format!("`{text}` is no number of records")))?;
    Ok(Some(size))
}

/// Why there is no proof.
enum Failure {
    Refused(ApiError),
    /// The published log contradicts itself.
    Log(String),
}

struct Tiles<'a>(&'a PublishedLog);

impl TileReader for Tiles<'_> {
    type Error = SourceError;

    fn tile(&self, path: &TilePath) -> Result<Option<Vec<u8>>, SourceError> {
        self.0.read(&path.to_string())
    }
}

fn prove(
    log: &PublishedLog,
    keys: &[VerifierKey],
    from: u64,
    to: Option<u64>,
) -> Result<Consistency, Failure> {
    let (checkpoint, note) = latest(log, keys)?;
    let to = to.unwrap_or(checkpoint.size.0);
    for (name, size, most) in [("to", to, checkpoint.size.0), ("from", from, to)] {
        if size > most {
            let message = format!("{size} is more than {most}");
            return Err(Failure::Refused(ApiError::parameter(name, message)));
        }
    }
    let tiles = TileHashReader::new(Tiles(log), checkpoint.size);
    let damaged = |error: TreeError| Failure::Log(error.to_string());
    if root(&tiles, checkpoint.size).map_err(damaged)? != checkpoint.root {
        return Err(Failure::Log("the tiles have another root than the checkpoint".to_owned()));
    }
    let (old, new) = (TreeSize(from), TreeSize(to));
    let from_root: Hash = root(&tiles, old).map_err(damaged)?;
    let to_root = root(&tiles, new).map_err(damaged)?;
    let hashes = consistency_proof(&tiles, old, new).map_err(damaged)?;
    verify_consistency(old, &from_root, new, &to_root, &hashes).map_err(damaged)?;
    Ok(Consistency {
        from,
        to,
        from_root: from_root.to_base64(),
        to_root: to_root.to_base64(),
        hashes: hashes.iter().map(Hash::to_base64).collect(),
        checkpoint: note,
    })
}

/// Reads the latest checkpoint and checks its signature.
fn latest(log: &PublishedLog, keys: &[VerifierKey]) -> Result<(Checkpoint, String), Failure> {
    let note = log.read(CHECKPOINT_PATH).map_err(|error| Failure::Log(error.to_string()))?;
    let Some(note) = note else {
        let message = "there is no published checkpoint yet";
        return Err(Failure::Refused(ApiError::unavailable(message)));
    };
    let damaged = |reason: String| Failure::Log(format!("the published checkpoint: {reason}"));
    let checkpoint = Checkpoint::open(&note, keys).map_err(|error| damaged(error.to_string()))?;
    let text = String::from_utf8(note).map_err(|error| damaged(error.to_string()))?;
    Ok((checkpoint, text))
}
