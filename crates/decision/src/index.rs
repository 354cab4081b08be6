//! Policies sliced by the action and the principal that their scopes name.
//!
//! A call looks at the slices of its action, the action's groups and "any action", and in each of
//! them at the slices of its agent, the agent's roles and "any principal". Every policy stands in the
//! slices of all actions that it names, so what is left out is only what the scope excludes.

use std::collections::HashMap;

use cedar_policy::{
    ActionConstraint, EntityUid, PolicySet, PolicySetError, PrincipalConstraint, ResourceConstraint,
};
use countersign_model::{AgentFacts, Mode};

use crate::diagnostic::Diagnostic;
use crate::policy::{Effect, Rule};
use crate::reads::Reads;

/// All slices of a bundle.
#[derive(Debug, Default)]
pub(crate) struct Index {
    any: ActionSlices,
    actions: HashMap<String, ActionSlices>,
}

/// The slices of one action or group.
#[derive(Debug, Default)]
struct ActionSlices {
    any: Slice,
    agents: HashMap<String, Slice>,
    roles: HashMap<String, Slice>,
}

/// Policies with the same scope.
///
/// Permits and forbids are apart because Cedar names the permits that apply only if no forbid does.
#[derive(Debug, Default)]
pub(crate) struct Slice {
    pub(crate) permits: PolicySet,
    pub(crate) forbids: PolicySet,
    /// What the permits and forbids read of the context.
    pub(crate) reads: Reads,
    /// Enforced permits that do not read the context.
    pub(crate) fixed_permits: PolicySet,
    /// Enforced forbids without approval that do not read the context.
    pub(crate) fixed_forbids: PolicySet,
    /// The resources of enforced permits that read the context.
    pub(crate) open_permits: Vec<ResourceConstraint>,
}

impl Index {
    /// Builds all slices.
    pub(crate) fn of(rules: &[Rule]) -> Result<Self, Diagnostic> {
        let mut index = Self::default();
        for rule in rules {
            let place =
                |error: Box<PolicySetError>| Diagnostic::error(&rule.info.file, error.to_string());
            match rule.policy.action_constraint() {
                ActionConstraint::Any => index.any.add(rule).map_err(place)?,
                ActionConstraint::Eq(action) => index.at(&action).add(rule).map_err(place)?,
                ActionConstraint::In(mut actions) => {
                    actions.sort();
                    actions.dedup();
                    for action in actions {
                        index.at(&action).add(rule).map_err(place)?;
                    }
                }
            }
        }
        Ok(index)
    }

    fn at(&mut self, action: &EntityUid) -> &mut ActionSlices {
        self.actions.entry(action.id().unescaped().to_owned()).or_default()
    }

    /// Returns the slices that a call has to look at; `groups` are those of `action`.
    pub(crate) fn slices<'a>(
        &'a self,
        agent: &'a AgentFacts,
        action: &'a str,
        groups: &'a [String],
    ) -> impl Iterator<Item = &'a Slice> {
        std::iter::once(action)
            .chain(groups.iter().map(String::as_str))
            .filter_map(|id| self.actions.get(id))
            .chain(std::iter::once(&self.any))
            .flat_map(|slices| slices.of(agent))
    }
}

impl ActionSlices {
    fn of<'a>(&'a self, agent: &'a AgentFacts) -> impl Iterator<Item = &'a Slice> {
        std::iter::once(&self.any)
            .chain(self.agents.get(agent.name.as_str()))
            .chain(agent.roles.iter().filter_map(|role| self.roles.get(role)))
    }

    fn add(&mut self, rule: &Rule) -> Result<(), Box<PolicySetError>> {
        let slice = match rule.policy.principal_constraint() {
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => &mut self.any,
            PrincipalConstraint::Eq(uid)
            | PrincipalConstraint::In(uid)
            | PrincipalConstraint::IsIn(_, uid) => {
                let id = uid.id().unescaped().to_owned();
                match uid.type_name().to_string().as_str() {
                    "Agent" => self.agents.entry(id).or_default(),
                    "Role" => self.roles.entry(id).or_default(),
                    _ => &mut self.any,
                }
            }
        };
        slice.add(rule)
    }
}

impl Slice {
    fn add(&mut self, rule: &Rule) -> Result<(), Box<PolicySetError>> {
        self.reads.extend(&rule.reads);
        let enforced = rule.info.mode == Mode::Enforce;
        let fixed = enforced && !rule.reads.any();
        match rule.info.effect {
            Effect::Permit => {
                self.permits.add(rule.policy.clone()).map_err(Box::new)?;
                if fixed {
                    self.fixed_permits.add(rule.policy.clone()).map_err(Box::new)?;
                } else if enforced {
                    self.open_permits.push(rule.policy.resource_constraint());
                }
            }
            Effect::Forbid => {
                self.forbids.add(rule.policy.clone()).map_err(Box::new)?;
                if fixed && rule.info.approval.is_none() {
                    self.fixed_forbids.add(rule.policy.clone()).map_err(Box::new)?;
                }
            }
        }
        Ok(())
    }
}
