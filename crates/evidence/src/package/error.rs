//! Why there is no package.

use std::io;
use std::path::{Path, PathBuf};

use countersign_ledger::verify::SourceError;

use crate::EvidenceError;

/// Why a package was not built, or could not be checked at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// A file could not be read or written.
    #[error("`{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is something where the package should go.
    #[error("`{}` is there already; name a folder that does not exist", .0.display())]
    Exists(PathBuf),
    /// The published log cannot be read.
    #[error("the published log cannot be read: {0}")]
    Source(#[from] SourceError),
    /// The published log has no checkpoint to build on.
    #[error("the log has no such checkpoint; `countersign serve` publishes one every second")]
    NoCheckpoint,
    /// The log's entries are not what its checkpoint signs.
    #[error("the log does not hold: {0}; `countersign verify` names the place")]
    Unsound(String),
    /// What was asked for cannot be.
    #[error("{0}")]
    Request(String),
    /// A leaf is no record.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// The log's key could not sign.
    #[error("the manifest cannot be signed: {0}")]
    Sign(#[from] countersign_ledger::note::NoteError),
}

impl PackageError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Io { path, source }
    }
}
