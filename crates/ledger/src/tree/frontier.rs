//! The right edge of a growing tree.

use super::{TreeError, TreeSize};
use crate::hash::{Hash, empty_root, node_hash};

/// The right edge of a tree: the roots of its complete subtrees, one per bit set in its size.
///
/// It is all that appending needs: at most 64 hashes however large the tree is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// INVARIANT: one hash per bit set in `size`, largest subtree first.
    edge: Vec<Hash>,
}

impl Frontier {
    /// Returns the frontier of the empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the leaf with hash `leaf`.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.edge.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.edge.push(hash);
        self.size += 1;
    }

    /// Returns the number of leaves.
    #[must_use]
    pub fn size(&self) -> TreeSize {
        TreeSize(self.size)
    }

    /// Returns the root of the tree (RFC 6962, section 2.1).
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut edge = self.edge.iter().rev().copied();
        let Some(smallest) = edge.next() else { return empty_root() };
        edge.fold(smallest, |right, left| node_hash(&left, &right))
    }

    /// Returns `u64be size ‖ hashes`, largest subtree first.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.size.to_be_bytes().to_vec();
        self.edge.iter().for_each(|hash| bytes.extend_from_slice(&hash.0));
        bytes
    }

    /// Reads what [`Frontier::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`TreeError::MalformedFrontier`] if the length does not fit the size.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TreeError> {
        let malformed = |expected| TreeError::MalformedFrontier { found: bytes.len(), expected };
        let (size, rest) = bytes.split_first_chunk::<8>().ok_or(malformed(8))?;
        let size = u64::from_be_bytes(*size);
        let edge: Vec<Hash> = rest.chunks_exact(32).filter_map(Hash::from_slice).collect();
        let hashes: usize = (0..u64::BITS).filter(|bit| size >> bit & 1 == 1).count();
        if edge.len() != hashes || rest.len() != hashes * 32 {
            return Err(malformed(8 + hashes * 32));
        }
        Ok(Self { size, edge })
    }
}
