//! Writing JSON-RPC messages around raw values, without parsing them again.

use std::fmt::Write as _;

use serde_json::value::RawValue;

use super::link::Question;
use crate::refusal::RpcError;

/// Makes a raw value of text that is known to be JSON; `null` if it is not.
pub(crate) fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// Serialises a value of our own; our values always can be.
pub(crate) fn json(value: &serde_json::Value) -> String {
    value.to_string()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Writes a notification.
pub(crate) fn notification(method: &str, params: Option<&RawValue>) -> String {
    match params {
        Some(params) => {
            format!(r#"{{"jsonrpc":"2.0","method":{},"params":{}}}"#, quoted(method), params.get())
        }
        None => format!(r#"{{"jsonrpc":"2.0","method":{}}}"#, quoted(method)),
    }
}

/// Writes a request of ours to the client.
pub(crate) fn request(id: &str, method: &str, params: Option<&RawValue>) -> String {
    let (id, method) = (quoted(id), quoted(method));
    match params {
        Some(params) => {
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{method},"params":{}}}"#, params.get())
        }
        None => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{method}}}"#),
    }
}

/// Writes a response.
pub(crate) fn response(id: &RawValue, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.get())
}

/// Writes an error response; `id` is null where the request's could not be read.
pub(crate) fn error(id: Option<&RawValue>, error: &str) -> String {
    let id = id.map_or("null", RawValue::get);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

/// Writes an error response of our own.
pub(crate) fn rpc_error(id: Option<&RawValue>, rpc_error: &RpcError) -> String {
    error(id, &json(&rpc_error.to_json()))
}

/// Writes an object with raw members.
pub(crate) fn object(members: &[(&str, Box<RawValue>)]) -> Box<RawValue> {
    let mut text = String::from("{");
    for (index, (key, value)) in members.iter().enumerate() {
        let comma = if index > 0 { "," } else { "" };
        let _ = write!(text, "{comma}{}:{}", quoted(key), value.get());
    }
    text.push('}');
    raw(text)
}

/// Writes the `input_required` response of the stateless era.
pub(crate) fn input_required(id: &RawValue, questions: &[Question], state: &str) -> String {
    let mut text = String::from(r#"{"resultType":"input_required","#);
    if !questions.is_empty() {
        let requests: Vec<_> = questions
            .iter()
            .map(|question| {
                let params = question.params.as_ref().map_or("{}", |params| params.get());
                let method = quoted(&question.method);
                let body = format!(r#"{{"method":{method},"params":{params}}}"#);
                (question.key.as_str(), raw(body))
            })
            .collect();
        let _ = write!(text, r#""inputRequests":{},"#, object(&requests).get());
    }
    let _ = write!(text, r#""requestState":{}}}"#, quoted(state));
    response(id, &text)
}

/// Makes an unguessable token of 128 random bits, in hexadecimal; `None` without randomness.
pub(crate) fn random_token() -> Option<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
