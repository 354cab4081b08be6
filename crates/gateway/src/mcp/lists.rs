//! What a client may see: servers, tools, prompts, resources, as policy and pins have them.
//!
//! Tools come from their pinned definitions, never from the server's live bytes: a changed
//! description cannot reach a model before somebody pinned it. An entry is shown if some policy could
//! ever permit its use; showing it grants nothing.

use std::sync::Arc;

use countersign_model::{AgentFacts, ServerName};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::route::Route;
use super::serve::{Client, Context};
use super::{MODERN_VERSION, headers, message};
use crate::envelope::{Edit, edit_object, member, string};
use crate::limits::{LIST_PAGES_MAX, LIST_SERVER_TIMEOUT};
use crate::refusal::{RpcError, code};
use crate::upstream::{Housekeeping, Session, UpstreamError};

/// The methods that list things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Tools,
    Prompts,
    Resources,
    Templates,
}

impl List {
    /// Finds the list with this method.
    pub(crate) fn of(method: &str) -> Option<Self> {
        Some(match method {
            "tools/list" => Self::Tools,
            "prompts/list" => Self::Prompts,
            "resources/list" => Self::Resources,
            "resources/templates/list" => Self::Templates,
            _ => return None,
        })
    }

    /// Returns the member of the result that holds the entries.
    fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    fn method(self) -> Housekeeping {
        match self {
            Self::Tools => Housekeeping::ToolsList,
            Self::Prompts => Housekeeping::PromptsList,
            Self::Resources => Housekeeping::ResourcesList,
            Self::Templates => Housekeeping::ResourceTemplatesList,
        }
    }

    /// Returns the action that using an entry needs.
    fn action(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "mcp.prompt.get",
            Self::Resources | Self::Templates => "mcp.resource.read",
        }
    }
}

/// Makes the result of a list method.
///
/// # Errors
///
/// Refuses a cursor where there are no pages, and says when a server could not be asked.
pub(crate) async fn list(
    context: &Context,
    list: List,
    params: Option<&RawValue>,
) -> Result<String, RpcError> {
    let cursor = params.and_then(|params| member(params, "cursor"));
    match (&context.route, list) {
        (Route::One(server), List::Tools) => {
            no_cursor(cursor)?;
            Ok(result(context, list, &tools(context, server)))
        }
        (Route::One(server), _) => page(context, server, list, cursor).await,
        (Route::All, _) => {
            no_cursor(cursor)?;
            let mut entries = Vec::new();
            for server in &context.gateway.upstreams.servers() {
                if list == List::Tools {
                    entries.extend(tools(context, server));
                } else {
                    entries.extend(all_pages(context, server, list).await);
                }
            }
            Ok(result(context, list, &entries))
        }
    }
}

/// Finds the definition of a tool that the client may see, by the client's name for it.
pub(crate) fn find_tool(context: &Context, name: &str) -> Option<Box<RawValue>> {
    let (server, _) = context.route.inner_name(name)?;
    let rules = context.gateway.rules().current();
    let pinned = rules.bundle.server(&server)?;
    let tool = pinned
        .tools
        .iter()
        .find(|tool| context.route.outer_name(&server, tool.name.tool()) == name)?;
    Some(tool.definition.clone())
}

/// Lists the pinned tools of a server that the client's agent could ever use.
fn tools(context: &Context, server: &ServerName) -> Vec<Box<RawValue>> {
    let agent = AgentFacts::from(context.caller.agent.as_ref());
    let rules = context.gateway.rules().current();
    let Some(pinned) = rules.bundle.server(server) else { return Vec::new() };
    let visible = pinned.tools.iter().filter(|tool| {
        let annotated = tool.definition.get().contains("x-mcp-header");
        rules.bundle.could_allow(&agent, server, &tool.name.to_string())
            && (!annotated
                || serde_json::from_str(tool.definition.get())
                    .is_ok_and(|definition| headers::annotations_valid(&definition)))
    });
    visible.map(|tool| rename(context, server, "name", &tool.definition)).collect()
}

