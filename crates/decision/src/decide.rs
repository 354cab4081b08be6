//! The decision.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use cedar_policy::{Authorizer, PolicySet};
use countersign_model::{
    Decision, DeterminingRule, Facts, Mode, Reason, ReasonCode, Stage, Verdict,
};

use serde_json::Value;

use crate::bundle::Bundle;
use crate::catalog::{IdempotencyMode, Tool};
use crate::policy::{Effect, Rule};
use crate::request::{self, Action};
use crate::{input_schema, visibility};

/// Length limit of a method that a reason repeats, in characters.
const METHOD_CHARS_MAX: usize = 64;

/// Decides one call.
///
/// In this order: a tool that differs from its pin, an unknown tool or method, arguments that break
/// the tool's schema (told only to those whom some policy could permit), then the policies. Every
/// error refuses.
#[must_use]
pub fn decide(bundle: &Bundle, facts: &Facts) -> Decision {
    let ruling = match Known::of(bundle, facts) {
        Ok(known) => known.rule(bundle, facts),
        Err(reason) => Ruling::refusal(vec![reason], Vec::new()),
    };
    let tool = facts.call.tool.as_ref().and_then(|name| bundle.tool(name));
    Decision {
        verdict: ruling.verdict,
        would_be: ruling.would_be,
        rules: ruling.rules,
        reasons: ruling.reasons,
        bundle: bundle.hash().to_owned(),
        tool_pin: tool.map(|tool| tool.pin.clone()),
    }
}

/// A decision before it is dressed up.
#[derive(Debug)]
struct Ruling {
    verdict: Verdict,
    would_be: Option<Verdict>,
    rules: Vec<DeterminingRule>,
    reasons: Vec<Reason>,
}

impl Ruling {
    fn refusal(reasons: Vec<Reason>, rules: Vec<DeterminingRule>) -> Self {
        Self { verdict: Verdict::Deny, would_be: None, rules, reasons }
    }
}

/// A call of something that the bundle knows.
pub(crate) struct Known<'b> {
    tool: Option<&'b Tool>,
    id: String,
    action: &'b Action,
}

impl<'b> Known<'b> {
    /// Looks the call's action up.
    pub(crate) fn of(bundle: &'b Bundle, facts: &Facts) -> Result<Self, Reason> {
        let call = &facts.call;
        let Some(id) = request::action_of(call) else {
            let method: String = call.method.chars().take(METHOD_CHARS_MAX).collect();
            let detail = format!("the method `{}` is not passed on", method.escape_debug());
            return Err(permission(ReasonCode::METHOD_NOT_ALLOWED, detail));
        };
        bundle.server(&call.server).ok_or_else(|| not_allowlisted(&id))?;
        let action = bundle.entities.action(&id).ok_or_else(|| not_allowlisted(&id))?;
        let tool = call.tool.as_ref().filter(|_| call.method == "tools/call");
        let tool = match tool {
            Some(name) if *name.server() != call.server => return Err(not_allowlisted(&id)),
            Some(name) => Some(bundle.tool(name).ok_or_else(|| not_allowlisted(&id))?),
            None => None,
        };
        Ok(Self { tool, id, action })
    }

    fn rule(&self, bundle: &Bundle, facts: &Facts) -> Ruling {
        let could_permit =
            || visibility::could_permit(bundle, &facts.agent, &facts.call.server, &self.id);
        if let Some(fault) = self.fault(facts) {
            // Who could never be permitted learns nothing about the tool.
            let reason = if could_permit() { fault } else { not_allowlisted(&self.id) };
            return Ruling::refusal(vec![reason], Vec::new());
        }
        match self.findings(bundle, facts) {
            Err(reason) => Ruling::refusal(vec![reason], Vec::new()),
            Ok(findings) if !findings.errors.is_empty() => findings.error_ruling(),
            Ok(findings) => findings.ruling(&self.id, could_permit),
        }
    }

