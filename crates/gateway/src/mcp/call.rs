//! Parsing a governed request into a [`CallRequest`].

use countersign_model::{ServerName, ToolName};
use serde_json::Value;
use serde_json::value::RawValue;

use super::message;
use super::names;
use super::route::Route;
use super::serve::Context;
use crate::envelope::{Edit, edit_object, member, string};
use crate::pipeline::CallRequest;
use crate::refusal::{RpcError, code};

/// `_meta` key of a caller's idempotency key.
pub(crate) const IDEMPOTENCY_KEY: &str = "dev.countersign/idempotency-key";
/// Stands for the server in records of calls that name none.
const NO_SERVER: &str = "none";

/// The methods that policy decides on, one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Governed {
    ToolsCall,
    ResourcesRead,
    ResourcesSubscribe,
    ResourcesUnsubscribe,
    PromptsGet,
    Complete,
}

impl Governed {
    /// Finds the governed method with this name; subscriptions by URI ended with the stateful era.
    pub(crate) fn of(method: &str, modern: bool) -> Option<Self> {
        Some(match method {
            "tools/call" => Self::ToolsCall,
            "resources/read" => Self::ResourcesRead,
            "prompts/get" => Self::PromptsGet,
            "completion/complete" => Self::Complete,
            "resources/subscribe" if !modern => Self::ResourcesSubscribe,
            "resources/unsubscribe" if !modern => Self::ResourcesUnsubscribe,
            _ => return None,
        })
    }

    fn method(self) -> &'static str {
        match self {
            Self::ToolsCall => "tools/call",
            Self::ResourcesRead => "resources/read",
            Self::ResourcesSubscribe => "resources/subscribe",
            Self::ResourcesUnsubscribe => "resources/unsubscribe",
            Self::PromptsGet => "prompts/get",
            Self::Complete => "completion/complete",
        }
    }
}

/// Where a request goes and what it is about.
struct Aim {
    server: ServerName,
    tool: Option<ToolName>,
    target: Option<String>,
    arguments: Value,
    /// The parameters with the upstream's names, where those differ from what came.
    renamed: Option<Box<RawValue>>,
}

/// Parses the parameters of a governed method.
///
/// # Errors
///
/// Names the member that is missing or of the wrong type.
pub(crate) fn parse(
    context: &Context,
    governed: Governed,
    params: Option<&RawValue>,
) -> Result<CallRequest, RpcError> {
    let Some(params) = params else { return Err(invalid("`params` is missing")) };
    let aim = match governed {
        Governed::ToolsCall => tool(context, params)?,
        Governed::PromptsGet => prompt(context, params)?,
        Governed::ResourcesRead | Governed::ResourcesSubscribe | Governed::ResourcesUnsubscribe => {
            resource(context, params)?
        }
        Governed::Complete => completion(context, params)?,
    };
    let key = member(params, "_meta").and_then(|meta| member(meta, IDEMPOTENCY_KEY));
    let key = match key {
        Some(key) => Some(text(key, "_meta dev.countersign/idempotency-key")?),
        None => context.idempotency_key.clone(),
    };
    Ok(CallRequest {
        caller: context.caller.clone(),
        method: governed.method(),
        server: aim.server,
        tool: aim.tool,
        target: aim.target,
        arguments: aim.arguments,
        params: aim.renamed.unwrap_or_else(|| params.to_owned()),
        session: context.session_id(),
        idempotency_key: key,
    })
}

fn tool(context: &Context, params: &RawValue) -> Result<Aim, RpcError> {
    let name = required_text(params, "name")?;
    let arguments = arguments(params, "arguments")?;
    let (server, inner) = match context.route.inner_name(&name) {
        Some((server, rest)) => {
            let rules = context.gateway.rules().current();
            let pinned = rules.bundle.server(&server);
            let names = pinned.iter().flat_map(|pinned| &pinned.tools).map(|tool| tool.name.tool());
            let inner = match &context.route {
                Route::One(_) => None,
                Route::All => names::resolve(&server, &name, names).map(str::to_owned),
            };
            let inner = inner.unwrap_or_else(|| rest.to_owned());
            (server, inner)
        }
        None => (no_server()?, name.clone()),
    };
    let tool =
        ToolName::new(server.clone(), &inner).map_err(|error| invalid(&error.to_string()))?;
    let renamed = rename(params, &["name"], &name, &inner)?;
    Ok(Aim { server, tool: Some(tool), target: None, arguments, renamed })
}

