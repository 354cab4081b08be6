//! Bytes of the messages that go to a server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::http::HeaderValue;
use serde_json::value::RawValue;

use crate::envelope::{EnvelopeError, Member, members, push_key, push_member};

/// Newest revision that is opened by `initialize`.
pub(super) const LEGACY_NEWEST: &str = "2025-11-25";
/// Every revision that is opened by `initialize`, oldest first.
pub(super) const LEGACY_VERSIONS: [&str; 4] =
    ["2024-11-05", "2025-03-26", "2025-06-18", LEGACY_NEWEST];
/// Every revision whose requests describe themselves, oldest first.
pub(super) const MODERN_VERSIONS: [&str; 1] = ["2026-07-28"];
/// The newest of [`MODERN_VERSIONS`].
pub(super) const MODERN_NEWEST: &str = "2026-07-28";

const META_PROGRESS: &str = "progressToken";
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const META_CLIENT: &str = "io.modelcontextprotocol/clientInfo";
const META_LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// Names the `subscriptions/listen` request that a notification belongs to.
pub(super) const META_SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";
/// Keys that always go on (SEP-414).
const META_TRACE: [&str; 2] = ["traceparent", "tracestate"];

/// What a modern request says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct ModernMeta<'a> {
    pub(super) version: &'a str,
    pub(super) client_info: &'a str,
    pub(super) capabilities: &'a str,
}

/// What becomes of `params._meta`.
#[derive(Clone, Copy, Debug)]
pub(super) struct MetaPlan<'a> {
    /// Keys of the client that go on; a trailing `*` stands for any rest.
    pub(super) allow: &'a [String],
    pub(super) modern: Option<ModernMeta<'a>>,
}

/// A request's bytes, and the client's progress token that ours stands for.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) body: String,
    pub(super) token: Option<Box<RawValue>>,
}

/// Writes a request whose id, and progress token if the client has one, is `id`.
pub(super) fn request(
    id: u64,
    method: &str,
    params: Option<&RawValue>,
    plan: &MetaPlan<'_>,
) -> Result<Built, EnvelopeError> {
    let room = params.map_or(0, |p| p.get().len())
        + plan.modern.map_or(96, |m| 384 + m.capabilities.len());
    let mut body = String::with_capacity(room + method.len());
    body.push_str("{\"jsonrpc\":\"2.0\",\"id\":");
    body.push_str(&id.to_string());
    body.push_str(",\"method\":");
    push_json_string(&mut body, method);
    let mut token = None;
    if params.is_some() || plan.modern.is_some() {
        body.push_str(",\"params\":");
        token = push_params(&mut body, id, params, plan)?;
    }
    body.push('}');
    Ok(Built { body, token })
}

/// Writes a notification.
pub(super) fn notification(method: &str, params: Option<&str>) -> String {
    let params = params.map(|params| format!(",\"params\":{params}")).unwrap_or_default();
    format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{method}\"{params}}}")
}

/// Writes the cancellation of request `id`.
pub(super) fn cancelled(id: u64, reason: &str) -> String {
    let mut params = format!("{{\"requestId\":{id},\"reason\":");
    push_json_string(&mut params, reason);
    params.push('}');
    notification("notifications/cancelled", Some(&params))
}

/// Writes the answer to the server's own request `id`.
pub(super) fn answer(id: &RawValue, answer: &Result<Box<RawValue>, Box<RawValue>>) -> String {
    let (name, value) = match answer {
        Ok(result) => ("result", result),
        Err(error) => ("error", error),
    };
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"{name}\":{}}}", id.get(), value.get())
}

/// Writes the answer to a `ping` of the server.
pub(super) fn pong(id: &RawValue) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{}}}}", id.get())
}

/// Writes a refusal of the server's own request `id`; `message` needs no escapes.
pub(super) fn refusal(id: &RawValue, code: i64, message: &str) -> String {
    let error = format!("{{\"code\":{code},\"message\":\"{message}\"}}");
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"error\":{error}}}", id.get())
}

/// Returns `value` as a header value, wrapped as `=?base64?…?=` where HTTP would not keep it
/// (MCP 2026-07-28, transports, "Custom Headers").
pub(super) fn header_value(value: &str) -> Option<HeaderValue> {
    let plain = value.bytes().all(|b| (0x20..=0x7E).contains(&b))
        && value.trim() == value
        && !(value.starts_with("=?base64?") && value.ends_with("?="));
    if plain {
        return HeaderValue::from_str(value).ok();
    }
    HeaderValue::from_str(&format!("=?base64?{}?=", STANDARD.encode(value))).ok()
}

