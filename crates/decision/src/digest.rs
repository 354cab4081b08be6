//! Digests over canonical JSON.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The largest integer that a double holds exactly with all its neighbours (RFC 8785, 3.2.2.3).
const SAFE_INTEGER_MAX: u64 = (1 << 53) - 1;

/// Returns the canonical form of `value` (RFC 8785).
pub(crate) fn canonical(value: &Value) -> String {
    // A `Value` has string keys and finite numbers only, so the canonicalizer has nothing to refuse;
    // should that change, the plain form is still a function of the value.
    serde_json_canonicalizer::to_string(value).unwrap_or_else(|_| value.to_string())
}

/// Returns the SHA-256 of `bytes` in lower-case hexadecimal.
pub(crate) fn sha256_hex(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Returns the pin of a tool definition: the SHA-256, in lower-case hexadecimal, of its canonical
/// form (RFC 8785) without the member `_meta`.
#[must_use]
pub fn pin(definition: &Value) -> String {
    let mut definition = definition.clone();
    if let Some(members) = definition.as_object_mut() {
        members.remove("_meta");
    }
    sha256_hex(canonical(&definition).as_bytes())
}

/// Returns the SHA-256 of the canonical form (RFC 8785) of `{"action": …, "arguments": …}`.
///
/// Two calls with the same digest ask for the same thing, whatever the order of their members and
/// the spelling of their numbers. Integers that a double cannot hold would share a canonical form
/// with their neighbours, so they are marked as exact first.
#[must_use]
pub fn arguments_digest(action: &str, arguments: &Value) -> [u8; 32] {
    let mut call = json!({ "action": action, "arguments": arguments });
    mark_large_integers(&mut call);
    Sha256::digest(canonical(&call).as_bytes()).into()
}

/// Replaces integers beyond ±(2^53−1) by an object that spells them.
fn mark_large_integers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let beyond = number.as_i64().map_or_else(
                || number.as_u64().is_some(),
                |number| number.unsigned_abs() > SAFE_INTEGER_MAX,
            );
            if beyond {
                *value = json!({ "countersign:integer": number.to_string() });
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mark_large_integers),
        Value::Object(members) => members.values_mut().for_each(mark_large_integers),
        Value::Null | Value::Bool(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_leave_out_meta_and_order() {
        let a = json!({"name": "t", "description": "d", "_meta": {"x": 1}});
        let b = json!({"description": "d", "name": "t"});
        assert_eq!(pin(&a), pin(&b));
        // printf '{"description":"d","name":"t"}' | sha256sum
        let expected = sha256_hex(br#"{"description":"d","name":"t"}"#);
        assert_eq!(pin(&a), expected);
        assert_ne!(pin(&a), pin(&json!({"name": "t", "description": "e"})));
    }

    #[test]
    fn sha256_of_the_empty_string() {
        // FIPS 180-4 example value.
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_hex(b""), empty);
    }

    #[test]
    fn argument_digests_depend_on_action_and_value_only() {
        let digest =
            |text: &str| arguments_digest("crm/refund", &serde_json::from_str(text).unwrap());
        assert_eq!(digest(r#"{"a":1,"b":2}"#), digest(r#"{ "b": 2.0, "a": 1 }"#));
        assert_ne!(digest(r#"{"a":1}"#), digest(r#"{"a":2}"#));
        assert_ne!(digest(r#"{"a":9007199254740993}"#), digest(r#"{"a":9007199254740992}"#));
        assert_ne!(digest("{}"), arguments_digest("crm/query", &json!({})));
    }
}
