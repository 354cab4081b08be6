//! What a package says about itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PackageError;
use super::derive::{Request, SampleRequest};
use super::list::{Filters, List, Scope};
use super::survey::{Excluded, Totals};
use crate::time::{self, Edge};

/// The manifest's format and version.
pub(crate) const FORMAT: &str = "countersign-package/v1";

/// `manifest.json`. It names every file but itself and its signature, `manifest.sig`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `countersign-package/v1`.
    pub format: String,
    /// The version of the program that built it.
    pub generator: String,
    /// The log's name.
    pub origin: String,
    /// Whose log it is.
    pub tenant: String,
    /// The first moment of the period, UTC.
    pub from: String,
    /// The first moment after the period, UTC.
    pub to: String,
    /// What else must hold of a record.
    pub filters: Filters,
    /// The time of the newest record that the last checkpoint covers, UTC: the package's time.
    pub as_of: String,
    /// Whether the log has a record at or after the end of the period; if not, more may have been recorded
    /// in it after the package was built.
    pub period_is_over: bool,
    /// The newest checkpoint of the package that covers nothing of the period, if the log stored one.
    pub checkpoint_start: Option<Point>,
    /// The checkpoint that the package was built on.
    pub checkpoint_end: Point,
    /// Where the entries in `log/` begin.
    pub first_leaf: u64,
    /// The lists.
    pub lists: Vec<ListEntry>,
    /// How many records are in no list, by kind.
    pub excluded: BTreeMap<String, Excluded>,
    /// The sample of decisions with a proof each.
    pub sample: SampleEntry,
    /// The files, sorted by path.
    pub files: Vec<FileEntry>,
}

/// A checkpoint in few words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// The number of leaves.
    pub size: u64,
    /// The root, base64.
    pub root: String,
}

/// A list in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListEntry {
    /// Which list it is.
    pub list: List,
    /// Its totals.
    #[serde(flatten)]
    pub totals: Totals,
}

/// The sample in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleEntry {
    /// What was mixed into each rank.
    pub draw: String,
    /// How many records were asked for.
    pub n: usize,
    /// The records, by rank.
    pub items: Vec<SampleItem>,
}

/// One record of the sample.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleItem {
    /// The record.
    pub record_id: String,
    /// Its position in the log.
    pub leaf_index: u64,
    /// Its rank, hexadecimal.
    pub rank: String,
}

/// A file in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its path in the package.
    pub path: String,
    /// The hash of its bytes, hexadecimal.
    pub sha256: String,
    /// Its length.
    pub bytes: u64,
}

impl Manifest {
    /// Writes the file.
    pub(crate) fn text(&self) -> Result<String, PackageError> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|error| PackageError::Request(error.to_string()))?;
        Ok(text + "\n")
    }

    /// Returns what the package was asked to be.
    pub(crate) fn request(&self) -> Result<Request, PackageError> {
        let (from_ms, to_ms) =
            (time::parse(&self.from, Edge::Start)?, time::parse(&self.to, Edge::Start)?);
        let scope = Scope { from_ms, to_ms, filters: self.filters.clone() };
        let sample = SampleRequest { draw: Some(self.sample.draw.clone()), n: self.sample.n };
        Ok(Request { scope, sample, generator: self.generator.clone() })
    }

    /// Returns the totals of a list.
    #[must_use]
    pub fn totals(&self, list: List) -> Option<&Totals> {
        self.lists.iter().find(|entry| entry.list == list).map(|entry| &entry.totals)
    }
}

/// Returns the text that is signed for a manifest with this hash.
pub(crate) fn signed_text(origin: &str, sha256: &str) -> String {
    format!("{FORMAT}\n{origin}\n{sha256}\n")
}