/// Appends `text` as a JSON string.
pub(super) fn push_json_string(out: &mut String, text: &str) {
    let plain = text.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\');
    if plain {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

fn push_params(
    out: &mut String,
    id: u64,
    params: Option<&RawValue>,
    plan: &MetaPlan<'_>,
) -> Result<Option<Box<RawValue>>, EnvelopeError> {
    let members = params.map(members).transpose()?.unwrap_or_default();
    let mut token = None;
    let mut seen = false;
    out.push('{');
    for Member { name, key, value } in &members {
        if name == "_meta" {
            seen = true;
            token = push_meta(out, id, Some(value), plan)?;
        } else {
            push_member(out, key.get(), value.get());
        }
    }
    if !seen {
        push_meta(out, id, None, plan)?;
    }
    out.push('}');
    Ok(token)
}

/// Writes `_meta`, unless it would be empty, and returns the client's progress token.
fn push_meta(
    out: &mut String,
    id: u64,
    meta: Option<&RawValue>,
    plan: &MetaPlan<'_>,
) -> Result<Option<Box<RawValue>>, EnvelopeError> {
    let members = meta.map(members).transpose()?.unwrap_or_default();
    let start = out.len();
    push_key(out, "\"_meta\"");
    out.push('{');
    let open = out.len();
    let mut token = None;
    for Member { name, key, value } in &members {
        if name == META_PROGRESS {
            push_member(out, key.get(), &id.to_string());
            token = Some((*value).to_owned());
        } else if plan.passes(name) {
            push_member(out, key.get(), value.get());
        }
    }
    if let Some(modern) = plan.modern {
        push_key(out, &format!("\"{META_VERSION}\""));
        push_json_string(out, modern.version);
        push_member(out, &format!("\"{META_CLIENT}\""), modern.client_info);
        push_member(out, &format!("\"{META_CAPABILITIES}\""), modern.capabilities);
    }
    if out.len() == open {
        out.truncate(start);
    } else {
        out.push('}');
    }
    Ok(token)
}

impl MetaPlan<'_> {
    /// Whether the client's key `name` goes on.
    fn passes(&self, name: &str) -> bool {
        if name == META_VERSION || name == META_CAPABILITIES || name == META_CLIENT {
            return false;
        }
        META_TRACE.contains(&name)
            || (name == META_LOG_LEVEL && self.modern.is_some())
            || self.allow.iter().any(|allowed| match allowed.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == allowed,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn legacy_requests_keep_params_and_swap_the_progress_token() {
        let params = raw(
            r#"{"name":"x","_meta":{"progressToken":"p\u0031","baggage":"b","traceparent":"t","io.modelcontextprotocol/clientInfo":{}},"arguments":{"n":1.0}}"#,
        );
        let built = request(7, "tools/call", Some(&params), &MetaPlan { allow: &[], modern: None })
            .unwrap();
        insta::assert_snapshot!(built.body, @r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","_meta":{"progressToken":7,"traceparent":"t"},"arguments":{"n":1.0}}}"#);
        assert_eq!(built.token.unwrap().get(), r#""p\u0031""#);
    }

    #[test]
    fn modern_requests_describe_themselves() {
        let allow = ["com.example/*".to_owned()];
        let modern = Some(ModernMeta {
            version: MODERN_NEWEST,
            client_info: r#"{"name":"c","version":"1"}"#,
            capabilities: "{}",
        });
        let params = raw(r#"{"_meta":{"com.example/a":1,"dev.countersign/claims":2},"uri":"u"}"#);
        let plan = MetaPlan { allow: &allow, modern };
        let built = request(1, "resources/read", Some(&params), &plan).unwrap();
        insta::assert_snapshot!(built.body, @r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"_meta":{"com.example/a":1,"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}},"uri":"u"}}"#);
        let built = request(2, "tools/list", None, &plan).unwrap();
        insta::assert_snapshot!(built.body, @r#"{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"c","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}}}"#);
    }

    #[test]
    fn an_emptied_meta_is_left_out() {
        let params = raw(r#"{"a":1,"_meta":{"baggage":"b"}}"#);
        let plan = MetaPlan { allow: &[], modern: None };
        let built = request(1, "m\"", Some(&params), &plan).unwrap();
        assert_eq!(built.body, r#"{"jsonrpc":"2.0","id":1,"method":"m\"","params":{"a":1}}"#);
        let built = request(1, "ping", None, &plan).unwrap();
        assert_eq!(built.body, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    }

    #[test]
    fn header_values_survive_http() {
        for (value, expected) in [
            ("echo", "echo"),
            ("a b", "a b"),
            ("", ""),
            (" edge", "=?base64?IGVkZ2U=?="),
            ("é", "=?base64?w6k=?="),
            ("a\nb", "=?base64?YQpi?="),
            ("=?base64?YQ==?=", "=?base64?PT9iYXNlNjQ/WVE9PT89?="),
        ] {
            assert_eq!(header_value(value).unwrap(), expected, "{value:?}");
        }
    }
}
