//! The Cedar types of a tool's arguments, and the arguments as Cedar values.
//!
//! Integers become `Long`, other numbers `decimal`, strings `String`, booleans `Boolean`, arrays
//! `Set`, objects records. What a JSON Schema says beyond that (unions, free-form objects, tuples)
//! has no Cedar type and is left out: policy cannot read it.

use std::collections::BTreeMap;

use cedar_policy::RestrictedExpression;
use serde_json::{Map, Number, Value, json};

use crate::limits::ARGUMENT_TYPE_DEPTH_MAX;

/// The attributes of a record.
pub(crate) type Fields = BTreeMap<String, Field>;

/// One attribute of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    ty: ArgumentType,
    required: bool,
}

/// A Cedar type that arguments can have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ArgumentType {
    /// A 64-bit signed integer.
    Long,
    /// A number with at most four decimal places.
    Decimal,
    /// A string.
    Text,
    /// A boolean.
    Boolean,
    /// A set of values of one type.
    Set(Box<Self>),
    /// A closed record.
    Record(Fields),
}

/// Returns the types of the properties of an input schema; empty if it names none.
pub(crate) fn fields(schema: &Value) -> Fields {
    match (Reader { root: schema }).object(schema, 0) {
        Some(ArgumentType::Record(fields)) => fields,
        _ => Fields::new(),
    }
}

struct Reader<'a> {
    root: &'a Value,
}

impl Reader<'_> {
    /// Returns the type that `schema` describes and whether it also takes `null`.
    fn read(&self, schema: &Value, depth: usize) -> Option<(ArgumentType, bool)> {
        if depth > ARGUMENT_TYPE_DEPTH_MAX {
            return None;
        }
        if let Some(target) = schema.get("$ref") {
            let pointer = target.as_str()?.strip_prefix('#')?;
            return self.read(self.root.pointer(pointer)?, depth + 1);
        }
        for union in ["anyOf", "oneOf", "allOf"] {
            if let Some(branches) = schema.get(union) {
                return self.union(branches.as_array()?, depth);
            }
        }
        let (name, nullable) = type_name(schema)?;
        let ty = match name {
            "integer" => ArgumentType::Long,
            "number" => ArgumentType::Decimal,
            "string" => ArgumentType::Text,
            "boolean" => ArgumentType::Boolean,
            "array" => {
                let (items, null_items) = self.read(schema.get("items")?, depth + 1)?;
                if null_items || schema.get("prefixItems").is_some() {
                    return None;
                }
                ArgumentType::Set(Box::new(items))
            }
            "object" => self.object(schema, depth)?,
            _ => return None,
        };
        Some((ty, nullable))
    }

    /// Reads the union of one type with `null`, the usual way to spell an optional value.
    fn union(&self, branches: &[Value], depth: usize) -> Option<(ArgumentType, bool)> {
        let is_null = |branch: &&Value| branch.get("type").and_then(Value::as_str) == Some("null");
        let mut others = branches.iter().filter(|branch| !is_null(branch));
        let (only, None) = (others.next()?, others.next()) else { return None };
        let (ty, nullable) = self.read(only, depth + 1)?;
        Some((ty, nullable || branches.len() > 1))
    }

    fn object(&self, schema: &Value, depth: usize) -> Option<ArgumentType> {
        let properties = schema.get("properties")?.as_object()?;
        let required: Vec<_> = schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let fields = properties
            .iter()
            .filter_map(|(name, schema)| {
                let (ty, nullable) = self.read(schema, depth + 1)?;
                let required = required.contains(&name.as_str()) && !nullable;
                Some((name.clone(), Field { ty, required }))
            })
            .collect();
        Some(ArgumentType::Record(fields))
    }
}

/// Returns the one type other than `null` that `schema` names, and whether it names `null` too.
fn type_name(schema: &Value) -> Option<(&str, bool)> {
    match schema.get("type") {
        Some(Value::String(name)) => Some((name, false)),
        Some(Value::Array(names)) => {
            let mut others = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            let (only, None) = (others.next()?, others.next()) else { return None };
            Some((only, names.len() > 1))
        }
        None => literal_type_name(schema).map(|name| (name, false)),
        Some(_) => None,
    }
}

