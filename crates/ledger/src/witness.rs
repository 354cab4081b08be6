//! The rules of a witness: which checkpoints it cosigns (C2SP tlog-witness v1.0.0, `add-checkpoint`).
//!
//! A witness remembers, per log, the last checkpoint it cosigned, and cosigns only what extends it. Here
//! is only the decision. Whoever serves it must keep reading what was last cosigned, deciding and durably
//! storing the new checkpoint one step per origin, and must answer after that step.

use std::collections::BTreeMap;
use std::fmt;

use crate::checkpoint::{Checkpoint, CheckpointError, parse_decimal};
use crate::hash::{Hash, empty_root};
use crate::limits::{NOTE_BYTES_MAX, NOTE_SIGNATURES_MAX};
use crate::note::{Note, NoteError, Signature, SigningKey, VerifierKey, verify_note};
use crate::policy::{COSIGNATURE, ED25519, public_key};
use crate::tree::{TreeError, TreeSize, verify_consistency};

/// Most consistency hashes in one request (C2SP tlog-witness).
pub const REQUEST_HASHES_MAX: usize = 63;

/// Largest request we read, in bytes: a note, 63 hashes in base64 and the line with the old size.
pub const REQUEST_BYTES_MAX: usize = NOTE_BYTES_MAX + 4 * 1024;

/// The body of an `add-checkpoint` request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size that the witness is thought to have cosigned last; 0 if none.
    pub old: TreeSize,
    /// The proof that the checkpoint's tree begins with the old one.
    pub proof: Vec<Hash>,
    /// The log's signed checkpoint.
    pub checkpoint: Note,
}

impl AddCheckpoint {
    /// Reads a request body.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], also above [`REQUEST_BYTES_MAX`] or [`REQUEST_HASHES_MAX`].
    pub fn parse(body: &[u8]) -> Result<Self, Refusal> {
        let malformed = |reason: &str| Refusal::Malformed(reason.to_owned());
        if body.len() > REQUEST_BYTES_MAX {
            return Err(malformed("the request is too large"));
        }
        let body = str::from_utf8(body).map_err(|_| malformed("the request is not UTF-8"))?;
        let (head, note) =
            body.split_once("\n\n").ok_or_else(|| malformed("the request has no empty line"))?;
        let mut lines = head.split('\n');
        let old = lines
            .next()
            .and_then(|line| parse_decimal(line.strip_prefix("old ")?))
            .ok_or_else(|| malformed("the first line is not `old` and a plain decimal"))?;
        let proof: Option<Vec<Hash>> =
            lines.take(REQUEST_HASHES_MAX + 1).map(Hash::from_base64).collect();
        let proof = proof.ok_or_else(|| malformed("a hash is not base64 of 32 bytes"))?;
        if proof.len() > REQUEST_HASHES_MAX {
            return Err(malformed("the proof has more than 63 hashes"));
        }
        let checkpoint = Note::parse(note.as_bytes()).map_err(|error| malformed_by(&error))?;
        Ok(Self { old: TreeSize(old), proof, checkpoint })
    }
}