    /// Returns what is wrong with a tool call before any policy is asked.
    fn fault(&self, facts: &Facts) -> Option<Reason> {
        let tool = self.tool?;
        let call = &facts.call;
        if call.pin_mismatch {
            let detail = "the server's definition of the tool differs from the pinned one";
            return Some(permission(ReasonCode::TOOL_PIN_MISMATCH, detail.to_owned()));
        }
        // MCP lets a caller leave the arguments out.
        let none = Value::Object(serde_json::Map::new());
        let arguments = Some(&call.arguments).filter(|arguments| !arguments.is_null());
        if let Some(detail) = input_schema::fault(&tool.validator, arguments.unwrap_or(&none)) {
            let (stage, code) = (Stage::Schema, ReasonCode::SCHEMA);
            return Some(Reason { stage, code, rule: None, detail });
        }
        if tool.idempotency == IdempotencyMode::Required && !call.keyed {
            let (stage, code) = (Stage::Idempotency, ReasonCode::IDEMPOTENCY_KEY_REQUIRED);
            let detail = "calls of this tool need an idempotency key".to_owned();
            return Some(Reason { stage, code, rule: None, detail });
        }
        None
    }

    /// Evaluates the policies of the call's slices.
    pub(crate) fn findings(
        &self,
        bundle: &'b Bundle,
        facts: &Facts,
    ) -> Result<Findings<'b>, Reason> {
        let slices: Vec<_> =
            bundle.index.slices(&facts.agent, &self.id, &self.action.groups).collect();
        let reads = |path: &[&str]| slices.iter().any(|slice| slice.reads.touches(path));
        let evaluation =
            request::evaluation(&bundle.entities, self.action, self.tool, facts, reads)
                .map_err(|error| permission(ReasonCode::POLICY_ERROR, error))?;
        let authorizer = Authorizer::new();
        let mut findings = Findings::default();
        for slice in &slices {
            for policies in [&slice.permits, &slice.forbids] {
                if policies.is_empty() {
                    continue;
                }
                let answer =
                    authorizer.is_authorized(&evaluation.request, policies, &evaluation.entities);
                findings.take(bundle, policies, &answer, &evaluation.unrepresentable);
            }
        }
        Ok(findings)
    }
}

/// What the policies of the looked-at slices say, by policy id.
#[derive(Default)]
pub(crate) struct Findings<'b> {
    /// Policies that apply.
    pub(crate) satisfied: BTreeMap<&'b str, &'b Rule>,
    /// Policies that could not be evaluated, and why, for the operator.
    pub(crate) errors: BTreeMap<&'b str, (&'b Rule, String)>,
    /// All policies that were looked at.
    pub(crate) considered: BTreeMap<&'b str, &'b Rule>,
}

