//! Checks of policies against the generated schema.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::ffi::DetailedError;
use cedar_policy::{
    ActionConstraint, EntityUid, PolicySet, Schema, ValidationError, ValidationMode,
    ValidationWarning, Validator,
};

use crate::diagnostic::{Diagnostic, Severity};
use crate::policy::Rule;
use crate::schema::names_tool_or_server;

/// Type-checks all policies.
///
/// `sources` has the text of each file, `live` the actions and the groups that have members.
pub(crate) fn check(
    rules: &[Rule],
    sources: &BTreeMap<String, String>,
    schema: Schema,
    live: &BTreeSet<String>,
) -> Vec<Diagnostic> {
    let by_id: BTreeMap<_, _> = rules.iter().map(|rule| (rule.info.id.as_str(), rule)).collect();
    let policies = match PolicySet::from_policies(rules.iter().map(|rule| rule.policy.clone())) {
        Ok(policies) => policies,
        Err(error) => return vec![Diagnostic::error("policies", error.to_string())],
    };
    let place = |id: &str, report: &DetailedError| {
        let file = by_id.get(id).map(|rule| rule.info.file.as_str()).unwrap_or("policies");
        let source = sources.get(file).map(String::as_str).unwrap_or_default();
        Diagnostic::cedar(file, source, report)
    };
    let result = Validator::new(schema).validate(&policies, ValidationMode::Strict);
    let errors = result.validation_errors().map(|error| {
        let diagnostic = place(error.policy_id().as_ref(), &DetailedError::from(error));
        unpinned(error, diagnostic)
    });
    let warnings = result.validation_warnings().filter_map(|warning| {
        let id: &str = warning.policy_id().as_ref();
        if by_id.get(id).is_some_and(|rule| expected(warning, rule, live)) {
            return None;
        }
        let diagnostic = place(id, &DetailedError::from(warning));
        Some(Diagnostic { severity: Severity::Warning, ..diagnostic })
    });
    errors.chain(warnings).collect()
}

/// A policy may name a tool before it is pinned: it only has no effect yet.
fn unpinned(error: &ValidationError, diagnostic: Diagnostic) -> Diagnostic {
    let ValidationError::UnrecognizedActionId(_) = error else { return diagnostic };
    // The error does not give the id away except in its text: "… unrecognized action `Action::"x"`".
    let named =
        diagnostic.message.split("Action::\"").nth(1).and_then(|rest| rest.split('"').next());
    if named.is_some_and(names_tool_or_server) {
        let help = "pin the server's tools, or correct the name";
        return Diagnostic { severity: Severity::Warning, ..diagnostic }.help(help);
    }
    diagnostic
}

/// A policy about tools that are not pinned yet applies to nothing, as it should.
fn expected(warning: &ValidationWarning, rule: &Rule, live: &BTreeSet<String>) -> bool {
    let idle = |action: &EntityUid| !live.contains(action.id().unescaped());
    let all_idle = match rule.policy.action_constraint() {
        ActionConstraint::Any => false,
        ActionConstraint::Eq(action) => idle(&action),
        ActionConstraint::In(actions) => actions.iter().all(idle),
    };
    all_idle
        && matches!(
            warning,
            ValidationWarning::ImpossiblePolicy(_) | ValidationWarning::InvalidActionApplication(_)
        )
}