impl fmt::Display for AddCheckpoint {
    /// Writes the request body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.proof.iter().try_for_each(|hash| writeln!(f, "{}", hash.to_base64()))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

/// Reads a witness's answer and returns its cosignature of the checkpoint `text`, verified by the
/// witness's `key`; signatures of other keys are ignored.
///
/// # Errors
/// [`NoteError`], [`NoteError::NoKnownKey`] if no cosignature of the key is there.
pub fn read_answer(answer: &[u8], text: &str, key: &VerifierKey) -> Result<Signature, NoteError> {
    let bytes = [text.as_bytes(), b"\n", answer].concat();
    let verified = verify_note(&bytes, std::slice::from_ref(key))?;
    let cosigned = verified.text() == text
        && verified.signers().iter().all(|signer| signer.cosigned_at.is_some());
    let note = Note::parse(&bytes)?;
    let signature = signatures_of(std::slice::from_ref(key), &note).next().cloned();
    signature.filter(|_| cosigned).ok_or(NoteError::NoKnownKey)
}

/// Why a witness does not cosign; the text is for the body of the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request breaks the format.
    #[error("{0}")]
    Malformed(String),
    /// The witness was not told to follow this log.
    #[error("the log `{0}` is unknown")]
    UnknownOrigin(String),
    /// No trusted key signed, or a trusted key's signature does not verify.
    #[error("{0}")]
    Untrusted(CheckpointError),
    /// The old size is above the checkpoint's.
    #[error("old size {old} is above checkpoint size {size}")]
    OldSizeAboveNew {
        /// The old size that was named.
        old: TreeSize,
        /// The checkpoint's size.
        size: TreeSize,
    },
    /// The old size is not the one that was cosigned last.
    #[error("{cosigned}")]
    Conflict {
        /// The size that was cosigned last; 0 if none.
        cosigned: TreeSize,
    },
    /// The checkpoint is not proven to extend the one that was cosigned last.
    #[error("the checkpoint is not consistent with the one cosigned last: {0}")]
    Inconsistent(TreeError),
}

impl Refusal {
    /// Returns the HTTP status that the protocol gives to this answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::OldSizeAboveNew { .. } => 400,
            Self::Untrusted(_) => 403,
            Self::UnknownOrigin(_) => 404,
            Self::Conflict { .. } => 409,
            Self::Inconsistent(_) => 422,
        }
    }
}

/// Why a witness cannot be made or cannot take up its work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WitnessError {
    /// The key is not one that can sign checkpoints in a way that we can check.
    #[error(
        "the key of the log `{0}` is no Ed25519 key: give the one that `countersign log vkey` prints"
    )]
    NoLogKey(String),
    /// The witness's own key is of another role.
    #[error("the key `{0}` is no cosigner's key")]
    NoCosigner(String),
    /// The remembered checkpoint bears no cosignature of this witness.
    #[error("the remembered checkpoint is not cosigned by this witness: {0}")]
    NotOurs(NoteError),
    /// The remembered text is no checkpoint.
    #[error("the remembered checkpoint cannot be read: {0}")]
    Unreadable(CheckpointError),
    /// The remembered checkpoint is another log's.
    #[error("the remembered checkpoint is of the log `{found}`, expected `{expected}`")]
    OtherLog {
        /// The log that the checkpoint names.
        found: String,
        /// The log that it should be of.
        expected: String,
    },
}

/// A checkpoint that may be cosigned, with the cosignature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosigned {
    /// What is to be remembered.
    pub checkpoint: Checkpoint,
    /// The log's signed checkpoint with this witness's cosignature alone added.
    pub note: Note,
    /// The cosignature: the answer is its line, ended by LF.
    pub cosignature: Signature,
}

/// A witness: its key, and the keys of the logs that it follows, by origin.
#[derive(Debug)]
pub struct Witness {
    key: SigningKey,
    logs: BTreeMap<String, Vec<VerifierKey>>,
}

impl Witness {
    /// Makes the witness that signs with the cosigner's key `key` and follows `logs`; a log may have
    /// several keys, all named like its origin.
    ///
    /// # Errors
    /// [`WitnessError::NoLogKey`], [`WitnessError::NoCosigner`].
    pub fn new(
        key: SigningKey,
        logs: impl IntoIterator<Item = VerifierKey>,
    ) -> Result<Self, WitnessError> {
        if public_key(&key.verifier_key()).0 != COSIGNATURE {
            return Err(WitnessError::NoCosigner(key.name().to_owned()));
        }
        let mut by_origin = BTreeMap::<_, Vec<_>>::new();
        for log in logs {
            if public_key(&log).0 != ED25519 {
                return Err(WitnessError::NoLogKey(log.name().to_owned()));
            }
            by_origin.entry(log.name().to_owned()).or_default().push(log);
        }
        Ok(Self { key, logs: by_origin })
    }

