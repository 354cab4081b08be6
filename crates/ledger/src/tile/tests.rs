use std::collections::BTreeMap;
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::hash::leaf_hash;
use crate::limits::{BUNDLE_ENTRY_BYTES_MAX, ENTRY_BYTES_MAX};
use crate::testing::{list, number, strings, text, unhex, vectors};
use crate::tree::{LeafIndex, MemoryTree, consistency_proof, inclusion_proof, root};

#[test]
fn paths_are_read_and_written() {
    for case in list(&vectors("tiles.json"), "valid") {
        let path = TilePath::parse(text(case, "path")).unwrap();
        assert_eq!(path.to_string(), text(case, "path"));
        assert_eq!(path.index().to_string(), text(case, "index"));
        assert_eq!(u64::from(path.width()), number(case, "width"));
        assert_eq!(path.level().map(u64::from), case["level"].as_u64());
        assert_eq!(path.kind() == TileKind::Entries, text(case, "kind") == "entries");
    }
}

#[test]
fn malformed_paths_are_refused() {
    for path in strings(&vectors("tiles.json"), "invalid") {
        assert!(TilePath::parse(&path).is_err(), "{path}");
    }
    assert!(TilePath::hashes(64, 0, 1).is_none());
    assert!(TilePath::entries(0, 0).is_none());
    assert!(TilePath::entries(0, 257).is_none());
}

#[test]
fn growth_creates_full_and_partial_tiles_of_all_levels() {
    for case in list(&vectors("tiles.json"), "growth") {
        let (old, new) = (TreeSize(number(case, "old")), TreeSize(number(case, "new")));
        check_growth(&tiles_for_growth(old, new), &strings(case, "hashes"));
        check_growth(&bundles_for_growth(old, new), &strings(case, "entries"));
    }
}

/// Compares with a list in which `…` stands for any number of tiles.
fn check_growth(tiles: &[TilePath], expected: &[String]) {
    let tiles: Vec<String> = tiles.iter().map(TilePath::to_string).collect();
    match expected.iter().position(|path| path == "…") {
        None => assert_eq!(tiles, expected),
        Some(cut) => {
            let (head, tail) = (&expected[..cut], &expected[cut + 1..]);
            assert_eq!(&tiles[..cut], head);
            assert_eq!(&tiles[tiles.len() - tail.len()..], tail);
        }
    }
}

