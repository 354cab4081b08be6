use proptest::prelude::*;
use sd_jwt_payload::{Hasher as _, Sha256Hasher};
use serde_json::json;

use super::*;
use crate::jcs::canonicalize;
use crate::testing::{hex_array, list, strings, text, vectors};

#[test]
fn published_disclosures_are_read() {
    for case in list(&vectors("disclosure.json"), "decode") {
        let disclosure = Disclosure::decode(text(case, "encoded")).unwrap();
        assert_eq!(disclosure.salt(), text(case, "salt"));
        assert_eq!(disclosure.name(), case["name"].as_str());
        assert_eq!(*disclosure.value(), case["value"]);
        assert_eq!(disclosure.digest().to_base64url(), text(case, "digest"));
        assert_eq!(disclosure.as_str(), text(case, "encoded"));
    }
}

#[test]
fn disclosures_are_written() {
    for case in list(&vectors("disclosure.json"), "encode") {
        let (salt, value) = (hex_array(case, "salt_hex"), case["value"].clone());
        let disclosure = match case["name"].as_str() {
            Some(name) => Disclosure::new(&salt, name, value),
            None => Disclosure::element(&salt, value),
        };
        assert_eq!(disclosure.unwrap().as_str(), text(case, "encoded"));
    }
}

#[test]
fn malformed_disclosures_are_refused() {
    for encoded in strings(&vectors("disclosure.json"), "malformed") {
        assert!(Disclosure::decode(&encoded).is_err(), "{encoded}");
    }
    assert!(Disclosure::new(&[0; 16], "_sd", json!(1)).is_err());
    assert!(Disclosure::new(&[0; 16], "...", json!(1)).is_err());
}

#[test]
fn values_are_bounded() {
    let longest = "a".repeat(DISCLOSED_VALUE_BYTES_MAX - 2);
    let disclosure = Disclosure::new(&[0; 16], "result", json!(longest)).unwrap();
    assert!(Disclosure::decode(disclosure.as_str()).is_ok());
    let refused = Disclosure::new(&[0; 16], "result", json!(format!("{longest}a")));
    assert!(matches!(refused, Err(DisclosureError::ValueTooLarge { .. })));
    assert!(Disclosure::decode(&"A".repeat(DISCLOSURE_BYTES_MAX + 1)).is_err());
}

#[test]
fn a_leaf_opens_in_part() {
    let vectors = vectors("disclosure.json");
    let given: Vec<_> = strings(&vectors["open"], "disclosures")
        .iter()
        .map(|encoded| Disclosure::decode(encoded).unwrap())
        .collect();
    let opened = open_leaf(text(&vectors, "leaf").as_bytes(), &given).unwrap();
    assert_eq!(opened.opened.len(), given.len());
    assert_eq!(opened.closed.into_iter().collect::<Vec<_>>(), strings(&vectors["open"], "closed"));
}

/// A leaf of one field whose value holds a digest itself.
fn nested() -> (Vec<u8>, Disclosure, Disclosure) {
    let inner = Disclosure::new(&[1; 16], "iban", json!("<tok:1>")).unwrap();
    let value = json!({"_sd": sd_list([inner.digest()])});
    let outer = Disclosure::new(&[2; 16], "payment", value).unwrap();
    let leaf = json!({"v": 1, "_sd_alg": SD_ALG, "_sd": sd_list([outer.digest()])});
    (canonicalize(&leaf).unwrap(), outer, inner)
}

#[test]
fn disclosures_inside_disclosures_open_in_any_order() {
    let (leaf, outer, inner) = nested();
    let opened = open_leaf(&leaf, &[inner.clone(), outer.clone()]).unwrap();
    assert!(opened.closed.is_empty());
    let opened = open_leaf(&leaf, &[outer]).unwrap();
    assert_eq!(opened.closed.into_iter().collect::<Vec<_>>(), [inner.digest().to_base64url()]);
}

#[test]
fn disclosures_that_match_nothing_are_refused() {
    let (leaf, outer, inner) = nested();
    let foreign = Disclosure::new(&[3; 16], "payment", json!(1)).unwrap();
    for given in [vec![inner], vec![outer.clone(), foreign], vec![outer.clone(), outer]] {
        let refused = open_leaf(&leaf, &given);
        assert!(matches!(refused, Err(DisclosureError::NotCommitted { .. })));
    }
}

