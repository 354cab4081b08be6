//! The store: the only SQL of Countersign.
//!
//! One SQLite database holds the ledger of one tenant. One task with one connection writes it: it
//! collects what arrived while the previous commit ran, gives each record its place in its stream and
//! in the Merkle tree, and commits all of it with the claims that belong to it. A [`Receipt`] says that
//! an allow-decision is durable. Whatever fails, the caller is told that it must refuse.
//!
//! Private fields are sealed under keys that live in a [`Keystore`] apart from the database.
//!
//! Out of scope: the formats themselves (crate `ledger`), deciding, PostgreSQL, witnesses.

#![warn(missing_docs)]

mod anchor;
mod batch;
mod bundles;
mod clock;
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
mod prepare;
mod publish;
mod published;
mod reader;
mod registry;
mod replay;
mod rows;
mod settled;
mod signer;
mod start;
mod store;
mod subject;
mod writer;

pub use clock::{Clock, IdSource};
pub use config::StoreConfig;
pub use erase::{Erased, Hold, TICKET_BYTES_MAX};
pub use error::StoreError;
pub use index::{Page, Query};
pub use intent::{
    Appended, Committed, DenialFields, IdempotencyClaim, Intent, Outcome, Receipt, StoredResult,
};
pub use keystore::Keystore;
pub use published::PublishedLog;
pub use reader::{Reader, Record};
pub use registry::{Agents, AuthFailure, Authenticated, NewKey};
pub use store::Store;
