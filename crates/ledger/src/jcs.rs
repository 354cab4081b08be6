//! Canonical JSON (RFC 8785): one spelling per value, so that it can be hashed.

use serde_json::{Number, Value};

use crate::limits::INTEGER_MAX;

/// Why a value has no canonical form here.
#[derive(Debug, thiserror::Error)]
pub enum JcsError {
    /// A leaf has no fractions.
    #[error("`{0}` is not an integer")]
    Float(Number),
    /// The integer does not survive a reader that works in doubles.
    #[error("`{0}` is beyond the integers that every reader keeps; write it as a string")]
    IntegerTooLarge(Number),
    /// The value cannot be written.
    #[error("the value cannot be written as canonical JSON")]
    Unwritable(#[source] serde_json::Error),
}

/// Returns the canonical bytes of a leaf's value: integers only, within ±(2^53 − 1).
///
/// # Errors
/// [`JcsError::Float`], [`JcsError::IntegerTooLarge`].
pub fn canonicalize(value: &Value) -> Result<Vec<u8>, JcsError> {
    check_numbers(value, &leaf_number)?;
    write(value)
}

/// Returns the canonical bytes of any value, as for hashing a tool's arguments; fractions are allowed.
///
/// # Errors
/// [`JcsError::IntegerTooLarge`] for an integer that no double equals: its canonical form would be that
/// of its neighbour, and so would its hash.
pub fn canonicalize_any(value: &Value) -> Result<Vec<u8>, JcsError> {
    check_numbers(value, &any_number)?;
    write(value)
}

/// Appends one member of an object whose members the caller brings in their order; as
/// [`canonicalize`], for who writes an object piece by piece.
///
/// # Errors
/// As [`canonicalize`].
pub fn append_member(bytes: &mut Vec<u8>, name: &str, value: &Value) -> Result<(), JcsError> {
    check_numbers(value, &leaf_number)?;
    plain(bytes, name)?;
    bytes.push(b':');
    write_to(bytes, value)
}

fn write(value: &Value) -> Result<Vec<u8>, JcsError> {
    let mut bytes = Vec::with_capacity(512);
    write_to(&mut bytes, value)?;
    Ok(bytes)
}

/// Writes a value whose numbers were checked.
fn write_to(bytes: &mut Vec<u8>, value: &Value) -> Result<(), JcsError> {
    match value {
        // A double is spelled as ECMAScript does, so an integer that is too large for one to hold with
        // its neighbours may end in zeros.
        Value::Number(number) if magnitude(number).is_none_or(|n| n > INTEGER_MAX) => {
            serde_json_canonicalizer::to_writer(value, bytes).map_err(JcsError::Unwritable)
        }
        Value::Array(items) => {
            bytes.push(b'[');
            for (n, item) in items.iter().enumerate() {
                separate(bytes, n);
                write_to(bytes, item)?;
            }
            bytes.push(b']');
            Ok(())
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
            bytes.push(b'{');
            for (n, (name, field)) in fields.into_iter().enumerate() {
                separate(bytes, n);
                plain(bytes, name.as_str())?;
                bytes.push(b':');
                write_to(bytes, field)?;
            }
            bytes.push(b'}');
            Ok(())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => plain(bytes, value),
    }
}

/// Writes what serde spells as RFC 8785 does: literals, integers, and texts with their escapes.
fn plain(bytes: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) -> Result<(), JcsError> {
    serde_json::to_writer(bytes, value).map_err(JcsError::Unwritable)
}

fn separate(bytes: &mut Vec<u8>, n: usize) {
    if n > 0 {
        bytes.push(b',');
    }
}

fn check_numbers(
    value: &Value,
    check: &dyn Fn(&Number) -> Result<(), JcsError>,
) -> Result<(), JcsError> {
    match value {
        Value::Number(number) => check(number),
        Value::Array(items) => items.iter().try_for_each(|item| check_numbers(item, check)),
        Value::Object(fields) => fields.values().try_for_each(|item| check_numbers(item, check)),
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
    }
}

fn leaf_number(number: &Number) -> Result<(), JcsError> {
    match magnitude(number) {
        None => Err(JcsError::Float(number.clone())),
        Some(magnitude) if magnitude > INTEGER_MAX => {
            Err(JcsError::IntegerTooLarge(number.clone()))
        }
        Some(_) => Ok(()),
    }
}

fn any_number(number: &Number) -> Result<(), JcsError> {
    match magnitude(number) {
        Some(magnitude) if !fits_double(magnitude) => {
            Err(JcsError::IntegerTooLarge(number.clone()))
        }
        Some(_) | None => Ok(()),
    }
}

/// Returns the absolute value of an integer, `None` for a fraction.
fn magnitude(number: &Number) -> Option<u64> {
    number.as_u64().or_else(|| number.as_i64().map(i64::unsigned_abs))
}

/// Returns whether a double equals `magnitude`: at most 53 bits from the first to the last one set.
fn fits_double(magnitude: u64) -> bool {
    magnitude == 0 || u64::BITS - magnitude.leading_zeros() - magnitude.trailing_zeros() <= 53
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::testing::{list, strings, text, vectors};

    type Canonicalize = fn(&Value) -> Result<Vec<u8>, JcsError>;
    const EACH: [(&str, Canonicalize); 2] = [("leaf", canonicalize), ("any", canonicalize_any)];

    #[test]
    fn values_have_one_spelling() {
        let vectors = vectors("jcs.json");
        for (field, canonicalize) in EACH {
            for case in list(&vectors, field) {
                let input = serde_json::from_str(text(case, "input")).unwrap();
                let canonical = String::from_utf8(canonicalize(&input).unwrap()).unwrap();
                assert_eq!(canonical, text(case, "canonical"));
            }
        }
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 8, |inner| {
            let name = prop_oneof![any::<String>(), "[a-c\u{e000}\u{10000}]{0,3}"];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                proptest::collection::btree_map(name, inner, 0..8)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_spelling_is_that_of_an_independent_implementation(value in json()) {
            if let Ok(bytes) = canonicalize_any(&value) {
                prop_assert_eq!(bytes, serde_json_canonicalizer::to_vec(&value).unwrap());
            }
        }
    }

    #[test]
    fn numbers_that_readers_may_lose_are_refused() {
        let vectors = vectors("jcs.json");
        for (field, canonicalize) in EACH {
            for input in strings(&vectors, &format!("{field}_refused")) {
                let nested = serde_json::from_str(&format!(r#"{{"a":[{{"b":{input}}}]}}"#));
                assert!(canonicalize(&nested.unwrap()).is_err(), "{field} {input}");
            }
        }
    }
}
