//! The signer's protocol: one line of JSON asks, one answers, then the connection ends. See
//! `spec/ledger.md`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_ledger::limits::PROOF_HASHES_MAX;
use countersign_ledger::{Hash, TreeSize, VerifierKey};
use serde::{Deserialize, Serialize};

use super::{PendingRotation, Recorded, SignerStatus, ToSign};
use crate::StoreError;

/// Longest request, in bytes: room for the largest leaf and the longest proof.
pub(super) const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// Longest answer, in bytes.
pub(super) const REPLY_BYTES_MAX: usize = 256 * 1024;

/// What a gateway asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    Status { origin: String },
    Sign { origin: String, old: u64, size: u64, root: String, proof: Vec<String> },
    Recorded { origin: String, index: u64, leaf: String, proof: Vec<String> },
}

/// What the signer answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Status(Status),
    /// The signed checkpoint.
    Note(String),
    /// The leaf that was noted.
    Recorded(u64),
    Refused(Refused),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Status {
    size: u64,
    root: String,
    vkeys: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rotation: Option<Pending>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Pending {
    statement: String,
    since: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    leaf: Option<u64>,
}

/// Why the signer does not.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refused {
    code: Code,
    reason: String,
    /// The size that was signed last, if the refusal is about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Code {
    /// The request cannot be read.
    Malformed,
    /// The signer is for another log.
    Origin,
    /// The proof does not start from the last signed tree: ask for the status again.
    Moved,
    /// The tree is smaller than the last signed one.
    Rollback,
    /// The tree does not extend the last signed one.
    Fork,
    /// What was shown is not what the signer asks for.
    Invalid,
    /// The signer cannot now.
    Failed,
}

impl Request {
    pub(super) fn origin(&self) -> &str {
        match self {
            Self::Status { origin } | Self::Sign { origin, .. } | Self::Recorded { origin, .. } => {
                origin
            }
        }
    }
}

pub(super) fn sign_request(origin: &str, what: &ToSign) -> Request {
    Request::Sign {
        origin: origin.to_owned(),
        old: what.old,
        size: what.size.0,
        root: what.root.to_base64(),
        proof: what.proof.iter().map(Hash::to_base64).collect(),
    }
}

pub(super) fn recorded_request(origin: &str, what: &Recorded) -> Request {
    Request::Recorded {
        origin: origin.to_owned(),
        index: what.index,
        leaf: STANDARD.encode(&what.leaf),
        proof: what.proof.iter().map(Hash::to_base64).collect(),
    }
}

pub(super) fn to_sign(
    old: u64,
    size: u64,
    root: &str,
    proof: &[String],
) -> Result<ToSign, StoreError> {
    let root = Hash::from_base64(root).ok_or_else(|| malformed("`root`"))?;
    Ok(ToSign { old, size: TreeSize(size), root, proof: hashes(proof)? })
}

pub(super) fn to_record(index: u64, leaf: &str, proof: &[String]) -> Result<Recorded, StoreError> {
    let leaf = STANDARD.decode(leaf).map_err(|_| malformed("`leaf`"))?;
    Ok(Recorded { index, leaf, proof: hashes(proof)? })
}

fn hashes(proof: &[String]) -> Result<Vec<Hash>, StoreError> {
    if proof.len() > PROOF_HASHES_MAX {
        return Err(malformed("`proof`"));
    }
    let hashes = proof.iter().map(|hash| Hash::from_base64(hash));
    hashes.collect::<Option<_>>().ok_or_else(|| malformed("`proof`"))
}

fn malformed(what: &str) -> StoreError {
    StoreError::invalid(format!("{what} cannot be read"))
}

impl From<SignerStatus> for Status {
    fn from(status: SignerStatus) -> Self {
        Self {
            size: status.size,
            root: status.root.to_base64(),
            vkeys: status.keys.iter().map(ToString::to_string).collect(),
            rotation: status.rotation.map(|PendingRotation { statement, since, leaf }| Pending {
                statement,
                since,
                leaf,
            }),
        }
    }
}

impl TryFrom<Status> for SignerStatus {
    type Error = StoreError;

    fn try_from(status: Status) -> Result<Self, StoreError> {
        let root = Hash::from_base64(&status.root).ok_or_else(|| malformed("the signer's root"))?;
        let keys = status.vkeys.iter().map(|key| VerifierKey::parse(key));
        let keys = keys.collect::<Result<_, _>>().map_err(|_| malformed("the signer's key"))?;
        let rotation = status.rotation.map(|Pending { statement, since, leaf }| PendingRotation {
            statement,
            since,
            leaf,
        });
        Ok(Self { size: status.size, root, keys, rotation })
    }
}

impl Reply {
    pub(super) fn refused(code: Code, reason: impl Into<String>) -> Self {
        Self::Refused(Refused { code, reason: reason.into(), size: None })
    }
}

impl From<&StoreError> for Refused {
    fn from(error: &StoreError) -> Self {
        let (code, size) = if let StoreError::Moved { size } = error {
            (Code::Moved, Some(*size))
        } else if let StoreError::Behind { there, .. } = error {
            (Code::Rollback, Some(*there))
        } else if let StoreError::Forked { size, .. } = error {
            (Code::Fork, Some(*size))
        } else if matches!(error, StoreError::Invalid { .. }) {
            (Code::Invalid, None)
        } else {
            (Code::Failed, None)
        };
        Self { code, reason: error.to_string(), size }
    }
}

impl Refused {
    /// Returns the error that the gateway meets; `here` is the size that it wanted signed.
    pub(super) fn into_error(self, here: u64) -> StoreError {
        const WHAT: &str = "the signer's memory";
        match (self.code, self.size) {
            (Code::Moved, Some(size)) => StoreError::Moved { size },
            (Code::Rollback, Some(there)) => StoreError::Behind { what: WHAT, there, here },
            (Code::Fork, Some(size)) => StoreError::Forked { what: WHAT, size },
            _ => StoreError::Refused(self.reason),
        }
    }
}
