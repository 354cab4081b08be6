//! The Merkle tree: roots, inclusion and consistency proofs (RFC 6962 section 2.1, RFC 9162 section 2.1).

mod frontier;
mod memory;
mod prove;
mod verify;

use std::fmt;

use serde::Serialize;

pub use frontier::Frontier;
pub use memory::MemoryTree;
pub use prove::{consistency_proof, inclusion_proof, root};
pub use verify::{verify_consistency, verify_inclusion};

use crate::hash::Hash;

/// The position of a leaf, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct LeafIndex(pub u64);

/// A number of leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct TreeSize(pub u64);

impl TreeSize {
    /// Returns the size of the tree whose last leaf is `last`.
    #[must_use]
    pub fn of(last: LeafIndex) -> Self {
        Self(last.0.saturating_add(1))
    }

    /// Returns whether the tree has a leaf at `index`.
    #[must_use]
    pub fn contains(self, index: LeafIndex) -> bool {
        index.0 < self.0
    }
}

impl fmt::Display for LeafIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TreeSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Reads hashes of complete subtrees.
pub trait HashReader {
    /// Returns the hash of the complete subtree of 2^`level` leaves that starts at leaf
    /// `index` · 2^`level`; `None` if it is not known.
    fn node(&self, level: u8, index: u64) -> Option<Hash>;
}

impl<R: HashReader + ?Sized> HashReader for &R {
    fn node(&self, level: u8, index: u64) -> Option<Hash> {
        (**self).node(level, index)
    }
}

/// Why a root or a proof cannot be computed, or does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The tree has no such leaf.
    #[error("leaf {index} is not in a tree of size {size}")]
    IndexOutOfRange {
        /// The leaf asked for.
        index: LeafIndex,
        /// The size of the tree.
        size: TreeSize,
    },
    /// The older tree is larger than the newer one.
    #[error("old size {old} is larger than new size {new}")]
    SizesReversed {
        /// The older size.
        old: TreeSize,
        /// The newer size.
        new: TreeSize,
    },
    /// The reader does not have a subtree that the computation needs.
    #[error("the hash of subtree {index} at level {level} is missing")]
    MissingNode {
        /// The subtree has 2^level leaves.
        level: u8,
        /// Its position among the subtrees of its level.
        index: u64,
    },
    /// The proof does not have the number of hashes that the sizes ask for.
    #[error("the proof has {found} hashes, which does not fit the tree sizes")]
    WrongProofLength {
        /// Hashes in the proof.
        found: usize,
    },
    /// The proof leads to another root.
    #[error("the proof leads to root `{computed}`, expected `{expected}`")]
    RootMismatch {
        /// The root that the proof gives.
        computed: Hash,
        /// The root that was to be proven.
        expected: Hash,
    },
    /// The encoded frontier is malformed.
    #[error("the encoded frontier has {found} bytes, expected {expected}")]
    MalformedFrontier {
        /// Bytes found.
        found: usize,
        /// Bytes that its size asks for; 8 if not even the size is there.
        expected: usize,
    },
}

#[cfg(test)]
mod tests;
