//! Why a call is decided as it is, for people.

use std::fmt;

use countersign_model::{Facts, Mode, Reason, Verdict};
use serde::Serialize;

use crate::bundle::Bundle;
use crate::decide::{Known, decide};
use crate::policy::{Effect, PolicyInfo, Rule};

/// A decision and every policy that was looked at for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// What is done.
    pub verdict: Verdict,
    /// What would be done if every policy were enforced, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_be: Option<Verdict>,
    /// Why, most important first.
    pub reasons: Vec<Reason>,
    /// The policies of the call's slices, in the order of their ids; empty if none was asked.
    pub policies: Vec<Considered>,
    /// The bundle's hash.
    pub bundle: String,
}

/// A policy that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Considered {
    /// The policy's annotations and file.
    #[serde(flatten)]
    pub policy: PolicyInfo,
    /// Whether it applies.
    pub result: PolicyResult,
    /// Whether it determined the verdict or what it would have been.
    pub determining: bool,
}

/// What came of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyResult {
    /// The policy applies to the call.
    Satisfied,
    /// The policy does not apply to the call.
    NotSatisfied,
    /// The policy could not be evaluated; the text may repeat argument values.
    Error(String),
}

/// Decides and tells how; for operators, as it names policies that callers need not know.
#[must_use]
pub fn explain(bundle: &Bundle, facts: &Facts) -> Explanation {
    let decision = decide(bundle, facts);
    let findings = Known::of(bundle, facts)
        .and_then(|known| known.findings(bundle, facts))
        .unwrap_or_default();
    let result = |id: &str| match findings.errors.get(id) {
        Some((_, error)) => PolicyResult::Error(error.clone()),
        None if findings.satisfied.contains_key(id) => PolicyResult::Satisfied,
        None => PolicyResult::NotSatisfied,
    };
    let considered = |(id, rule): (&&str, &&Rule)| Considered {
        policy: rule.info.clone(),
        result: result(id),
        determining: decision.rules.iter().any(|rule| rule.id == **id),
    };
    Explanation {
        verdict: decision.verdict,
        would_be: decision.would_be,
        reasons: decision.reasons.clone(),
        policies: findings.considered.iter().map(considered).collect(),
        bundle: decision.bundle.clone(),
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.verdict)?;
        if let Some(would_be) = self.would_be {
            write!(f, " (would be {would_be} if every policy were enforced)")?;
        }
        for Reason { stage, code, rule, detail } in &self.reasons {
            write!(f, "\n  because {code} at {stage}: {detail}")?;
            if let Some(rule) = rule {
                write!(f, " [{rule}]")?;
            }
        }
        for one in &self.policies {
            let mark = if one.determining { '*' } else { ' ' };
            let effect = match one.policy.effect {
                Effect::Permit => "permit",
                Effect::Forbid => "forbid",
            };
            let result = match &one.result {
                PolicyResult::Satisfied => "applies",
                PolicyResult::NotSatisfied => "does not apply",
                PolicyResult::Error(error) => error,
            };
            let PolicyInfo { id, file, line, .. } = &one.policy;
            write!(f, "\n{mark} {effect} {id} ({file}:{line}")?;
            if one.policy.mode != Mode::Enforce {
                write!(f, ", {}", one.policy.mode)?;
            }
            write!(f, "): {result}")?;
        }
        write!(f, "\nbundle {}", self.bundle)
    }
}
