//! A whole tree in memory, for tests and small logs.

use super::{
    Frontier, HashReader, LeafIndex, TreeError, TreeSize, consistency_proof, inclusion_proof, root,
};
use crate::hash::{Hash, node_hash};

/// A tree that keeps the hash of every complete subtree: two hashes per leaf.
#[derive(Clone, Debug, Default)]
pub struct MemoryTree {
    /// `levels[l][i]` is the hash of the complete subtree `i` of 2^l leaves.
    levels: Vec<Vec<Hash>>,
    frontier: Frontier,
}

impl MemoryTree {
    /// Returns the empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the leaf with hash `leaf`.
    pub fn push(&mut self, leaf: Hash) {
        self.frontier.push(leaf);
        let mut hash = leaf;
        let mut level = 0;
        loop {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let Some(nodes) = self.levels.get_mut(level) else { return };
            nodes.push(hash);
            let ([.., [left, right]], []) = nodes.as_chunks::<2>() else { return };
            hash = node_hash(left, right);
            level += 1;
        }
    }

    /// Returns the number of leaves.
    #[must_use]
    pub fn size(&self) -> TreeSize {
        self.frontier.size()
    }

    /// Returns the root of the whole tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// Returns the root of the first `size` leaves.
    ///
    /// # Errors
    /// [`TreeError::MissingNode`] if the tree is smaller than `size`.
    pub fn root_at(&self, size: TreeSize) -> Result<Hash, TreeError> {
        root(self, size)
    }

    /// Proves that leaf `index` is in the first `size` leaves.
    ///
    /// # Errors
    /// [`TreeError`] if the leaf is not below `size`, or `size` is above the tree's own.
    pub fn inclusion_proof(
        &self,
        index: LeafIndex,
        size: TreeSize,
    ) -> Result<Vec<Hash>, TreeError> {
        inclusion_proof(self, index, size)
    }

    /// Proves that the first `new` leaves begin with the first `old`.
    ///
    /// # Errors
    /// [`TreeError`] if `old` is above `new`, or `new` above the tree's own size.
    pub fn consistency_proof(&self, old: TreeSize, new: TreeSize) -> Result<Vec<Hash>, TreeError> {
        consistency_proof(self, old, new)
    }
}

impl HashReader for MemoryTree {
    fn node(&self, level: u8, index: u64) -> Option<Hash> {
        self.levels.get(usize::from(level))?.get(usize::try_from(index).ok()?).copied()
    }
}

impl FromIterator<Hash> for MemoryTree {
    fn from_iter<I: IntoIterator<Item = Hash>>(leaves: I) -> Self {
        let mut tree = Self::new();
        leaves.into_iter().for_each(|leaf| tree.push(leaf));
        tree
    }
}
