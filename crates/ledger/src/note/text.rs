//! The text form of a note.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::NoteError;
use super::key::{KeyId, check_name};
use crate::limits::{NOTE_BYTES_MAX, NOTE_SIGNATURES_MAX};

/// What a signature line begins with: an em dash and a space.
const LINE_PREFIX: &str = "\u{2014} ";

/// A text with its signature lines, none of them verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// INVARIANT: ends in LF and has no other control character.
    text: String,
    signatures: Vec<Signature>,
}

/// One signature line of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    name: String,
    id: KeyId,
    bytes: Vec<u8>,
}

impl Note {
    /// Makes a note of `text`, without signatures yet.
    ///
    /// # Errors
    /// [`NoteError::Malformed`] if the text does not end in LF, or has another control character.
    pub fn new(text: &str) -> Result<Self, NoteError> {
        check_text(text)?;
        if !text.ends_with('\n') {
            return Err(NoteError::Malformed("the text does not end in a line feed"));
        }
        Ok(Self { text: text.to_owned(), signatures: Vec::new() })
    }

    /// Reads a note and at least one signature.
    ///
    /// # Errors
    /// [`NoteError::Malformed`], also above [`NOTE_BYTES_MAX`] or [`NOTE_SIGNATURES_MAX`].
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(NoteError::Malformed("it is too large"));
        }
        let note = str::from_utf8(bytes).map_err(|_| NoteError::Malformed("it is not UTF-8"))?;
        check_text(note)?;
        let (text, lines) =
            note.rsplit_once("\n\n").ok_or(NoteError::Malformed("it has no empty line"))?;
        let lines = lines
            .strip_suffix('\n')
            .ok_or(NoteError::Malformed("it does not end in a line feed"))?;
        if lines.split('\n').count() > NOTE_SIGNATURES_MAX {
            return Err(NoteError::Malformed("it has too many signatures"));
        }
        let signatures = lines.split('\n').map(Signature::parse).collect::<Result<_, _>>()?;
        Ok(Self { text: format!("{text}\n"), signatures })
    }

    /// Returns the text, which ends in LF.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the text, which ends in LF.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    /// Returns the signatures, in the order of the note.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Adds a signature line at the end.
    pub fn add(&mut self, signature: Signature) {
        self.signatures.push(signature);
    }

    /// Adds a signature line at the end, unless there is one of its key, or [`NOTE_SIGNATURES_MAX`] are;
    /// returns whether it was added.
    pub fn add_once(&mut self, signature: &Signature) -> bool {
        let of_key = |there: &Signature| there.name == signature.name && there.id == signature.id;
        let fits = self.signatures.len() < NOTE_SIGNATURES_MAX;
        let added = fits && !self.signatures.iter().any(of_key);
        if added {
            self.signatures.push(signature.clone());
        }
        added
    }

    /// Returns the note's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| writeln!(f, "{signature}"))
    }
}

impl Signature {
    pub(super) fn new(name: &str, id: KeyId, bytes: Vec<u8>) -> Self {
        Self { name: name.to_owned(), id, bytes }
    }

    /// Reads one line `— <name> <base64(key id ‖ signature)>`, without its line feed.
    ///
    /// # Errors
    /// [`NoteError::Malformed`] or [`NoteError::MalformedName`].
    pub fn parse(line: &str) -> Result<Self, NoteError> {
        const MALFORMED: NoteError = NoteError::Malformed("a signature line cannot be read");
        let rest = line.strip_prefix(LINE_PREFIX).ok_or(MALFORMED)?;
        let (name, encoded) = rest.split_once(' ').ok_or(MALFORMED)?;
        check_name(name)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| MALFORMED)?;
        let (id, signature) = bytes.split_first_chunk::<4>().ok_or(MALFORMED)?;
        if signature.is_empty() {
            return Err(MALFORMED);
        }
        Ok(Self::new(name, KeyId(*id), signature.to_vec()))
    }

    /// Returns the name of the key that is said to have signed.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the id of the key that is said to have signed.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the signature without the key id.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [self.id.0.as_slice(), &self.bytes].concat();
        write!(f, "{LINE_PREFIX}{} {}", self.name, STANDARD.encode(bytes))
    }
}

/// Refuses control characters below U+0020, but for LF.
fn check_text(text: &str) -> Result<(), NoteError> {
    if text.bytes().any(|byte| byte < 0x20 && byte != b'\n') {
        return Err(NoteError::Malformed("it has a control character"));
    }
    Ok(())
}
