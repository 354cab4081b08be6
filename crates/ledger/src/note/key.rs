//! Keys that sign notes and keys that verify them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey as Ed25519Key, VerifyingKey};

use super::text::{Note, Signature};
use super::{NoteError, Signer};
use crate::hash::sha256;

/// Longest key name we read, in bytes.
const NAME_BYTES_MAX: usize = 1024;

/// Longest verifier key we read, in bytes: room for an ML-DSA-44 key.
const VKEY_BYTES_MAX: usize = 4096;

/// Signature type of a plain Ed25519 signature (C2SP signed-note).
const ED25519: u8 = 0x01;

/// Signature type of a timestamped Ed25519 cosignature (C2SP tlog-cosignature).
const COSIGNATURE: u8 = 0x04;

/// The first four bytes of a key's hash, a hint which key of a name signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 4]);

impl fmt::Display for KeyId {
    /// Writes eight lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

impl KeyId {
    /// Returns `SHA-256(name ‖ 0x0A ‖ type ‖ public key)[0..4]` (C2SP signed-note).
    fn of(name: &str, kind_and_key: &[u8]) -> Self {
        let hash = sha256(&[name.as_bytes(), b"\n", kind_and_key].concat());
        let [a, b, c, d, ..] = hash.0;
        Self([a, b, c, d])
    }
}

/// A public key with its name, in the form `name+hex(key id)+base64(type ‖ public key)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: KeyId,
    key: Key,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    /// Signs the text itself.
    Ed25519(VerifyingKey),
    /// Signs a time and the text.
    Cosignature(VerifyingKey),
    /// A type that we carry but cannot verify: its signatures count as unknown.
    Other(Vec<u8>),
}

impl VerifierKey {
    /// Reads a verifier key; a signature type that we do not know is kept as it is.
    ///
    /// # Errors
    /// [`NoteError::MalformedKey`], also if the key id does not fit; [`NoteError::MalformedName`].
    pub fn parse(vkey: &str) -> Result<Self, NoteError> {
        const MALFORMED: NoteError = NoteError::MalformedKey("expected `name+id+base64`");
        if vkey.len() > VKEY_BYTES_MAX {
            return Err(NoteError::MalformedKey("it is too long"));
        }
        let (name, rest) = vkey.split_once('+').ok_or(MALFORMED)?;
        let (id, encoded) = rest.split_once('+').ok_or(MALFORMED)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| MALFORMED)?;
        let key = Self::from_bytes(name, &bytes)?;
        if key.id.to_string() != id {
            return Err(NoteError::MalformedKey("the key id does not belong to name and key"));
        }
        Ok(key)
    }

    /// Makes the key called `name` from `type ‖ public key`.
    fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, NoteError> {
        check_name(name)?;
        let (kind, public) = bytes.split_first().ok_or(NoteError::MalformedKey("it is empty"))?;
        let key = match *kind {
            ED25519 => Key::Ed25519(ed25519(public)?),
            COSIGNATURE => Key::Cosignature(ed25519(public)?),
            _ => Key::Other(bytes.to_vec()),
        };
        Ok(Self { name: name.to_owned(), id: KeyId::of(name, bytes), key })
    }

    /// Returns the key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the key's id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns whether this key, as far as name and id tell, made `signature`.
    pub(super) fn made(&self, signature: &Signature) -> bool {
        let verifiable = !matches!(self.key, Key::Other(_));
        verifiable && self.id == signature.id() && self.name == signature.name()
    }

    /// Returns who signed `text` if the signature holds.
    pub(super) fn verify(&self, text: &str, signature: &Signature) -> Option<Signer> {
        let cosigned_at = match &self.key {
            Key::Other(_) => return None,
            Key::Ed25519(key) => {
                let signature = signature.bytes().try_into().ok()?;
                key.verify_strict(text.as_bytes(), &signature).ok()?;
                None
            }
            Key::Cosignature(key) => {
                let (time, signature) = signature.bytes().split_first_chunk::<8>()?;
                let time = u64::from_be_bytes(*time);
                let message = cosigned_message(time, text);
                key.verify_strict(message.as_bytes(), &signature.try_into().ok()?).ok()?;
                Some(time)
            }
        };
        Some(Signer { name: self.name.clone(), id: self.id, cosigned_at })
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = match &self.key {
            Key::Ed25519(key) => [&[ED25519], key.as_bytes().as_slice()].concat(),
            Key::Cosignature(key) => [&[COSIGNATURE], key.as_bytes().as_slice()].concat(),
            Key::Other(bytes) => bytes.clone(),
        };
        write!(f, "{}+{}+{}", self.name, self.id, STANDARD.encode(bytes))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(vkey: &str) -> Result<Self, NoteError> {
        Self::parse(vkey)
    }
}

