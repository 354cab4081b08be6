//! The Cedar schema that a bundle's servers and tools make.

use std::collections::BTreeSet;

use countersign_model::ToolName;
use serde_json::{Map, Value, json};

use crate::argument_types::{Fields, cedar_record};
use crate::catalog::{Server, Tool};

/// The group of all tools.
pub(crate) const TOOLS: &str = "tools";
/// The group of all other methods.
pub(crate) const MCP: &str = "mcp";
/// The actions of methods other than `tools/call`.
pub(crate) const MCP_ACTIONS: [&str; 8] = [
    "mcp.complete",
    "mcp.elicitation",
    "mcp.elicitation.url",
    "mcp.prompt.get",
    "mcp.resource.read",
    "mcp.roots",
    "mcp.sampling",
    "mcp.subscribe",
];
/// The risk tags that policies may always name.
pub(crate) const RISK_TAGS: [&str; 6] =
    ["code-execution", "data-deletion", "external-communication", "money", "privilege", "read"];

/// Returns the groups that a tool's action is in.
pub(crate) fn groups(tool: &Tool) -> Vec<String> {
    let server = format!("server:{}", tool.name.server());
    let tags = tool.tags.iter().map(|tag| format!("tag:{tag}"));
    [TOOLS.to_owned(), server].into_iter().chain(tags).collect()
}

/// Returns the ids of all action groups, also of those without members.
pub(crate) fn all_groups(servers: &[Server]) -> BTreeSet<String> {
    [TOOLS, MCP]
        .into_iter()
        .map(str::to_owned)
        .chain(RISK_TAGS.iter().map(|tag| format!("tag:{tag}")))
        .chain(servers.iter().map(|server| format!("server:{}", server.name)))
        .chain(servers.iter().flat_map(|server| &server.tools).flat_map(groups))
        .collect()
}

/// Returns the ids of all actions and of all groups that have members.
pub(crate) fn live_actions(servers: &[Server]) -> BTreeSet<String> {
    let tools = || servers.iter().flat_map(|server| &server.tools);
    MCP_ACTIONS
        .into_iter()
        .chain([MCP])
        .map(str::to_owned)
        .chain(tools().map(|tool| tool.name.to_string()))
        .chain(tools().flat_map(groups))
        .collect()
}

/// Says whether an action id has the form of a tool's or a server's, pinned or not.
pub(crate) fn names_tool_or_server(action: &str) -> bool {
    action.parse::<ToolName>().is_ok() || action.starts_with("server:")
}

/// Returns the schema in Cedar's JSON schema format.
pub(crate) fn generate(servers: &[Server]) -> Value {
    let mut actions: Map<_, _> =
        all_groups(servers).into_iter().map(|group| (group, json!({}))).collect();
    for action in MCP_ACTIONS {
        actions.insert(action.to_owned(), self::action(&[MCP.to_owned()], &mcp_context()));
    }
    for tool in servers.iter().flat_map(|server| &server.tools) {
        let definition = action(&groups(tool), &tool_context(&tool.fields));
        actions.insert(tool.name.to_string(), definition);
    }
    json!({ "": { "entityTypes": entity_types(), "actions": actions } })
}

fn entity_types() -> Value {
    json!({
        "Role": {},
        "Agent": {
            "memberOfTypes": ["Role"],
            "shape": { "type": "Record", "attributes": {
                "id": { "type": "String" },
                "environment": { "type": "String" },
                "owner": { "type": "String" },
            }},
        },
        "Server": {
            "shape": { "type": "Record", "attributes": { "environment": { "type": "String" } } },
        },
    })
}

fn action(groups: &[String], context: &Value) -> Value {
    let member_of: Vec<_> = groups.iter().map(|group| json!({ "id": group })).collect();
    json!({
        "memberOf": member_of,
        "appliesTo": {
            "principalTypes": ["Agent"],
            "resourceTypes": ["Server"],
            "context": context,
        },
    })
}

fn tool_context(fields: &Fields) -> Value {
    context([
        ("arguments", cedar_record(fields)),
        ("unrepresentable", json!({ "type": "Set", "element": { "type": "String" } })),
    ])
}

fn mcp_context() -> Value {
    context([("target", json!({ "type": "String", "required": false }))])
}

/// Adds what every action's context has.
fn context(own: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let principal = json!({ "type": "Record", "attributes": {
        "type": { "type": "String" },
        "id": { "type": "String" },
    }});
    let common = [
        ("at", json!({ "type": "Extension", "name": "datetime" })),
        ("method", json!({ "type": "String" })),
        ("origin", json!({ "type": "String" })),
        ("principal", principal),
        ("session", json!({ "type": "String", "required": false })),
    ];
    let attributes: Map<_, _> =
        common.into_iter().chain(own).map(|(name, ty)| (name.to_owned(), ty)).collect();
    json!({ "type": "Record", "attributes": attributes })
}
