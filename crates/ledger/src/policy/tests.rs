use proptest::prelude::*;

use super::*;
use crate::hash::leaf_hash;
use crate::note::{Note, Signature, SigningKey};
use crate::tree::TreeSize;

const ORIGIN: &str = "log.example/acme";

fn log_key() -> SigningKey {
    SigningKey::from_seed(ORIGIN, &[100; 32]).unwrap()
}

fn cosigner(number: u8) -> SigningKey {
    SigningKey::cosigner_from_seed(&format!("w{number}.example"), &[number; 32]).unwrap()
}

/// The lines that define a log and witnesses `W1` to `W<count>`.
fn definitions(count: u8) -> String {
    let log = format!("log {}\n", log_key().verifier_key());
    let witness =
        |n| format!("witness W{n} {} https://w{n}.example/\n", cosigner(n).verifier_key());
    (1..=count).map(witness).fold(log, |text, line| text + &line)
}

/// A checkpoint cosigned by these witnesses.
fn cosigned(by: &[u8]) -> Vec<u8> {
    let (size, root) = (TreeSize(9), leaf_hash(b"root"));
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size, root };
    let mut note = checkpoint.sign(&log_key()).unwrap();
    for number in by {
        note.add(cosigner(*number).cosign(&checkpoint.to_string(), u64::from(*number)).unwrap());
    }
    note.to_bytes()
}

fn reaches(policy: &Policy, by: &[u8]) -> bool {
    policy.satisfied(&cosigned(by)).is_ok()
}

#[test]
fn a_quorum_of_groups_is_counted() {
    // The shape of the specification's example: two of three, and any one of two.
    let text = definitions(5)
        + "# first party\n\tgroup X 2 W1 W2 W3\ngroup Y any W4 W5  \n\ngroup both all X Y\nquorum both\n";
    let policy = Policy::parse(&text).unwrap();
    for (by, reached) in [
        (&[1, 2, 4][..], true),
        (&[1, 3, 5], true),
        (&[5, 3, 2, 1, 4], true),
        (&[1, 2, 3], false),
        (&[1, 4, 5], false),
        (&[1, 1, 4], false),
        (&[], false),
    ] {
        assert_eq!(reaches(&policy, by), reached, "{by:?}");
    }
    let satisfied = policy.satisfied(&cosigned(&[1, 2, 4])).unwrap();
    let times: Vec<_> = satisfied.cosigned.iter().map(|(name, time)| (&**name, *time)).collect();
    assert_eq!(times, [("W1", 1), ("W2", 2), ("W4", 4)]);
}

#[test]
fn what_lacks_for_a_quorum_is_named_from_the_whole_to_its_parts() {
    let text = definitions(6)
        + "group X 2 W1 W2 W3\ngroup Y any W4 W5\ngroup Z any W6\ngroup both all X Y\nquorum both\n";
    let policy = Policy::parse(&text).unwrap();
    for (by, missing) in [
        (&[1, 6][..], "2 of X, Y (group `both`); 1 of W4, W5 (group `Y`); 1 of W2, W3 (group `X`)"),
        (&[1, 2], "1 of Y (group `both`); 1 of W4, W5 (group `Y`)"),
        (&[4], "1 of X (group `both`); 2 of W1, W2, W3 (group `X`)"),
    ] {
        let said = policy.satisfied(&cosigned(by)).unwrap_err().to_string();
        let by: Vec<_> = by.iter().map(|number| format!("W{number}")).collect();
        let whole = format!(
            "the quorum `both` did not cosign the checkpoint of 9 records: missing {missing}; \
             cosigned by {}",
            by.join(", ")
        );
        assert_eq!(said, whole);
    }
    let one = Policy::parse(&(definitions(2) + "quorum W2")).unwrap();
    let said = one.satisfied(&cosigned(&[])).unwrap_err().to_string();
    assert!(said.ends_with("missing 1 of W2; cosigned by none"), "{said}");
}

