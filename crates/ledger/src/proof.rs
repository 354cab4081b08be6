//! Offline inclusion proofs in one file (C2SP tlog-proof, `.tlog-proof`).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::checkpoint::{Checkpoint, CheckpointError, parse_decimal};
use crate::hash::{Hash, leaf_hash};
use crate::limits::{PROOF_BYTES_MAX, PROOF_HASHES_MAX};
use crate::note::{Note, NoteError, VerifierKey};
use crate::tree::{LeafIndex, TreeError, verify_inclusion};

/// The first line of a proof.
const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// A leaf's way up to a signed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// Data that the proof does not vouch for; we write none.
    pub extra: Option<Vec<u8>>,
    /// The leaf.
    pub index: LeafIndex,
    /// The inclusion proof, from the leaf's sibling upward.
    pub hashes: Vec<Hash>,
    /// The signed checkpoint, verbatim.
    pub checkpoint: Note,
}

/// Why a proof is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The text is no proof.
    #[error("malformed proof: {0}")]
    Malformed(&'static str),
    /// The checkpoint's note cannot be read.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The checkpoint is refused.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The path does not lead from the entry to the checkpoint's root.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

impl TlogProof {
    /// Reads a proof.
    ///
    /// # Errors
    /// [`ProofError::Malformed`], [`ProofError::Note`].
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        if text.len() > PROOF_BYTES_MAX {
            return Err(ProofError::Malformed("it is too large"));
        }
        let (head, note) =
            text.split_once("\n\n").ok_or(ProofError::Malformed("it has no empty line"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(ProofError::Malformed("its first line is not `c2sp.org/tlog-proof@v1`"));
        }
        let extra =
            lines.next_if(|line| line.starts_with("extra ")).map(parse_extra).transpose()?;
        let index = lines
            .next()
            .and_then(|line| parse_decimal(line.strip_prefix("index ")?))
            .map(LeafIndex)
            .ok_or(ProofError::Malformed("it has no index"))?;
        let hashes = parse_hashes(lines)?;
        Ok(Self { extra, index, hashes, checkpoint: Note::parse(note.as_bytes())? })
    }

    /// Checks that `entry` is in the log that one of `keys` belongs to, and returns the checkpoint that
    /// says so.
    ///
    /// # Errors
    /// [`ProofError::Checkpoint`] if the log did not sign; [`ProofError::Tree`] if the path does not lead
    /// from this entry at this index to the signed root.
    pub fn verify(&self, entry: &[u8], keys: &[VerifierKey]) -> Result<Checkpoint, ProofError> {
        let checkpoint = Checkpoint::open(&self.checkpoint.to_bytes(), keys)?;
        let leaf = leaf_hash(entry);
        verify_inclusion(&leaf, self.index, checkpoint.size, &self.hashes, &checkpoint.root)?;
        Ok(checkpoint)
    }
}

/// Checks the proof in `text` for `entry`; see [`TlogProof::verify`].
///
/// # Errors
/// [`ProofError`].
pub fn verify(entry: &[u8], text: &str, keys: &[VerifierKey]) -> Result<Checkpoint, ProofError> {
    TlogProof::parse(text)?.verify(entry, keys)
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.hashes.iter().try_for_each(|hash| writeln!(f, "{}", hash.to_base64()))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

fn parse_extra(line: &str) -> Result<Vec<u8>, ProofError> {
    let encoded = line.strip_prefix("extra ").unwrap_or_default();
    STANDARD.decode(encoded).map_err(|_| ProofError::Malformed("`extra` is not base64"))
}

fn parse_hashes<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Hash>, ProofError> {
    let hashes: Option<Vec<Hash>> =
        lines.take(PROOF_HASHES_MAX + 1).map(Hash::from_base64).collect();
    let hashes = hashes.ok_or(ProofError::Malformed("a hash is not base64 of 32 bytes"))?;
    if hashes.len() > PROOF_HASHES_MAX {
        return Err(ProofError::Malformed("it has too many hashes"));
    }
    Ok(hashes)
}

#[cfg(test)]
mod tests;
