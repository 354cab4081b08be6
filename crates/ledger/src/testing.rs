//! What the tests of this crate share: the vectors of `spec/vectors/ledger`.

use serde_json::Value;

pub(crate) fn vector_text(file: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/vectors/ledger");
    std::fs::read_to_string(format!("{folder}/{file}")).unwrap()
}

pub(crate) fn vectors(file: &str) -> Value {
    serde_json::from_str(&vector_text(file)).unwrap()
}

pub(crate) fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    let list = value[field].as_array().unwrap();
    assert!(!list.is_empty(), "`{field}` has no cases");
    list
}

pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap()
}

pub(crate) fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap()
}

pub(crate) fn strings(value: &Value, field: &str) -> Vec<String> {
    let list = value[field].as_array().unwrap();
    list.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { panic!("odd number of digits") };
    let byte = |pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap();
    pairs.iter().map(|pair| byte(pair.as_slice())).collect()
}

pub(crate) fn hex_array<const N: usize>(value: &Value, field: &str) -> [u8; N] {
    unhex(text(value, field)).try_into().unwrap()
}