/// A named Ed25519 key that signs notes; its secret is wiped when it is dropped.
pub struct SigningKey {
    name: String,
    id: KeyId,
    kind: u8,
    key: Ed25519Key,
}

impl SigningKey {
    /// Makes the key called `name` that signs texts, from its 32-byte secret seed (RFC 8032).
    ///
    /// # Errors
    /// [`NoteError::MalformedName`].
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        Self::with_kind(name, seed, ED25519)
    }

    /// Makes the key of a cosigner called `name`; use one key per cosigner and no other role for it.
    ///
    /// # Errors
    /// [`NoteError::MalformedName`].
    pub fn cosigner_from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, NoteError> {
        Self::with_kind(name, seed, COSIGNATURE)
    }

    fn with_kind(name: &str, seed: &[u8; 32], kind: u8) -> Result<Self, NoteError> {
        check_name(name)?;
        let key = Ed25519Key::from_bytes(seed);
        let id = KeyId::of(name, &[&[kind], key.verifying_key().as_bytes().as_slice()].concat());
        Ok(Self { name: name.to_owned(), id, kind, key })
    }

    /// Returns the key's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the key's id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the public key that verifies what this one signs.
    #[must_use]
    pub fn verifier_key(&self) -> VerifierKey {
        let public = self.key.verifying_key();
        let key =
            if self.kind == COSIGNATURE { Key::Cosignature(public) } else { Key::Ed25519(public) };
        VerifierKey { name: self.name.clone(), id: self.id, key }
    }

    /// Signs `text` and returns the note with this one signature.
    ///
    /// # Errors
    /// [`NoteError::Malformed`] if it cannot be a note's text; [`NoteError::MalformedKey`] if this is a
    /// cosigner's key.
    pub fn sign_note(&self, text: &str) -> Result<Note, NoteError> {
        if self.kind != ED25519 {
            return Err(NoteError::MalformedKey("a cosigner's key signs only cosignatures"));
        }
        let mut note = Note::new(text)?;
        let signature = self.key.sign(text.as_bytes());
        note.add(Signature::new(&self.name, self.id, signature.to_bytes().to_vec()));
        Ok(note)
    }

    /// Returns the cosignature on the checkpoint `text` at `time`, in Unix seconds (C2SP
    /// tlog-cosignature, `cosignature/v1`).
    ///
    /// # Errors
    /// [`NoteError::MalformedKey`] if this is not a cosigner's key.
    pub fn cosign(&self, text: &str, time: u64) -> Result<Signature, NoteError> {
        if self.kind != COSIGNATURE {
            return Err(NoteError::MalformedKey("only a cosigner's key makes cosignatures"));
        }
        let signature = self.key.sign(cosigned_message(time, text).as_bytes());
        let bytes = [time.to_be_bytes().as_slice(), &signature.to_bytes()].concat();
        Ok(Signature::new(&self.name, self.id, bytes))
    }
}

impl fmt::Debug for SigningKey {
    /// Writes name and id, never the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}+{})", self.name, self.id)
    }
}

/// Refuses what cannot name a key: nothing, Unicode spaces, control characters, `+`.
pub(super) fn check_name(name: &str) -> Result<(), NoteError> {
    let forbidden = |c: char| c.is_whitespace() || c < ' ' || c == '+';
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(forbidden) {
        return Err(NoteError::MalformedName(name.chars().take(NAME_BYTES_MAX).collect()));
    }
    Ok(())
}

fn ed25519(public: &[u8]) -> Result<VerifyingKey, NoteError> {
    const MALFORMED: NoteError = NoteError::MalformedKey("it is no Ed25519 public key");
    let bytes = public.try_into().map_err(|_| MALFORMED)?;
    VerifyingKey::from_bytes(bytes).map_err(|_| MALFORMED)
}

fn cosigned_message(time: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time}\n{text}")
}
