use proptest::prelude::*;

use super::*;
use crate::hash::leaf_hash;
use crate::tree::MemoryTree;

const ORIGIN: &str = "log.example/acme";

fn log_key() -> SigningKey {
    SigningKey::from_seed(ORIGIN, &[1; 32]).unwrap()
}

fn witness() -> Witness {
    let key = SigningKey::cosigner_from_seed("witness.example/w1", &[2; 32]).unwrap();
    Witness::new(key, [log_key().verifier_key()]).unwrap()
}

/// A log of `size` leaves that shares its first `fork` leaves with every other.
fn tree(fork: u64, size: u64) -> MemoryTree {
    let leaf = |index: u64| (index, if index < fork { 0 } else { fork + 1 });
    let leaves = (0..size).map(|index| format!("{:?}", leaf(index)));
    leaves.map(|leaf| leaf_hash(leaf.as_bytes())).collect()
}

fn point(tree: &MemoryTree, size: u64) -> Checkpoint {
    let (size, root) = (TreeSize(size), tree.root_at(TreeSize(size)).unwrap());
    Checkpoint { origin: ORIGIN.to_owned(), size, root }
}

fn request(tree: &MemoryTree, old: u64, new: u64) -> AddCheckpoint {
    let old = TreeSize(old);
    let proof = tree.consistency_proof(old, TreeSize(new)).unwrap_or_default();
    AddCheckpoint { old, proof, checkpoint: point(tree, new).sign(&log_key()).unwrap() }
}

fn status(request: &AddCheckpoint, last: Option<&Checkpoint>) -> u16 {
    witness().cosign(request, last, 1_700_000_000).map_or_else(|refusal| refusal.status(), |_| 200)
}

#[test]
fn a_checkpoint_that_extends_the_last_one_is_cosigned() {
    let (tree, witness) = (tree(u64::MAX, 40), witness());
    let mut last = None;
    for size in [0, 0, 1, 5, 5, 8, 39, 40] {
        let old = last.as_ref().map_or(0, |last: &Checkpoint| last.size.0);
        let request = request(&tree, old, size);
        let cosigned = witness.cosign(&request, last.as_ref(), 1_700_000_000).unwrap();
        assert_eq!(cosigned.checkpoint, point(&tree, size));
        let note = format!("{}{}\n", request.checkpoint, cosigned.cosignature);
        let keys = [log_key().verifier_key(), witness.verifier_key()];
        let (_, verified) = Checkpoint::open_verified(note.as_bytes(), &keys).unwrap();
        let times: Vec<_> = verified.signers().iter().map(|signer| signer.cosigned_at).collect();
        assert_eq!(times, [None, Some(1_700_000_000)]);
        let remembered = cosigned.note.to_bytes();
        last = Some(witness.recall(ORIGIN, &remembered).unwrap());
        assert_eq!(last.as_ref(), Some(&cosigned.checkpoint));
    }
}

#[test]
fn every_refusal_has_the_status_of_the_protocol() {
    let (tree, fork) = (tree(u64::MAX, 20), tree(6, 20));
    let last = point(&tree, 8);
    let cases = [
        ("unproven", AddCheckpoint { proof: Vec::new(), ..request(&tree, 8, 12) }, 422),
        ("another proof", AddCheckpoint { old: TreeSize(8), ..request(&tree, 7, 12) }, 422),
        ("a fork", request(&fork, 8, 12), 422),
        ("a fork of the same size", request(&fork, 8, 8), 422),
        (
            "a proof of nothing",
            AddCheckpoint { proof: vec![last.root], ..request(&tree, 8, 8) },
            422,
        ),
        ("an old size below the last", request(&tree, 5, 12), 409),
        ("an old size above the last", request(&tree, 10, 12), 409),
        (
            "a size above the new one",
            AddCheckpoint { old: TreeSize(8), ..request(&tree, 5, 5) },
            400,
        ),
        ("no memory", request(&tree, 0, 12), 409),
        ("a rollback", request(&tree, 5, 5), 409),
        ("what it should be", request(&tree, 8, 12), 200),
        ("the same again", request(&tree, 8, 8), 200),
    ];
    for (why, request, expected) in cases {
        assert_eq!(status(&request, Some(&last)), expected, "{why}");
    }
}

