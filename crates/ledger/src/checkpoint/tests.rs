use super::*;
use crate::testing::{hex_array, number, strings, text, vectors};

fn example() -> (Checkpoint, SigningKey, String) {
    let vectors = vectors("note.json");
    let case = &vectors["checkpoint"];
    let checkpoint = Checkpoint {
        origin: text(case, "origin").to_owned(),
        size: TreeSize(number(case, "size")),
        root: Hash::from_base64(text(case, "root")).unwrap(),
    };
    let key = SigningKey::from_seed(&checkpoint.origin, &hex_array(case, "seed_hex")).unwrap();
    (checkpoint, key, text(case, "note").to_owned())
}

#[test]
fn checkpoints_are_signed_and_opened() {
    let (checkpoint, key, note) = example();
    assert_eq!(checkpoint.sign(&key).unwrap().to_string(), note);
    assert_eq!(Checkpoint::open(note.as_bytes(), &[key.verifier_key()]).unwrap(), checkpoint);
    insta::assert_snapshot!(note, @r"
    ledger.example/acme
    0
    47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=

    — ledger.example/acme 8djhUTC0S8AAxS2sv9563wazMGR27VjQy34fC2a7khSL03NTXm0YUNCD51FjA548osLfCSbazhFzEl+PNRxdQQN7uAo=
    ");
}

#[test]
fn malformed_checkpoints_are_refused() {
    for text in strings(&vectors("note.json"), "malformed_checkpoints") {
        assert!(Checkpoint::parse(&text).is_err(), "{text:?}");
    }
}

#[test]
fn another_known_key_does_not_vouch_for_the_log() {
    let (checkpoint, key, _) = example();
    let other = SigningKey::from_seed("other.example", &[1; 32]).unwrap();
    assert!(matches!(checkpoint.sign(&other), Err(CheckpointError::NotSignedByOrigin(_))));
    let note = other.sign_note(&checkpoint.to_string()).unwrap().to_bytes();
    let keys = [key.verifier_key(), other.verifier_key()];
    assert!(matches!(
        Checkpoint::open(&note, &keys),
        Err(CheckpointError::NotSignedByOrigin(origin)) if origin == checkpoint.origin
    ));
}

#[test]
fn a_cosignature_does_not_stand_for_the_logs_own() {
    let (checkpoint, _, _) = example();
    let cosigner = SigningKey::cosigner_from_seed(&checkpoint.origin, &[2; 32]).unwrap();
    let mut note = Note::new(&checkpoint.to_string()).unwrap();
    note.add(cosigner.cosign(&checkpoint.to_string(), 5).unwrap());
    let refused = Checkpoint::open(&note.to_bytes(), &[cosigner.verifier_key()]);
    assert!(matches!(refused, Err(CheckpointError::NotSignedByOrigin(_))));
}

#[test]
fn cosigners_are_named_with_their_time() {
    let (checkpoint, key, _) = example();
    let cosigner = SigningKey::cosigner_from_seed("w.example", &[2; 32]).unwrap();
    let mut note = checkpoint.sign(&key).unwrap();
    note.add(cosigner.cosign(note.text(), 1_763_700_000).unwrap());
    let keys = [key.verifier_key(), cosigner.verifier_key()];
    let (_, verified) = Checkpoint::open_verified(&note.to_bytes(), &keys).unwrap();
    let times: Vec<_> = verified.signers().iter().map(|signer| signer.cosigned_at).collect();
    assert_eq!(times, [None, Some(1_763_700_000)]);
}

#[test]
fn tlog_tiles_reads_the_same_checkpoint() {
    let (checkpoint, ..) = example();
    let theirs = tlog_tiles::Checkpoint::from_bytes(checkpoint.to_string().as_bytes()).unwrap();
    assert_eq!((theirs.origin(), theirs.size()), (checkpoint.origin.as_str(), 0));
    assert_eq!(theirs.hash().0, checkpoint.root.0);
}
