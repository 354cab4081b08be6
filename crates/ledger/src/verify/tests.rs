use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::hash::leaf_hash;
use crate::jcs::canonicalize;
use crate::leaf::prev_hash;
use crate::note::SigningKey;
use crate::rotation::Rotation;
use crate::testing::{text, vectors};
use crate::tile::{bundles_for_growth, encode_bundle, tile_bytes, tiles_for_growth};
use crate::tree::MemoryTree;

/// A published log in memory.
#[derive(Clone, Debug, Default)]
struct Files(BTreeMap<String, Vec<u8>>);

impl LogSource for Files {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, SourceError> {
        Ok(self.0.get(path).cloned())
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, SourceError> {
        Ok(self.0.keys().filter(|path| path.starts_with(prefix)).cloned().collect())
    }
}

fn log_key() -> SigningKey {
    SigningKey::from_seed("ledger.example/acme", &[4; 32]).unwrap()
}

fn options() -> VerifyOptions {
    VerifyOptions { keys: vec![log_key().verifier_key()], ..VerifyOptions::default() }
}

fn check(files: &Files) -> Result<Report, Problem> {
    verify_log(files, &options(), &mut |_| {})
}

/// Leaves of one stream: pairs of an allowed decision and its outcome.
fn leaves(count: u64) -> Vec<Vec<u8>> {
    let mut leaves: Vec<Vec<u8>> = Vec::new();
    for i in 0..count {
        let mut leaf = json!({
            "v": 1, "record_id": format!("r{i}"), "tenant": "acme",
            "gw": {"replica": "g1", "epoch": 1, "seq": i + 1,
                   "prev": prev_hash(leaves.last().map(Vec::as_slice))},
            "time": {"ms": 1_763_700_000_000 + i, "n": 0},
        });
        if i % 2 == 0 {
            leaf["kind"] = json!("decision");
            leaf["decision"] = json!("allow");
        } else {
            leaf["kind"] = json!("outcome");
            leaf["parent"] = json!(format!("r{}", i - 1));
        }
        leaves.push(canonicalize(&leaf).unwrap());
    }
    leaves
}

fn checkpoint_of(tree: &MemoryTree, size: TreeSize) -> Checkpoint {
    let root = tree.root_at(size).unwrap();
    Checkpoint { origin: log_key().name().to_owned(), size, root }
}

fn tree_of(leaves: &[Vec<u8>]) -> MemoryTree {
    leaves.iter().map(|leaf| leaf_hash(leaf)).collect()
}

/// Publishes `leaves` as the log did when it had each of `sizes`, signing at each.
fn publish(leaves: &[Vec<u8>], sizes: &[u64]) -> Files {
    let (tree, mut files, mut old) = (tree_of(leaves), Files::default(), TreeSize(0));
    for new in sizes.iter().copied().map(TreeSize) {
        for path in tiles_for_growth(old, new) {
            files.0.insert(path.to_string(), tile_bytes(&tree, &path).unwrap());
        }
        for path in bundles_for_growth(old, new) {
            let first = usize::try_from(path.index()).unwrap() * 256;
            let entries = &leaves[first..first + usize::from(path.width())];
            files.0.insert(path.to_string(), encode_bundle(entries).unwrap());
        }
        let note = checkpoint_of(&tree, new).sign(&log_key()).unwrap().to_bytes();
        files.0.insert(format!("{CHECKPOINTS_PREFIX}{new}"), note.clone());
        files.0.insert(CHECKPOINT_PATH.to_owned(), note);
        old = new;
    }
    files
}

/// The place that a flipped byte must be reported at.
fn place_of(path: &str, bytes: &[u8], place: usize) -> Option<u64> {
    let tile = crate::tile::TilePath::parse(path).ok()?;
    let within = if tile.level().is_some() {
        place / 32
    } else {
        let (mut entry, mut end) = (0, 0);
        loop {
            end += 2 + usize::from(u16::from_be_bytes([bytes[end], bytes[end + 1]]));
            if place < end {
                break entry;
            }
            entry += 1;
        }
    };
    Some(tile.index() * 256 + u64::try_from(within).unwrap())
}

fn check_flip(files: &Files, path: &str, place: usize, mask: u8) {
    let mut altered = files.clone();
    altered.0.get_mut(path).unwrap()[place] ^= mask;
    let problem = check(&altered).unwrap_err();
    let expected = place_of(path, &files.0[path], place);
    assert_eq!((problem.object.as_str(), problem.index), (path, expected), "{place}: {problem}");
}

#[test]
fn a_good_log_is_counted() {
    let mut seen = Vec::new();
    let files = publish(&leaves(601), &[1, 200, 256, 300, 600, 601]);
    let report = verify_log(&files, &options(), &mut |at| seen.push(at.checked.0)).unwrap();
    assert_eq!(seen, [256, 512, 601]);
    assert_eq!((report.size, report.checkpoints), (TreeSize(601), 6));
    let counts: Vec<_> = report.population.iter().map(|p| (p.kind.as_str(), p.count)).collect();
    assert_eq!(counts, [("decision", 301), ("outcome", 300)]);
    assert_eq!(report.decisions_without_outcome, [LeafIndex(600)]);
    assert_eq!(report.last_ms, Some(1_763_700_000_600));
    assert_eq!(report.unsigned, [""; 0]);
}

#[test]
fn the_published_log_has_its_report() {
    let vectors = vectors("log.json");
    let files = vectors["files_base64"].as_object().unwrap().iter();
    let files = files.map(|(path, file)| (path.clone(), STANDARD.decode(file.as_str().unwrap())));
    let files = Files(files.map(|(path, file)| (path, file.unwrap())).collect());
    let keys = vec![VerifierKey::parse(text(&vectors, "vkey")).unwrap()];
    let options = VerifyOptions { keys, ..VerifyOptions::default() };
    let report = verify_log(&files, &options, &mut |_| {}).unwrap();
    let mut report = serde_json::to_value(report).unwrap();
    // The vector has what every verifier counts; daily closes and keys are told by this one.
    assert_eq!(report.as_object_mut().unwrap().remove("closes"), Some(0.into()));
    let vkey = &vectors["vkey"];
    let keys = report.as_object_mut().unwrap().remove("keys");
    assert_eq!(keys, Some(json!([{"vkey": vkey, "trust": "given"}])));
    assert_eq!(report, vectors["report"]);
}

#[test]
fn an_empty_log_is_good() {
    let report = check(&publish(&[], &[0])).unwrap();
    assert_eq!((report.size.0, report.checkpoints, report.first_ms), (0, 1, None));
}

#[test]
fn every_flipped_byte_is_found_in_its_place() {
    let mut files = publish(&leaves(4), &[2, 4]);
    // The same bytes as `checkpoint`: one signature less to check per flip.
    files.0.remove("checkpoints/4");
    assert!(check(&files).is_ok());
    for (path, bytes) in &files.0 {
        for place in 0..bytes.len() {
            check_flip(&files, path, place, 0x01);
        }
    }
}

#[test]
fn flipped_bytes_of_a_larger_log_are_found_in_their_place() {
    let files = publish(&leaves(520), &[100, 257, 520]);
    assert!(check(&files).is_ok());
    for (path, bytes) in &files.0 {
        let step = (bytes.len() / 3).max(1);
        for place in (0..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
            check_flip(&files, path, place, 0x80);
        }
    }
}

#[test]
fn missing_files_are_named() {
    let files = publish(&leaves(520), &[100, 520]);
    let needed = [
        "checkpoint",
        "tile/0/000",
        "tile/0/002.p/8",
        "tile/1/000.p/2",
        "tile/entries/001",
        "tile/entries/002.p/8",
    ];
    for path in needed {
        let mut altered = files.clone();
        altered.0.remove(path).unwrap();
        assert_eq!(check(&altered).unwrap_err(), Problem::file(path, "the file is missing"));
    }
}

#[test]
fn cut_and_lengthened_files_are_named() {
    let cut: fn(&mut Vec<u8>) = |file| file.truncate(file.len() - 1);
    let lengthen: fn(&mut Vec<u8>) = |file| file.push(0);
    let files = publish(&leaves(300), &[300]);
    for path in files.0.keys() {
        for change in [cut, lengthen] {
            let mut altered = files.clone();
            change(altered.0.get_mut(path).unwrap());
            assert_eq!(check(&altered).unwrap_err().object, *path);
        }
    }
}

#[test]
fn files_that_do_not_belong_are_named() {
    for path in
        ["tile/0/0", "tile/entries/000.p/0", "checkpoints/x", "checkpoints/01", "cosigned/x"]
    {
        let mut files = publish(&leaves(3), &[3]);
        files.0.insert(path.to_owned(), Vec::new());
        assert_eq!(check(&files).unwrap_err().object, path);
    }
}

/// An insider changes an entry and everything that follows from it, but has no key.
#[test]
fn a_rewritten_log_does_not_have_the_signed_root() {
    let mut changed = leaves(300);
    let last = changed.len() - 1;
    let edited = String::from_utf8(changed[last].clone()).unwrap().replace("r298", "r296");
    changed[last] = edited.into_bytes();
    let honest = publish(&leaves(300), &[300]);
    let mut files = publish(&changed, &[300]);
    for path in ["checkpoint", "checkpoints/300"] {
        files.0.insert(path.to_owned(), honest.0[path].clone());
    }
    assert_eq!(check(&files).unwrap_err().object, "checkpoints/300");
    files.0.remove("checkpoints/300");
    assert_eq!(check(&files).unwrap_err().object, "checkpoint");
}

/// An entry and its tile are changed together; the tile above still knows better.
#[test]
fn an_entry_changed_with_its_tile_is_found_by_the_tile_above() {
    let mut entries: Vec<Vec<u8>> = (0..600_u16).map(|i| i.to_be_bytes().to_vec()).collect();
    let mut files = publish(&entries, &[600]);
    entries[300] = b"other".to_vec();
    let altered = publish(&entries, &[600]);
    for path in ["tile/0/001", "tile/entries/001"] {
        files.0.insert(path.to_owned(), altered.0[path].clone());
    }
    let opaque = VerifyOptions { entries: EntryFormat::Opaque, ..options() };
    let problem = verify_log(&files, &opaque, &mut |_| {}).unwrap_err();
    // The tile above has one hash for the 256 entries from here on.
    assert_eq!((problem.object.as_str(), problem.index), ("tile/entries/001", Some(256)));
}

/// Whoever has the key too can sign a rewritten log, but not unsign what others keep.
#[test]
fn a_log_forked_with_the_stolen_key_contradicts_a_pinned_checkpoint() {
    let honest = leaves(20);
    let mut changed = honest.clone();
    let edited = String::from_utf8(changed[19].clone()).unwrap().replace("r18", "r16");
    changed[19] = edited.into_bytes();
    let files = publish(&changed, &[20]);
    assert!(check(&files).is_ok());
    let pinned = Some(checkpoint_of(&tree_of(&honest), TreeSize(20)));
    let problem = verify_log(&files, &VerifyOptions { pinned, ..options() }, &mut |_| {});
    assert_eq!(problem.unwrap_err().object, "checkpoint");
    let note = checkpoint_of(&tree_of(&honest), TreeSize(20)).sign(&log_key()).unwrap();
    for path in ["checkpoints/20", "cosigned/20"] {
        let mut stored = files.clone();
        stored.0.insert(path.to_owned(), note.to_bytes());
        assert_eq!(check(&stored).unwrap_err().object, path);
    }
}

#[test]
fn a_log_whose_tail_was_cut_is_behind_what_was_kept() {
    let leaves = leaves(20);
    let tree = tree_of(&leaves);
    let files = publish(&leaves[..10], &[10]);
    for (size, good) in [(9, true), (10, true), (11, false), (20, false)] {
        let pinned = Some(checkpoint_of(&tree, TreeSize(size)));
        let result = verify_log(&files, &VerifyOptions { pinned, ..options() }, &mut |_| {});
        assert_eq!(result.is_ok(), good, "pinned at {size}");
        let mut cosigned = files.clone();
        let note = checkpoint_of(&tree, TreeSize(size)).sign(&log_key()).unwrap();
        cosigned.0.insert(format!("cosigned/{size}"), note.to_bytes());
        let named = check(&cosigned).map(drop).map_err(|problem| problem.object);
        let expected = if good { Ok(()) } else { Err(format!("cosigned/{size}")) };
        assert_eq!(named, expected, "cosigned at {size}");
    }
    let mut stored = files;
    let note = checkpoint_of(&tree, TreeSize(20)).sign(&log_key()).unwrap();
    stored.0.insert("checkpoints/20".to_owned(), note.to_bytes());
    assert_eq!(check(&stored).unwrap_err().object, "checkpoint");
}

#[test]
fn a_checkpoint_of_another_key_size_or_log_is_refused() {
    let leaves = leaves(5);
    let tree = tree_of(&leaves);
    let thief = SigningKey::from_seed("ledger.example/acme", &[5; 32]).unwrap();
    let note = checkpoint_of(&tree, TreeSize(5)).sign(&thief).unwrap().to_bytes();
    for path in ["checkpoint", "checkpoints/3", "cosigned/3", "cosigned/5"] {
        let mut files = publish(&leaves, &[3, 5]);
        files.0.insert(path.to_owned(), note.clone());
        assert_eq!(check(&files).unwrap_err().object, path);
    }
    let elsewhere = SigningKey::from_seed("ledger.example/other", &[4; 32]).unwrap();
    let point =
        Checkpoint { origin: elsewhere.name().to_owned(), ..checkpoint_of(&tree, TreeSize(3)) };
    let keys = vec![log_key().verifier_key(), elsewhere.verifier_key()];
    let options = VerifyOptions { keys, ..options() };
    for path in ["checkpoints/3", "cosigned/3"] {
        let mut files = publish(&leaves, &[3, 5]);
        let other = files.0["checkpoints/5"].clone();
        files.0.insert(path.to_owned(), other);
        assert_eq!(check(&files).unwrap_err().object, path);
        files.0.insert(path.to_owned(), point.sign(&elsewhere).unwrap().to_bytes());
        assert_eq!(verify_log(&files, &options, &mut |_| {}).unwrap_err().object, path);
    }
}

/// A crash between publishing and signing leaves files of a larger tree.
#[test]
fn files_past_the_checkpoint_are_checked_up_to_it_and_listed() {
    let leaves = leaves(300);
    let mut files = publish(&leaves, &[5, 300]);
    let signed = publish(&leaves[..5], &[5]);
    files.0.insert("checkpoint".to_owned(), signed.0["checkpoint"].clone());
    files.0.remove("checkpoints/300");
    let report = check(&files).unwrap();
    assert_eq!(report.size, TreeSize(5));
    assert_eq!(
        report.unsigned,
        [
            "tile/0/000",
            "tile/0/001.p/44",
            "tile/1/000.p/1",
            "tile/entries/000",
            "tile/entries/001.p/44"
        ]
    );
    check_flip(&files, "tile/entries/000", 20, 1);
    check_flip(&files, "tile/0/000", 70, 1);
}

#[test]
fn broken_records_are_named_even_when_the_tree_holds() {
    let altered = |index: usize, change: &dyn Fn(&mut Value)| {
        let mut leaves = leaves(6);
        let mut leaf: Value = serde_json::from_slice(&leaves[index]).unwrap();
        change(&mut leaf);
        leaves[index] = canonicalize(&leaf).unwrap();
        check(&publish(&leaves, &[6])).map_err(|problem| (problem.object, problem.index))
    };
    let at = |index| Err(("tile/entries/000.p/6".to_owned(), Some(index)));
    assert_eq!(altered(5, &|leaf| leaf["gw"]["seq"] = json!(9)), at(5));
    assert_eq!(altered(5, &|leaf| leaf["tenant"] = json!("other")), at(5));
    assert_eq!(altered(5, &|leaf| drop(leaf.as_object_mut().unwrap().remove("parent"))), at(5));
    assert_eq!(altered(2, &|leaf| leaf["agent"] = json!("a")), at(3));
    // A second outcome of the same decision is no fault of the log, but it is counted.
    let report = altered(5, &|leaf| leaf["parent"] = json!("r2")).unwrap();
    assert_eq!(report.outcomes_without_decision, [LeafIndex(5)]);
    assert_eq!(report.decisions_without_outcome, [LeafIndex(4)]);
    assert_eq!(altered(5, &|leaf| leaf["kind"] = json!("decision")), at(5));
    assert_eq!(
        altered(5, &|leaf| {
            leaf["kind"] = json!("decision");
            leaf["decision"] = json!("maybe");
        }),
        at(5)
    );
}

#[test]
fn an_unknown_outcome_may_be_reconciled_once() {
    let outcomes = |first: &str, reconciled: usize| {
        let mut leaves = leaves(2);
        let mut leaf: Value = serde_json::from_slice(&leaves[1]).unwrap();
        leaf["outcome"] = json!(first);
        leaves[1] = canonicalize(&leaf).unwrap();
        for n in 0..reconciled {
            leaf["outcome"] = json!("executed");
            leaf["reconciled"] = json!(true);
            leaf["record_id"] = json!(format!("s{n}"));
            leaf["gw"]["seq"] = json!(n + 3);
            leaf["time"]["n"] = json!(n + 1);
            leaf["gw"]["prev"] = json!(prev_hash(leaves.last().map(Vec::as_slice)));
            leaves.push(canonicalize(&leaf).unwrap());
        }
        let size = leaves.len() as u64;
        check(&publish(&leaves, &[size])).unwrap().outcomes_without_decision
    };
    assert_eq!(outcomes("unknown", 1), []);
    assert_eq!(outcomes("unknown", 2), [LeafIndex(3)]);
    assert_eq!(outcomes("executed", 1), [LeafIndex(2)]);
}

#[test]
fn a_record_that_stands_there_twice_is_named() {
    for kind in ["decision", "heartbeat"] {
        let mut leaves = leaves(3);
        let mut leaf: Value = serde_json::from_slice(&leaves[2]).unwrap();
        leaf["kind"] = json!(kind);
        leaf["record_id"] = json!("r9");
        leaves[2] = canonicalize(&leaf).unwrap();
        leaf["gw"]["seq"] = json!(4);
        leaf["time"]["n"] = json!(1);
        leaf["gw"]["prev"] = json!(prev_hash(Some(&leaves[2])));
        leaves.push(canonicalize(&leaf).unwrap());
        let problem = check(&publish(&leaves, &[4])).unwrap_err();
        let expected = "`tile/entries/000.p/4`, index 3: record `r9` stands there twice";
        assert_eq!(problem.to_string(), expected, "{kind}");
    }
}

#[test]
fn an_opaque_log_is_checked_as_a_tree() {
    let entries = vec![b"any".to_vec(), b"bytes".to_vec()];
    let files = publish(&entries, &[1, 2]);
    assert!(check(&files).is_err());
    let opaque = VerifyOptions { entries: EntryFormat::Opaque, ..options() };
    assert_eq!(verify_log(&files, &opaque, &mut |_| {}).unwrap().checkpoints, 2);
}

#[test]
fn a_source_that_fails_is_a_problem() {
    struct Failing;
    impl LogSource for Failing {
        fn read(&self, _: &str) -> Result<Option<Vec<u8>>, SourceError> {
            Err(SourceError("no permission".to_owned()))
        }
        fn list(&self, _: &str) -> Result<Vec<String>, SourceError> {
            Ok(Vec::new())
        }
    }
    let problem = verify_log(&Failing, &options(), &mut |_| {}).unwrap_err();
    assert_eq!(problem, Problem::file("checkpoint", "no permission"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_log_published_at_any_sizes_is_good(mut sizes in proptest::collection::btree_set(1_u64..600, 1..5)) {
        let last = *sizes.last().unwrap();
        sizes.insert(last);
        let sizes: Vec<u64> = sizes.into_iter().collect();
        let report = check(&publish(&leaves(last), &sizes)).unwrap();
        prop_assert_eq!(report.checkpoints, u64::try_from(sizes.len()).unwrap());
    }
}

/// A log whose key was replaced twice.
struct Rotated {
    leaves: Vec<Vec<u8>>,
    keys: [SigningKey; 3],
}

/// Where the replacements are recorded.
const ROTATED_AT: [usize; 2] = [10, 300];

impl Rotated {
    fn new() -> Self {
        let keys =
            [4, 5, 6].map(|seed| SigningKey::from_seed(log_key().name(), &[seed; 32]).unwrap());
        let mut this = Self { leaves: leaves(600), keys };
        for (at, place) in ROTATED_AT.into_iter().enumerate() {
            let statement = Rotation::sign(&this.keys[at], &this.keys[at + 1]).unwrap();
            this.alter(place, |leaf| {
                leaf["kind"] = json!("key");
                leaf["rotation"] = json!(statement.to_string());
            });
        }
        this
    }

    /// Changes a leaf, and the chain after it.
    fn alter(&mut self, at: usize, change: impl Fn(&mut Value)) {
        for place in at..self.leaves.len() {
            let mut leaf: Value = serde_json::from_slice(&self.leaves[place]).unwrap();
            if place == at {
                for field in ["decision", "parent"] {
                    leaf.as_object_mut().unwrap().remove(field);
                }
                change(&mut leaf);
            }
            let before = place.checked_sub(1).map(|before| self.leaves[before].as_slice());
            leaf["gw"]["prev"] = json!(prev_hash(before));
            self.leaves[place] = canonicalize(&leaf).unwrap();
        }
    }

    /// Publishes with these keys at each size.
    fn publish(&self, signed: &[(u64, &[usize])]) -> Files {
        let sizes: Vec<u64> = signed.iter().map(|(size, _)| *size).collect();
        let (mut files, tree) = (publish(&self.leaves, &sizes), tree_of(&self.leaves));
        for (size, keys) in signed {
            let point = checkpoint_of(&tree, TreeSize(*size));
            let mut note = crate::note::Note::new(&point.to_string()).unwrap();
            for key in *keys {
                let made = point.sign(&self.keys[*key]).unwrap();
                made.signatures().iter().for_each(|one| note.add(one.clone()));
            }
            files.0.insert(format!("{CHECKPOINTS_PREFIX}{size}"), note.to_bytes());
            files.0.insert(CHECKPOINT_PATH.to_owned(), note.to_bytes());
        }
        files
    }

    fn whole(&self) -> Files {
        self.publish(&[
            (5, &[0]),
            (9, &[0, 1]),
            (11, &[0, 1]),
            (200, &[1]),
            (301, &[1, 2]),
            (600, &[2]),
        ])
    }

    fn check(&self, files: &Files, keys: &[usize]) -> Result<Report, Problem> {
        let keys = keys.iter().map(|key| self.keys[*key].verifier_key()).collect();
        verify_log(files, &VerifyOptions { keys, ..VerifyOptions::default() }, &mut |_| {})
    }
}

#[test]
fn a_log_whose_key_was_replaced_verifies_under_any_of_its_keys() {
    let log = Rotated::new();
    let files = log.whole();
    for (keys, expected) in [
        (&[0][..], "given -; successor 10; successor 300"),
        (&[1], "given -; successor 300; predecessor 10"),
        (&[2], "given -; predecessor 300; predecessor 10"),
        (&[0, 1, 2], "given -; given -; given -"),
        (&[0, 2], "given -; given -; successor 10"),
    ] {
        let report = log.check(&files, keys).unwrap_or_else(|bad| panic!("{keys:?}: {bad}"));
        assert_eq!(report.checkpoints, 6, "{keys:?}");
        let trusted: Vec<String> = report
            .keys
            .iter()
            .map(|key| {
                let leaf = key.leaf.map_or("-".to_owned(), |leaf| leaf.to_string());
                let trust = serde_json::to_value(key.trust).unwrap();
                format!("{} {leaf}", trust.as_str().unwrap())
            })
            .collect();
        assert_eq!(trusted.join("; "), expected, "{keys:?}");
    }
    let stranger = SigningKey::from_seed(log_key().name(), &[7; 32]).unwrap().verifier_key();
    let options = VerifyOptions { keys: vec![stranger], ..VerifyOptions::default() };
    let problem = verify_log(&files, &options, &mut |_| {}).unwrap_err();
    assert_eq!(problem.to_string(), "`checkpoint`: no signature of a known key");
}

#[test]
fn a_key_that_was_replaced_signs_no_newer_checkpoint_for_whoever_has_the_new_one() {
    let log = Rotated::new();
    for (name, signed, bad) in [
        // With the old key, whoever stole it can go on with the log after the replacement …
        ("newest", &[(11, &[0, 1][..]), (600, &[0])][..], "checkpoint"),
        // … or put in a checkpoint of it.
        ("stored", &[(11, &[0, 1]), (200, &[0]), (301, &[1, 2]), (600, &[2])], "checkpoints/200"),
        // The new key alone, before the log says that it takes over.
        ("early", &[(9, &[1]), (301, &[1, 2]), (600, &[2])], "checkpoints/9"),
    ] {
        let keys = if name == "early" { &[0][..] } else { &[2] };
        let problem = log.check(&log.publish(signed), keys).unwrap_err();
        assert_eq!(problem.object, bad, "{name}: {problem}");
        assert_eq!(problem.reason, "no signature of a known key", "{name}");
    }
}

#[test]
fn the_current_keys_are_found_although_an_old_one_signed_too() {
    let log = Rotated::new();
    let vkeys = log.keys.each_ref().map(SigningKey::verifier_key);
    let files = log.publish(&[(9, &[0]), (200, &[0, 1])]);
    for given in [0, 1] {
        let found = current_keys(&files, &vkeys[given..=given]).unwrap();
        assert_eq!(found, [vkeys[1].clone()], "{given}");
    }
    let files = log.publish(&[(9, &[0]), (200, &[0])]);
    assert_eq!(current_keys(&files, &vkeys[..1]).unwrap_err().object, "checkpoint");
}

#[test]
fn a_trusted_key_is_named_without_its_base64() {
    let vkey = "log.example/acme+07b7d5bc+Aaqto+HSMq/i6lN+0ZJSKL+xBsf1f56o3u+qUkUzccUL".to_owned();
    let key = TrustedKey { vkey, trust: Trust::Successor, leaf: Some(LeafIndex(18)) };
    assert_eq!(key.to_string(), "log.example/acme+07b7d5bc, which took over by leaf 18");
}

#[test]
fn a_cosigned_checkpoint_needs_a_key_that_counted_for_its_size() {
    let log = Rotated::new();
    for (place, signer, good) in [(9, 0, true), (200, 1, true), (200, 0, false)] {
        let mut files = log.whole();
        let point = checkpoint_of(&tree_of(&log.leaves), TreeSize(place));
        let path = format!("cosigned/{place}");
        files.0.insert(path.clone(), point.sign(&log.keys[signer]).unwrap().to_bytes());
        let checked = log.check(&files, &[2]).map(drop).map_err(|problem| problem.object);
        assert_eq!(checked, if good { Ok(()) } else { Err(path) }, "{place} by {signer}");
    }
}

#[test]
fn a_key_that_was_replaced_counts_for_nothing_even_if_it_was_given() {
    let log = Rotated::new();
    for (signed, bad) in [
        (&[(11, &[0, 1][..]), (200, &[0])][..], "checkpoint"),
        (&[(11, &[0, 1]), (200, &[0]), (301, &[1, 2]), (600, &[2])], "checkpoints/200"),
    ] {
        for keys in [&[0][..], &[0, 1], &[0, 1, 2]] {
            let mut files = log.publish(signed);
            if bad == "checkpoint" {
                files.0.remove("checkpoints/200");
            }
            let problem = log.check(&files, keys).unwrap_err();
            assert_eq!(problem.object, bad, "{keys:?}: {problem}");
        }
    }
}

#[test]
fn whoever_stole_a_replaced_key_names_no_other_successor() {
    let mut log = Rotated::new();
    let thief = SigningKey::from_seed(log_key().name(), &[9; 32]).unwrap();
    let statement = Rotation::sign(&log.keys[0], &thief).unwrap();
    log.alter(20, |leaf| {
        leaf["kind"] = json!("key");
        leaf["rotation"] = json!(statement.to_string());
    });
    let keys = log.keys.each_ref().map(SigningKey::verifier_key);
    log.keys[2] = thief;
    let files = log.publish(&[(11, &[0, 1]), (200, &[2])]);
    for given in [&keys[..1], &keys[..2]] {
        let options = VerifyOptions { keys: given.to_vec(), ..VerifyOptions::default() };
        let problem = verify_log(&files, &options, &mut |_| {}).unwrap_err();
        assert_eq!(problem.object, "checkpoint", "{problem}");
    }
}

#[test]
fn a_forged_key_leaf_is_named() {
    let stranger = SigningKey::from_seed(log_key().name(), &[7; 32]).unwrap();
    let elsewhere = |seed| SigningKey::from_seed("ledger.example/other", &[seed; 32]).unwrap();
    let good = Rotation::sign(&log_key(), &stranger).unwrap();
    let mut by_new = crate::note::Note::new(good.text()).unwrap();
    by_new.add(good.signatures()[1].clone());
    let mut by_old = crate::note::Note::new(good.text()).unwrap();
    by_old.add(good.signatures()[0].clone());
    let other = Rotation::sign(&elsewhere(1), &elsewhere(2)).unwrap();
    for (name, statement) in [
        ("the old key did not sign", by_new.to_string()),
        ("the new key did not sign", by_old.to_string()),
        ("of another log", other.to_string()),
        ("no statement", "x".to_owned()),
    ] {
        let mut log = Rotated::new();
        log.alter(20, |leaf| {
            leaf["kind"] = json!("key");
            leaf["rotation"] = json!(statement);
        });
        for keys in [&[0][..], &[2]] {
            let problem = log.check(&log.whole(), keys).unwrap_err();
            assert_eq!(problem.index, Some(20), "{name}: {problem}");
            assert_eq!(problem.object, "tile/entries/000", "{name}: {problem}");
        }
    }
    let mut log = Rotated::new();
    log.alter(20, |leaf| leaf["kind"] = json!("key"));
    let problem = log.check(&log.whole(), &[0]).unwrap_err();
    assert_eq!(
        (problem.index, problem.reason.as_str()),
        (Some(20), "the key leaf has no statement")
    );
}
