use proptest::prelude::*;
use signed_note::{StandardVerifier, VerifierList};

use super::*;
use crate::limits::NOTE_SIGNATURES_MAX;
use crate::testing::{hex_array, list, number, strings, text, vectors};

fn keys(vkeys: &[String]) -> Vec<VerifierKey> {
    vkeys.iter().map(|vkey| VerifierKey::parse(vkey).unwrap()).collect()
}

/// What the other implementation says.
fn oracle(note: &str, vkeys: &[String]) -> bool {
    let known = vkeys.iter().map(|vkey| StandardVerifier::new(vkey).unwrap());
    let known = VerifierList::new(known.map(|v| Box::new(v) as Box<_>).collect());
    signed_note::Note::from_bytes(note.as_bytes()).is_ok_and(|note| note.verify(&known).is_ok())
}

#[test]
fn good_notes_are_verified() {
    for case in list(&vectors("note.json"), "accept") {
        let (note, vkeys) = (text(case, "note"), strings(case, "keys"));
        let verified = verify_note(note.as_bytes(), &keys(&vkeys)).unwrap();
        let names: Vec<_> = verified.signers().iter().map(|signer| signer.name.clone()).collect();
        assert_eq!(names, strings(case, "signers"), "{}", text(case, "why"));
        assert!(note.starts_with(verified.text()));
        assert_eq!(Note::parse(note.as_bytes()).unwrap().to_string(), note);
    }
}

#[test]
fn bad_notes_are_refused() {
    for case in list(&vectors("note.json"), "refuse") {
        let refused = verify_note(text(case, "note").as_bytes(), &keys(&strings(case, "keys")));
        assert!(refused.is_err(), "{}", text(case, "why"));
    }
}

#[test]
fn signed_note_agrees_on_plain_signatures() {
    let vectors = vectors("note.json");
    let mut compared = 0;
    for (field, good) in [("accept", true), ("refuse", false)] {
        for case in list(&vectors, field) {
            let vkeys = strings(case, "keys");
            // The other implementation knows neither cosignatures nor control characters.
            if vkeys.len() == 1 && !text(case, "note").contains('\r') {
                assert_eq!(oracle(text(case, "note"), &vkeys), good, "{}", text(case, "why"));
                compared += 1;
            }
        }
    }
    assert!(compared > 10);
}

#[test]
fn verifier_keys_are_read_and_written() {
    let vectors = vectors("note.json");
    for vkey in strings(&vectors, "vkeys") {
        assert_eq!(VerifierKey::parse(&vkey).unwrap().to_string(), vkey);
    }
    for vkey in strings(&vectors, "malformed_vkeys") {
        assert!(VerifierKey::parse(&vkey).is_err(), "{vkey}");
    }
}

#[test]
fn signing_gives_the_published_note() {
    let vectors = vectors("note.json");
    let case = &vectors["sign"];
    let key = SigningKey::from_seed(text(case, "name"), &hex_array(case, "seed_hex")).unwrap();
    assert_eq!(key.sign_note(text(case, "text")).unwrap().to_string(), text(case, "note"));
    let case = &vectors["cosign"];
    let seed = hex_array(case, "seed_hex");
    let key = SigningKey::cosigner_from_seed(text(case, "name"), &seed).unwrap();
    let line = key.cosign(text(case, "text"), number(case, "time")).unwrap();
    assert_eq!(line.to_string(), text(case, "line"));
}

#[test]
fn each_key_signs_only_in_its_role() {
    let log = SigningKey::from_seed("a", &[1; 32]).unwrap();
    let witness = SigningKey::cosigner_from_seed("a", &[1; 32]).unwrap();
    assert_ne!(log.id(), witness.id());
    assert!(log.cosign("a\n", 1).is_err());
    assert!(witness.sign_note("a\n").is_err());
}

#[test]
fn debug_output_has_no_secret() {
    let key = SigningKey::from_seed("a.example", &[0x5a; 32]).unwrap();
    assert_eq!(format!("{key:?}"), format!("SigningKey(a.example+{})", key.id()));
}

#[test]
fn names_that_break_a_line_are_refused() {
    for name in ["", "a b", "a+b", "a\nb", "a\u{a0}b", "a\u{2003}b", "a\tb", "a\u{1}b"] {
        assert!(SigningKey::from_seed(name, &[1; 32]).is_err(), "{name:?}");
    }
    for text in ["", "a", "a\r\n", "\u{0}\n"] {
        assert!(Note::new(text).is_err(), "{text:?}");
    }
}

#[test]
fn signature_lines_are_bounded() {
    let key = SigningKey::from_seed("a", &[1; 32]).unwrap();
    let mut note = key.sign_note("text\n").unwrap();
    let line = note.signatures()[0].clone();
    (1..NOTE_SIGNATURES_MAX).for_each(|_| note.add(line.clone()));
    assert!(verify_note(&note.to_bytes(), &[key.verifier_key()]).is_ok());
    note.add(line);
    assert!(verify_note(&note.to_bytes(), &[key.verifier_key()]).is_err());
}

proptest! {
    #[test]
    fn what_we_sign_both_implementations_verify(
        seed: [u8; 32], name in "[a-z]{1,8}(\\.[a-z]{2,4})?(/[a-z0-9]{1,5})?", lines in "([^\\p{C}]{0,12}\n){1,5}",
    ) {
        let key = SigningKey::from_seed(&name, &seed).unwrap();
        let note = key.sign_note(&lines).unwrap();
        let vkey = key.verifier_key();
        prop_assert!(oracle(&note.to_string(), &[vkey.to_string()]));
        let verified = verify_note(&note.to_bytes(), &[vkey]).unwrap();
        prop_assert_eq!(verified.text(), lines);
        prop_assert!(verified.is_signed_by(&name));
    }

    #[test]
    fn any_flipped_bit_refuses_the_note(place: prop::sample::Index, bit in 0_u8..8) {
        let key = SigningKey::from_seed("log.example/a", &[3; 32]).unwrap();
        let mut bytes = key.sign_note("some text\n\nmore\n").unwrap().to_bytes();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        prop_assert!(verify_note(&bytes, &[key.verifier_key()]).is_err());
    }

    #[test]
    fn any_bytes_are_a_note_or_refused(text in "(\\PC|\n|— a AAAAAAA=\n){0,60}") {
        if let Ok(note) = Note::parse(text.as_bytes()) {
            prop_assert_eq!(note.to_string(), text);
        }
    }
}
