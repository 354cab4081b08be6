//! The published folder as the offline check reads it.

use std::fs;
use std::path::{Path, PathBuf};

use countersign_ledger::verify::{LogSource, SourceError};

use crate::files::read_if_there;
use crate::publish::FOLDER;

/// The published log of a data folder.
#[derive(Clone, Debug)]
pub struct PublishedLog {
    folder: PathBuf,
}

impl PublishedLog {
    /// Reads the log that the store in `folder` publishes.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.join(FOLDER) }
    }
}

impl LogSource for PublishedLog {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        read_if_there(&self.folder.join(path)).map_err(|error| SourceError(error.to_string()))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, SourceError> {
        let mut found = Vec::new();
        let start = self.folder.join(prefix);
        if start.is_dir() {
            walk(&start, prefix.trim_end_matches('/'), &mut found)
                .map_err(|error| SourceError(format!("{}: {error}", start.display())))?;
        }
        Ok(found)
    }
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{prefix}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}
