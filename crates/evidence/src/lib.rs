//! Answers about what was recorded, each with its proof: what happened, why, and whether it holds.
//!
//! | module | answers |
//! |---|---|
//! | [`query`] | which records match |
//! | [`case`] | one record with all that belongs to it |
//! | [`sentence`], [`why`] | what a record says, in a sentence or a paragraph |
//! | [`proof`] | one record as a file that is checked offline |
//! | [`coverage`] | when the recorder was up |
//! | [`replay`] | whether a past decision is made again by the same, or another, bundle |
//! | [`package`] | all records of a period, as a folder that is checked offline |
//! | [`timestamp`] | when a checkpoint existed, by an authority of somebody else |
//! | [`witnessed`] | whether witnesses cosigned a checkpoint, by the checker's own policy |
//! | [`folder`] | a published log, for the check of crate `ledger` |
//! | [`csv`] | rows that no spreadsheet executes |
//!
//! Everything is read from a [`countersign_store::Reader`] or the published log; only packages are written.
//!
//! Out of scope: the formats and their verification (crate `ledger`), printing (crate `cli`).

#![warn(missing_docs)]

pub mod case;
pub mod coverage;
pub mod csv;
mod error;
pub mod folder;
pub mod package;
pub mod proof;
pub mod query;
mod record;
pub mod replay;
pub mod sentence;
mod text;
pub mod time;
pub mod timestamp;
pub mod why;
pub mod witnessed;

pub use error::EvidenceError;
pub use record::{Opened, Record};
pub use text::{cut, shown};
