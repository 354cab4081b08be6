//! Request headers of the stateless era against the body (MCP 2026-07-28, Streamable HTTP,
//! "Standard Headers" and "Custom Headers").
//!
//! Nothing is ever decided on a header. Headers are compared with the body, so that a component in
//! between that routes on them sees the same call as the gateway.

use axum::http::{HeaderMap, HeaderName};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::envelope::{member, string};
use crate::refusal::{RpcError, code};

pub(crate) const VERSION: &str = "mcp-protocol-version";
pub(crate) const METHOD: &str = "mcp-method";
pub(crate) const NAME: &str = "mcp-name";
const PARAM_PREFIX: &str = "mcp-param-";
/// Annotation by which a tool's schema asks for a header.
const ANNOTATION: &str = "x-mcp-header";

/// Compares the standard headers of a request with its body.
///
/// # Errors
///
/// Names the header that is missing, doubled, malformed or different.
pub(crate) fn check_standard(
    headers: &HeaderMap,
    version: &str,
    method: &str,
    params: Option<&RawValue>,
) -> Result<(), RpcError> {
    expect(headers, VERSION, version)?;
    expect(headers, METHOD, method)?;
    let named = match method {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        _ => return Ok(()),
    };
    match params.and_then(|params| member(params, named)).and_then(|raw| string(raw).ok()) {
        Some(name) => expect(headers, NAME, &name),
        None => Ok(()), // the missing member itself is refused later, with its own name
    }
}

/// Compares the `Mcp-Param-*` headers of a tool call with its arguments.
///
/// # Errors
///
/// As [`check_standard`].
pub(crate) fn check_params(
    headers: &HeaderMap,
    definition: &Value,
    arguments: &Value,
) -> Result<(), RpcError> {
    for (path, token) in annotations(definition).unwrap_or_default() {
        let name = format!("{PARAM_PREFIX}{}", token.to_ascii_lowercase());
        let value = arguments.pointer(&path).filter(|value| !value.is_null());
        let sent = single(headers, &name)?;
        match (value, sent) {
            (None, None) => {}
            (Some(_), None) => return Err(mismatch(&name, "is missing")),
            (None, Some(_)) => return Err(mismatch(&name, "has no argument in the body")),
            (Some(value), Some(sent)) if same(value, &sent) => {}
            (Some(_), Some(_)) => return Err(mismatch(&name, "differs from the body")),
        }
    }
    Ok(())
}

/// Builds the `Mcp-Param-*` headers of a call to a server of the stateless era.
pub(crate) fn params(definition: &str, arguments: &Value) -> Vec<(HeaderName, String)> {
    if !definition.contains(ANNOTATION) {
        return Vec::new();
    }
    let definition = serde_json::from_str(definition).unwrap_or_default();
    annotations(&definition)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(path, token)| {
            let name = format!("{PARAM_PREFIX}{token}").parse().ok()?;
            Some((name, rendered(arguments.pointer(&path)?)?))
        })
        .collect()
}

/// Tells whether the header annotations of a tool's schema keep the rules; a tool whose annotations
/// do not is not offered.
pub(crate) fn annotations_valid(definition: &Value) -> bool {
    annotations(definition).is_some()
}

/// Collects the annotated arguments as (JSON pointer, header token); `None` if an annotation breaks
/// a rule: on a property that `properties` alone reach, a token of RFC 9110, on a string, integer or
/// boolean, unique without regard to case.
fn annotations(definition: &Value) -> Option<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    let schema = definition.get("inputSchema")?;
    walk(schema, Some(""), &mut found)?;
    let mut tokens: Vec<_> = found.iter().map(|(_, token)| token.to_ascii_lowercase()).collect();
    tokens.sort();
    tokens.dedup();
    (tokens.len() == found.len()).then_some(found)
}

fn walk(schema: &Value, path: Option<&str>, found: &mut Vec<(String, String)>) -> Option<()> {
    let Value::Object(members) = schema else { return Some(()) };
    if let Some(annotation) = members.get(ANNOTATION) {
        let token = annotation.as_str().filter(|token| is_token(token))?;
        let kind = members.get("type").and_then(Value::as_str)?;
        let path = path.filter(|path| !path.is_empty())?;
        if !matches!(kind, "string" | "integer" | "boolean") {
            return None;
        }
        found.push((path.to_owned(), token.to_owned()));
    }
    for (keyword, value) in members {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                for (name, property) in properties {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    let path = path.map(|path| format!("{path}/{name}"));
                    walk(property, path.as_deref(), found)?;
                }
            }
            (
                "patternProperties" | "dependentSchemas" | "$defs" | "definitions",
                Value::Object(map),
            ) => {
                map.values().try_for_each(|schema| walk(schema, None, found))?;
            }
            ("allOf" | "anyOf" | "oneOf" | "prefixItems", Value::Array(list)) => {
                list.iter().try_for_each(|schema| walk(schema, None, found))?;
            }
            (
                "items"
                | "contains"
                | "unevaluatedItems"
                | "additionalProperties"
                | "propertyNames"
                | "unevaluatedProperties"
                | "not"
                | "if"
                | "then"
                | "else"
                | "contentSchema",
                schema,
            ) => walk(schema, None, found)?,
            _ => {}
        }
    }
    Some(())
}

