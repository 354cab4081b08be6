use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::hash::{empty_root, leaf_hash, node_hash};
use crate::testing::{list, number, strings, unhex, vectors};

fn hashes(hex: &[String]) -> Vec<Hash> {
    hex.iter().map(|hash| Hash::from_slice(&unhex(hash)).unwrap()).collect()
}

/// RFC 6962, section 2.1, word for word: the slow definition.
fn root_by_definition(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let mut split = 1;
            while split * 2 < leaves.len() {
                split *= 2;
            }
            let (left, right) = leaves.split_at(split);
            node_hash(&root_by_definition(left), &root_by_definition(right))
        }
    }
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect()
}

fn reference_tree() -> (Value, MemoryTree, Vec<Hash>) {
    let vectors = vectors("tree.json");
    let entries = strings(&vectors, "leaves_hex");
    let tree = entries.iter().map(|entry| leaf_hash(&unhex(entry))).collect();
    let roots = hashes(&strings(&vectors, "roots_hex"));
    (vectors, tree, roots)
}

#[test]
fn reference_tree_has_its_roots() {
    let (_, tree, roots) = reference_tree();
    assert_eq!(roots.len(), 9);
    for (size, expected) in (0..).map(TreeSize).zip(&roots) {
        assert_eq!(tree.root_at(size).unwrap(), *expected, "size {size}");
    }
}

#[test]
fn reference_proofs_are_made_and_verified() {
    let (vectors, tree, roots) = reference_tree();
    let at = |size: TreeSize| &roots[usize::try_from(size.0).unwrap()];
    for case in list(&vectors, "inclusion") {
        let (index, size) = (LeafIndex(number(case, "index")), TreeSize(number(case, "size")));
        let proof = hashes(&strings(case, "proof_hex"));
        assert_eq!(tree.inclusion_proof(index, size).unwrap(), proof);
        let leaf = tree.node(0, index.0).unwrap();
        verify_inclusion(&leaf, index, size, &proof, at(size)).unwrap();
    }
    for case in list(&vectors, "consistency") {
        let (old, new) = (TreeSize(number(case, "old")), TreeSize(number(case, "new")));
        let proof = hashes(&strings(case, "proof_hex"));
        assert_eq!(tree.consistency_proof(old, new).unwrap(), proof);
        verify_consistency(old, at(old), new, at(new), &proof).unwrap();
    }
}

#[test]
fn empty_tree_is_the_beginning_of_every_tree_by_an_empty_proof_only() {
    let (root, empty) = (leaves(1)[0], empty_root());
    let (zero, one) = (TreeSize(0), TreeSize(1));
    verify_consistency(zero, &empty, one, &root, &[]).unwrap();
    verify_consistency(zero, &empty, zero, &empty, &[]).unwrap();
    assert!(verify_consistency(zero, &root, one, &root, &[]).is_err());
    assert!(verify_consistency(zero, &empty, one, &root, &[root]).is_err());
    assert!(verify_consistency(zero, &root, zero, &root, &[]).is_err());
    assert!(verify_consistency(one, &root, zero, &empty, &[]).is_err());
    assert!(verify_consistency(one, &root, one, &empty, &[]).is_err());
}

#[test]
fn leaves_beyond_the_tree_have_no_proof() {
    let tree: MemoryTree = leaves(3).into_iter().collect();
    let (index, size) = (LeafIndex(3), TreeSize(3));
    let out_of_range = TreeError::IndexOutOfRange { index, size };
    assert_eq!(tree.inclusion_proof(index, size), Err(out_of_range));
    assert_eq!(verify_inclusion(&leaves(1)[0], index, size, &[], &tree.root()), Err(out_of_range));
    let missing = tree.inclusion_proof(LeafIndex(0), TreeSize(5)).unwrap_err();
    assert!(matches!(missing, TreeError::MissingNode { .. }), "{missing}");
}

#[test]
fn every_size_has_one_root_whoever_computes_it() {
    let (mut frontier, mut tree) = (Frontier::new(), MemoryTree::new());
    let leaves = leaves(600);
    for (count, leaf) in leaves.iter().enumerate() {
        let expected = root_by_definition(&leaves[..count]);
        assert_eq!(frontier.root(), expected, "size {count}");
        assert_eq!(root(&tree, tree.size()), Ok(expected), "size {count}");
        assert_eq!(Frontier::from_bytes(&frontier.to_bytes()).unwrap(), frontier);
        frontier.push(*leaf);
        tree.push(*leaf);
    }
    assert_eq!(tree.size(), TreeSize::of(LeafIndex(599)));
}

#[test]
fn malformed_frontiers_are_refused() {
    let mut frontier = Frontier::new();
    leaves(7).into_iter().for_each(|leaf| frontier.push(leaf));
    let bytes = frontier.to_bytes();
    for cut in 0..bytes.len() {
        assert!(Frontier::from_bytes(&bytes[..cut]).is_err(), "{cut} bytes");
    }
    assert!(Frontier::from_bytes(&[bytes.as_slice(), &[0]].concat()).is_err());
    assert!(Frontier::from_bytes(&[bytes.as_slice(), &[0; 32]].concat()).is_err());
}

