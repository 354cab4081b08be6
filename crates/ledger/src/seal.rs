//! Sealed sections: the private part of a record, readable while two keys exist.
//!
//! A section is encrypted under a fresh data key; the data key is wrapped by the subject's key and the
//! result by the period's key. Destroying either key closes the section for good: the one erases a
//! person, the other purges by age. Cipher: XChaCha20-Poly1305 with 24-byte nonces.
//!
//! Out of scope: making, keeping and destroying the keys.

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::disclosure::{Disclosure, DisclosureError};
use crate::limits::{DISCLOSURE_BYTES_MAX, SECTION_DISCLOSURES_MAX};

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;

/// Bytes that encryption adds.
const TAG_BYTES: usize = 16;

/// Bytes of a wrapped key: nonce, key, tag.
pub const WRAPPED_KEY_BYTES: usize = NONCE_BYTES + 32 + TAG_BYTES;

/// Bytes of a twice wrapped data key.
pub const WRAPPED_DEK_BYTES: usize = NONCE_BYTES + WRAPPED_KEY_BYTES + TAG_BYTES;

/// First byte of an encoded sealed section.
const VERSION: u8 = 1;

/// What ends each disclosure of a section; base64url does not have it (RFC 9901, section 4).
const SEPARATOR: char = '~';

/// A random number that is used once with one key.
pub type Nonce = [u8; NONCE_BYTES];

/// Why a section cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The bytes are no sealed section, or no wrapped key.
    #[error("malformed sealed section: {0}")]
    Malformed(&'static str),
    /// The wrong key, the wrong ids, or altered bytes: the cipher does not tell which.
    #[error("the {0} cannot be opened: wrong key, wrong record or altered bytes")]
    Unopenable(&'static str),
    /// The cipher refused to encrypt.
    #[error("the {0} cannot be encrypted")]
    Unsealable(&'static str),
    /// What was sealed is no section.
    #[error("the section holds a malformed disclosure")]
    Disclosure(#[from] DisclosureError),
}

/// A 32-byte secret key; it is wiped when dropped and has no readable form.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
#[expect(missing_debug_implementations, reason = "a key must not end in a log")]
pub struct Key([u8; 32]);

impl Key {
    /// Takes 32 random bytes as a key.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the secret, for a keystore to keep.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What a section belongs to; sealed bytes open under no other ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionId<'a> {
    /// The tenant.
    pub tenant: &'a str,
    /// The record's id.
    pub record_id: &'a str,
    /// The section's name within the record.
    pub section: &'a str,
}

impl SectionId<'_> {
    /// Returns tenant, record id and section, then `purpose` if any, each after its u32be length.
    fn aad(&self, purpose: &[&str]) -> Result<Vec<u8>, SealError> {
        associated_data(&[&[self.tenant, self.record_id, self.section], purpose].concat())
    }
}

/// The disclosures of one data subject in one record.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Section {
    disclosures: Vec<Disclosure>,
}

impl Section {
    /// Makes a section.
    ///
    /// # Errors
    /// [`SealError::Malformed`] above [`SECTION_DISCLOSURES_MAX`].
    pub fn new(disclosures: Vec<Disclosure>) -> Result<Self, SealError> {
        if disclosures.len() > SECTION_DISCLOSURES_MAX {
            return Err(SealError::Malformed("it has too many disclosures"));
        }
        Ok(Self { disclosures })
    }

    /// Returns the disclosures.
    #[must_use]
    pub fn disclosures(&self) -> &[Disclosure] {
        &self.disclosures
    }

    /// Returns the encoded disclosures, each followed by `~`.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let length = self.disclosures.iter().map(|d| d.as_str().len() + 1).sum();
        // Reserved at once: growing would leave copies behind that nobody wipes.
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        for disclosure in &self.disclosures {
            bytes.extend_from_slice(disclosure.as_str().as_bytes());
            bytes.extend_from_slice(SEPARATOR.to_string().as_bytes());
        }
        bytes
    }

    /// Reads what [`Section::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`SealError::Malformed`], [`SealError::Disclosure`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        if bytes.len() > SECTION_DISCLOSURES_MAX * DISCLOSURE_BYTES_MAX {
            return Err(SealError::Malformed("it is too large"));
        }
        let text = str::from_utf8(bytes).map_err(|_| SealError::Malformed("it is not text"))?;
        if !(text.is_empty() || text.ends_with(SEPARATOR)) {
            return Err(SealError::Malformed("a disclosure is cut off"));
        }
        let disclosures = text.split_terminator(SEPARATOR).map(Disclosure::decode);
        Self::new(disclosures.collect::<Result<_, _>>()?)
    }
}

/// Everything random that sealing one section takes: all of it fresh, none of it used again.
#[expect(missing_debug_implementations, reason = "a key must not end in a log")]
pub struct Fresh {
    /// The data key.
    pub dek: Key,
    /// The nonce of the content.
    pub content_nonce: Nonce,
    /// The nonce of the wrapping under the subject's key.
    pub subject_nonce: Nonce,
    /// The nonce of the wrapping under the period's key.
    pub period_nonce: Nonce,
}

/// The two keys that a section needs to be opened.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "a key must not end in a log")]
pub struct KeyPair<'a> {
    /// The data subject's key: destroyed to erase the person.
    pub subject: &'a Key,
    /// The key of tenant, month and retention class: destroyed to purge by age.
    pub period: &'a Key,
}

/// A section that only its two keys together open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSection {
    /// The nonce of the content.
    pub nonce: Nonce,
    /// The data key, wrapped by the subject's key and then by the period's key.
    pub wrapped_dek: [u8; WRAPPED_DEK_BYTES],
    /// The encrypted section.
    pub ciphertext: Vec<u8>,
}

