use super::*;
use crate::testing::{strings, text, vectors};

fn stream_of(leaves: &[String]) -> Result<(), StreamError> {
    let mut checker = StreamChecker::new();
    leaves.iter().try_for_each(|leaf| checker.check(leaf.as_bytes()).map(drop))
}

#[test]
fn streams_are_followed() {
    let vectors = vectors("stream.json");
    assert_eq!(prev_hash(None), text(&vectors, "first_prev"));
    stream_of(&strings(&vectors, "leaves")).unwrap();
}

#[test]
fn edits_of_a_stream_show() {
    let leaves = strings(&vectors("stream.json"), "leaves");
    let mut missing = leaves.clone();
    missing.remove(1);
    let mut swapped = leaves.clone();
    swapped.swap(0, 1);
    let mut doubled = leaves.clone();
    doubled.insert(1, leaves[0].clone());
    for altered in [missing, swapped, doubled, leaves[1..].to_vec()] {
        let refused = stream_of(&altered).unwrap_err();
        assert!(matches!(refused, StreamError::WrongSequence { .. }), "{refused}");
    }
    let mut edited = leaves.clone();
    edited[0] = edited[0].replace("fs.read", "fs.reed");
    assert!(matches!(stream_of(&edited), Err(StreamError::WrongPrevious { seq: 2, .. })));
    let mut unrooted = leaves;
    unrooted[0] = unrooted[0].replacen("AAAA", "AAAB", 1);
    assert!(matches!(stream_of(&unrooted), Err(StreamError::WrongPrevious { seq: 1, .. })));
}

#[test]
fn time_that_does_not_grow_shows() {
    let leaves = strings(&vectors("stream.json"), "leaves");
    let first: serde_json::Value = serde_json::from_str(&leaves[0]).unwrap();
    let mut second: serde_json::Value = serde_json::from_str(&leaves[1]).unwrap();
    for back_ms in [0, 1] {
        second["time"] = first["time"].clone();
        second["time"]["ms"] = (first["time"]["ms"].as_u64().unwrap() - back_ms).into();
        let second = String::from_utf8(crate::jcs::canonicalize(&second).unwrap()).unwrap();
        let refused = stream_of(&[leaves[0].clone(), second]);
        assert!(matches!(refused, Err(StreamError::NotLater { seq: 2, .. })));
    }
}

#[test]
fn a_refused_leaf_leaves_the_stream_where_it_was() {
    let leaves = strings(&vectors("stream.json"), "leaves");
    let mut checker = StreamChecker::new();
    checker.check(leaves[0].as_bytes()).unwrap();
    assert!(checker.check(leaves[0].as_bytes()).is_err());
    checker.check(leaves[1].as_bytes()).unwrap();
}

#[test]
fn entries_that_are_no_leaves_are_refused() {
    let leaf = strings(&vectors("stream.json"), "leaves")[0].clone();
    for (why, entry) in [
        ("not JSON", String::new()),
        ("a space", leaf.replacen(':', ": ", 1)),
        ("a doubled key", leaf.replacen("{", r#"{"agent":"a","agent":"a","#, 1)),
        ("a fraction", leaf.replace(r#""n":0"#, r#""n":0.5"#)),
        ("another version", leaf.replace(r#""v":1"#, r#""v":2"#)),
        ("no place", leaf.replace(r#""gw""#, r#""gx""#)),
        ("too large", leaf.replace("fs.read", &"a".repeat(20_000))),
    ] {
        assert_ne!(entry, leaf);
        let refused = StreamChecker::new().check(entry.as_bytes());
        assert!(matches!(refused, Err(StreamError::Leaf(_))), "{why}");
    }
}
