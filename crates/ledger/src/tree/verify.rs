//! Proof verification without a tree (RFC 9162, sections 2.1.3.2 and 2.1.4.2).

use super::{LeafIndex, TreeError, TreeSize};
use crate::hash::{Hash, empty_root, node_hash};

/// Checks that the leaf with hash `leaf` is leaf `index` of the tree of `size` leaves with root `root`
/// (RFC 9162, section 2.1.3.2).
///
/// # Errors
/// [`TreeError`] if it is not proven.
pub fn verify_inclusion(
    leaf: &Hash,
    index: LeafIndex,
    size: TreeSize,
    proof: &[Hash],
    root: &Hash,
) -> Result<(), TreeError> {
    if !size.contains(index) {
        return Err(TreeError::IndexOutOfRange { index, size });
    }
    let wrong_length = TreeError::WrongProofLength { found: proof.len() };
    // Names of RFC 9162: `fn` is the node's position, `sn` that of the last node of its level.
    let (mut node, mut last, mut hash) = (index.0, size.0 - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return Err(wrong_length);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            let levels = trailing_zeros(node);
            (node, last) = (node >> levels, last >> levels);
        } else {
            hash = node_hash(&hash, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(wrong_length);
    }
    expect_root(&hash, root)
}

/// Checks that the tree `(new, new_root)` begins with the tree `(old, old_root)` (RFC 9162, section
/// 2.1.4.2); the empty tree is a beginning of every tree, by an empty proof.
///
/// # Errors
/// [`TreeError`] if it is not proven.
pub fn verify_consistency(
    old: TreeSize,
    old_root: &Hash,
    new: TreeSize,
    new_root: &Hash,
    proof: &[Hash],
) -> Result<(), TreeError> {
    if old > new {
        return Err(TreeError::SizesReversed { old, new });
    }
    let wrong_length = TreeError::WrongProofLength { found: proof.len() };
    if old.0 == 0 || old == new {
        if !proof.is_empty() {
            return Err(wrong_length);
        }
        let empty = empty_root();
        return expect_root(old_root, if old.0 == 0 { &empty } else { new_root })
            .and_then(|()| expect_root(new_root, if new.0 == 0 { &empty } else { new_root }));
    }
    let (first, rest) = if old.0.is_power_of_two() {
        (old_root, proof)
    } else {
        proof.split_first().ok_or(wrong_length)?
    };
    let skipped = (old.0 - 1).trailing_ones();
    let (mut node, mut last) = ((old.0 - 1) >> skipped, (new.0 - 1) >> skipped);
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return Err(wrong_length);
        }
        if node & 1 == 1 || node == last {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            let levels = trailing_zeros(node);
            (node, last) = (node >> levels, last >> levels);
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        (node, last) = (node >> 1, last >> 1);
    }
    if last != 0 {
        return Err(wrong_length);
    }
    expect_root(&old_hash, old_root)?;
    expect_root(&new_hash, new_root)
}

/// Returns the levels up to the next odd position; none at position 0, which has no odd ancestor.
fn trailing_zeros(node: u64) -> u32 {
    if node == 0 { 0 } else { node.trailing_zeros() }
}

fn expect_root(computed: &Hash, expected: &Hash) -> Result<(), TreeError> {
    if computed == expected {
        return Ok(());
    }
    Err(TreeError::RootMismatch { computed: *computed, expected: *expected })
}
