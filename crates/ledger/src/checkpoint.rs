//! Checkpoints: the size and root that a log commits to (C2SP tlog-checkpoint v1.0.0).

use std::fmt;

use crate::hash::Hash;
use crate::note::{Note, NoteError, SigningKey, Verified, VerifierKey, verify_note};
use crate::tree::TreeSize;

/// A log's commitment to its first `size` leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name, a URL without scheme; also the name of its key.
    pub origin: String,
    /// The number of leaves.
    pub size: TreeSize,
    /// The root of the tree of that size.
    pub root: Hash,
}

/// Why a checkpoint is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The text is no checkpoint.
    #[error("malformed checkpoint: {0}")]
    Malformed(&'static str),
    /// The note around it is refused.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The log's own signature is missing: that of a known key named like the origin.
    #[error("no signature of the log `{0}` itself")]
    NotSignedByOrigin(String),
}

impl Checkpoint {
    /// Reads the text of a checkpoint: exactly three lines, each ending in LF.
    ///
    /// # Errors
    /// [`CheckpointError::Malformed`], also for extension lines, which not every cosignature covers.
    pub fn parse(text: &str) -> Result<Self, CheckpointError> {
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root), Some(""), None) =
            (lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(CheckpointError::Malformed("expected three lines"));
        };
        if origin.is_empty() || origin.contains(|c: char| c.is_whitespace() || c == '+') {
            return Err(CheckpointError::Malformed("the origin is empty, or has a space or `+`"));
        }
        let size = parse_decimal(size).map(TreeSize);
        let size = size.ok_or(CheckpointError::Malformed("the size is no plain decimal"))?;
        let root = Hash::from_base64(root)
            .ok_or(CheckpointError::Malformed("the root is not base64 of 32 bytes"))?;
        Ok(Self { origin: origin.to_owned(), size, root })
    }

    /// Signs the checkpoint with the log's key.
    ///
    /// # Errors
    /// [`CheckpointError::NotSignedByOrigin`] if the key is not named like the origin;
    /// [`CheckpointError::Malformed`] if the origin cannot be one.
    pub fn sign(&self, key: &SigningKey) -> Result<Note, CheckpointError> {
        let text = self.to_string();
        Self::parse(&text)?;
        if key.name() != self.origin {
            return Err(CheckpointError::NotSignedByOrigin(self.origin.clone()));
        }
        Ok(key.sign_note(&text)?)
    }

    /// Reads a signed checkpoint that the log itself signed.
    ///
    /// # Errors
    /// [`CheckpointError`] if a signature fails, the log's own is missing, or the text is malformed.
    pub fn open(note: &[u8], keys: &[VerifierKey]) -> Result<Self, CheckpointError> {
        Self::open_verified(note, keys).map(|(checkpoint, _)| checkpoint)
    }

    /// Reads a signed checkpoint and says who signed and cosigned it.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_verified(
        note: &[u8],
        keys: &[VerifierKey],
    ) -> Result<(Self, Verified), CheckpointError> {
        let verified = verify_note(note, keys)?;
        let checkpoint = Self::parse(verified.text())?;
        if !verified.is_signed_by(&checkpoint.origin) {
            return Err(CheckpointError::NotSignedByOrigin(checkpoint.origin));
        }
        Ok((checkpoint, verified))
    }
}

impl fmt::Display for Checkpoint {
    /// Writes the text that is signed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n{}\n{}", self.origin, self.size, self.root.to_base64())
    }
}

/// Reads an ASCII decimal without sign or leading zeros.
pub(crate) fn parse_decimal(text: &str) -> Option<u64> {
    let plain = text == "0" || !text.starts_with('0');
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if plain && digits { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
