//! Signed notes: a text, and who vouches for it (C2SP signed-note v1.0.0, tlog-cosignature v1.0.1).

mod key;
mod text;

use std::fmt;

pub use key::{KeyId, SigningKey, VerifierKey};
pub use text::{Note, Signature};

/// Why a note, a key or a signature is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The note breaks the format.
    #[error("malformed note: {0}")]
    Malformed(&'static str),
    /// The name cannot be a key name.
    #[error("`{0}` is not a key name: it is empty, or has a space, a control character or `+`")]
    MalformedName(String),
    /// The text is no verifier key.
    #[error("malformed verifier key: {0}")]
    MalformedKey(&'static str),
    /// A known key's signature does not verify.
    #[error("the signature of `{0}` does not verify")]
    BadSignature(String),
    /// None of the known keys signed.
    #[error("no signature of a known key")]
    NoKnownKey,
}

/// A note of which at least one known key vouches for the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    text: String,
    signers: Vec<Signer>,
}

/// A known key whose signature on a note holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The key's name.
    pub name: String,
    /// The key's id.
    pub id: KeyId,
    /// The time that a cosigner states, in Unix seconds; `None` for a plain signature.
    pub cosigned_at: Option<u64>,
}

impl Verified {
    /// Returns the signed text, which ends in LF.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the known keys that signed, in the order of the note.
    #[must_use]
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// Returns whether a plain signature, not a cosignature, of the key called `name` is among them.
    #[must_use]
    pub fn is_signed_by(&self, name: &str) -> bool {
        self.signers.iter().any(|signer| signer.name == name && signer.cosigned_at.is_none())
    }
}

/// Checks the note in `bytes` against the known `keys`; signatures of unknown keys are ignored.
///
/// # Errors
/// [`NoteError::Malformed`]; [`NoteError::BadSignature`] if a known key's signature does not verify;
/// [`NoteError::NoKnownKey`] if there is none.
pub fn verify_note(bytes: &[u8], keys: &[VerifierKey]) -> Result<Verified, NoteError> {
    let note = Note::parse(bytes)?;
    let mut signers = Vec::new();
    for signature in note.signatures() {
        let mut known = keys.iter().filter(|key| key.made(signature)).peekable();
        if known.peek().is_none() {
            continue;
        }
        let signer = known
            .find_map(|key| key.verify(note.text(), signature))
            .ok_or_else(|| NoteError::BadSignature(signature.name().to_owned()))?;
        signers.push(signer);
    }
    if signers.is_empty() {
        return Err(NoteError::NoKnownKey);
    }
    Ok(Verified { text: note.into_text(), signers })
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.name, self.id)
    }
}

#[cfg(test)]
mod tests;
