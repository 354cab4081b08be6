//! Salted disclosures (RFC 9901): a leaf holds digests, whoever has the disclosure can show the value.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::hash::{Hash, sha256};
use crate::limits::{DISCLOSED_VALUE_BYTES_MAX, DISCLOSURE_BYTES_MAX, ENTRY_BYTES_MAX};

/// The only digest algorithm that we write and read, as `_sd_alg` names it.
pub const SD_ALG: &str = "sha-256";

/// Names that RFC 9901 keeps for itself.
const RESERVED: [&str; 2] = ["_sd", "..."];

/// Why a disclosure is refused.
#[derive(Debug, thiserror::Error)]
pub enum DisclosureError {
    /// The text is no disclosure.
    #[error("malformed disclosure: {0}")]
    Malformed(&'static str),
    /// The value is too large to be disclosed in place.
    #[error("the value has {found} bytes of JSON, at most {DISCLOSED_VALUE_BYTES_MAX} are allowed")]
    ValueTooLarge {
        /// Its length.
        found: usize,
    },
    /// The name is one of RFC 9901's own.
    #[error("`{0}` cannot name a disclosed value")]
    ReservedName(String),
    /// The leaf cannot be read.
    #[error("malformed leaf: {0}")]
    MalformedLeaf(&'static str),
    /// The leaf does not commit to the disclosure, or commits to it twice.
    #[error("disclosure `{digest}` does not belong to this leaf")]
    NotCommitted {
        /// The disclosure's digest, base64url.
        digest: String,
    },
}

/// One disclosed value: `base64url(JSON([salt, name, value]))`, or without a name for an array's element.
#[derive(Debug, Clone, PartialEq)]
pub struct Disclosure {
    encoded: String,
    salt: String,
    name: Option<String>,
    value: Value,
}

impl Disclosure {
    /// Makes the disclosure of field `name`; every disclosure needs a fresh random `salt`.
    ///
    /// # Errors
    /// [`DisclosureError::ValueTooLarge`] above 64 KiB; [`DisclosureError::ReservedName`].
    pub fn new(salt: &[u8; 16], name: &str, value: Value) -> Result<Self, DisclosureError> {
        let text = value.to_string();
        Self::with_text(salt, name, value, &text)
    }

    /// Makes the disclosure of field `name` from a value and its JSON, for whoever has both.
    ///
    /// # Errors
    /// As [`Disclosure::new`].
    pub fn with_text(
        salt: &[u8; 16],
        name: &str,
        value: Value,
        text: &str,
    ) -> Result<Self, DisclosureError> {
        if RESERVED.contains(&name) {
            return Err(DisclosureError::ReservedName(name.to_owned()));
        }
        Self::make(salt, Some(name.to_owned()), value, text)
    }

    /// Makes the disclosure of an array's element, which the array holds as `{"...": digest}`.
    ///
    /// # Errors
    /// [`DisclosureError::ValueTooLarge`] above 64 KiB.
    pub fn element(salt: &[u8; 16], value: Value) -> Result<Self, DisclosureError> {
        let text = value.to_string();
        Self::make(salt, None, value, &text)
    }

    fn make(
        salt: &[u8; 16],
        name: Option<String>,
        value: Value,
        text: &str,
    ) -> Result<Self, DisclosureError> {
        let found = text.len();
        if found > DISCLOSED_VALUE_BYTES_MAX {
            return Err(DisclosureError::ValueTooLarge { found });
        }
        let salt = URL_SAFE_NO_PAD.encode(salt);
        let array = match &name {
            Some(name) => format!(r#"["{salt}",{},{text}]"#, Value::from(name.as_str())),
            None => format!(r#"["{salt}",{text}]"#),
        };
        let encoded = URL_SAFE_NO_PAD.encode(array);
        if encoded.len() > DISCLOSURE_BYTES_MAX {
            return Err(DisclosureError::Malformed("it is too long"));
        }
        Ok(Self { encoded, salt, name, value })
    }

    /// Reads a disclosure, keeping its very text, which the digest is about.
    ///
    /// # Errors
    /// [`DisclosureError::Malformed`], [`DisclosureError::ReservedName`].
    pub fn decode(encoded: &str) -> Result<Self, DisclosureError> {
        if encoded.len() > DISCLOSURE_BYTES_MAX {
            return Err(DisclosureError::Malformed("it is too long"));
        }
        let json = URL_SAFE_NO_PAD
            .decode(encoded)
            .map_err(|_| DisclosureError::Malformed("it is not base64url"))?;
        let parts: Vec<Value> = serde_json::from_slice(&json)
            .map_err(|_| DisclosureError::Malformed("it is not a JSON array"))?;
        let (salt, name, value) = match parts.as_slice() {
            [Value::String(salt), value] => (salt, None, value),
            [Value::String(salt), Value::String(name), value] => (salt, Some(name), value),
            _ => return Err(DisclosureError::Malformed("expected salt, name and value")),
        };
        if let Some(name) = name.filter(|name| RESERVED.contains(&name.as_str())) {
            return Err(DisclosureError::ReservedName(name.clone()));
        }
        let (salt, name, value) = (salt.clone(), name.cloned(), value.clone());
        Ok(Self { encoded: encoded.to_owned(), salt, name, value })
    }

    /// Returns the encoded form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.encoded
    }

    /// Returns the salt, base64url.
    #[must_use]
    pub fn salt(&self) -> &str {
        &self.salt
    }

    /// Returns the field's name, `None` for an array's element.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the value.
    #[must_use]
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Returns the digest that stands in the leaf: `SHA-256(encoded)` (RFC 9901, section 4.2.3).
    #[must_use]
    pub fn digest(&self) -> Hash {
        sha256(self.encoded.as_bytes())
    }
}

/// Returns the leaf's `_sd` list: the digests of named disclosures in base64url, sorted.
///
/// Decoys are added by passing digests of random bytes along with them.
#[must_use]
pub fn sd_list(digests: impl IntoIterator<Item = Hash>) -> Vec<String> {
    let mut list: Vec<String> = digests.into_iter().map(|digest| digest.to_base64url()).collect();
    list.sort_unstable();
    list
}

/// A leaf with some of its digests opened.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenedLeaf {
    /// The leaf's public part.
    pub leaf: Value,
    /// The disclosures that match, by digest in base64url.
    pub opened: BTreeMap<String, Disclosure>,
    /// The digests that stay closed, in base64url; some may be decoys.
    pub closed: BTreeSet<String>,
}

/// Matches `disclosures` with the digests of a leaf, also with those inside other disclosures.
///
/// # Errors
/// [`DisclosureError::NotCommitted`] for a disclosure that matches no digest or is given twice;
/// [`DisclosureError::MalformedLeaf`] if the leaf is no JSON object of our size, names another digest
/// algorithm or has a digest twice.
pub fn open_leaf(leaf: &[u8], disclosures: &[Disclosure]) -> Result<OpenedLeaf, DisclosureError> {
    if leaf.len() > ENTRY_BYTES_MAX {
        return Err(DisclosureError::MalformedLeaf("it is too large"));
    }
    let leaf: Value = serde_json::from_slice(leaf)
        .map_err(|_| DisclosureError::MalformedLeaf("it is not JSON"))?;
    if leaf.get("_sd_alg").is_some_and(|alg| alg != SD_ALG) {
        return Err(DisclosureError::MalformedLeaf("`_sd_alg` is not `sha-256`"));
    }
    let mut digests = Digests::default();
    digests.collect(&leaf)?;
    let mut waiting: BTreeMap<String, &Disclosure> = BTreeMap::new();
    for disclosure in disclosures {
        let digest = disclosure.digest().to_base64url();
        if waiting.insert(digest.clone(), disclosure).is_some() {
            return Err(DisclosureError::NotCommitted { digest });
        }
    }
    let mut opened = BTreeMap::new();
    // What is opened may commit to more.
    while let Some(digest) = digests.unseen.pop() {
        if waiting.get(&digest).is_some_and(|waiting| digests.commit_to(&digest, waiting))
            && let Some(disclosure) = waiting.remove(&digest)
        {
            digests.collect(&disclosure.value)?;
            opened.insert(digest, disclosure.clone());
        }
    }
    if let Some(digest) = waiting.into_keys().next() {
        return Err(DisclosureError::NotCommitted { digest });
    }
    let closed = digests.all.into_keys().filter(|digest| !opened.contains_key(digest)).collect();
    Ok(OpenedLeaf { leaf, opened, closed })
}

/// The digests of a leaf, with whether each stands for a named field.
#[derive(Default)]
struct Digests {
    all: BTreeMap<String, bool>,
    /// Those for which no disclosure was looked for yet.
    unseen: Vec<String>,
}

impl Digests {
    fn commit_to(&self, digest: &str, disclosure: &Disclosure) -> bool {
        self.all.get(digest) == Some(&disclosure.name.is_some())
    }

    fn collect(&mut self, value: &Value) -> Result<(), DisclosureError> {
        match value {
            Value::Array(items) => items.iter().try_for_each(|item| self.collect_element(item)),
            Value::Object(fields) => {
                fields.iter().try_for_each(|(name, field)| self.collect_field(name, field))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        }
    }

    fn collect_field(&mut self, name: &str, field: &Value) -> Result<(), DisclosureError> {
        if name != "_sd" {
            return self.collect(field);
        }
        let list = field.as_array().ok_or(DisclosureError::MalformedLeaf("`_sd` is not a list"))?;
        list.iter().try_for_each(|digest| self.add(digest, true))
    }

    fn collect_element(&mut self, item: &Value) -> Result<(), DisclosureError> {
        match item.as_object() {
            Some(object) if object.len() == 1 => match object.get("...") {
                Some(digest) => self.add(digest, false),
                None => self.collect(item),
            },
            _ => self.collect(item),
        }
    }

    fn add(&mut self, digest: &Value, named: bool) -> Result<(), DisclosureError> {
        let digest =
            digest.as_str().ok_or(DisclosureError::MalformedLeaf("a digest is not a string"))?;
        if self.all.insert(digest.to_owned(), named).is_some() {
            return Err(DisclosureError::MalformedLeaf("a digest stands there twice"));
        }
        self.unseen.push(digest.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