impl SealedSection {
    /// Returns `0x01 ‖ nonce ‖ wrapped data key ‖ ciphertext`.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&[VERSION], self.nonce.as_slice(), &self.wrapped_dek, &self.ciphertext].concat()
    }

    /// Reads what [`SealedSection::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`SealError::Malformed`] if it is too short or of another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        const TOO_SHORT: SealError = SealError::Malformed("it is too short");
        let (version, rest) = bytes.split_first().ok_or(TOO_SHORT)?;
        if *version != VERSION {
            return Err(SealError::Malformed("its version is unknown"));
        }
        let (nonce, rest) = rest.split_first_chunk().ok_or(TOO_SHORT)?;
        let (wrapped_dek, ciphertext) = rest.split_first_chunk().ok_or(TOO_SHORT)?;
        if ciphertext.len() < TAG_BYTES {
            return Err(TOO_SHORT);
        }
        let ciphertext = ciphertext.to_vec();
        Ok(Self { nonce: *nonce, wrapped_dek: *wrapped_dek, ciphertext })
    }
}

/// Seals `section` of the record `id` under both keys.
///
/// # Errors
/// [`SealError::Unsealable`] if the cipher refuses, [`SealError::Malformed`] if an id is too long.
pub fn seal(
    section: &Section,
    id: &SectionId<'_>,
    keys: KeyPair<'_>,
    fresh: &Fresh,
) -> Result<SealedSection, SealError> {
    let ciphertext =
        encrypt("section", &fresh.dek, &fresh.content_nonce, &id.aad(&[])?, &section.to_bytes())?;
    let inner =
        wrap_bytes(keys.subject, &fresh.subject_nonce, &id.aad(&["subject"])?, &fresh.dek.0)?;
    let outer = wrap_bytes(keys.period, &fresh.period_nonce, &id.aad(&["period"])?, &inner)?;
    let wrapped_dek =
        outer.try_into().map_err(|_| SealError::Malformed("the wrapped key has a wrong length"))?;
    Ok(SealedSection { nonce: fresh.content_nonce, wrapped_dek, ciphertext })
}

/// Opens the sealed section of the record `id`.
///
/// # Errors
/// [`SealError::Unopenable`] under any other key or id, or if a byte was altered.
pub fn open(
    sealed: &SealedSection,
    id: &SectionId<'_>,
    keys: KeyPair<'_>,
) -> Result<Section, SealError> {
    let inner = unwrap_bytes(keys.period, &id.aad(&["period"])?, &sealed.wrapped_dek)?;
    let dek = key_from(&unwrap_bytes(keys.subject, &id.aad(&["subject"])?, &inner)?)?;
    let section = decrypt("section", &dek, &sealed.nonce, &id.aad(&[])?, &sealed.ciphertext)?;
    Section::from_bytes(&section)
}

/// Wraps `key` by another, `kek`, for a keystore; it opens only with the same `names`.
///
/// # Errors
/// [`SealError::Unsealable`] if the cipher refuses, [`SealError::Malformed`] if a name is too long.
pub fn wrap_key(
    kek: &Key,
    key: &Key,
    names: &[&str],
    nonce: &Nonce,
) -> Result<[u8; WRAPPED_KEY_BYTES], SealError> {
    wrap_bytes(kek, nonce, &associated_data(names)?, &key.0)?
        .try_into()
        .map_err(|_| SealError::Malformed("the wrapped key has a wrong length"))
}

/// Opens what [`wrap_key`] wrote.
///
/// # Errors
/// [`SealError::Unopenable`] under any other key or names, or if a byte was altered.
pub fn unwrap_key(
    kek: &Key,
    wrapped: &[u8; WRAPPED_KEY_BYTES],
    names: &[&str],
) -> Result<Key, SealError> {
    key_from(&unwrap_bytes(kek, &associated_data(names)?, wrapped)?)
}

fn key_from(bytes: &[u8]) -> Result<Key, SealError> {
    let bytes = bytes.try_into().map_err(|_| SealError::Malformed("a key has a wrong length"))?;
    Ok(Key(bytes))
}

/// Returns `nonce ‖ ciphertext`.
fn wrap_bytes(kek: &Key, nonce: &Nonce, aad: &[u8], secret: &[u8]) -> Result<Vec<u8>, SealError> {
    Ok([nonce.as_slice(), &encrypt("key", kek, nonce, aad, secret)?].concat())
}

fn unwrap_bytes(kek: &Key, aad: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (nonce, ciphertext) =
        wrapped.split_first_chunk().ok_or(SealError::Malformed("a wrapped key is too short"))?;
    decrypt("key", kek, nonce, aad, ciphertext)
}

fn encrypt(
    what: &'static str,
    key: &Key,
    nonce: &Nonce,
    aad: &[u8],
    msg: &[u8],
) -> Result<Vec<u8>, SealError> {
    XChaCha20Poly1305::new(&key.0.into())
        .encrypt(&XNonce::from(*nonce), Payload { msg, aad })
        .map_err(|_| SealError::Unsealable(what))
}

fn decrypt(
    what: &'static str,
    key: &Key,
    nonce: &Nonce,
    aad: &[u8],
    msg: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    XChaCha20Poly1305::new(&key.0.into())
        .decrypt(&XNonce::from(*nonce), Payload { msg, aad })
        .map(Zeroizing::new)
        .map_err(|_| SealError::Unopenable(what))
}

/// Returns `names`, each after its u32be length, so that no two lists give the same bytes.
fn associated_data(names: &[&str]) -> Result<Vec<u8>, SealError> {
    let mut bytes = Vec::new();
    for name in names {
        let length =
            u32::try_from(name.len()).map_err(|_| SealError::Malformed("a name is too long"))?;
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(name.as_bytes());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
