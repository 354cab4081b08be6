//! Facts as a Cedar request.

use std::collections::{HashMap, HashSet};

use cedar_policy::{
    Context, Entities as CedarEntities, Entity, EntityId, EntityTypeName, EntityUid, Request,
    RestrictedExpression, Schema,
};
use countersign_model::{AgentFacts, CallFacts, Facts, PrincipalType, ServerName};
use serde_json::Value;

use crate::argument_types::{self, Converted};
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
    entity: Entity,
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
        let actions = all
            .iter()
            .filter_map(|entity| {
                let (id, groups) = groups.remove_entry(entity.uid().id().unescaped())?;
                Some((id, Action { uid: entity.uid(), groups, entity: entity.clone() }))
            })
            .collect();
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
        let all = [agent, server.clone(), action.entity.clone()];
        let entities =
            CedarEntities::from_entities(all, None).map_err(|error| error.to_string())?;
        Ok((request, entities))
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
/// # Errors
///
/// Says what Cedar cannot represent; no caller can cause that.
pub(crate) fn evaluation(
    entities: &Entities,
    action: &Action,
    tool: Option<&Tool>,
    facts: &Facts,
) -> Result<Evaluation, String> {
    let converted = tool.map(|tool| argument_types::convert(&tool.fields, &facts.call.arguments));
    let unrepresentable = converted.as_ref().map(|c| c.unrepresentable.clone()).unwrap_or_default();
    let context = context(facts, converted)?;
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

fn context(facts: &Facts, converted: Option<Converted>) -> Result<Context, String> {
    let record = |pairs: Vec<(String, RestrictedExpression)>| {
        RestrictedExpression::new_record(pairs).map_err(|error| error.to_string())
    };
    let at = civil::datetime(facts.at.0).ok_or("the time is outside the years 0 to 9999")?;
    let kind = match facts.principal.kind {
        PrincipalType::Human => "human",
        PrincipalType::ServiceAccount => "service_account",
        PrincipalType::Organization => "organization",
    };
    let principal = record(vec![
        ("type".to_owned(), text(kind)),
        ("id".to_owned(), text(&facts.principal.id)),
    ])?;
    let mut pairs = vec![
        ("at".to_owned(), RestrictedExpression::new_datetime(at)),
        ("method".to_owned(), text(&facts.call.method)),
        ("origin".to_owned(), text(&facts.origin)),
        ("principal".to_owned(), principal),
    ];
    pairs.extend(facts.session.as_ref().map(|session| ("session".to_owned(), text(session))));
    if let Some(Converted { attributes, unrepresentable }) = converted {
        let names = unrepresentable.into_iter().map(RestrictedExpression::new_string);
        pairs.push(("arguments".to_owned(), record(attributes)?));
        pairs.push(("unrepresentable".to_owned(), RestrictedExpression::new_set(names)));
    } else {
        pairs.extend(facts.call.target.as_ref().map(|target| ("target".to_owned(), text(target))));
    }
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}
