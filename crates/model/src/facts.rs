//! Everything a decision may look at.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    AgentId, AgentName, Environment, RecordId, ServerName, TenantId, TimestampMs, ToolName,
};

/// The complete input of one decision, besides the bundle.
///
/// INVARIANT: a decision depends on nothing else. The facts are stored with the decision record, so
/// that it can be decided again, byte for byte.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Version of this format.
    pub v: u32,
    /// The id that the decision record will have.
    pub evaluation_id: RecordId,
    /// When the call was decided.
    pub at: TimestampMs,
    /// The tenant whose policy decides.
    pub tenant: TenantId,
    /// How the call came in: `mcp`, or `mcp-server` for a request that a server makes of a client.
    pub origin: String,
    /// Who acts.
    pub agent: AgentFacts,
    /// On whose behalf.
    pub principal: Principal,
    /// The gateway's session id, if the client has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What is to be done.
    pub call: CallFacts,
}

impl CallFacts {
    /// Returns the facts of the call without its arguments, which are `null`.
    #[must_use]
    pub fn without_arguments(&self) -> Self {
        let Self { method, server, tool, target, arguments: _, keyed, pin_mismatch } = self;
        Self {
            method: method.clone(),
            server: server.clone(),
            tool: tool.clone(),
            target: target.clone(),
            arguments: Value::Null,
            keyed: *keyed,
            pin_mismatch: *pin_mismatch,
        }
    }
}

impl Facts {
    /// The version of the format that this program writes.
    pub const VERSION: u32 = 1;
}

/// The acting agent, as the registry had it at the time of the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentFacts {
    /// See [`crate::Agent::id`].
    pub id: AgentId,
    /// See [`crate::Agent::name`].
    pub name: AgentName,
    /// See [`crate::Agent::owner`].
    pub owner: String,
    /// See [`crate::Agent::environment`].
    pub environment: Environment,
    /// See [`crate::Agent::roles`].
    pub roles: Vec<String>,
}

impl From<&crate::Agent> for AgentFacts {
    fn from(agent: &crate::Agent) -> Self {
        Self {
            id: agent.id,
            name: agent.name.clone(),
            owner: agent.owner.clone(),
            environment: agent.environment.clone(),
            roles: agent.roles.clone(),
        }
    }
}

/// The kinds of principal; a model is never one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalType {
    /// A person.
    Human,
    /// An account of a machine or a team.
    ServiceAccount,
    /// A whole organisation.
    Organization,
}

/// Where an identity field comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provenance {
    /// Read from the registry of agents.
    Registry,
}

/// The person, service account or organisation on whose behalf an agent acts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    /// What kind of principal it is.
    #[serde(rename = "type")]
    pub kind: PrincipalType,
    /// Its identifier; private in records, which show a pseudonym.
    pub id: String,
    /// Where the identifier comes from.
    pub provenance: Provenance,
}

/// What the caller wants done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallFacts {
    /// The MCP method, for example `tools/call`.
    pub method: String,
    /// The upstream server.
    pub server: ServerName,
    /// The tool of a `tools/call`; absent for other methods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolName>,
    /// What a method other than `tools/call` works on: a resource URI, a prompt's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The arguments; an object for `tools/call`, whatever the method has for others.
    pub arguments: Value,
    /// The caller sent an idempotency key.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keyed: bool,
    /// What the server offers now differs from the pinned definition of the tool.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pin_mismatch: bool,
}