#[test]
fn the_first_checkpoint_needs_no_proof_and_may_have_none() {
    let tree = tree(u64::MAX, 9);
    assert_eq!(status(&request(&tree, 0, 9), None), 200);
    let proof = vec![leaf_hash(b"")];
    assert_eq!(status(&AddCheckpoint { proof, ..request(&tree, 0, 9) }, None), 422);
    assert_eq!(status(&request(&tree, 3, 9), None), 409);
    let root = leaf_hash(b"not the empty root");
    let empty = Checkpoint { origin: ORIGIN.to_owned(), size: TreeSize(0), root };
    let checkpoint = empty.sign(&log_key()).unwrap();
    assert_eq!(status(&AddCheckpoint { checkpoint, ..request(&tree, 0, 9) }, None), 422);
}

#[test]
fn a_conflict_names_the_size_that_was_cosigned_last() {
    let tree = tree(u64::MAX, 9);
    let refusal = witness().cosign(&request(&tree, 3, 9), Some(&point(&tree, 5)), 1).unwrap_err();
    assert_eq!((refusal.status(), refusal.to_string()), (409, "5".to_owned()));
}

#[test]
fn unknown_logs_and_untrusted_keys_are_refused() {
    let tree = tree(u64::MAX, 9);
    let signed = |origin: &str, seed: u8| {
        let key = SigningKey::from_seed(origin, &[seed; 32]).unwrap();
        let checkpoint = Checkpoint { origin: origin.to_owned(), ..point(&tree, 9) };
        AddCheckpoint { checkpoint: checkpoint.sign(&key).unwrap(), ..request(&tree, 0, 9) }
    };
    assert_eq!(status(&signed("log.example/other", 1), None), 404);
    assert_eq!(status(&signed(ORIGIN, 9), None), 403);
    assert_eq!(status(&signed(ORIGIN, 1), None), 200);

    // The right name and id over a signature of something else.
    let mut stolen = request(&tree, 0, 9);
    let (this, other) = (stolen.checkpoint.clone(), request(&tree, 0, 8).checkpoint);
    stolen.checkpoint = Note::new(this.text()).unwrap();
    stolen.checkpoint.add(other.signatures()[0].clone());
    assert_eq!(status(&stolen, None), 403);
    // The true signature beside it does not help: a known key that fails refuses the note.
    stolen.checkpoint.add(this.signatures()[0].clone());
    assert_eq!(status(&stolen, None), 403);
}

#[test]
fn only_known_signatures_are_remembered_and_each_once() {
    let (tree, witness) = (tree(u64::MAX, 9), witness());
    let mut request = request(&tree, 0, 9);
    let stranger = SigningKey::from_seed("stranger.example", &[7; 32]).unwrap();
    let text = request.checkpoint.text().to_owned();
    let strange = stranger.sign_note(&text).unwrap();
    request.checkpoint.add(strange.signatures()[0].clone());
    while request.checkpoint.signatures().len() < NOTE_SIGNATURES_MAX {
        request.checkpoint.add(request.checkpoint.signatures()[0].clone());
    }
    let cosigned = witness.cosign(&request, None, 1).unwrap();
    let names: Vec<_> = cosigned.note.signatures().iter().map(Signature::name).collect();
    assert_eq!(names, [ORIGIN, "witness.example/w1"]);
    witness.recall(ORIGIN, &cosigned.note.to_bytes()).unwrap();
}

