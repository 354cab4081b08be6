//! Statements that a log's signing key is replaced: a signed note of the old key and of the new one.
//!
//! Such a statement stands in field `rotation` of a leaf of kind `key`, see `spec/ledger.md`. Whoever
//! trusts one of the two keys learns from it that the other belongs to the same log. Out of scope: which
//! checkpoints that makes good, see [`crate::verify`].

use crate::note::{Note, NoteError, SigningKey, VerifierKey, verify_note};

/// The first line of a statement.
const HEADER: &str = "countersign-key-rotation/v1";

/// The kind of a record whose field `rotation` has a statement.
pub const KEY: &str = "key";

/// Why a statement is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotationError {
    /// It breaks the format.
    #[error("malformed key rotation: {0}")]
    Malformed(&'static str),
    /// The note around it is refused.
    #[error("key rotation: {0}")]
    Note(#[from] NoteError),
    /// One of the two keys did not sign.
    #[error("key rotation: `{0}` did not sign")]
    NotSigned(String),
}

/// The replacement of a log's signing key, which both keys signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The key that signed so far.
    pub old: VerifierKey,
    /// The key that takes its place.
    pub new: VerifierKey,
}

impl Rotation {
    /// Signs the statement that `new` takes the place of `old`.
    ///
    /// # Errors
    /// [`RotationError::Malformed`] if the keys have not the same name, or the same id.
    pub fn sign(old: &SigningKey, new: &SigningKey) -> Result<Note, RotationError> {
        let rotation = Self { old: old.verifier_key(), new: new.verifier_key() };
        rotation.check()?;
        let text = rotation.text();
        let mut note = old.sign_note(&text)?;
        new.sign_note(&text)?.signatures().iter().for_each(|one| note.add(one.clone()));
        Ok(note)
    }

    /// Reads a statement and checks both signatures.
    ///
    /// # Errors
    /// [`RotationError`].
    pub fn open(note: &str) -> Result<Self, RotationError> {
        let parsed = Note::parse(note.as_bytes())?;
        let mut lines = parsed.text().split('\n');
        let (Some(HEADER), Some(origin), Some(old), Some(new), Some(""), None) =
            (lines.next(), lines.next(), lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(RotationError::Malformed("expected a header and three lines"));
        };
        let rotation = Self { old: VerifierKey::parse(old)?, new: VerifierKey::parse(new)? };
        rotation.check()?;
        if rotation.text() != parsed.text() || rotation.origin() != origin {
            return Err(RotationError::Malformed("the keys are not those of its origin"));
        }
        for key in [&rotation.old, &rotation.new] {
            let signed = verify_note(note.as_bytes(), std::slice::from_ref(key));
            let plain = match signed {
                Ok(signed) => signed.is_signed_by(key.name()),
                Err(NoteError::NoKnownKey) => false,
                Err(error) => return Err(error.into()),
            };
            if !plain {
                return Err(RotationError::NotSigned(format!("{}+{}", key.name(), key.id())));
            }
        }
        Ok(rotation)
    }

    /// Returns the log's name, which is the name of both keys.
    #[must_use]
    pub fn origin(&self) -> &str {
        self.old.name()
    }

    fn check(&self) -> Result<(), RotationError> {
        if self.old.name() != self.new.name() {
            return Err(RotationError::Malformed("the keys have different names"));
        }
        if self.old.id() == self.new.id() {
            return Err(RotationError::Malformed("the keys have the same id"));
        }
        Ok(())
    }