/// Gives an entry with the name that the endpoint's clients use.
fn rename(context: &Context, server: &ServerName, key: &str, entry: &RawValue) -> Box<RawValue> {
    if matches!(context.route, Route::One(_)) {
        return entry.to_owned();
    }
    let Some(inner) = member(entry, key).and_then(|raw| string(raw).ok()) else {
        return entry.to_owned();
    };
    let outer = match key {
        "name" => context.route.outer_name(server, &inner),
        _ => context.route.outer_uri(server, &inner),
    };
    let value = message::raw(Value::from(outer.as_ref()).to_string());
    edit_object(entry, &[Edit::set(&[key], &value)]).unwrap_or_else(|_| entry.to_owned())
}

/// Tells whether policy could ever let the client's agent use entries of this kind.
fn visible(context: &Context, server: &ServerName, list: List) -> bool {
    let agent = AgentFacts::from(context.caller.agent.as_ref());
    context.gateway.rules().current().bundle.could_allow(&agent, server, list.action())
}

/// Names the servers whose messages outside calls policy could ever let the client's agent hear.
pub(crate) fn subscribable(context: &Context) -> Vec<ServerName> {
    let agent = AgentFacts::from(context.caller.agent.as_ref());
    let rules = context.gateway.rules().current();
    let mut servers = context.gateway.upstreams.servers();
    servers.retain(|server| rules.bundle.could_allow(&agent, server, "mcp.subscribe"));
    servers
}

