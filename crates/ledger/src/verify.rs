//! Offline check of a published log: a static tlog-tiles directory and a public key.
//!
//! One pass over the entry bundles recomputes everything that follows from the entries: leaf hashes,
//! tiles of all levels, the root at every size that a checkpoint was stored for, the streams, the counts.
//! Whatever is published must equal it. Which of two disagreeing files is the bad one is decided by the
//! signed root: if the entries lead to it, the other file is bad, else the entries are.
//!
//! The directory: `checkpoint`, `checkpoints/<size>`, `cosigned/<size>`, `tile/<level>/…`,
//! `tile/entries/…`. What witnesses cosigned is checked like any stored checkpoint; whether enough of them did is
//! for [`crate::policy`]. Files that reach past the checkpoint (published, not yet signed) are checked up to it and listed in the report.

mod compare;
mod keys;
mod listing;
mod pass;
mod tally;

use serde::Serialize;

pub use keys::{Trust, TrustedKey};

use crate::checkpoint::Checkpoint;
use crate::hash::Hash;
use crate::note::VerifierKey;
use crate::tree::{LeafIndex, TreeSize};

/// The path of the newest checkpoint.
pub const CHECKPOINT_PATH: &str = "checkpoint";

/// The folder of stored checkpoints, each a file named by its size.
pub const CHECKPOINTS_PREFIX: &str = "checkpoints/";

/// The folder of checkpoints with the cosignatures of witnesses, each a file named by its size.
pub const COSIGNED_PREFIX: &str = "cosigned/";

/// The folder of tiles and bundles.
pub const TILES_PREFIX: &str = "tile/";

/// The files of a log, wherever they are.
pub trait LogSource {
    /// Returns the bytes of the file at `path`, `None` if there is none.
    ///
    /// # Errors
    /// [`SourceError`] if it cannot be read.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError>;

    /// Returns the paths of all files that begin with `prefix`, in any order.
    ///
    /// # Errors
    /// [`SourceError`] if they cannot be listed.
    fn list(&self, prefix: &str) -> Result<Vec<String>, SourceError>;
}

/// Why a source cannot give a file, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// What the entries of a log are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EntryFormat {
    /// Leaves of records: streams and counts are checked.
    #[default]
    Records,
    /// Any bytes, as in an anchor log: only the tree is checked.
    Opaque,
}

/// What to check a log against.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// The keys of the log; checkpoints must be signed by one that is named like their origin, or by one
    /// that `key` leaves tie to it, see [`Trust`].
    pub keys: Vec<VerifierKey>,
    /// A checkpoint kept from earlier, already verified, that the log must extend.
    pub pinned: Option<Checkpoint>,
    /// What the entries are.
    pub entries: EntryFormat,
}

/// How far a check has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Leaves checked.
    pub checked: TreeSize,
    /// Leaves of the log.
    pub size: TreeSize,
}

/// What a whole log holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The log's origin.
    pub origin: String,
    /// The number of leaves.
    pub size: TreeSize,
    /// The signed root, which the entries lead to.
    pub root: Hash,
    /// The stored checkpoints that were checked.
    pub checkpoints: u64,
    /// The number of records by kind and verdict, sorted.
    pub population: Vec<Population>,
    /// The earliest time of a record, in Unix milliseconds.
    pub first_ms: Option<u64>,
    /// The latest time of a record, in Unix milliseconds.
    pub last_ms: Option<u64>,
    /// Allowed decisions that no outcome names, by leaf.
    pub decisions_without_outcome: Vec<LeafIndex>,
    /// Outcomes that name no allowed decision of this log, or one that has an outcome already, by leaf.
    pub outcomes_without_decision: Vec<LeafIndex>,
    /// The leaves of kind `gap`: places where a stream says that it may have lost records.
    pub gaps: Vec<LeafIndex>,
    /// Daily closes; the totals of each are those of its records.
    pub closes: u64,
    /// The keys whose signatures counted: those that were given, and those that `key` leaves tie to them.
    pub keys: Vec<TrustedKey>,
    /// Files that reach past the checkpoint and are vouched for only up to it.
    pub unsigned: Vec<String>,
}

/// The number of records of one kind and verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Population {
    /// The kind, as `decision`.
    pub kind: String,
    /// The verdict of decisions.
    pub verdict: Option<String>,
    /// How many there are.
    pub count: u64,
}

/// The first thing that is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("`{object}`{}: {reason}", index.map(|index| format!(", index {index}")).unwrap_or_default())]
pub struct Problem {
    /// The path of the bad file.
    pub object: String,
    /// The leaf in a bundle, or the hash on its level in a tile.
    pub index: Option<u64>,
    /// What is wrong.
    pub reason: String,
}

impl Problem {
    fn file(object: &str, reason: &str) -> Self {
        Self { object: object.to_owned(), index: None, reason: reason.to_owned() }
    }

    fn at(object: &str, index: u64, reason: &str) -> Self {
        Self { index: Some(index), ..Self::file(object, reason) }
    }
}

/// Checks the whole log in `source`, calling `progress` after every bundle.
///
/// # Errors
/// [`Problem`] names the first bad file, and the place in it.
pub fn verify_log<S: LogSource>(
    source: &S,
    options: &VerifyOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, Problem> {
    pass::Pass::begin(source, options)?.run(progress)
}

/// Returns `keys` and the ones that took their places, as `key` leaves of the log in `source` say: those
/// that may sign for its newest checkpoint. Checks nothing else of the log.
///
/// # Errors
/// [`Problem`] if the newest checkpoint cannot be read, none of the keys signed it, or a `key` leaf that was
/// read is bad.
pub fn current_keys<S: LogSource>(
    source: &S,
    keys: &[VerifierKey],
) -> Result<Vec<VerifierKey>, Problem> {
    let options = VerifyOptions { keys: keys.to_vec(), ..VerifyOptions::default() };
    pass::Pass::begin(source, &options)?.current_keys()
}

fn read<S: LogSource>(source: &S, path: &str) -> Result<Vec<u8>, Problem> {
    source
        .read(path)
        .map_err(|error| Problem::file(path, &error.to_string()))?
        .ok_or_else(|| Problem::file(path, "the file is missing"))
}

#[cfg(test)]
mod tests;