#[test]
fn an_element_does_not_open_a_field() {
    let element = Disclosure::element(&[1; 16], json!(1)).unwrap();
    let named = Disclosure::new(&[1; 16], "a", json!(1)).unwrap();
    let as_field = json!({"_sd": sd_list([element.digest()])}).to_string();
    let as_element = json!({"list": [{"...": named.digest().to_base64url()}]}).to_string();
    assert!(open_leaf(as_field.as_bytes(), &[element]).is_err());
    assert!(open_leaf(as_element.as_bytes(), &[named]).is_err());
}

#[test]
fn malformed_leaves_are_refused() {
    for leaf in [
        "",
        "{",
        r#"{"_sd_alg":"sha-512"}"#,
        r#"{"_sd":1}"#,
        r#"{"_sd":[1]}"#,
        r#"{"_sd":["a","a"]}"#,
        r#"{"_sd":["a"],"list":[{"...":"a"}]}"#,
    ] {
        let refused = open_leaf(leaf.as_bytes(), &[]);
        assert!(matches!(refused, Err(DisclosureError::MalformedLeaf(_))), "{leaf}");
    }
}

#[test]
fn leaf_with_disclosures() {
    let amount = Disclosure::new(&[1; 16], "amount", json!(1200)).unwrap();
    let person = Disclosure::new(&[2; 16], "principal", json!({"mail": "<tok:4>"})).unwrap();
    let leaf = json!({
        "v": 1, "kind": "decision", "record_id": "0198f3b2-0000-7000-8000-000000000001",
        "tenant": "acme", "gw": {"replica": "g1", "epoch": 3, "seq": 1, "prev": crate::leaf::prev_hash(None)},
        "time": {"ms": 1_763_700_000_123_u64, "n": 0}, "decision": "deny",
        "_sd_alg": SD_ALG, "_sd": sd_list([amount.digest(), person.digest()]),
    });
    let leaf = String::from_utf8(canonicalize(&leaf).unwrap()).unwrap();
    insta::assert_snapshot!(format!("{leaf}\n{}\n{}", amount.as_str(), person.as_str()));
}

#[test]
fn a_long_chain_of_disclosures_opens_in_one_go() {
    let mut chain: Vec<Disclosure> = Vec::new();
    for n in 0..2_000_u128 {
        let within: Vec<String> =
            chain.last().map(|inner| inner.digest().to_base64url()).into_iter().collect();
        chain.push(Disclosure::new(&n.to_be_bytes(), "inner", json!({"_sd": within})).unwrap());
    }
    let outermost = chain.last().unwrap().digest().to_base64url();
    let leaf = json!({"_sd": [outermost]}).to_string();
    let opened = open_leaf(leaf.as_bytes(), &chain).unwrap();
    assert_eq!((opened.opened.len(), opened.closed.len()), (2_000, 0));
    // Without the outermost one, nothing leads to the others.
    chain.pop();
    assert!(open_leaf(leaf.as_bytes(), &chain).is_err());
}

proptest! {
    #[test]
    fn sd_jwt_payload_reads_the_same(
        salt: [u8; 16], name in "[^_.]{1,12}", value in "\\PC{0,40}", number: i32,
    ) {
        let value = json!({"text": value, "number": number, "list": [null, true, 1.5]});
        for ours in [
            Disclosure::new(&salt, &name, value.clone()).unwrap(),
            Disclosure::element(&salt, value.clone()).unwrap(),
        ] {
            let theirs = sd_jwt_payload::Disclosure::parse(ours.as_str()).unwrap();
            prop_assert_eq!(&theirs.salt, ours.salt());
            prop_assert_eq!(theirs.claim_name.as_deref(), ours.name());
            prop_assert_eq!(&theirs.claim_value, ours.value());
            let digest = Sha256Hasher::new().encoded_digest(ours.as_str());
            prop_assert_eq!(digest, ours.digest().to_base64url());
            prop_assert_eq!(Disclosure::decode(ours.as_str()).unwrap(), ours);
        }
    }

    #[test]
    fn any_text_is_a_disclosure_or_refused(encoded in "[A-Za-z0-9_-]{0,60}") {
        if let Ok(disclosure) = Disclosure::decode(&encoded) {
            prop_assert_eq!(disclosure.as_str(), encoded);
        }
    }
}