#[test]
fn a_memory_that_is_not_ours_is_not_taken_up() {
    let (tree, witness) = (tree(u64::MAX, 9), witness());
    let note = witness.cosign(&request(&tree, 0, 9), None, 1).unwrap().note;
    let refused = |origin: &str, bytes: &[u8]| witness.recall(origin, bytes).unwrap_err();
    assert!(matches!(refused("log.example/b", &note.to_bytes()), WitnessError::OtherLog { .. }));
    let altered = note.to_string().replacen("\n9\n", "\n8\n", 1);
    assert!(matches!(refused(ORIGIN, altered.as_bytes()), WitnessError::NotOurs(_)));
    assert!(matches!(refused(ORIGIN, b""), WitnessError::NotOurs(_)));
    let unsigned = request(&tree, 0, 9).checkpoint;
    assert!(matches!(refused(ORIGIN, &unsigned.to_bytes()), WitnessError::NotOurs(_)));
}

#[test]
fn an_answer_counts_only_if_its_cosignature_holds() {
    let (tree, witness) = (tree(u64::MAX, 9), witness());
    let cosigned = witness.cosign(&request(&tree, 0, 9), None, 5).unwrap();
    let (key, text) = (witness.verifier_key(), cosigned.note.text());
    let line = format!("{}\n", cosigned.cosignature);
    let read = |answer: &str, text: &str| read_answer(answer.as_bytes(), text, &key);
    assert_eq!(read(&line, text), Ok(cosigned.cosignature.clone()));
    let other = SigningKey::cosigner_from_seed("witness.example/w2", &[3; 32]).unwrap();
    let others = format!("{}\n", other.cosign(text, 5).unwrap());
    assert_eq!(read(&format!("{others}{line}"), text), Ok(cosigned.cosignature.clone()));
    assert_eq!(read(&others, text), Err(NoteError::NoKnownKey));
    let elsewhere = point(&tree, 8).to_string();
    assert!(matches!(read(&line, &elsewhere), Err(NoteError::BadSignature(_))));
    for malformed in ["", "\n", "no\n", line.trim_end()] {
        assert!(matches!(read(malformed, text), Err(NoteError::Malformed(_))), "{malformed:?}");
    }
    // A witness cannot put other words before its signature.
    let longer = format!("{text}\nmore\n");
    let other_words = format!("{}\n", witness.key.cosign(&longer, 5).unwrap());
    for smuggled in [format!("\n{line}"), format!("more\n\n{other_words}")] {
        assert!(read(&smuggled, text).is_err(), "{smuggled:?}");
    }
}

#[test]
fn keys_of_another_role_are_refused() {
    let cosigner = SigningKey::cosigner_from_seed(ORIGIN, &[1; 32]).unwrap();
    let no_log = Witness::new(cosigner, [witness().verifier_key()]).unwrap_err();
    assert!(matches!(no_log, WitnessError::NoLogKey(_)));
    assert!(matches!(Witness::new(log_key(), []).unwrap_err(), WitnessError::NoCosigner(_)));
}

#[test]
fn request_bodies_are_read_as_they_are_written() {
    let tree = tree(u64::MAX, 100);
    for (old, new) in [(0, 0), (0, 100), (1, 100), (37, 99), (100, 100)] {
        let request = request(&tree, old, new);
        assert_eq!(AddCheckpoint::parse(request.to_string().as_bytes()), Ok(request));
    }
}

#[test]
fn malformed_bodies_are_refused() {
    let good = request(&tree(u64::MAX, 9), 5, 9).to_string();
    let with_proof_of = |hashes: usize| {
        let line = format!("{}\n", leaf_hash(b"").to_base64());
        let (_, note) = good.split_once("\n\n").unwrap();
        format!("old 5\n{}\n{note}", line.repeat(hashes))
    };
    AddCheckpoint::parse(with_proof_of(REQUEST_HASHES_MAX).as_bytes()).unwrap();
    for bad in [
        String::new(),
        good.replacen("old 5", "old 05", 1),
        good.replacen("old 5", "old -5", 1),
        good.replacen("old 5", "old  5", 1),
        good.replacen("old 5", "size 5", 1),
        good.replacen("old 5\n", "old 5\nAAAA\n", 1),
        good.replacen("old 5\n", "old 5\r\n", 1),
        good.replacen("\n\n", "\n", 2),
        good.trim_end().to_owned(),
        with_proof_of(REQUEST_HASHES_MAX + 1),
        format!("{good}{}", " ".repeat(REQUEST_BYTES_MAX)),
    ] {
        let refusal = AddCheckpoint::parse(bad.as_bytes()).unwrap_err();
        assert_eq!(refusal.status(), 400, "{bad}");
    }
    AddCheckpoint::parse(&[0xff]).unwrap_err();
}

