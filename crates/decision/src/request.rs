//! Facts as a Cedar request.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Context, Entities as CedarEntities, Entity, EntityId, EntityTypeName, EntityUid, Request,
    RestrictedExpression, Schema,
};
use countersign_model::{AgentFacts, CallFacts, Facts, Principal, PrincipalType, ServerName};
use serde_json::Value;

use crate::argument_types;
use crate::catalog::{Server, Tool};
use crate::civil;
use crate::diagnostic::Diagnostic;
use crate::schema::{self, MCP, MCP_ACTIONS};

/// Returns the Cedar action of a call: its tool, or the action of its method; `None` for a method
/// that no policy can permit.
#[must_use]
pub fn action_of(call: &CallFacts) -> Option<String> {
    let action = match call.method.as_str() {
        "tools/call" => return call.tool.as_ref().map(ToString::to_string),
        "resources/read" => "mcp.resource.read",
        "prompts/get" => "mcp.prompt.get",
        "completion/complete" => "mcp.complete",
        "resources/subscribe" | "resources/unsubscribe" | "subscriptions/listen" => "mcp.subscribe",
        "sampling/createMessage" => "mcp.sampling",
        "roots/list" => "mcp.roots",
        "elicitation/create" => match call.arguments.get("mode").and_then(Value::as_str) {
            None | Some("form") => "mcp.elicitation",
            Some("url") => "mcp.elicitation.url",
            Some(_) => return None,
        },
        _ => return None,
    };
    Some(action.to_owned())
}

/// The part of Cedar's entities that does not depend on the call.
#[derive(Debug)]
pub(crate) struct Entities {
    actions: HashMap<String, Action>,
    servers: HashMap<ServerName, Entity>,
    agent: EntityTypeName,
    role: EntityTypeName,
}

/// One action with its groups.
#[derive(Debug)]
pub(crate) struct Action {
    pub(crate) uid: EntityUid,
    pub(crate) groups: Vec<String>,
    /// The action alone, its hierarchy already closed.
    entities: CedarEntities,
}

/// A request with the entities that it needs.
#[derive(Debug)]
pub(crate) struct Evaluation {
    pub(crate) request: Request,
    pub(crate) entities: CedarEntities,
    /// Arguments that Cedar cannot represent.
    pub(crate) unrepresentable: Vec<String>,
}

impl Entities {
    /// Collects the actions and servers of a bundle.
    pub(crate) fn of(schema: &Schema, servers: &[Server]) -> Result<Self, Diagnostic> {
        let fault = |error: String| Diagnostic::error("tools", error);
        let all = schema.action_entities().map_err(|error| fault(error.to_string()))?;
        let tools = servers.iter().flat_map(|server| &server.tools);
        let tools = tools.map(|tool| (tool.name.to_string(), schema::groups(tool)));
        let methods = MCP_ACTIONS.map(|action| (action.to_owned(), vec![MCP.to_owned()]));
        let mut groups: HashMap<_, _> = tools.chain(methods).collect();
        let action = |entity: &Entity| {
            let (id, groups) = groups.remove_entry(entity.uid().id().unescaped())?;
            let entities = CedarEntities::from_entities([entity.clone()], None);
            let entities = entities.map_err(|error| error.to_string());
            Some(entities.map(|entities| (id, Action { uid: entity.uid(), groups, entities })))
        };
        let actions = all.iter().filter_map(action).collect::<Result<_, _>>().map_err(fault)?;
        let server_type = entity_type("Server").map_err(fault)?;
        let server = |server: &Server| {
            let environment = text(server.environment.as_str());
            let attributes = HashMap::from([("environment".to_owned(), environment)]);
            let entity =
                Entity::new(uid(&server_type, server.name.as_str()), attributes, HashSet::new())
                    .map_err(|error| error.to_string())?;
            Ok((server.name.clone(), entity))
        };
        Ok(Self {
            actions,
            servers: servers.iter().map(server).collect::<Result<_, _>>().map_err(fault)?,
            agent: entity_type("Agent").map_err(fault)?,
            role: entity_type("Role").map_err(fault)?,
        })
    }

    /// Makes a request with the given context, and its entities.
    pub(crate) fn request(
        &self,
        action: &Action,
        server: &ServerName,
        agent: &AgentFacts,
        context: Context,
    ) -> Result<(Request, CedarEntities), String> {
        let agent = self.agent(agent)?;
        let server = self.servers.get(server).ok_or("the server is not in the bundle")?;
        let (principal, resource) = (agent.uid(), server.uid());
        let request = Request::new(principal, action.uid.clone(), resource, context, None)
            .map_err(|error| error.to_string())?;
        // Adding closes the hierarchy of what is added, not of the action again.
        let entities = action.entities.clone().add_entities([agent, server.clone()], None);
        Ok((request, entities.map_err(|error| error.to_string())?))
    }