/// Tells whether a text is a token (RFC 9110, section 5.6.2).
fn is_token(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(allowed)
}

/// Writes an argument as a header value; objects, arrays and fractions have none.
fn rendered(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Compares an argument with a header value; integers numerically.
fn same(value: &Value, sent: &str) -> bool {
    match value.as_i64() {
        Some(number) => sent.parse::<i64>().is_ok_and(|sent| sent == number),
        None => rendered(value).is_some_and(|text| text == sent),
    }
}

/// Demands a header with exactly this value.
fn expect(headers: &HeaderMap, name: &str, value: &str) -> Result<(), RpcError> {
    match single(headers, name)? {
        Some(sent) if sent == value => Ok(()),
        Some(_) => Err(mismatch(name, "differs from the body")),
        None => Err(mismatch(name, "is missing")),
    }
}

/// Reads a header that may come once, decoded.
fn single(headers: &HeaderMap, name: &str) -> Result<Option<String>, RpcError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(mismatch(name, "comes more than once"));
    }
    let text = value.to_str().ok().and_then(decode);
    text.map(Some).ok_or_else(|| mismatch(name, "has invalid characters"))
}

/// Decodes a header value: as it is, or `=?base64?…?=`.
fn decode(value: &str) -> Option<String> {
    let inner = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?="));
    match inner {
        None => Some(value.to_owned()),
        Some(inner) => String::from_utf8(BASE64_STANDARD.decode(inner).ok()?).ok(),
    }
}

/// Writes a text as a header value; what HTTP would not carry is wrapped as `=?base64?…?=`.
#[must_use]
pub fn header_text(text: &str) -> String {
    let printable = text.bytes().all(|b| (0x20..=0x7e).contains(&b)) && text.trim() == text;
    if printable && !text.starts_with("=?base64?") {
        text.to_owned()
    } else {
        format!("=?base64?{}?=", BASE64_STANDARD.encode(text))
    }
}

fn mismatch(name: &str, fault: &str) -> RpcError {
    RpcError::new(code::HEADER_MISMATCH, format!("header `{name}` {fault}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tool() -> Value {
        json!({"inputSchema": {"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"type": "object", "properties": {
                "n": {"type": "integer", "x-mcp-header": "N"}}}}}})
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn parameter_headers_match_the_body() {
        let both = json!({"region": "größe", "deep": {"n": 7}});
        for (sent, arguments, ok) in [
            (
                headers(&[("mcp-param-region", "=?base64?Z3LDtsOfZQ==?="), ("mcp-param-n", "7")]),
                &both,
                true,
            ),
            (
                headers(&[("mcp-param-region", "=?base64?Z3LDtsOfZQ==?="), ("mcp-param-n", "07")]),
                &both,
                true,
            ),
            (headers(&[("mcp-param-region", "eu"), ("mcp-param-n", "7")]), &both, false),
            (headers(&[("mcp-param-n", "7")]), &both, false),
            (headers(&[]), &json!({}), true),
            (headers(&[]), &json!({"region": null}), true),
            (headers(&[("mcp-param-region", "eu")]), &json!({}), false),
            (
                headers(&[("mcp-param-region", "eu"), ("mcp-param-region", "eu")]),
                &json!({"region": "eu"}),
                false,
            ),
            (headers(&[("mcp-param-other", "x")]), &json!({}), true),
        ] {
            assert_eq!(check_params(&sent, &tool(), arguments).is_ok(), ok, "{sent:?} {arguments}");
        }
    }

    #[test]
    fn built_headers_carry_the_arguments() {
        let arguments = json!({"region": "größe", "deep": {"n": -3}});
        let built = params(&tool().to_string(), &arguments);
        let expected = [("mcp-param-n", "-3"), ("mcp-param-region", "größe")];
        let mut built: Vec<_> =
            built.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        built.sort_unstable();
        assert_eq!(built, expected);
        assert!(params(&tool().to_string(), &json!({})).is_empty());
    }

    #[test]
    fn annotations_keep_the_rules() {
        let property = |schema: Value| json!({"inputSchema": {"properties": {"a": schema}}});
        for (definition, ok) in [
            (tool(), true),
            (property(json!({"type": "number", "x-mcp-header": "A"})), false),
            (property(json!({"type": "string", "x-mcp-header": "A B"})), false),
            (property(json!({"type": "string", "x-mcp-header": ""})), false),
            (
                property(
                    json!({"type": "array", "items": {"type": "string", "x-mcp-header": "A"}}),
                ),
                false,
            ),
            (property(json!({"type": "string", "default": {"x-mcp-header": 1}})), true),
            (
                json!({"inputSchema": {"properties": {
                    "a": {"type": "string", "x-mcp-header": "A"},
                    "b": {"type": "string", "x-mcp-header": "a"}}}}),
                false,
            ),
        ] {
            assert_eq!(annotations_valid(&definition), ok, "{definition}");
        }
    }
}