#[test]
fn a_checkpoint_with_extension_lines_is_refused() {
    let note = log_key().sign_note(&format!("{}extra\n", point(&tree(9, 9), 9))).unwrap();
    let request = AddCheckpoint { checkpoint: note, ..request(&tree(9, 9), 0, 9) };
    assert_eq!(status(&request, None), 400);
}

/// One request of someone who has the log's key and wants two histories cosigned.
#[derive(Debug, Clone)]
struct Attempt {
    /// Which history: the leaf at which it departs from the first.
    fork: u64,
    /// The old size; the true one if `None`.
    old: Option<u64>,
    new: u64,
    /// Which history the proof is from; that of the checkpoint if `None`.
    proof: Option<u64>,
    /// A hash to leave out of the proof.
    dropped: Option<usize>,
}

fn attempts() -> impl Strategy<Value = Vec<Attempt>> {
    let fork = || prop_oneof![Just(u64::MAX), 0_u64..12];
    let size = || 0_u64..24;
    let attempt = (
        fork(),
        proptest::option::weighted(0.2, size()),
        size(),
        proptest::option::weighted(0.2, fork()),
        proptest::option::weighted(0.1, 0_usize..5),
    );
    let attempt = attempt.prop_map(|(fork, old, new, proof, dropped)| Attempt {
        fork,
        old,
        new,
        proof,
        dropped,
    });
    proptest::collection::vec(attempt, 1..40)
}

proptest! {
    #[test]
    fn no_sequence_of_requests_gets_two_inconsistent_trees_cosigned(attempts in attempts()) {
        let witness = witness();
        let mut cosigned: Vec<(u64, u64)> = Vec::new();
        let mut last: Option<Checkpoint> = None;
        for attempt in attempts {
            let known = last.as_ref().map_or(0, |last| last.size.0);
            let old = attempt.old.unwrap_or(known);
            let tree = tree(attempt.fork, 24);
            let mut request = request(&tree, old, attempt.new);
            if let Some(other) = attempt.proof {
                let other = super::tests::tree(other, 24);
                request.proof = other
                    .consistency_proof(TreeSize(old), TreeSize(attempt.new))
                    .unwrap_or_default();
            }
            if let Some(dropped) = attempt.dropped.filter(|at| *at < request.proof.len()) {
                request.proof.remove(dropped);
            }
            let honest = old == known
                && attempt.new >= known
                && attempt.proof.is_none()
                && attempt.dropped.is_none()
                && last.as_ref().is_none_or(|last| *last == point(&tree, known));
            match witness.cosign(&request, last.as_ref(), 1) {
                Ok(signed) => {
                    // What a restart would remember.
                    last = Some(witness.recall(ORIGIN, &signed.note.to_bytes()).unwrap());
                    cosigned.push((attempt.fork, attempt.new));
                }
                Err(refusal) => prop_assert!(!honest, "{refusal}: {attempt:?}"),
            }
        }
        for (at, (_, earlier)) in cosigned.iter().enumerate() {
            for (fork, later) in &cosigned[at..] {
                prop_assert!(earlier <= later);
                let (then, now) = (tree(cosigned[at].0, 24), tree(*fork, 24));
                prop_assert_eq!(point(&then, *earlier), point(&now, *earlier));
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        if let Err(refusal) = AddCheckpoint::parse(&body) {
            prop_assert_eq!(refusal.status(), 400);
        }
    }
}