    /// Returns the key that verifies this witness's cosignatures.
    #[must_use]
    pub fn verifier_key(&self) -> VerifierKey {
        self.key.verifier_key()
    }

    /// Returns the origins of the logs that it follows, sorted.
    pub fn origins(&self) -> impl Iterator<Item = &str> {
        self.logs.keys().map(String::as_str)
    }

    /// Reads what this witness remembered of the log `origin`: the bytes of a [`Cosigned::note`].
    ///
    /// # Errors
    /// [`WitnessError::NotOurs`], [`WitnessError::Unreadable`], [`WitnessError::OtherLog`].
    pub fn recall(&self, origin: &str, note: &[u8]) -> Result<Checkpoint, WitnessError> {
        let verified =
            verify_note(note, &[self.key.verifier_key()]).map_err(WitnessError::NotOurs)?;
        let checkpoint = Checkpoint::parse(verified.text()).map_err(WitnessError::Unreadable)?;
        if checkpoint.origin != origin {
            let expected = origin.to_owned();
            return Err(WitnessError::OtherLog { found: checkpoint.origin, expected });
        }
        Ok(checkpoint)
    }

    /// Finds the log that a request is about: the origin whose last checkpoint [`Witness::cosign`] needs.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], [`Refusal::UnknownOrigin`].
    pub fn origin_of<'a>(&'a self, request: &AddCheckpoint) -> Result<&'a str, Refusal> {
        let checkpoint =
            Checkpoint::parse(request.checkpoint.text()).map_err(|error| malformed_by(&error))?;
        let known = self.logs.get_key_value(&checkpoint.origin);
        known.map(|(origin, _)| origin.as_str()).ok_or(Refusal::UnknownOrigin(checkpoint.origin))
    }

    /// Decides about a request, given what was cosigned `last` for its origin, and cosigns at `time`, in
    /// Unix seconds.
    ///
    /// # Errors
    /// [`Refusal`], in the order of the protocol: the log, its signature, the old size, the proof.
    pub fn cosign(
        &self,
        request: &AddCheckpoint,
        last: Option<&Checkpoint>,
        time: u64,
    ) -> Result<Cosigned, Refusal> {
        let keys = self.logs.get(self.origin_of(request)?).map_or(&[][..], Vec::as_slice);
        let checkpoint =
            Checkpoint::open(&request.checkpoint.to_bytes(), keys).map_err(Refusal::Untrusted)?;
        let (old, size) = (request.old, checkpoint.size);
        if old > size {
            return Err(Refusal::OldSizeAboveNew { old, size });
        }
        let (cosigned, root) =
            last.map_or((TreeSize(0), empty_root()), |last| (last.size, last.root));
        if old != cosigned {
            return Err(Refusal::Conflict { cosigned });
        }
        verify_consistency(old, &root, size, &checkpoint.root, &request.proof)
            .map_err(Refusal::Inconsistent)?;
        let text = request.checkpoint.text();
        let cosignature = self.key.cosign(text, time).map_err(|error| malformed_by(&error))?;
        let mut note = Note::new(text).map_err(|error| malformed_by(&error))?;
        signatures_of(keys, &request.checkpoint).for_each(|made| note.add(made.clone()));
        note.add(cosignature.clone());
        Ok(Cosigned { checkpoint, note, cosignature })
    }
}

/// Returns one signature per known key, leaving room in the note for ours.
fn signatures_of<'a>(
    keys: &'a [VerifierKey],
    note: &'a Note,
) -> impl Iterator<Item = &'a Signature> {
    let made = |key: &VerifierKey| {
        let mut signatures = note.signatures().iter();
        signatures.find(|made| made.name() == key.name() && made.id() == key.id())
    };
    keys.iter().filter_map(made).take(NOTE_SIGNATURES_MAX - 1)
}

fn malformed_by(error: &impl fmt::Display) -> Refusal {
    Refusal::Malformed(error.to_string())
}

#[cfg(test)]
mod tests;