/// Returns the type that all literals of an `enum` or `const` have.
fn literal_type_name(schema: &Value) -> Option<&'static str> {
    let name = |value: &Value| match value {
        Value::String(_) => Some("string"),
        Value::Bool(_) => Some("boolean"),
        Value::Number(number) if !number.is_f64() => Some("integer"),
        Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    };
    if let Some(value) = schema.get("const") {
        return name(value);
    }
    let mut names = schema.get("enum")?.as_array()?.iter().map(name);
    let first = names.next()??;
    names.all(|other| other == Some(first)).then_some(first)
}

/// Returns the record type of `fields` in Cedar's JSON schema format.
pub(crate) fn cedar_record(fields: &Fields) -> Value {
    let attributes: Map<_, _> = fields
        .iter()
        .map(|(name, field)| {
            let mut ty = cedar_type(&field.ty);
            if let Some(ty) = ty.as_object_mut() {
                ty.insert("required".to_owned(), field.required.into());
            }
            (name.clone(), ty)
        })
        .collect();
    json!({ "type": "Record", "attributes": attributes })
}

fn cedar_type(ty: &ArgumentType) -> Value {
    match ty {
        ArgumentType::Long => json!({ "type": "Long" }),
        ArgumentType::Decimal => json!({ "type": "Extension", "name": "decimal" }),
        ArgumentType::Text => json!({ "type": "String" }),
        ArgumentType::Boolean => json!({ "type": "Boolean" }),
        ArgumentType::Set(element) => json!({ "type": "Set", "element": cedar_type(element) }),
        ArgumentType::Record(fields) => cedar_record(fields),
    }
}

/// Arguments as Cedar sees them.
#[derive(Debug, Default)]
pub(crate) struct Converted {
    /// The attributes that have a Cedar value.
    pub(crate) attributes: Vec<(String, RestrictedExpression)>,
    /// JSON pointers (RFC 6901) of the typed arguments that have none, sorted.
    pub(crate) unrepresentable: Vec<String>,
}

/// Converts those `wanted` of the arguments, which are valid by the schema that `fields` come from.
pub(crate) fn convert(
    fields: &Fields,
    arguments: &Value,
    wanted: impl Fn(&str) -> bool,
) -> Converted {
    let mut unrepresentable = Vec::new();
    let fields = fields.iter().filter(|(name, _)| wanted(name));
    let attributes = record(fields, arguments, "", &mut unrepresentable);
    unrepresentable.sort();
    Converted { attributes, unrepresentable }
}

type Attributes = Vec<(String, RestrictedExpression)>;

fn record<'f>(
    fields: impl Iterator<Item = (&'f String, &'f Field)>,
    value: &Value,
    path: &str,
    missing: &mut Vec<String>,
) -> Attributes {
    let Some(members) = value.as_object() else { return Attributes::new() };
    fields
        .filter_map(|(name, field)| {
            // JSON has two ways to leave an optional argument out, Cedar has one.
            let value = members.get(name).filter(|value| field.required || !value.is_null())?;
            let path = format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
            Some((name.clone(), expression(&field.ty, value, &path, missing)?))
        })
        .collect()
}

fn expression(
    ty: &ArgumentType,
    value: &Value,
    path: &str,
    missing: &mut Vec<String>,
) -> Option<RestrictedExpression> {
    let found = match (ty, value) {
        (ArgumentType::Long, Value::Number(number)) => {
            long(number).map(RestrictedExpression::new_long)
        }
        (ArgumentType::Decimal, Value::Number(number)) => {
            decimal(number).map(RestrictedExpression::new_decimal)
        }
        (ArgumentType::Text, Value::String(text)) => {
            Some(RestrictedExpression::new_string(text.clone()))
        }
        (ArgumentType::Boolean, Value::Bool(value)) => Some(RestrictedExpression::new_bool(*value)),
        (ArgumentType::Set(element), Value::Array(items)) => set(element, items),
        (ArgumentType::Record(fields), Value::Object(_)) => {
            let attributes = record(fields.iter(), value, path, missing);
            RestrictedExpression::new_record(attributes).ok()
        }
        _ => None,
    };
    if found.is_none() {
        missing.push(path.to_owned());
    }
    found
}

