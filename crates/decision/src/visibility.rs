//! What an agent could be allowed, before there is a call.

use cedar_policy::{
    Authorizer, Context, Entities, EntityUid, PolicySet, Request, ResourceConstraint, Response,
};
use countersign_model::{AgentFacts, ServerName};

use crate::bundle::Bundle;
use crate::index::Slice;

/// See [`Bundle::could_allow`].
pub(crate) fn could_allow(
    bundle: &Bundle,
    agent: &AgentFacts,
    server: &ServerName,
    action: &str,
) -> bool {
    let Some((question, groups)) = Question::new(bundle, agent, server, action) else {
        return false;
    };
    let slices = || bundle.index.slices(agent, action, groups);
    slices().any(|slice| question.permits(slice))
        && slices().all(|slice| question.applies(&slice.fixed_forbids) == Some(false))
}

/// Says whether some enforced permit could apply to this agent, whatever the arguments.
pub(crate) fn could_permit(
    bundle: &Bundle,
    agent: &AgentFacts,
    server: &ServerName,
    action: &str,
) -> bool {
    Question::new(bundle, agent, server, action).is_some_and(|(question, groups)| {
        bundle.index.slices(agent, action, groups).any(|slice| question.permits(slice))
    })
}

/// A request without context, for policies that do not read it.
struct Question {
    request: Request,
    entities: Entities,
    authorizer: Authorizer,
    resource: EntityUid,
}

impl Question {
    fn new<'b>(
        bundle: &'b Bundle,
        agent: &AgentFacts,
        server: &ServerName,
        action: &str,
    ) -> Option<(Self, &'b [String])> {
        let action = bundle.entities.action(action)?;
        let (request, entities) =
            bundle.entities.request(action, server, agent, Context::empty()).ok()?;
        let resource = request.resource()?.clone();
        Some((Self { request, entities, authorizer: Authorizer::new(), resource }, &action.groups))
    }

    fn permits(&self, slice: &Slice) -> bool {
        slice.open_permits.iter().any(|constraint| self.is_about(constraint))
            || self.applies(&slice.fixed_permits).unwrap_or(false)
    }

    fn is_about(&self, constraint: &ResourceConstraint) -> bool {
        match constraint {
            ResourceConstraint::Any => true,
            ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) => *uid == self.resource,
            ResourceConstraint::Is(name) => name == self.resource.type_name(),
            ResourceConstraint::IsIn(name, uid) => {
                name == self.resource.type_name() && *uid == self.resource
            }
        }
    }

    /// Says whether one of the policies applies; `None` if one of them errs.
    fn applies(&self, policies: &PolicySet) -> Option<bool> {
        if policies.is_empty() {
            return Some(false);
        }
        let response: Response =
            self.authorizer.is_authorized(&self.request, policies, &self.entities);
        let diagnostics = response.diagnostics();
        if diagnostics.errors().next().is_some() {
            return None;
        }
        Some(diagnostics.reason().next().is_some())
    }
}