#[test]
fn tile_paths_of_a_log_of_70_000_entries() {
    let tiles = tiles_for_growth(TreeSize(69_999), TreeSize(70_000));
    let paths: Vec<String> = tiles.iter().map(TilePath::to_string).collect();
    insta::assert_snapshot!(paths.join("\n"), @"tile/0/273.p/112");
    let all = tiles_for_growth(TreeSize(0), TreeSize(70_000));
    let partial: Vec<_> = all.iter().filter(|t| !t.is_full()).map(TilePath::to_string).collect();
    insta::assert_snapshot!(partial.join("\n"), @r"
    tile/0/273.p/112
    tile/1/001.p/17
    tile/2/000.p/1
    ");
    assert_eq!(all.len(), 273 + 1 + 1 + 1 + 1);
}

#[test]
fn bundles_are_read_and_written() {
    let vectors = vectors("tiles.json");
    let case = &vectors["bundle"];
    let entries: Vec<Vec<u8>> = strings(case, "entries_hex").iter().map(|e| unhex(e)).collect();
    let bundle = unhex(text(case, "bundle_hex"));
    assert_eq!(encode_bundle(&entries).unwrap(), bundle);
    assert_eq!(decode_bundle(&bundle).unwrap(), entries);
    for bundle in strings(&vectors, "truncated_bundles_hex") {
        let refused = decode_bundle(&unhex(&bundle)).unwrap_err();
        assert!(matches!(refused, TileError::TruncatedBundle { .. }), "{bundle}");
    }
}

#[test]
fn bundles_keep_their_limits() {
    assert!(encode_bundle([vec![0; ENTRY_BYTES_MAX]]).is_ok());
    let too_large = encode_bundle([vec![0; ENTRY_BYTES_MAX + 1]]).unwrap_err();
    assert!(matches!(too_large, TileError::EntryTooLarge { .. }));
    assert_eq!(encode_bundle([b""; 257]).unwrap_err(), TileError::TooManyEntries);
    assert_eq!(decode_bundle(&[0; 514]).unwrap_err(), TileError::TooManyEntries);
    let largest = [[0xff, 0xff].as_slice(), &vec![1; BUNDLE_ENTRY_BYTES_MAX]].concat();
    assert_eq!(decode_bundle(&largest).unwrap()[0].len(), BUNDLE_ENTRY_BYTES_MAX);
}

/// The tiles of a log that was published at every one of `sizes`.
struct Published(BTreeMap<TilePath, Vec<u8>>);

impl Published {
    fn of(tree: &MemoryTree, sizes: &[u64]) -> Self {
        let mut tiles = BTreeMap::new();
        let mut old = TreeSize(0);
        for new in sizes.iter().copied().map(TreeSize) {
            for path in tiles_for_growth(old, new) {
                tiles.insert(path, tile_bytes(tree, &path).unwrap());
            }
            old = new;
        }
        Self(tiles)
    }
}

impl TileReader for Published {
    type Error = Infallible;

    fn tile(&self, path: &TilePath) -> Result<Option<Vec<u8>>, Infallible> {
        Ok(self.0.get(path).cloned())
    }
}

fn tree_of(count: u64) -> MemoryTree {
    (0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect()
}

#[test]
fn proofs_come_out_of_tiles() {
    let tree = tree_of(70_000);
    let sizes = [1, 255, 256, 257, 300, 65_535, 65_536, 65_537, 66_000, 70_000];
    let published = Published::of(&tree, &sizes);
    for size in sizes.map(TreeSize) {
        let tiles = TileHashReader::new(Published(published.0.clone()), size);
        assert_eq!(root(&tiles, size), tree.root_at(size), "size {size}");
        for index in [0, size.0 / 3, size.0 / 2, size.0 - 1].map(LeafIndex) {
            let proof = inclusion_proof(&tiles, index, size);
            assert_eq!(proof, tree.inclusion_proof(index, size), "{index} of {size}");
        }
        for old in [0, 1, size.0 / 2, size.0].map(TreeSize) {
            assert_eq!(consistency_proof(&tiles, old, size), tree.consistency_proof(old, size));
        }
    }
}

#[test]
fn missing_or_short_tiles_give_no_proof() {
    let tree = tree_of(300);
    let size = TreeSize(300);
    for damage in [None, Some(vec![0; 31])] {
        let mut published = Published::of(&tree, &[300]);
        let path = TilePath::hashes(0, 1, 44).unwrap();
        match damage {
            None => published.0.remove(&path),
            Some(bytes) => published.0.insert(path, bytes),
        };
        let tiles = TileHashReader::new(published, size);
        assert!(root(&tiles, size).is_err());
    }
}

proptest! {
    #[test]
    fn tlog_tiles_names_the_same_tiles(old in 0_u64..200_000, more in 0_u64..2_000) {
        let new = old + more;
        let ours: Vec<String> = tiles_for_growth(TreeSize(old), TreeSize(new))
            .iter().map(TilePath::to_string).collect();
        let theirs: Vec<String> = tlog_tiles::Tile::new_tiles(8, old, new)
            .iter().map(|tile| tile.path().replacen("tile/8/", "tile/", 1)).collect();
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn every_path_comes_back(level in 0_u8..=63, index: u64, width in 1_u16..=256) {
        for path in [TilePath::hashes(level, index, width), TilePath::entries(index, width)] {
            let path = path.unwrap();
            prop_assert_eq!(path.to_string().parse::<TilePath>(), Ok(path));
        }
    }

    #[test]
    fn no_text_is_read_as_another_path(text in "tile/(entries|[0-9]{1,2})(/x?[0-9]{3}){1,3}(\\.p/[0-9]{1,3})?") {
        if let Ok(path) = TilePath::parse(&text) {
            prop_assert_eq!(path.to_string(), text);
        }
    }

    #[test]
    fn any_bytes_are_a_bundle_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(entries) = decode_bundle(&bytes) {
            prop_assert_eq!(encode_bundle(entries).unwrap(), bytes);
        }
    }
}