/// Converts all items or none: a set that lacks one would say something else.
fn set(element: &ArgumentType, items: &[Value]) -> Option<RestrictedExpression> {
    let mut missing = Vec::new();
    let items: Option<Vec<_>> =
        items.iter().map(|item| expression(element, item, "", &mut missing)).collect();
    items.filter(|_| missing.is_empty()).map(RestrictedExpression::new_set)
}

/// Returns an integer as Cedar's `Long`; JSON Schema counts `5.0` as an integer too.
fn long(number: &Number) -> Option<i64> {
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 => {
            format!("{float:.0}").parse().ok()
        }
        _ => number.as_i64(),
    }
}

/// Spells a number as Cedar's `decimal` wants it; `None` if it has more than four decimal places or
/// is out of range.
fn decimal(number: &Number) -> Option<String> {
    // Rust spells floats without exponent and with the fewest digits that identify them.
    let text = match number.as_f64() {
        Some(float) if number.is_f64() => float.to_string(),
        _ => number.to_string(),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, "0"));
    if fraction.len() > 4 {
        return None;
    }
    // `decimal` is an `i64` in units of 0.0001.
    let units: i128 = format!("{whole}{fraction:0<4}").parse().ok()?;
    i64::try_from(units).ok()?;
    Some(format!("{whole}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_schema_types() {
        let long = Some((ArgumentType::Long, false));
        let text = Some((ArgumentType::Text, false));
        let maybe_text = Some((ArgumentType::Text, true));
        for (schema, expected) in [
            (json!({"type": "integer"}), long.clone()),
            (json!({"type": "number"}), Some((ArgumentType::Decimal, false))),
            (json!({"type": ["string", "null"]}), maybe_text.clone()),
            (json!({"anyOf": [{"type": "string"}, {"type": "null"}]}), maybe_text),
            (json!({"anyOf": [{"type": "string"}, {"type": "integer"}]}), None),
            (json!({"type": ["string", "integer"]}), None),
            (json!({"enum": ["a", "b"]}), text.clone()),
            (json!({"enum": ["a", 1]}), None),
            (json!({"const": 3}), long.clone()),
            (json!({"$ref": "#/$defs/id"}), text),
            (json!({"$ref": "#/$defs/loop"}), None),
            (json!({"$ref": "https://example.com/schema"}), None),
            (json!({"type": "object"}), None),
            (
                json!({"type": "array", "items": {"type": "integer"}}),
                Some((ArgumentType::Set(Box::new(ArgumentType::Long)), false)),
            ),
            (json!({"type": "array"}), None),
            (json!(true), None),
        ] {
            let root =
                json!({"$defs": {"id": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}}});
            assert_eq!(Reader { root: &root }.read(&schema, 0), expected, "{schema}");
        }
    }

    #[test]
    fn numbers() {
        let number = |text: &str| serde_json::from_str::<Number>(text).unwrap();
        for (text, long_, decimal_) in [
            ("5", Some(5), Some("5.0")),
            ("-5", Some(-5), Some("-5.0")),
            ("5.0", Some(5), Some("5.0")),
            ("-0.25", None, Some("-0.25")),
            ("49.9999", None, Some("49.9999")),
            ("49.99999", None, None),
            ("9223372036854775807", Some(i64::MAX), None),
            ("9223372036854775808", None, None),
            ("922337203685477", Some(922_337_203_685_477), Some("922337203685477.0")),
            ("-1000000000000000", Some(-1_000_000_000_000_000), None),
            ("1e300", None, None),
        ] {
            assert_eq!(long(&number(text)), long_, "{text}");
            assert_eq!(decimal(&number(text)).as_deref(), decimal_, "{text}");
        }
    }

    #[test]
    fn names_what_fits_no_type() {
        let fields = fields(&json!({
            "properties": {
                "at": {"properties": {"lat": {"type": "number"}, "b/c": {"type": "number"}}, "type": "object"},
                "list": {"type": "array", "items": {"type": "number"}},
                "n": {"type": "integer"},
                "note": {"type": ["string", "null"]},
            },
        }));
        let converted = convert(
            &fields,
            &json!({"at": {"lat": 1.234_567, "b/c": 1e20}, "list": [1.5, 1e30], "n": 7, "note": null}),
            |_| true,
        );
        assert_eq!(converted.unrepresentable, ["/at/b~1c", "/at/lat", "/list"]);
        let names: Vec<_> = converted.attributes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["at", "n"]);
    }
}
