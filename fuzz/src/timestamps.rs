//! Answers of timestamp authorities: whatever is altered, no other time is proven, and nothing else stamped.

use std::sync::LazyLock;

use countersign_evidence::timestamp::{Roots, Timestamp, verify};

use super::world::RECORDS;

/// Answers about the newest checkpoint of [`RECORDS`], made with OpenSSL's `ts`: by an RSA and an ECDSA key,
/// which name their certificate by SHA-256 and by SHA-1.
pub(crate) const GENUINE: [&[u8]; 4] = [
    include_bytes!("../../spec/vectors/timestamp/rsa.tsr"),
    include_bytes!("../../spec/vectors/timestamp/rsa-sha1-id.tsr"),
    include_bytes!("../../spec/vectors/timestamp/ecdsa.tsr"),
    include_bytes!("../../spec/vectors/timestamp/ecdsa-sha1-id.tsr"),
];

static ROOTS: LazyLock<Roots> = LazyLock::new(|| {
    Roots::parse(include_bytes!("../../spec/vectors/timestamp/roots.pem")).unwrap()
});

static PROVEN: LazyLock<Vec<Timestamp>> =
    LazyLock::new(|| GENUINE.iter().map(|answer| stamped(answer).unwrap()).collect());

fn stamped(answer: &[u8]) -> Option<Timestamp> {
    verify(answer, &RECORDS.files["checkpoint"], None, &ROOTS).ok()
}

/// An authority's answer: what holds is what the authority signed.
pub(crate) fn timestamp(bytes: &[u8]) {
    assert_eq!(PROVEN.len(), GENUINE.len());
    if let Some(found) = stamped(bytes) {
        assert!(PROVEN.contains(&found), "{found:?}");
        assert!(verify(bytes, b"something else", None, &ROOTS).is_err());
        assert!(verify(bytes, &RECORDS.files["checkpoint"], Some(7), &ROOTS).is_err());
    }
    // The roots come from a file, too.
    if let Ok(roots) = Roots::parse(bytes) {
        assert!(GENUINE.iter().any(|answer| verify(answer, b"", None, &roots).is_err()));
    }
}

/// The answers, one that refuses, and the file of roots.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let refused = b"\x30\x12\x30\x10\x02\x01\x02\x30\x06\x0c\x04busy\x03\x03\x00\x01\x00".to_vec();
    let roots = include_bytes!("../../spec/vectors/timestamp/roots.pem").to_vec();
    GENUINE.iter().map(|answer| answer.to_vec()).chain([refused, roots, Vec::new()]).collect()
}
