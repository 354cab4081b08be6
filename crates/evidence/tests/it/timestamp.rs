//! Tokens of a real authority, and everything that may be wrong with them.

use countersign_evidence::timestamp::{
    RESPONSE_BYTES_MAX, Roots, Timestamp, TimestampError, request, verify,
};
use countersign_testkit::TimestampAuthority;
use tempfile::TempDir;

const NOTE: &[u8] = b"log.example/acme\n3\nAAAA\n";
const NONCE: u64 = 0xb5c8_bbfd_3c93_5dc0;
const KEYS: [&str; 4] = ["rsa:2048", "rsa:3072", "ec:P-256", "ec:P-384"];

struct World {
    authority: TimestampAuthority,
    roots: Roots,
    _folder: TempDir,
}

impl World {
    fn new(key: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = TimestampAuthority::new(folder.path(), key).unwrap();
        let roots = Roots::parse(&std::fs::read(authority.roots()).unwrap()).unwrap();
        Self { authority, roots, _folder: folder }
    }

    fn reply(&self) -> Vec<u8> {
        self.authority.reply(&request(NOTE, NONCE).unwrap()).unwrap()
    }

    fn verify(&self, reply: &[u8]) -> Result<Timestamp, TimestampError> {
        verify(reply, NOTE, Some(NONCE), &self.roots)
    }

    /// Has a `TSTInfo` signed with another certificate.
    fn signed_with(&self, info: &[u8], section: &str, from: &str, to: &str) -> Vec<u8> {
        self.authority.certify(section, from, to).unwrap();
        self.authority.sign(info).unwrap()
    }
}

#[test]
fn tokens_of_rsa_and_ecdsa_keys_hold() {
    for key in KEYS {
        let world = World::new(key);
        let reply = world.reply();
        assert!(world.authority.openssl_verifies(&reply, NOTE).unwrap());
        let found = world.verify(&reply).unwrap();
        assert_eq!(found.authority, "CN=Authority");
        assert_eq!((found.policy.as_str(), found.accuracy_ms), ("1.2.3.4.1", Some(1_500)));
        let now = jiff::Zoned::now().timestamp().as_millisecond();
        assert!((now - found.time_ms).abs() < 60_000, "{found:?}");
        // What an auditor has later is the answer alone.
        assert_eq!(verify(&reply, NOTE, None, &world.roots).unwrap(), found);
        // The same by way of the program's other command.
        let signed = world.authority.sign(&world.authority.signed_in(&reply).unwrap()).unwrap();
        assert_eq!(world.verify(&signed).unwrap(), found);
    }
}

#[test]
fn what_is_wrong_is_named() {
    let world = World::new("ec:P-256");
    let good = world.reply();
    let other = World::new("ec:P-256");
    let asked = |note: &[u8], nonce| world.authority.reply(&request(note, nonce).unwrap()).unwrap();
    let mut refused = good.clone();
    // The status is the first number; after it goes the length of a sequence, in both places.
    let status = refused.windows(5).position(|five| five == [0x30, 3, 2, 1, 0]).unwrap() + 4;
    refused[status] = 2;
    let (past, future) = ("20200101000000Z", "20400101000000Z");
    let info = world.authority.signed_in(&good).unwrap();
    let forged = |section, from, to| world.signed_with(&info, section, from, to);
    for (reply, expected) in [
        (asked(b"something else", NONCE), "the imprint differs"),
        (asked(NOTE, 1), "the nonce differs"),
        (other.reply(), "is not trusted"),
        (refused, "the authority refused, with status 2"),
        (b"<html>busy</html>".to_vec(), "not encoded as RFC 3161"),
        (Vec::new(), "not encoded as RFC 3161"),
        (vec![0x30, 0x84, 255, 255, 255, 255], "not encoded as RFC 3161"),
        (vec![0x30; RESPONSE_BYTES_MAX + 1], "more than"),
        ([&good[..], b"\0"].concat(), "not encoded as RFC 3161"),
        (forged("timestamps", past, "20210101000000Z"), "is not trusted at the time"),
        (forged("timestamps", "20390101000000Z", future), "is not trusted at the time"),
        (forged("no_purpose", past, future), "not for timestamps alone"),
        (forged("uncritical", past, future), "not for timestamps alone"),
        (forged("two_purposes", past, future), "not for timestamps alone"),
        (forged("server", past, future), "not for timestamps alone"),
    ] {
        let error = world.verify(&reply).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    world.authority.certify("timestamps", past, future).unwrap();
    let nothing = world.authority.sign(b"hello").unwrap();
    assert!(matches!(world.verify(&nothing), Err(TimestampError::Encoding("the timestamp", _))));
    world.verify(&good).unwrap();
}

#[test]
fn no_flipped_bit_moves_the_time() {
    let world = World::new("ec:P-256");
    let good = world.reply();
    let found = world.verify(&good).unwrap();
    let mut survived = 0;
    for (at, bit) in (0..good.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut bad = good.clone();
        bad[at] ^= 1 << bit;
        // Only what nobody signs can differ: the status may grant with modifications.
        if let Ok(other) = world.verify(&bad) {
            assert_eq!(other, found, "byte {at}, bit {bit}");
            survived += 1;
        }
    }
    assert!(survived < 100, "{survived} of {} bits do not matter", good.len() * 8);
}

#[test]
fn roots_are_certificates() {
    let world = World::new("ec:P-256");
    let root = std::fs::read(world.authority.roots()).unwrap();
    let two = [&root[..], &root].concat();
    let two = Roots::parse(&two).unwrap();
    assert!(verify(&world.reply(), NOTE, None, &two).is_ok());
    for bad in [&b""[..], b"hello", &root[..root.len() / 2]] {
        assert!(matches!(Roots::parse(bad), Err(TimestampError::Roots(_))));
    }
}