/// Passes on one page of a server's own list.
async fn page(
    context: &Context,
    server: &ServerName,
    list: List,
    cursor: Option<&RawValue>,
) -> Result<String, RpcError> {
    if !visible(context, server, list) {
        return Ok(result(context, list, &[]));
    }
    let session = session(context, server).await?;
    let params = cursor.map(|cursor| message::raw(format!(r#"{{"cursor":{}}}"#, cursor.get())));
    let page =
        session.housekeeping(list.method(), params).await.map_err(|error| upstream(&error))?;
    Ok(shaped(context, &page))
}

/// Collects all pages of a server's list; a server that fails is left out of a federated list.
async fn all_pages(context: &Context, server: &ServerName, list: List) -> Vec<Box<RawValue>> {
    if !visible(context, server, list) {
        return Vec::new();
    }
    let collect = async {
        let session = session(context, server).await?;
        let entries = collect(&session, list).await.map_err(|error| upstream(&error))?;
        Ok::<_, RpcError>(entries)
    };
    let Ok(Ok(entries)) = tokio::time::timeout(LIST_SERVER_TIMEOUT, collect).await else {
        tracing::warn!(%server, "left a server out of a list, because it did not answer");
        return Vec::new();
    };
    let key = match list {
        List::Tools | List::Prompts => "name",
        List::Resources => "uri",
        List::Templates => "uriTemplate",
    };
    entries.iter().map(|entry| rename(context, server, key, entry)).collect()
}

/// Reads all pages of a list.
///
/// # Errors
///
/// Passes on the server's error. A list of more than [`LIST_PAGES_MAX`] pages is cut.
pub(crate) async fn collect(
    session: &Session,
    list: List,
) -> Result<Vec<Box<RawValue>>, UpstreamError> {
    let mut entries = Vec::new();
    let mut params = None;
    for _ in 0..LIST_PAGES_MAX {
        let page = session.housekeeping(list.method(), params.take()).await?;
        if let Some(items) = member(&page, list.member()) {
            let items: Vec<Box<RawValue>> = serde_json::from_str(items.get()).unwrap_or_default();
            entries.extend(items);
        }
        match member(&page, "nextCursor").filter(|cursor| cursor.get() != "null") {
            Some(cursor) => {
                params = Some(message::raw(format!(r#"{{"cursor":{}}}"#, cursor.get())));
            }
            None => break,
        }
    }
    Ok(entries)
}

/// Opens the client's session with a server.
pub(crate) async fn session(
    context: &Context,
    server: &ServerName,
) -> Result<Arc<Session>, RpcError> {
    open(context, server).await.map_err(|error| upstream(&error))
}

/// Opens the client's session with a server, and follows its messages outside any call.
pub(crate) async fn open(
    context: &Context,
    server: &ServerName,
) -> Result<Arc<Session>, UpstreamError> {
    let upstreams = &context.gateway.upstreams;
    let session = upstreams.session(server, &context.owner(), context.profile()).await?;
    if let Client::Legacy(client) = &context.client {
        super::subscriptions::follow(context, client, server, &session);
    }
    Ok(session)
}

/// What a server says about itself to a client of any era.
#[derive(Debug)]
pub(crate) struct Face {
    pub(crate) capabilities: Value,
    pub(crate) info: Value,
    pub(crate) instructions: Option<String>,
}

/// Makes the face of the endpoint: of its one server, or of the gateway.
pub(crate) async fn server(context: &Context) -> Result<Face, RpcError> {
    let own = &context.gateway.config.identity;
    let Route::One(name) = &context.route else {
        let capabilities = json!({
            "tools": {"listChanged": true}, "prompts": {}, "resources": {"subscribe": true},
            "completions": {}, "logging": {},
        });
        let info = json!({"name": own.name, "version": own.version});
        return Ok(Face { capabilities, info, instructions: None });
    };
    let session = session(context, name).await?;
    let parsed = |raw: Option<&RawValue>| -> Value {
        raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_else(|| json!({}))
    };
    let (offered, info) = (parsed(session.capabilities()), parsed(session.server_info()));
    let rules = context.gateway.rules().current();
    let instructions = rules.bundle.server(name).and_then(|server| server.instructions.clone());
    Ok(Face { capabilities: capabilities(&offered, context.is_modern()), info, instructions })
}

/// Passes on the capabilities that the gateway passes, and no unknown extension.
fn capabilities(offered: &Value, modern: bool) -> Value {
    let mut passed = Map::new();
    for name in ["tools", "prompts", "resources", "completions", "logging"] {
        if let Some(capability) = offered.get(name) {
            passed.insert(name.into(), capability.clone());
        }
    }
    if let Some(Value::Object(tools)) = passed.get_mut("tools") {
        tools.insert("listChanged".into(), true.into());
    }
    if !modern {
        passed.entry("logging").or_insert_with(|| json!({}));
    }
    Value::Object(passed)
}

/// Makes the result of `server/discover`.
pub(crate) async fn discover(context: &Context) -> Result<String, RpcError> {
    let face = server(context).await?;
    let mut result = json!({
        "resultType": "complete",
        "supportedVersions": [MODERN_VERSION],
        "capabilities": face.capabilities,
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {"io.modelcontextprotocol/serverInfo": face.info},
    });
    if let (Some(text), Some(object)) = (face.instructions, result.as_object_mut()) {
        object.insert("instructions".into(), text.into());
    }
    Ok(result.to_string())
}

/// Writes a list result of our own.
fn result(context: &Context, list: List, entries: &[Box<RawValue>]) -> String {
    let entries: Vec<_> = entries.iter().map(|entry| entry.get()).collect();
    let text = format!(r#"{{"{}":[{}]}}"#, list.member(), entries.join(","));
    shaped(context, &message::raw(text))
}

/// Gives a list result the members of the client's era. Lists depend on policy, so nobody may share
/// them.
fn shaped(context: &Context, result: &RawValue) -> String {
    let complete = message::raw("\"complete\"".into());
    let private = message::raw("\"private\"".into());
    let zero = message::raw("0".into());
    let edits = if context.is_modern() {
        [
            Edit::set(&["resultType"], &complete),
            Edit::set(&["cacheScope"], &private),
            Edit::set(&["ttlMs"], &zero),
        ]
    } else {
        [Edit::remove(&["resultType"]), Edit::remove(&["cacheScope"]), Edit::remove(&["ttlMs"])]
    };
    edit_object(result, &edits).map_or_else(|_| result.get().to_owned(), |raw| raw.get().to_owned())
}

fn no_cursor(cursor: Option<&RawValue>) -> Result<(), RpcError> {
    match cursor.filter(|cursor| cursor.get() != "null") {
        None => Ok(()),
        Some(_) => Err(RpcError::new(code::INVALID_PARAMS, "`cursor` is none of ours")),
    }
}

/// Turns a server's failure to answer a list into the client's error.
pub(crate) fn upstream(error: &UpstreamError) -> RpcError {
    if let UpstreamError::Refused { error, .. } = error {
        let number = member(error, "code").and_then(|code| code.get().parse().ok());
        let text = member(error, "message").and_then(|raw| string(raw).ok());
        let text =
            text.map_or_else(|| "the server refused".to_owned(), std::borrow::Cow::into_owned);
        return RpcError::new(number.unwrap_or(code::INTERNAL_ERROR), text);
    }
    RpcError::new(code::BAD_GATEWAY, "UPSTREAM_UNREACHABLE: the server could not be asked")
}