    fn text(&self) -> String {
        format!("{HEADER}\n{}\n{}\n{}\n", self.origin(), self.old, self.new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed("ledger.example/acme", &[seed; 32]).unwrap()
    }

    #[test]
    fn a_statement_is_signed_by_both_keys() {
        let note = Rotation::sign(&key(1), &key(2)).unwrap().to_string();
        let rotation = Rotation::open(&note).unwrap();
        assert_eq!(rotation.old, key(1).verifier_key());
        assert_eq!(rotation.new, key(2).verifier_key());
    }

    #[test]
    fn the_key_leaf_keeps_its_form() {
        let statement = Rotation::sign(&key(1), &key(2)).unwrap().to_string();
        let leaf = serde_json::json!({
            "v": 1, "kind": KEY, "record_id": "01900000-0000-7000-8000-000000000001", "tenant": "acme",
            "gw": {"replica": "g1", "epoch": 1, "seq": 1, "prev": crate::leaf::prev_hash(None)},
            "time": {"ms": 1_763_700_000_000_u64, "n": 0}, "rotation": statement,
        });
        let bytes = crate::jcs::canonicalize(&leaf).unwrap();
        insta::assert_snapshot!(str::from_utf8(&bytes).unwrap(), @r##"{"gw":{"epoch":1,"prev":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","replica":"g1","seq":1},"kind":"key","record_id":"01900000-0000-7000-8000-000000000001","rotation":"countersign-key-rotation/v1\nledger.example/acme\nledger.example/acme+ef1a1e39+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c\nledger.example/acme+51073891+AYE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU\n\n— ledger.example/acme 7xoeOXcD5UMibGAVWviM7creTBqfMcPAww5Rvc59/VGRHPRzx7cWyxcgbW7/4AnvXwiIAZEPle5P9hCjeBKu7RyclwQ=\n— ledger.example/acme UQc4kZo6JqmaXnUvvlQaWklZhjpD8LIt2tNVMdW4IzLuPuRUcz3Y8zaglZA2lyeye4gCUe4g9BDeDTouTexm/43t6Ac=\n","tenant":"acme","time":{"ms":1763700000000,"n":0},"v":1}"##);
        let leaf = crate::leaf::Leaf::parse(&bytes).unwrap();
        assert!(Rotation::open(&leaf.rotation.unwrap()).is_ok());
    }

    #[test]
    fn anything_else_is_refused() {
        let note = Rotation::sign(&key(1), &key(2)).unwrap();
        let text = note.text().to_owned();
        let by = |keys: &[SigningKey], text: &str| {
            let mut made = Note::new(text).unwrap();
            for key in keys {
                key.sign_note(text).unwrap().signatures().iter().for_each(|s| made.add(s.clone()));
            }
            made.to_string()
        };
        let other = text.replace("ledger.example/acme\n", "ledger.example/other\n");
        let broken = note.to_string().replace("/v1", "/v2");
        for (name, forged) in [
            ("only the old key", by(&[key(1)], &text)),
            ("only the new key", by(&[key(2)], &text)),
            ("a stranger for the old key", by(&[key(3), key(2)], &text)),
            ("a stranger for the new key", by(&[key(1), key(3)], &text)),
            ("another origin than the keys'", by(&[key(1), key(2)], &other)),
            ("another header", by(&[key(1), key(2)], &text.replace("/v1", "/v2"))),
            ("a further line", by(&[key(1), key(2)], &format!("{text}more\n"))),
            ("a text that was changed", broken),
            ("nothing", String::new()),
        ] {
            assert!(Rotation::open(&forged).is_err(), "{name}");
        }
        assert!(Rotation::sign(&key(1), &key(1)).is_err(), "the same key");
    }

    #[test]
    fn a_signature_that_was_changed_is_named() {
        let note = Rotation::sign(&key(1), &key(2)).unwrap();
        let mut lines: Vec<String> = note.to_string().lines().map(str::to_owned).collect();
        for line in [5, 6] {
            let kept = lines[line].clone();
            let at = kept.len() - 10;
            let swapped = if kept.as_bytes()[at] == b'A' { "B" } else { "A" };
            lines[line].replace_range(at..=at, swapped);
            let refused = Rotation::open(&format!("{}\n", lines.join("\n"))).unwrap_err();
            let expected = NoteError::BadSignature("ledger.example/acme".to_owned());
            assert_eq!(refused, RotationError::Note(expected), "{line}");
            lines[line] = kept;
        }
    }
}
