//! Registered agents.

use serde::{Deserialize, Serialize};

use crate::{AgentId, AgentName, Environment, TimestampMs};

/// Whether an agent may act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentStatus {
    /// The agent's keys are accepted.
    Active,
    /// Every credential of the agent is refused.
    Disabled,
}

/// A registered non-human identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// The agent's id, in every record of its calls.
    pub id: AgentId,
    /// The name that policy uses.
    pub name: AgentName,
    /// What the agent is for, in a sentence.
    pub purpose: String,
    /// The person who answers for the agent, usually an e-mail address.
    pub owner: String,
    /// Where the agent runs.
    pub environment: Environment,
    /// The Cedar roles that the agent is in.
    pub roles: Vec<String>,
    /// Whether the agent may act.
    pub status: AgentStatus,
    /// When the agent was registered.
    pub created: TimestampMs,
}

/// The fields that a new agent needs, before they are checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NewAgent {
    /// See [`Agent::name`].
    pub name: String,
    /// See [`Agent::purpose`].
    pub purpose: String,
    /// See [`Agent::owner`].
    pub owner: String,
    /// See [`Agent::environment`].
    pub environment: String,
    /// See [`Agent::roles`].
    pub roles: Vec<String>,
    /// When the first API key expires; never if absent.
    pub key_expires: Option<TimestampMs>,
}

/// Says why an agent cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NewAgentError {
    /// Required fields are empty.
    #[error("an agent needs {}", .fields.join(", "))]
    Missing {
        /// The names of the empty fields.
        fields: Vec<&'static str>,
    },
    /// A name breaks its rule.
    #[error(transparent)]
    Name(#[from] crate::NameError),
}

impl NewAgent {
    /// Checks the fields and makes the agent.
    ///
    /// # Errors
    ///
    /// Lists every missing field at once, or names the first one that breaks its rule.
    pub fn into_agent(self, id: AgentId, created: TimestampMs) -> Result<Agent, NewAgentError> {
        let fields: Vec<_> = [
            ("name", &self.name),
            ("purpose", &self.purpose),
            ("owner", &self.owner),
            ("environment", &self.environment),
        ]
        .into_iter()
        .filter(|(_, value)| value.trim().is_empty())
        .map(|(field, _)| field)
        .collect();
        if !fields.is_empty() {
            return Err(NewAgentError::Missing { fields });
        }
        Ok(Agent {
            id,
            name: self.name.parse()?,
            purpose: self.purpose,
            owner: self.owner,
            environment: self.environment.parse()?,
            roles: self.roles,
            status: AgentStatus::Active,
            created,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_020_lists_every_missing_field() {
        let new = NewAgent { name: "bot".into(), environment: " ".into(), ..NewAgent::default() };
        let id = AgentId(uuid::Uuid::nil());
        let error = new.into_agent(id, TimestampMs(0)).unwrap_err();
        assert_eq!(error.to_string(), "an agent needs purpose, owner, environment");
    }
}
