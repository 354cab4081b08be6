//! The evidence package: a folder with everything that was recorded in a period, checked offline.
//!
//! A package holds the whole published log up to one signed checkpoint, and lists that anyone can derive
//! from it again: the records of the period that match the filters, as JSON lines and as CSV, with a sheet
//! per list, and when the recorder was up. [`build`] derives them into files; [`verify`] derives them again out of the package's own log,
//! after that was checked against the auditor's key, and compares byte for byte. So a list that lacks a
//! record, has one too many, or an edited cell is named with its row. The same period, filters, checkpoint
//! and program version give the same lists; cosignatures and timestamps that came since are added.
//!
//! Out of scope: private fields (a package opens none), archives, recording who built a package.

mod build;
mod derive;
mod error;
mod leaves;
mod limits;
mod list;
mod manifest;
mod output;
mod recorder;
mod sample;
mod sheet;
mod survey;
mod table;
mod text;
mod verify;

pub use build::{build, witnessed};
pub use derive::{Request, SampleRequest, survey};
pub use error::PackageError;
pub use list::{Filters, List, Scope};
pub use manifest::{FileEntry, ListEntry, Manifest, Point, SampleEntry, SampleItem};
pub use sample::{Sample, rank, script};
pub use survey::{Excluded, Totals};
pub use verify::{Check, Options, Status, Verdict, verify};
