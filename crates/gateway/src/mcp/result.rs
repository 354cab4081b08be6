//! Shaping results for the client's era and endpoint. What needs no change keeps its bytes.

use std::borrow::Cow;

use countersign_model::ServerName;
use serde_json::Value;
use serde_json::value::RawValue;

use super::message;
use super::route::Route;
use super::serve::Context;
use crate::envelope::{Edit, edit_object, member};
use crate::pipeline::{Answer, CallRequest};
use crate::refusal::code;

/// `_meta` key of the decision record's id.
pub(crate) const EVALUATION_ID: &str = "dev.countersign/evaluation-id";
/// `_meta` key that marks an answer as that of an earlier call.
const REPLAYED: &str = "dev.countersign/replayed";

/// How a call's result has to look for its client.
#[derive(Debug)]
pub(crate) struct Shape {
    modern: bool,
    method: &'static str,
    /// On the federated endpoint, the server whose URIs in the result have to be prefixed.
    federated: Option<ServerName>,
}

impl Shape {
    /// Finds the shape that a request's result has to have.
    pub(crate) fn of(context: &Context, request: &CallRequest) -> Self {
        Self {
            modern: context.is_modern(),
            method: request.method,
            federated: (context.route == Route::All).then(|| request.server.clone()),
        }
    }

    /// Tells whether refusals are tool results.
    pub(crate) fn is_tool_call(&self) -> bool {
        self.method == "tools/call"
    }

    /// Gives the client's form of an upstream result.
    pub(crate) fn result(&self, answer: &Answer) -> String {
        let id = message::raw(format!("\"{}\"", answer.evaluation_id));
        let yes = message::raw("true".into());
        let complete = message::raw("\"complete\"".into());
        let private = message::raw("\"private\"".into());
        let zero = message::raw("0".into());

        let mut edits = vec![Edit::set(&["_meta", EVALUATION_ID], &id)];
        if answer.replayed {
            edits.push(Edit::set(&["_meta", REPLAYED], &yes));
        }
        if self.modern {
            edits.push(Edit::set(&["resultType"], &complete));
            if self.method == "resources/read" {
                // What an agent may read depends on policy, so nobody may share it.
                edits.push(Edit::set(&["cacheScope"], &private));
                edits.push(Edit::set(&["ttlMs"], &zero));
            }
        } else {
            edits.push(Edit::remove(&["resultType"]));
            edits.push(Edit::remove(&["cacheScope"]));
            edits.push(Edit::remove(&["ttlMs"]));
        }
        let result = self.outer_uris(&answer.result);
        match edit_object(&result, &edits) {
            Ok(edited) => edited.get().to_owned(),
            // Not an object, so no MCP result; the client gets what the server said.
            Err(_) => result.get().to_owned(),
        }
    }

    /// Gives the client's form of a result of our own.
    pub(crate) fn own_result(&self, mut result: Value) -> String {
        if let (true, Some(object)) = (self.modern, result.as_object_mut()) {
            object.insert("resultType".into(), "complete".into());
        }
        result.to_string()
    }

    /// Gives the HTTP status and the client's form of an upstream's JSON-RPC error.
    ///
    /// A missing resource is `-32002` in the stateful era and `-32602` in the stateless one.
    pub(crate) fn upstream_error(&self, error: &RawValue) -> (u16, String) {
        let number = member(error, "code").and_then(|code| code.get().parse::<i64>().ok());
        let translated = match (self.modern, self.method, number) {
            (true, "resources/read", Some(code::RESOURCE_NOT_FOUND)) => Some(code::INVALID_PARAMS),
            (false, "resources/read", Some(code::INVALID_PARAMS)) => Some(code::RESOURCE_NOT_FOUND),
            _ => None,
        };
        let status = match translated.or(number) {
            Some(code::INVALID_PARAMS | code::MISSING_CAPABILITY) if self.modern => 400,
            Some(code::METHOD_NOT_FOUND) if self.modern => 404,
            _ => 200,
        };
        let Some(number) = translated else { return (status, error.get().to_owned()) };
        let value = message::raw(number.to_string());
        let edited = edit_object(error, &[Edit::set(&["code"], &value)]);
        (status, edited.map_or_else(|_| error.get().to_owned(), |edited| edited.get().to_owned()))
    }

    /// Prefixes the resource URIs in a result on the federated endpoint.
    fn outer_uris<'a>(&self, result: &'a RawValue) -> Cow<'a, RawValue> {
        let Some(server) = &self.federated else { return Cow::Borrowed(result) };
        if !result.get().contains("\"uri\"") {
            return Cow::Borrowed(result);
        }
        let Ok(mut value) = serde_json::from_str::<Value>(result.get()) else {
            return Cow::Borrowed(result);
        };
        let lists = ["content", "contents", "messages"];
        for item in lists
            .iter()
            .filter_map(|list| value.get(list)?.as_array().map(|_| *list))
            .collect::<Vec<_>>()
        {
            let items = value.get_mut(item).and_then(Value::as_array_mut);
            items.into_iter().flatten().for_each(|item| prefix_uri(server, item));
        }
        Cow::Owned(message::raw(value.to_string()))
    }
}

/// Prefixes the URI of a content item: its own, its resource's, or that of a prompt message's content.
fn prefix_uri(server: &ServerName, item: &mut Value) {
    for path in ["", "/resource", "/content", "/content/resource"] {
        let uri = item.pointer_mut(path).and_then(|holder| holder.get_mut("uri"));
        if let Some(Value::String(uri)) = uri {
            *uri = super::names::federate_uri(server, uri);
        }
    }
}
