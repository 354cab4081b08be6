//! Roots and proofs from the hashes of complete subtrees.

use super::{HashReader, LeafIndex, TreeError, TreeSize};
use crate::hash::{Hash, empty_root, node_hash};

/// Returns the root of the first `size` leaves (RFC 6962, section 2.1).
///
/// # Errors
/// [`TreeError::MissingNode`] if `reader` lacks a subtree.
pub fn root<R: HashReader>(reader: &R, size: TreeSize) -> Result<Hash, TreeError> {
    if size.0 == 0 { Ok(empty_root()) } else { range_hash(reader, 0, size.0) }
}

/// Returns the inclusion proof of leaf `index` in the tree of `size` leaves, from the leaf's sibling
/// upward (RFC 6962, section 2.1.1).
///
/// # Errors
/// [`TreeError::IndexOutOfRange`] if the tree has no such leaf; [`TreeError::MissingNode`] if `reader`
/// lacks a subtree.
pub fn inclusion_proof<R: HashReader>(
    reader: &R,
    index: LeafIndex,
    size: TreeSize,
) -> Result<Vec<Hash>, TreeError> {
    if !size.contains(index) {
        return Err(TreeError::IndexOutOfRange { index, size });
    }
    let (mut lo, mut hi, mut proof) = (0, size.0, Vec::new());
    while hi - lo > 1 {
        let mid = lo + split(hi - lo);
        if index.0 < mid {
            proof.push(range_hash(reader, mid, hi)?);
            hi = mid;
        } else {
            proof.push(range_hash(reader, lo, mid)?);
            lo = mid;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// Returns the proof that the tree of `new` leaves begins with the tree of `old` leaves (RFC 6962,
/// section 2.1.2); it is empty if `old` is 0 or equals `new`.
///
/// # Errors
/// [`TreeError::SizesReversed`] if `old` is above `new`; [`TreeError::MissingNode`] if `reader` lacks a
/// subtree.
pub fn consistency_proof<R: HashReader>(
    reader: &R,
    old: TreeSize,
    new: TreeSize,
) -> Result<Vec<Hash>, TreeError> {
    if old > new {
        return Err(TreeError::SizesReversed { old, new });
    }
    if old.0 == 0 {
        return Ok(Vec::new());
    }
    let (mut lo, mut hi, mut proof) = (0, new.0, Vec::new());
    // INVARIANT: lo < old ≤ hi. The loop ends where the old tree has a whole subtree [lo, hi).
    while old.0 != hi {
        let mid = lo + split(hi - lo);
        if old.0 <= mid {
            proof.push(range_hash(reader, mid, hi)?);
            hi = mid;
        } else {
            proof.push(range_hash(reader, lo, mid)?);
            lo = mid;
        }
    }
    // The verifier knows the old root, so that subtree is left out where it is the whole old tree.
    if lo > 0 {
        proof.push(range_hash(reader, lo, hi)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Returns the largest power of two smaller than `width`, which is at least 2.
fn split(width: u64) -> u64 {
    1 << (width - 1).ilog2()
}

/// Returns the hash of leaves `lo..hi`, a range that RFC 6962's recursion reaches.
fn range_hash<R: HashReader>(reader: &R, lo: u64, hi: u64) -> Result<Hash, TreeError> {
    let width = hi - lo;
    if width.is_power_of_two() {
        let level = u8::try_from(width.ilog2()).unwrap_or(u8::MAX);
        let index = lo / width;
        return reader.node(level, index).ok_or(TreeError::MissingNode { level, index });
    }
    let mid = lo + split(width);
    Ok(node_hash(&range_hash(reader, lo, mid)?, &range_hash(reader, mid, hi)?))
}