    fn agent(&self, agent: &AgentFacts) -> Result<Entity, String> {
        let attributes = HashMap::from([
            ("id".to_owned(), text(agent.id.to_string())),
            ("environment".to_owned(), text(agent.environment.as_str())),
            ("owner".to_owned(), text(&agent.owner)),
        ]);
        let roles: HashSet<_> = agent.roles.iter().map(|role| uid(&self.role, role)).collect();
        Entity::new(uid(&self.agent, agent.name.as_str()), attributes, roles)
            .map_err(|error| error.to_string())
    }

    /// Returns an action.
    pub(crate) fn action(&self, id: &str) -> Option<&Action> {
        self.actions.get(id)
    }
}

/// Makes the request of a call of `tool`, or of a method if there is none.
///
/// Its context has only those attributes and arguments whose paths some policy `reads`: to make them
/// costs more than to evaluate a policy, and what no policy reads changes no answer.
///
/// # Errors
///
/// Says what Cedar cannot represent; no caller can cause that.
pub(crate) fn evaluation(
    entities: &Entities,
    action: &Action,
    tool: Option<&Tool>,
    facts: &Facts,
    reads: impl Fn(&[&str]) -> bool,
) -> Result<Evaluation, String> {
    let mut pairs = common(facts, &reads)?;
    let mut unrepresentable = Vec::new();
    if let Some(tool) = tool {
        let all = reads(&["unrepresentable"]);
        let wanted = |argument: &str| all || reads(&["arguments", argument]);
        let converted = argument_types::convert(&tool.fields, &facts.call.arguments, wanted);
        unrepresentable = converted.unrepresentable;
        pairs.push(("arguments", record(converted.attributes)?));
        if all {
            let names = unrepresentable.iter().map(text);
            pairs.push(("unrepresentable", RestrictedExpression::new_set(names)));
        }
    } else if reads(&["target"]) {
        pairs.extend(facts.call.target.as_ref().map(|target| ("target", text(target))));
    }
    let pairs = pairs.into_iter().map(|(name, value)| (name.to_owned(), value));
    let context = Context::from_pairs(pairs).map_err(|error| error.to_string())?;
    let (request, entities) =
        entities.request(action, &facts.call.server, &facts.agent, context)?;
    Ok(Evaluation { request, entities, unrepresentable })
}

fn text(value: impl Into<String>) -> RestrictedExpression {
    RestrictedExpression::new_string(value.into())
}

fn entity_type(name: &str) -> Result<EntityTypeName, String> {
    name.parse().map_err(|error| format!("{error}"))
}

fn uid(entity_type: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(entity_type.clone(), EntityId::new(id))
}

fn record(
    attributes: impl IntoIterator<Item = (String, RestrictedExpression)>,
) -> Result<RestrictedExpression, String> {
    RestrictedExpression::new_record(attributes).map_err(|error| error.to_string())
}

/// Returns what `reads` wants of the attributes that every action's context has.
fn common(
    facts: &Facts,
    reads: &impl Fn(&[&str]) -> bool,
) -> Result<Vec<(&'static str, RestrictedExpression)>, String> {
    // An impossible time refuses, whether or not a policy reads it.
    let at = civil::datetime(facts.at.0).ok_or("the time is outside the years 0 to 9999")?;
    let mut pairs = Vec::new();
    if reads(&["at"]) {
        pairs.push(("at", RestrictedExpression::new_datetime(at)));
    }
    if reads(&["method"]) {
        pairs.push(("method", text(&facts.call.method)));
    }
    if reads(&["origin"]) {
        pairs.push(("origin", text(&facts.origin)));
    }
    if reads(&["principal"]) {
        pairs.push(("principal", principal(&facts.principal)?));
    }
    if reads(&["session"]) {
        pairs.extend(facts.session.as_ref().map(|session| ("session", text(session))));
    }
    Ok(pairs)
}

fn principal(principal: &Principal) -> Result<RestrictedExpression, String> {
    let kind = match principal.kind {
        PrincipalType::Human => "human",
        PrincipalType::ServiceAccount => "service_account",
        PrincipalType::Organization => "organization",
    };
    record([("type".to_owned(), text(kind)), ("id".to_owned(), text(&principal.id))])
}
