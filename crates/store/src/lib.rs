//! The store: the only SQL of Countersign.
//!
//! One task with one connection writes: it collects what arrived while the previous commit ran, gives each
//! record its place in the gateway's stream, and commits all of it with the claims that belong to it. A
//! [`Receipt`] says that an allow-decision is durable. Whatever fails, the caller is told that it must
//! refuse.
//!
//! With SQLite there is one gateway, and its writer orders the log too. With PostgreSQL several gateways
//! write streams of their own, and one of them, the leader, gives all records their places in the log.
//!
//! Private fields are sealed under keys that live in a [`Keystore`] apart from the database.
//!
//! Out of scope: the formats themselves (crate `ledger`), deciding, witnesses.

#![warn(missing_docs)]

mod anchor;
mod batch;
mod bundles;
mod clock;
mod close;
mod config;
mod db;
mod effect;
mod erase;
mod error;
mod files;
pub mod fsck;
mod head;
mod index;
mod intent;
mod keystore;
pub mod limits;
mod migrate;
#[cfg(test)]
mod plans;
mod prepare;
mod publish;
mod published;
mod reader;
mod recorder;
mod registry;
mod replay;
mod retention;
mod rotation;
mod rows;
mod sequencer;
mod settled;
mod signer;
mod start;
mod store;
mod stream;
mod subject;
mod writer;

pub use clock::{Clock, IdSource};
pub use config::{Database, StoreConfig};
pub use db::warnings::CommitWarnings;
pub use erase::{Erased, Hold, TICKET_BYTES_MAX};
pub use error::StoreError;
pub use index::{Page, Query};
pub use intent::{
    Appended, Committed, DenialFields, IdempotencyClaim, Intent, Outcome, Receipt, StoredResult,
};
pub use keystore::Keystore;
pub use migrate::{MigrateError, Migrated, Step, migrate, moved_to};
pub use published::PublishedLog;
pub use reader::{Reader, Record};
pub use registry::{Agents, AuthFailure, Authenticated, NewKey};
pub use retention::{
    OutOfBounds, PurgeJob, Purged, Retention, RetentionStatus, SECTIONS_DAYS, SECTIONS_DAYS_MAX,
    SECTIONS_DAYS_MIN, Setting,
};
pub use signer::{PendingRotation, SignerFolder, SignerStatus, serve_signer};
pub use store::Store;
