use axum::http::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::era::MODERN_VERSION;
use crate::jsonrpc::{
    Fault, INVALID_PARAMS, META_CAPABILITIES, META_VERSION, UNSUPPORTED_VERSION, meta, text_at,
};

/// Name of the header that carries the protocol version in both eras.
pub(crate) const VERSION_HEADER: &str = "mcp-protocol-version";

/// Checks what every modern request must say about itself, whatever carried it.
pub(crate) fn check_meta(request: &Value) -> Result<(), Fault> {
    for key in [META_VERSION, META_CAPABILITIES] {
        if meta(request, key).is_none() {
            return Err(Fault::new(400, INVALID_PARAMS, format!("`_meta` lacks `{key}`")));
        }
    }
    Ok(())
}

/// Checks that the version a modern request speaks is the one known here.
pub(crate) fn check_version(request: &Value) -> Result<(), Fault> {
    let version = meta(request, META_VERSION).unwrap_or(&Value::Null);
    if version == MODERN_VERSION {
        return Ok(());
    }
    let data = json!({ "supported": [MODERN_VERSION], "requested": version });
    Err(Fault::new(400, UNSUPPORTED_VERSION, "unsupported protocol version").with_data(data))
}

/// Compares the headers of a modern POST with its body (SEP-2243).
pub(crate) fn check_modern(
    headers: &HeaderMap,
    request: &Value,
    tools: &[Value],
) -> Result<(), Fault> {
    let version = value(headers, VERSION_HEADER)?
        .ok_or_else(|| Fault::header("the header `MCP-Protocol-Version` is missing"))?;
    check_meta(request)?;
    if meta(request, META_VERSION).and_then(Value::as_str) != Some(version.as_str()) {
        return Err(Fault::header("`MCP-Protocol-Version` differs from the body"));
    }
    check_version(request)?;
    let method = text_at(request, "/method");
    must_equal(headers, "mcp-method", method)?;
    match method {
        "tools/call" | "prompts/get" => {
            must_equal(headers, "mcp-name", text_at(request, "/params/name"))?;
        }
        "resources/read" => must_equal(headers, "mcp-name", text_at(request, "/params/uri"))?,
        "tasks/get" | "tasks/update" | "tasks/cancel" => {
            must_equal(headers, "mcp-name", text_at(request, "/params/taskId"))?;
        }
        _ => {}
    }
    if method == "tools/call" {
        check_params(headers, request, tools)?;
    }
    Ok(())
}

fn must_equal(headers: &HeaderMap, name: &str, expected: &str) -> Result<(), Fault> {
    match value(headers, name)? {
        Some(given) if given == expected => Ok(()),
        Some(_) => Err(Fault::header(format!("the header `{name}` differs from the body"))),
        None => Err(Fault::header(format!("the header `{name}` is missing"))),
    }
}

/// Compares `Mcp-Param-*` with the arguments that the tool's schema mirrors in headers.
fn check_params(headers: &HeaderMap, request: &Value, tools: &[Value]) -> Result<(), Fault> {
    let name = text_at(request, "/params/name");
    let Some(tool) = tools.iter().find(|tool| text_at(tool, "/name") == name) else {
        return Ok(());
    };
    let mut mirrored = Vec::new();
    collect_mirrored(tool.get("inputSchema"), "", &mut mirrored);
    for (header, pointer) in mirrored {
        let header = format!("mcp-param-{}", header.to_ascii_lowercase());
        let argument = request.pointer(&format!("/params/arguments{pointer}"));
        let given = value(headers, &header)?;
        if !same(argument, given.as_deref()) {
            return Err(Fault::header(format!("the header `{header}` differs from the body")));
        }
    }
    Ok(())
}

/// Collects (header suffix, JSON pointer into the arguments) through `properties` only.
fn collect_mirrored(schema: Option<&Value>, pointer: &str, found: &mut Vec<(String, String)>) {
    let properties = schema.and_then(|schema| schema.get("properties")).and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let inner = format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
        if let Some(header) = property.get("x-mcp-header").and_then(Value::as_str) {
            found.push((header.to_owned(), inner.clone()));
        }
        collect_mirrored(Some(property), &inner, found);
    }
}