impl<'b> Findings<'b> {
    fn take(
        &mut self,
        bundle: &'b Bundle,
        policies: &PolicySet,
        answer: &cedar_policy::Response,
        unrepresentable: &[String],
    ) {
        let rule = |id: &cedar_policy::PolicyId| {
            let id: &str = id.as_ref();
            bundle.rules.get_key_value(id).map(|(id, rule)| (id.as_str(), rule))
        };
        self.satisfied.extend(answer.diagnostics().reason().filter_map(rule));
        for error in answer.diagnostics().errors() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            let text = error.inner().to_string();
            self.errors.extend(rule(error.policy_id()).map(|(id, rule)| (id, (rule, text))));
        }
        let considered = || policies.policies().filter_map(|policy| rule(policy.id()));
        self.considered.extend(considered());
        if unrepresentable.is_empty() {
            return;
        }
        // Cedar has no value for these arguments. `has` would say that they were not sent and let a
        // `forbid` slip, so whoever reads one errs.
        for (id, rule) in considered() {
            if let Some(pointer) = rule.reads.first_of(unrepresentable) {
                let text = format!("reads `{pointer}`, which has no Cedar value");
                self.errors.entry(id).or_insert((rule, text));
            }
        }
    }

    fn error_ruling(&self) -> Ruling {
        let rules = self.errors.values().map(|(rule, _)| determining(rule)).collect();
        let reasons = self
            .errors
            .keys()
            .map(|id| Reason {
                rule: Some((*id).to_owned()),
                ..permission(
                    ReasonCode::POLICY_ERROR,
                    format!("policy `{id}` could not be evaluated"),
                )
            })
            .collect();
        Ruling::refusal(reasons, rules)
    }

    fn ruling(&self, action: &str, could_permit: impl Fn() -> bool) -> Ruling {
        let all: Vec<_> = self.satisfied.values().copied().collect();
        let enforced: Vec<_> =
            all.iter().copied().filter(|rule| rule.info.mode == Mode::Enforce).collect();
        let mut done = weigh(&enforced);
        let would_be = weigh(&all);
        let permitted = enforced.iter().any(|rule| rule.info.effect == Effect::Permit);
        // Whom nothing could ever permit learns nothing about the rules.
        if !permitted && !could_permit() {
            done.rules.clear();
        }
        let mut reasons: Vec<_> = done.rules.iter().filter_map(|rule| reason(rule)).collect();
        if !permitted {
            reasons.push(not_allowlisted(action));
        }
        let mut rules = done.rules;
        let differs = would_be.verdict != done.verdict;
        if differs {
            let mut softer = would_be.rules;
            softer.retain(|rule| !rules.iter().any(|other| other.info.id == rule.info.id));
            softer.sort_by_key(|rule| Reverse(rule.info.mode));
            reasons.extend(softer.iter().filter_map(|rule| reason(rule)));
            rules.extend(softer);
        }
        rules.sort_by(|a, b| a.info.id.cmp(&b.info.id));
        Ruling {
            verdict: done.verdict,
            would_be: differs.then_some(would_be.verdict),
            rules: rules.into_iter().map(determining).collect(),
            reasons,
        }
    }
}

/// A verdict and the policies that determine it.
struct Weighed<'b> {
    verdict: Verdict,
    rules: Vec<&'b Rule>,
}

/// Weighs policies that apply: a forbid wins, default is deny, approval holds what is permitted.
fn weigh<'b>(rules: &[&'b Rule]) -> Weighed<'b> {
    let select = |wanted: fn(&Rule) -> bool| -> Vec<&'b Rule> {
        rules.iter().copied().filter(|rule| wanted(rule)).collect()
    };
    let forbids = select(|rule| rule.info.effect == Effect::Forbid && rule.info.approval.is_none());
    let approvals = select(|rule| rule.info.approval.is_some());
    let permits = select(|rule| rule.info.effect == Effect::Permit);
    let (verdict, rules) = if !forbids.is_empty() {
        (Verdict::Deny, forbids)
    } else if permits.is_empty() {
        (Verdict::Deny, Vec::new())
    } else if !approvals.is_empty() {
        (Verdict::Hold, approvals)
    } else {
        (Verdict::Allow, permits)
    };
    Weighed { verdict, rules }
}

/// Returns what a forbid says; a permit needs no reason.
fn reason(rule: &Rule) -> Option<Reason> {
    (rule.info.effect == Effect::Forbid).then(|| Reason {
        stage: rule.info.stage(),
        code: rule.info.code.clone(),
        rule: Some(rule.info.id.clone()),
        detail: rule.info.detail(),
    })
}

fn determining(rule: &Rule) -> DeterminingRule {
    DeterminingRule { id: rule.info.id.clone(), mode: rule.info.mode }
}

fn permission(code: ReasonCode, detail: String) -> Reason {
    Reason { stage: Stage::Permission, code, rule: None, detail }
}

fn not_allowlisted(action: &str) -> Reason {
    permission(ReasonCode::NOT_ALLOWLISTED, format!("no policy permits `{action}`"))
}
