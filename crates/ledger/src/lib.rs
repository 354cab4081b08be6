//! The formats of the Countersign ledger, and the rules that check them.
//!
//! A ledger is a transparency log: an RFC 6962 Merkle tree whose leaves are the records, published as
//! C2SP tlog-tiles and committed to by signed checkpoints. This crate encodes, decodes, proves and
//! verifies; it has no I/O, no clock and no randomness, and depends on nothing else of the workspace,
//! so that an auditor can build and read it alone. Keys, salts, nonces and times are arguments.
//!
//! | module | format | source |
//! |---|---|---|
//! | [`hash`], [`tree`] | leaf and node hashes, proofs | RFC 6962 section 2.1, RFC 9162 section 2.1 |
//! | [`tile`] | tiles and entry bundles | C2SP tlog-tiles |
//! | [`note`], [`checkpoint`] | signed notes, checkpoints, cosignatures | C2SP signed-note, tlog-checkpoint, tlog-cosignature |
//! | [`proof`] | offline inclusion proofs | C2SP tlog-proof |
//! | [`jcs`] | canonical JSON | RFC 8785 |
//! | [`disclosure`] | salted disclosures | RFC 9901 |
//! | [`seal`] | sealed sections | XChaCha20-Poly1305 |
//! | [`leaf`], [`stream`] | the record's public part, hash chains | `spec/ledger.md` |
//! | [`rotation`] | replacement of the signing key | `spec/ledger.md` |
//! | [`witness`], [`policy`] | cosigning, trust policies | C2SP tlog-witness, tlog-policy |
//! | [`verify`] | offline check of a published log | all of the above |
//!
//! Out of scope: storing entries and assigning indexes (crate `store`), deciding what to record (crate
//! `decision`), fetching a log and printing a report (crate `cli`).

#![warn(missing_docs)]

pub mod checkpoint;
pub mod close;
pub mod disclosure;
pub mod hash;
pub mod jcs;
pub mod leaf;
pub mod limits;
pub mod note;
pub mod policy;
pub mod proof;
pub mod rotation;
pub mod seal;
pub mod stream;
pub mod tile;
pub mod tree;
pub mod verify;
pub mod witness;

#[cfg(test)]
mod testing;

pub use checkpoint::Checkpoint;
pub use disclosure::Disclosure;
pub use hash::{Hash, empty_root, leaf_hash, node_hash};
pub use leaf::Leaf;
pub use note::{Note, SigningKey, VerifierKey};
pub use policy::Policy;
pub use proof::TlogProof;
pub use tile::{TileKind, TilePath};
pub use tree::{Frontier, HashReader, LeafIndex, MemoryTree, TreeSize};
pub use witness::Witness;