fn same(argument: Option<&Value>, header: Option<&str>) -> bool {
    match (argument, header) {
        (None | Some(Value::Null), header) => header.is_none(),
        (Some(_), None) => false,
        (Some(Value::String(text)), Some(header)) => text == header,
        (Some(Value::Number(number)), Some(header)) => {
            header.parse().ok().zip(number.as_f64()).is_some_and(|(a, b): (f64, f64)| a == b)
        }
        (Some(Value::Bool(flag)), Some(header)) => header.parse() == Ok(*flag),
        (Some(Value::Array(_) | Value::Object(_)), Some(_)) => false,
    }
}

/// The decoded value of a header: trimmed, and out of `=?base64?…?=` if it is wrapped so.
fn value(headers: &HeaderMap, name: &str) -> Result<Option<String>, Fault> {
    let Some(raw) = headers.get(name) else { return Ok(None) };
    let bad = || Fault::header(format!("the header `{name}` is malformed"));
    let text = raw.to_str().map_err(|_| bad())?.trim();
    let wrapped = text.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?="));
    let Some(encoded) = wrapped else { return Ok(Some(text.to_owned())) };
    let bytes = STANDARD.decode(encoded).map_err(|_| bad())?;
    String::from_utf8(bytes).map(Some).map_err(|_| bad())
}

/// True if `Host` and `Origin` name this machine, as they must on a loopback server.
pub(crate) fn is_local(headers: &HeaderMap) -> bool {
    let named = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = named("host").is_none_or(is_local_authority);
    let origin = named("origin").is_none_or(|origin| {
        origin.split_once("://").is_some_and(|(_, authority)| is_local_authority(authority))
    });
    host && origin
}

fn is_local_authority(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => authority.split(':').next(),
    };
    matches!(host, Some("localhost" | "127.0.0.1" | "::1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn mirrored_arguments_must_match_their_headers() {
        let tools = [json!({"name": "t", "inputSchema": {"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "n": {"type": "integer", "x-mcp-header": "N"},
            "deep": {"properties": {"id": {"type": "string", "x-mcp-header": "Deep"}}},
            "items": {"items": {"properties": {"no": {"x-mcp-header": "Unreachable"}}}},
        }}})];
        let call = |arguments: Value| json!({"params": {"name": "t", "arguments": arguments}});
        let table = [
            (json!({}), headers(&[]), true),
            (json!({"region": null}), headers(&[]), true),
            (json!({"region": "eu"}), headers(&[("mcp-param-region", " eu ")]), true),
            (
                json!({"region": "Hello"}),
                headers(&[("mcp-param-region", "=?base64?SGVsbG8=?=")]),
                true,
            ),
            (
                json!({"region": "Hello"}),
                headers(&[("mcp-param-region", "=?base64?SGVsbG8?=")]),
                false,
            ),
            (json!({"region": "SGVsbG8="}), headers(&[("mcp-param-region", "SGVsbG8=")]), true),
            (json!({"region": "eu"}), headers(&[]), false),
            (json!({}), headers(&[("mcp-param-region", "eu")]), false),
            (json!({"n": 7}), headers(&[("mcp-param-n", "07")]), true),
            (json!({"n": 7}), headers(&[("mcp-param-n", "8")]), false),
            (json!({"deep": {"id": "x"}}), headers(&[("mcp-param-deep", "x")]), true),
            (json!({"deep": {"id": "x"}}), headers(&[]), false),
        ];
        for (arguments, headers, accepted) in table {
            let request = call(arguments);
            assert_eq!(check_params(&headers, &request, &tools).is_ok(), accepted, "{request}");
        }
    }

    #[test]
    fn only_local_hosts_and_origins_pass() {
        for (lines, local) in [
            (vec![("host", "127.0.0.1:80")], true),
            (vec![("host", "[::1]:80"), ("origin", "http://localhost:3000")], true),
            (vec![("host", "evil.example.com")], false),
            (vec![("host", "localhost"), ("origin", "http://evil.example.com")], false),
            (vec![("host", "localhost"), ("origin", "null")], false),
            (vec![("host", "localhost.evil.example.com")], false),
        ] {
            assert_eq!(is_local(&headers(&lines)), local, "{lines:?}");
        }
    }
}
