//! The timestamps in the folder of a published log, beside the checkpoints that they stamp.

use countersign_ledger::TreeSize;
use countersign_ledger::checkpoint::Checkpoint;
use countersign_ledger::note::Note;
use countersign_ledger::verify::{CHECKPOINTS_PREFIX, LogSource as _, Problem};
use serde::Serialize;

use super::{Roots, Timestamp, verify};
use crate::folder::LogFolder;

/// Where a log's timestamps are.
pub const FOLDER: &str = "timestamps/";
/// How their names end, as `openssl ts` has it.
const SUFFIX: &str = ".tsr";

/// A checkpoint and when it existed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stamped {
    /// The number of records that it covers.
    pub size: TreeSize,
    /// What its token proves.
    #[serde(flatten)]
    pub timestamp: Timestamp,
}

/// Returns where the token of the checkpoint of `size` is.
#[must_use]
pub fn token_path(size: TreeSize) -> String {
    format!("{FOLDER}{size}{SUFFIX}")
}

/// Returns the size in the path of a token.
pub fn stamped_size(path: &str) -> Option<TreeSize> {
    let size = path.strip_prefix(FOLDER)?.strip_suffix(SUFFIX)?.parse().ok().map(TreeSize)?;
    (token_path(size) == path).then_some(size)
}

/// Lists the sizes of the log that have a token, ascending; those above its checkpoint are left out.
pub(crate) fn sizes(log: &LogFolder) -> Result<Vec<TreeSize>, Problem> {
    let newest = log.checkpoint().and_then(|note| Note::parse(note).ok());
    let newest = newest.and_then(|note| Checkpoint::parse(note.text()).ok());
    let Some(newest) = newest else { return Ok(Vec::new()) };
    let bad =
        |object: &str, reason: String| Problem { object: object.to_owned(), index: None, reason };
    let files = log.list(FOLDER).map_err(|error| bad(FOLDER, error.to_string()))?;
    let size = |path: &String| {
        stamped_size(path).ok_or_else(|| bad(path, "its name is not a tree size".to_owned()))
    };
    let mut sizes = files.iter().map(size).collect::<Result<Vec<_>, _>>()?;
    sizes.retain(|size| *size <= newest.size);
    sizes.sort_unstable();
    Ok(sizes)
}

/// Checks every token of a log, whose checkpoints somebody else checks, ascending by size.
///
/// # Errors
/// The first [`Problem`].
pub fn check_folder(log: &LogFolder, roots: &Roots) -> Result<Vec<Stamped>, Problem> {
    let check = |size: TreeSize| {
        let path = token_path(size);
        let bad = |reason: String| Problem { object: path.clone(), index: None, reason };
        let read = |path: &str| {
            let missing = || bad(format!("`{path}` is missing"));
            log.read(path).map_err(|error| bad(error.to_string()))?.ok_or_else(missing)
        };
        let note = read(&format!("{CHECKPOINTS_PREFIX}{size}"))?;
        let timestamp = verify(&read(&path)?, &note, None, roots);
        Ok(Stamped { size, timestamp: timestamp.map_err(|error| bad(error.to_string()))? })
    };
    sizes(log)?.into_iter().map(check).collect()
}