proptest! {
    #[test]
    fn every_leaf_proves(count in 1_u64..300, seed: u64) {
        let leaves = leaves(count);
        let tree: MemoryTree = leaves.iter().copied().collect();
        let (index, size) = (LeafIndex(seed % count), TreeSize(count));
        let leaf = leaves[usize::try_from(index.0).unwrap()];
        let mut proof = tree.inclusion_proof(index, size).unwrap();
        prop_assert_eq!(verify_inclusion(&leaf, index, size, &proof, &tree.root()), Ok(()));
        prop_assert!(verify_inclusion(&empty_root(), index, size, &proof, &tree.root()).is_err());
        prop_assert!(verify_inclusion(&leaf, index, size, &proof, &leaf_hash(b"")).is_err());
        if count > 1 {
            let other = LeafIndex((index.0 + 1) % count);
            prop_assert!(verify_inclusion(&leaf, other, size, &proof, &tree.root()).is_err());
        }
        proof.push(leaf);
        prop_assert!(verify_inclusion(&leaf, index, size, &proof, &tree.root()).is_err());
        proof.pop();
        if proof.pop().is_some() {
            prop_assert!(verify_inclusion(&leaf, index, size, &proof, &tree.root()).is_err());
        }
    }

    #[test]
    fn every_size_pair_is_consistent(new in 1_u64..300, seed: u64) {
        let leaves = leaves(new);
        let tree: MemoryTree = leaves.iter().copied().collect();
        let (old, new) = (TreeSize(seed % (new + 1)), TreeSize(new));
        let (old_root, new_root) = (tree.root_at(old).unwrap(), tree.root());
        let mut proof = tree.consistency_proof(old, new).unwrap();
        prop_assert_eq!(verify_consistency(old, &old_root, new, &new_root, &proof), Ok(()));
        let wrong = leaf_hash(b"wrong");
        prop_assert!(verify_consistency(old, &wrong, new, &new_root, &proof).is_err());
        if old.0 > 0 {
            prop_assert!(verify_consistency(old, &old_root, new, &wrong, &proof).is_err());
        }
        proof.push(wrong);
        prop_assert!(verify_consistency(old, &old_root, new, &new_root, &proof).is_err());
        proof.pop();
        if proof.pop().is_some() {
            prop_assert!(verify_consistency(old, &old_root, new, &new_root, &proof).is_err());
        }
    }

    #[test]
    fn verification_of_anything_ends(
        index: u64, size: u64, old: u64,
        proof in proptest::collection::vec(any::<[u8; 32]>().prop_map(Hash), 0..70),
    ) {
        let root = empty_root();
        let (index, size, old) = (LeafIndex(index), TreeSize(size), TreeSize(old));
        prop_assert!(verify_inclusion(&root, index, size, &proof, &root).is_err());
        let _ = verify_consistency(old, &root, size, &root, &proof);
    }

    #[test]
    fn tlog_tiles_makes_and_takes_the_same_proofs(count in 1_u64..400, a: u64, b: u64) {
        let leaves = leaves(count);
        let tree: MemoryTree = leaves.iter().copied().collect();
        let theirs = Oracle::of(&leaves);
        let (index, old) = (a % count, b % count + 1);
        let foreign = |hashes: Vec<Hash>| -> Vec<tlog_tiles::Hash> {
            hashes.into_iter().map(|hash| tlog_tiles::Hash(hash.0)).collect()
        };
        let root = tlog_tiles::Hash(tree.root().0);
        prop_assert_eq!(tlog_tiles::tree_hash(count, &theirs).unwrap().0, tree.root().0);

        let proof = foreign(tree.inclusion_proof(LeafIndex(index), TreeSize(count)).unwrap());
        let leaf = tlog_tiles::Hash(leaves[usize::try_from(index).unwrap()].0);
        prop_assert!(tlog_tiles::check_record(&proof, count, root, index, leaf).is_ok());
        let made = tlog_tiles::prove_record(count, index, &theirs).unwrap();
        prop_assert!(made.iter().map(|h| h.0).eq(proof.iter().map(|h| h.0)));

        let old_root = tlog_tiles::Hash(tree.root_at(TreeSize(old)).unwrap().0);
        let proof = foreign(tree.consistency_proof(TreeSize(old), TreeSize(count)).unwrap());
        prop_assert!(tlog_tiles::check_tree(&proof, count, root, old, old_root).is_ok());
        let made = tlog_tiles::prove_tree(count, old, &theirs).unwrap();
        prop_assert!(made.iter().map(|h| h.0).eq(proof.iter().map(|h| h.0)));
    }
}

/// The tree as `tlog_tiles` stores it.
struct Oracle(Vec<tlog_tiles::Hash>);

impl Oracle {
    fn of(leaves: &[Hash]) -> Self {
        let mut oracle = Self(Vec::new());
        for (n, leaf) in (0..).zip(leaves) {
            let leaf = tlog_tiles::Hash(leaf.0);
            let stored = tlog_tiles::stored_hashes_for_record_hash(n, leaf, &oracle).unwrap();
            oracle.0.extend(stored);
        }
        oracle
    }
}

impl tlog_tiles::HashReader for Oracle {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        Ok(indexes.iter().map(|index| self.0[usize::try_from(*index).unwrap()]).collect())
    }
}
