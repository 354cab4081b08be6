//! Checks of arguments against a tool's JSON Schema.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use crate::limits::{
    PATTERN_BACKTRACK_MAX, PATTERN_BYTES_MAX, SCHEMA_DEPTH_MAX, SCHEMA_VALUES_MAX,
};

/// Length limit of a property name that a detail repeats, in characters.
const NAME_CHARS_MAX: usize = 64;

/// Compiles an input schema: JSON Schema 2020-12 unless it names another dialect, nothing fetched.
///
/// # Errors
///
/// Says what is wrong with the schema.
pub(crate) fn compile(schema: &Value) -> Result<Validator, String> {
    let mut values = 0;
    measure(schema, 0, &mut values)?;
    jsonschema::options()
        .offline()
        .with_pattern_options(
            PatternOptions::fancy_regex()
                .backtrack_limit(PATTERN_BACKTRACK_MAX)
                .size_limit(PATTERN_BYTES_MAX),
        )
        .build(schema)
        .map_err(|error| error.to_string())
}

fn measure(value: &Value, depth: usize, values: &mut usize) -> Result<(), String> {
    *values += 1;
    if depth > SCHEMA_DEPTH_MAX {
        return Err(format!("a schema nests at most {SCHEMA_DEPTH_MAX} levels deep"));
    }
    if *values > SCHEMA_VALUES_MAX {
        return Err(format!("a schema has at most {SCHEMA_VALUES_MAX} values"));
    }
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| measure(item, depth + 1, values)),
        Value::Object(members) => {
            members.values().try_for_each(|member| measure(member, depth + 1, values))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

/// Returns what is wrong with `arguments`, or `None`: the place as a JSON pointer and the rule that
/// is broken, never a value.
pub(crate) fn fault(validator: &Validator, arguments: &Value) -> Option<String> {
    validator.validate(arguments).err().map(|error| detail(&error))
}

fn detail(error: &ValidationError<'_>) -> String {
    let path = error.instance_path().as_str();
    let root = if path.is_empty() { "/" } else { path };
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the other keywords have nothing to add to their name"
    )]
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            format!("{path}/{} required", shorten(property.as_str().unwrap_or_default()))
        }
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let name = unexpected.first().map(String::as_str).unwrap_or_default();
            format!("{path}/{} not expected", shorten(name))
        }
        ValidationErrorKind::Type { kind: TypeKind::Single(ty) } => {
            format!("{root} must be of type {ty}")
        }
        ValidationErrorKind::Minimum { limit } => format!("{root} must be >= {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("{root} must be <= {limit}"),
        ValidationErrorKind::ExclusiveMinimum { limit } => format!("{root} must be > {limit}"),
        ValidationErrorKind::ExclusiveMaximum { limit } => format!("{root} must be < {limit}"),
        ValidationErrorKind::MinLength { limit } => format!("{root} needs {limit} characters"),
        ValidationErrorKind::MaxLength { limit } => format!("{root} may have {limit} characters"),
        ValidationErrorKind::Format { format } => format!("{root} must have the format {format}"),
        kind => format!("{root} breaks `{}`", kind.keyword()),
    }
}

/// Keeps a name readable in one line.
fn shorten(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn r_031_details_name_place_and_rule_but_no_value() {
        let validator = compile(&json!({
            "type": "object",
            "properties": {
                "customer_id": {"type": "string", "pattern": "^c-[0-9]+$"},
                "limit": {"type": "integer", "minimum": 1},
                "kind": {"enum": ["a", "b"]},
                "at": {"type": "object", "required": ["lat"]},
            },
            "required": ["customer_id"],
            "additionalProperties": false,
        }))
        .unwrap();
        for (arguments, expected) in [
            (json!({"customer_id": "c-1"}), None),
            (json!({}), Some("/customer_id required")),
            (json!({"customer_id": "secret"}), Some("/customer_id breaks `pattern`")),
            (json!({"customer_id": "c-1", "limit": "ten"}), Some("/limit must be of type integer")),
            (json!({"customer_id": "c-1", "limit": 0}), Some("/limit must be >= 1")),
            (json!({"customer_id": "c-1", "kind": "c"}), Some("/kind breaks `enum`")),
            (json!({"customer_id": "c-1", "at": {}}), Some("/at/lat required")),
            (json!({"customer_id": "c-1", "x\n": 1}), Some("/x\\n not expected")),
            (json!([]), Some("/ must be of type object")),
        ] {
            assert_eq!(fault(&validator, &arguments).as_deref(), expected, "{arguments}");
        }
    }

    #[test]
    fn refuses_schemas_that_reach_out_or_are_too_large() {
        let deep = (0..=SCHEMA_DEPTH_MAX).fold(json!(true), |inner, _| json!({ "not": inner }));
        let wide = json!({"enum": vec![0; SCHEMA_VALUES_MAX]});
        for schema in [
            json!({"$ref": "https://example.com/schema.json"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"type": "no-such-type"}),
            deep,
            wide,
        ] {
            assert!(compile(&schema).is_err());
        }
    }

    #[test]
    fn patterns_that_backtrack_without_end_refuse() {
        let schema = json!({"type": "string", "pattern": "^(?=(a+)+$)(a+)+\\1b$"});
        let validator = compile(&schema).unwrap();
        assert!(fault(&validator, &json!("a".repeat(40))).is_some());
    }
}
