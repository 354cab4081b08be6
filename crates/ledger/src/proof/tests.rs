use super::*;
use crate::hash::leaf_hash;
use crate::note::SigningKey;
use crate::testing::{number, text, vector_text, vectors};
use crate::tree::{MemoryTree, TreeSize};

fn tessera() -> (String, Vec<u8>, Vec<VerifierKey>) {
    let case = vectors("tlog-proof.json");
    let keys = vec![VerifierKey::parse(text(&case, "vkey")).unwrap()];
    (vector_text(text(&case, "file")), text(&case, "entry").into(), keys)
}

#[test]
fn tesseras_proof_is_verified() {
    let (proof, entry, keys) = tessera();
    let case = vectors("tlog-proof.json");
    let checkpoint = verify(&entry, &proof, &keys).unwrap();
    assert_eq!(checkpoint.origin, text(&case, "origin"));
    assert_eq!(checkpoint.size.0, number(&case, "size"));
    let parsed = TlogProof::parse(&proof).unwrap();
    assert_eq!(parsed.index.0, number(&case, "index"));
    assert_eq!(parsed.to_string(), proof);
}

#[test]
fn any_flipped_bit_refuses_tesseras_proof() {
    let (proof, entry, keys) = tessera();
    for place in 0..proof.len() {
        for bit in 0..8 {
            let mut bytes = proof.clone().into_bytes();
            bytes[place] ^= 1 << bit;
            if let Ok(altered) = String::from_utf8(bytes) {
                assert!(verify(&entry, &altered, &keys).is_err(), "byte {place}, bit {bit}");
            }
        }
    }
    assert!(verify(b"eat", &proof, &keys).is_err());
    assert!(verify(&entry, &proof, &[]).is_err());
}

#[test]
fn proofs_with_wrong_lines_are_refused() {
    let (proof, entry, keys) = tessera();
    let lines: Vec<&str> = proof.split('\n').collect();
    for (why, altered) in [
        ("other version", proof.replace("@v1", "@v2")),
        ("other index", proof.replace("index 7", "index 6")),
        ("leading zero", proof.replace("index 7", "index 07")),
        ("no index", proof.replace("index 7\n", "")),
        ("a hash left out", proof.replace(&format!("{}\n", lines[3]), "")),
        ("a hash doubled", proof.replace(lines[3], &format!("{0}\n{0}", lines[3]))),
        ("other size", proof.replace("\n15\n", "\n16\n")),
        ("extra is not base64", proof.replace("index 7", "extra !\nindex 7")),
        ("extra after the index", proof.replace("index 7", "index 7\nextra AA==")),
        ("too many hashes", proof.replace(lines[3], &[lines[3]; 80].join("\n"))),
    ] {
        assert_ne!(altered, proof, "{why}");
        assert!(verify(&entry, &altered, &keys).is_err(), "{why}");
    }
    let with_extra = proof.replace("index 7", "extra AA==\nindex 7");
    assert!(verify(&entry, &with_extra, &keys).is_ok());
    assert_eq!(TlogProof::parse(&with_extra).unwrap().to_string(), with_extra);
}

#[test]
fn a_log_of_one_entry_has_a_proof_without_hashes() {
    let key = SigningKey::from_seed("ledger.example/acme", &[1; 32]).unwrap();
    let tree: MemoryTree = [leaf_hash(b"entry")].into_iter().collect();
    let checkpoint = Checkpoint { origin: key.name().into(), size: TreeSize(1), root: tree.root() };
    let proof = TlogProof {
        extra: None,
        index: LeafIndex(0),
        hashes: Vec::new(),
        checkpoint: checkpoint.sign(&key).unwrap(),
    };
    let verified = verify(b"entry", &proof.to_string(), &[key.verifier_key()]).unwrap();
    assert_eq!(verified, checkpoint);
}