#[test]
fn a_cosignature_counts_only_for_its_time_its_key_and_its_type() {
    let policy = Policy::parse(&(definitions(1) + "quorum W1\n")).unwrap();
    let checkpoint = Checkpoint::parse(Note::parse(&cosigned(&[])).unwrap().text()).unwrap();
    let text = checkpoint.to_string();
    let line = |id: [u8; 4], time: u64, signature: &[u8]| {
        let bytes = [id.as_slice(), &time.to_be_bytes(), signature].concat();
        Signature::parse(&format!("\u{2014} w1.example {}", STANDARD.encode(bytes))).unwrap()
    };
    let cosignature = cosigner(1).cosign(&text, 77).unwrap();
    let (id, signature) = (cosigner(1).id().0, &cosignature.bytes()[8..]);
    // Key id: SHA-256(name ‖ LF ‖ 0x04 ‖ public key), the first four bytes; type 0x01 gives another one.
    let (kind, public) = public_key(&cosigner(1).verifier_key());
    assert_eq!((kind, public.len()), (4, 32));
    let id_of = |kind: u8| {
        let named = [b"w1.example\n".as_slice(), &[kind], &public].concat();
        <[u8; 4]>::try_from(&crate::hash::sha256(&named).0[..4]).unwrap()
    };
    assert_eq!(id, id_of(4));
    for (what, added, counts) in [
        ("as it was made", line(id, 77, signature), Some(true)),
        ("another time", line(id, 78, signature), None),
        (
            "no time",
            Signature::parse(&format!(
                "\u{2014} w1.example {}",
                STANDARD.encode([id.as_slice(), signature].concat())
            ))
            .unwrap(),
            None,
        ),
        ("the id of a plain key", line(id_of(1), 77, signature), Some(false)),
    ] {
        let mut note = checkpoint.sign(&log_key()).unwrap();
        note.add(added);
        match (policy.satisfied(&note.to_bytes()), counts) {
            (Ok(satisfied), Some(true)) => assert_eq!(satisfied.cosigned["W1"], 77),
            (Err(Unsatisfied::Quorum { .. }), Some(false))
            | (Err(Unsatisfied::Checkpoint(_)), None) => {}
            (other, _) => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn a_single_witness_or_none_is_a_quorum_too() {
    let one = Policy::parse(&(definitions(2) + "quorum W2")).unwrap();
    assert!(reaches(&one, &[2]) && !reaches(&one, &[1]));
    let none = Policy::parse(&(definitions(1) + "quorum none\n")).unwrap();
    assert!(reaches(&none, &[]));
    assert!(none.satisfied(b"").is_err());
    let bare = Policy::parse("quorum none").unwrap();
    assert!(!reaches(&bare, &[]), "no log is trusted");
    bare.satisfied_with(&cosigned(&[]), &[log_key().verifier_key()]).unwrap();
}

#[test]
fn a_quorum_that_the_witnesses_with_urls_cannot_reach_is_told() {
    let silent = definitions(2) + &format!("witness W3 {}\n", cosigner(3).verifier_key());
    for (lines, missing) in [
        ("quorum none\n", ""),
        ("quorum W1\n", ""),
        ("group G 2 W1 W2 W3\nquorum G\n", ""),
        ("quorum W3\n", "1 of W3"),
        ("group G all W1 W3\nquorum G\n", "1 of W3 (group `G`)"),
    ] {
        let policy = Policy::parse(&(silent.clone() + lines)).unwrap();
        let said: Vec<_> = policy.unreachable().iter().map(ToString::to_string).collect();
        assert_eq!(said.join("; "), missing, "{lines}");
    }
}

#[test]
fn strangers_do_not_count_and_forgeries_refuse_the_note() {
    let policy = Policy::parse(&(definitions(2) + "group G any W1 W2\nquorum G\n")).unwrap();
    assert!(!reaches(&policy, &[7]));
    let note = String::from_utf8(cosigned(&[1])).unwrap();
    let altered = note.replacen("\n9\n", "\n8\n", 1);
    let refused = policy.satisfied(altered.as_bytes()).unwrap_err();
    assert!(matches!(refused, Unsatisfied::Checkpoint(_)), "{refused}");
}

#[test]
fn keys_and_urls_are_kept() {
    let policy = Policy::parse(&(definitions(2) + "quorum none\n")).unwrap();
    assert_eq!(policy.logs(), [PolicyLog { key: log_key().verifier_key(), url: None }]);
    let urls: Vec<_> = policy.witnesses().iter().map(|one| one.url.as_deref().unwrap()).collect();
    assert_eq!(urls, ["https://w1.example/", "https://w2.example/"]);
}

#[test]
fn bad_lines_are_refused_with_their_number() {
    let same_key_other_name = SigningKey::cosigner_from_seed("other.example", &[1; 32]).unwrap();
    let (log, witness) = (log_key().verifier_key(), cosigner(1).verifier_key());
    for (lines, line) in [
        ("nothing W1\nquorum W1\n".to_owned(), 4),
        ("quorum W1\nquorum W2\n".to_owned(), 5),
        ("quorum W3\n".to_owned(), 4),
        ("quorum G\ngroup G any W1\n".to_owned(), 4),
        (String::new(), 4),
        ("group G any\n".to_owned(), 4),
        ("group G 0 W1\n".to_owned(), 4),
        ("group G 01 W1\n".to_owned(), 4),
        ("group G 3 W1 W2\n".to_owned(), 4),
        ("group G some W1 W2\n".to_owned(), 4),
        ("group G all W1 W1\n".to_owned(), 4),
        ("group G any W1\ngroup H any W1\n".to_owned(), 5),
        ("group G any none\n".to_owned(), 4),
        ("group G any G\n".to_owned(), 4),
        ("group none any W1\n".to_owned(), 4),
        ("group W2 any W1\n".to_owned(), 4),
        (format!("log {log}\n"), 4),
        (format!("log {witness}\n"), 4),
        (format!("witness W3 {log}\n"), 4),
        (format!("witness W3 {}\n", same_key_other_name.verifier_key()), 4),
        (format!("witness W1 {}\n", cosigner(3).verifier_key()), 4),
        ("witness W3 w3.example+00000000+AAAA\n".to_owned(), 4),
        ("quorum\u{a0}W1\n".to_owned(), 4),
        ("quorum W1\r\n".to_owned(), 4),
    ] {
        let refused = Policy::parse(&(definitions(2) + &lines)).unwrap_err();
        assert_eq!(refused.line, line, "{lines:?}: {refused}");
    }
}

#[test]
fn as_many_entries_as_the_specification_asks_for_are_read() {
    let log = |n: u8| SigningKey::from_seed(&format!("log{n}.example"), &[n; 32]).unwrap();
    let logs: String = (101..=131).map(|n| format!("log {}\n", log(n).verifier_key())).collect();
    let groups: String = (1..=32).map(|n| format!("group G{n} any W{n}\n")).collect();
    let policy = Policy::parse(&(definitions(32) + &logs + &groups + "quorum G32\n")).unwrap();
    assert_eq!((policy.logs().len(), policy.witnesses().len()), (32, 32));
    assert!(reaches(&policy, &[32]) && !reaches(&policy, &[31]));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "((log|witness|group|quorum|none|any|all|W1|[0-9]|#)[ \t\n]?){0,40}") {
        // Nothing here names a valid key, so all a policy can say is that it wants none.
        if let Ok(policy) = Policy::parse(&text) {
            prop_assert!(policy.satisfied_with(&cosigned(&[]), &[log_key().verifier_key()]).is_ok());
        }
    }
}