fn prompt(context: &Context, params: &RawValue) -> Result<Aim, RpcError> {
    let name = required_text(params, "name")?;
    let arguments = arguments(params, "arguments")?;
    let (server, inner) = inner_name(context, &name)?;
    let renamed = rename(params, &["name"], &name, &inner)?;
    Ok(Aim { server, tool: None, target: Some(inner), arguments, renamed })
}

fn resource(context: &Context, params: &RawValue) -> Result<Aim, RpcError> {
    let uri = required_text(params, "uri")?;
    let (server, inner) = inner_uri(context, &uri)?;
    let renamed = rename(params, &["uri"], &uri, &inner)?;
    Ok(Aim { server, tool: None, target: Some(inner), arguments: empty(), renamed })
}

fn completion(context: &Context, params: &RawValue) -> Result<Aim, RpcError> {
    let Some(reference) = member(params, "ref") else { return Err(invalid("`ref` is missing")) };
    let arguments = arguments(params, "argument")?;
    let kind = required_text(reference, "type")?;
    let (path, name, (server, inner)) = if kind == "ref/resource" {
        let uri = required_text(reference, "uri")?;
        let aim = inner_uri(context, &uri)?;
        (["ref", "uri"], uri, aim)
    } else {
        let name = required_text(reference, "name")?;
        let aim = inner_name(context, &name)?;
        (["ref", "name"], name, aim)
    };
    let renamed = rename(params, &path, &name, &inner)?;
    Ok(Aim { server, tool: None, target: Some(inner), arguments, renamed })
}

/// Splits a prompt's name. Names that were shortened cannot be found again without the server's list,
/// so prompts keep theirs: they are not sent to model APIs.
fn inner_name(context: &Context, name: &str) -> Result<(ServerName, String), RpcError> {
    match context.route.inner_name(name) {
        Some((server, inner)) => Ok((server, inner.to_owned())),
        None => Ok((no_server()?, name.to_owned())),
    }
}

fn inner_uri(context: &Context, uri: &str) -> Result<(ServerName, String), RpcError> {
    match context.route.inner_uri(uri) {
        Some((server, inner)) => Ok((server, inner.to_owned())),
        None => Ok((no_server()?, uri.to_owned())),
    }
}

fn no_server() -> Result<ServerName, RpcError> {
    NO_SERVER.parse().map_err(|_| invalid("no server is named"))
}

/// Gives the parameters with another name at `path`, if it is another.
fn rename(
    params: &RawValue,
    path: &[&str],
    outer: &str,
    inner: &str,
) -> Result<Option<Box<RawValue>>, RpcError> {
    if outer == inner {
        return Ok(None);
    }
    let value = message::raw(Value::from(inner).to_string());
    let edited = edit_object(params, &[Edit::set(path, &value)]);
    edited.map(Some).map_err(|error| invalid(&error.to_string()))
}

/// Reads an object of arguments; absent is empty.
fn arguments(params: &RawValue, name: &str) -> Result<Value, RpcError> {
    let Some(raw) = member(params, name) else { return Ok(empty()) };
    match serde_json::from_str::<Value>(raw.get()) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(invalid(&format!("`{name}` must be an object"))),
        Err(_) => Err(invalid(&format!("`{name}` has a number that cannot be represented"))),
    }
}

fn required_text(params: &RawValue, name: &str) -> Result<String, RpcError> {
    match member(params, name) {
        Some(raw) => text(raw, name),
        None => Err(invalid(&format!("`{name}` is missing"))),
    }
}

fn text(raw: &RawValue, name: &str) -> Result<String, RpcError> {
    let text = string(raw).map_err(|_| invalid(&format!("`{name}` must be a string")))?;
    Ok(text.into_owned())
}

fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}

fn invalid(text: &str) -> RpcError {
    RpcError::new(code::INVALID_PARAMS, text)
}
