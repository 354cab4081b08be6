//! The public part of a record, as the checks need it: what a leaf says about its place and kind.

use serde::Deserialize;
use serde_json::Value;

use crate::hash::{Hash, sha256};
use crate::jcs;
use crate::limits::ENTRY_BYTES_MAX;

/// The version of the leaf format, its field `v`.
pub const LEAF_VERSION: u64 = 1;

/// The kind of a record that states a verdict.
pub const DECISION: &str = "decision";

/// The kind of a record that says what came of a decision.
pub const OUTCOME: &str = "outcome";

/// The kind of a record that states the totals of a day.
pub const CLOSE: &str = "close";

/// The kind of a record that names missing records of a stream.
pub const GAP: &str = "gap";

/// Why an entry is no leaf.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// The entry is larger than a leaf may be.
    #[error("a leaf has {found} bytes, at most {ENTRY_BYTES_MAX} are allowed")]
    TooLarge {
        /// Its length.
        found: usize,
    },
    /// The entry is no JSON of a leaf's shape.
    #[error("the entry is not a leaf: {0}")]
    Malformed(#[source] serde_json::Error),
    /// A number in the entry is not allowed.
    #[error(transparent)]
    Jcs(#[from] jcs::JcsError),
    /// The entry is JSON, but not in canonical form.
    #[error("the entry is not canonical JSON")]
    NotCanonical,
    /// The entry is a leaf of another version.
    #[error("leaf version {0} is unknown")]
    UnknownVersion(u64),
}

/// What the checks read of a leaf; the entry's other fields are left alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Leaf {
    /// The format's version.
    pub v: u64,
    /// The record's kind, as `decision`.
    pub kind: String,
    /// The record's id.
    pub record_id: String,
    /// The tenant, owner of the tree.
    pub tenant: String,
    /// The leaf's place in its stream.
    pub gw: Place,
    /// The record's time.
    pub time: Time,
    /// The verdict of a decision: `allow`, `deny` or `hold`.
    pub decision: Option<String>,
    /// The mode of the policies that decided.
    pub mode: Option<String>,
    /// The agent's id.
    pub agent: Option<String>,
    /// The day that a daily close is about.
    pub day: Option<String>,
    /// What the records of that day add up to, see [`crate::close`].
    pub totals: Option<Value>,
    /// The record that this one belongs to; an outcome names its decision.
    pub parent: Option<String>,
    /// How a call ended, of an outcome; `unknown` if nobody saw it.
    pub outcome: Option<String>,
    /// The statement of both keys that the signing key is replaced, see [`crate::rotation`].
    pub rotation: Option<String>,
    /// Whether an outcome settles one that was `unknown`.
    #[serde(default)]
    pub reconciled: bool,
}

/// The place of a leaf in its stream `(tenant, replica, epoch)`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Place {
    /// The gateway process that wrote the record.
    pub replica: String,
    /// Its life: a new one starts a new stream.
    pub epoch: u64,
    /// The position in the stream, from 1.
    pub seq: u64,
    /// The hash of the stream's previous leaf, see [`prev_hash`].
    pub prev: String,
}

/// A hybrid logical clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Time {
    /// Unix time in milliseconds.
    pub ms: u64,
    /// A counter within the millisecond.
    pub n: u64,
}

impl Leaf {
    /// Reads the leaf in `entry`.
    ///
    /// # Errors
    /// [`LeafError`] if it is too large, not canonical JSON (RFC 8785, no fractions), or of another shape
    /// or version.
    pub fn parse(entry: &[u8]) -> Result<Self, LeafError> {
        if entry.len() > ENTRY_BYTES_MAX {
            return Err(LeafError::TooLarge { found: entry.len() });
        }
        let value: Value = serde_json::from_slice(entry).map_err(LeafError::Malformed)?;
        if jcs::canonicalize(&value)? != entry {
            return Err(LeafError::NotCanonical);
        }
        let leaf: Self = serde_json::from_value(value).map_err(LeafError::Malformed)?;
        if leaf.v != LEAF_VERSION {
            return Err(LeafError::UnknownVersion(leaf.v));
        }
        Ok(leaf)
    }
}

/// Returns the field `prev` of the leaf that follows `previous` in its stream: base64url of the SHA-256
/// of its bytes, or of 32 zero bytes for the first leaf of an epoch.
#[must_use]
pub fn prev_hash(previous: Option<&[u8]>) -> String {
    previous.map_or(Hash([0; 32]), sha256).to_base64url()
}
