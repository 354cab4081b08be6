//! Cedar policies and their annotations.

use cedar_policy::ffi::DetailedError;
use cedar_policy::{Policy, PolicyId, PolicySet};
use countersign_model::{Mode, ReasonCode, Stage};
use serde::Serialize;

use crate::diagnostic::{Diagnostic, Severity};
use crate::limits::{POLICY_ID_BYTES_MAX, REASON_BYTES_MAX};
use crate::reads::Reads;

/// What a policy does when it applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// The call may go on.
    Permit,
    /// The call may not go on.
    Forbid,
}

/// A policy's annotations and place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyInfo {
    /// `@id`: the policy's name in records, unique in its bundle.
    pub id: String,
    /// Whether it permits or forbids.
    pub effect: Effect,
    /// `@mode`: how strictly it is applied; `enforce` by default.
    pub mode: Mode,
    /// `@code`: the reason code of a refusal; `FORBIDDEN` by default.
    pub code: ReasonCode,
    /// `@reason`: what the caller is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// `@approval`: the rule by which a person can approve what a `forbid` stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// The file in the bundle.
    pub file: String,
    /// The line of the file where the policy begins, from 1.
    pub line: usize,
}

impl PolicyInfo {
    /// Returns the step of the pipeline that a refusal by this policy belongs to.
    pub(crate) fn stage(&self) -> Stage {
        if self.approval.is_some() {
            Stage::Approval
        } else if self.code.as_str() == "BOUNDS" {
            Stage::Bounds
        } else {
            Stage::Permission
        }
    }

    /// Returns what the caller is told.
    pub(crate) fn detail(&self) -> String {
        match (&self.reason, &self.approval) {
            (Some(reason), _) => reason.clone(),
            (None, Some(rule)) => format!("needs approval by rule `{rule}`"),
            (None, None) => format!("forbidden by policy `{}`", self.id),
        }
    }
}

/// A policy as it was loaded.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) info: PolicyInfo,
    pub(crate) policy: Policy,
    pub(crate) reads: Reads,
}

/// Parses the policies of one file; what is wrong is added to `found`.
pub(crate) fn parse(file: &str, source: &str, found: &mut Vec<Diagnostic>) -> Vec<Rule> {
    let set: PolicySet = match source.parse() {
        Ok(set) => set,
        Err(errors) => {
            let report = DetailedError::from(&errors);
            found.push(Diagnostic::cedar(file, source, &report));
            found.extend(report.related.iter().map(|one| Diagnostic::cedar(file, source, one)));
            return Vec::new();
        }
    };
    for template in set.templates() {
        let (place, _) = Place::find(file, source, 0, &template.to_cedar());
        let fault = place.error("a bundle cannot link templates");
        found.push(fault.help("write the entity in place of `?principal` or `?resource`"));
    }
    let mut policies: Vec<_> = set.policies().collect();
    // Cedar numbers the policies of a text from `policy0` on.
    policies.sort_by_key(|policy| (policy.id().to_string().len(), policy.id().to_string()));
    let mut rules = Vec::new();
    let mut offset = 0;
    for policy in policies {
        let (place, end) =
            Place::find(file, source, offset, &policy.to_cedar().unwrap_or_default());
        offset = end;
        match rule(&place, policy, found) {
            Ok(rule) => rules.push(rule),
            Err(fault) => found.push(fault),
        }
    }
    rules
}

/// Where a policy begins.
struct Place<'a> {
    file: &'a str,
    source: &'a str,
    offset: usize,
}

impl<'a> Place<'a> {
    /// Finds the text of a policy from `start` on; also returns where it ends.
    fn find(file: &'a str, source: &'a str, start: usize, text: &str) -> (Self, usize) {
        let found = source.get(start..).and_then(|rest| rest.find(text)).unwrap_or(0);
        let offset = start + found;
        (Self { file, source, offset }, offset + text.len())
    }

    fn error(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(self.file, message).at(self.source, self.offset)
    }
}

fn rule(
    place: &Place<'_>,
    policy: &Policy,
    found: &mut Vec<Diagnostic>,
) -> Result<Rule, Diagnostic> {
    let info = info(place, policy)?;
    for (name, _) in policy.annotations() {
        if !["id", "mode", "code", "reason", "approval", "description"].contains(&name) {
            let message = format!("policy `{}`: unknown annotation `@{name}`", info.id);
            found.push(Diagnostic { severity: Severity::Warning, ..place.error(message) });
        }
    }
    let json = policy.to_json().map_err(|error| place.error(error.to_string()))?;
    let policy = policy.new_id(PolicyId::new(&info.id));
    Ok(Rule { info, policy, reads: Reads::of(&json) })
}

fn info(place: &Place<'_>, policy: &Policy) -> Result<PolicyInfo, Diagnostic> {
    let id = policy.annotation("id").filter(|id| is_name(id)).ok_or_else(|| {
        place.error("the policy has no usable `@id`").help(format!(
            "write `@id(\"a-name\")` before it: at most {POLICY_ID_BYTES_MAX} printable characters"
        ))
    })?;
    let fault = |message: &str| place.error(format!("policy `{id}`: {message}"));
    let effect = match policy.effect() {
        cedar_policy::Effect::Permit => Effect::Permit,
        cedar_policy::Effect::Forbid => Effect::Forbid,
    };
    let mode = match policy.annotation("mode") {
        None | Some("enforce") => Mode::Enforce,
        Some("warn") => Mode::Warn,
        Some("observe") => Mode::Observe,
        Some(other) => {
            let help = "modes are `observe`, `warn` and `enforce`";
            return Err(fault(&format!("unknown mode `{other}`")).help(help));
        }
    };
    let code = match policy.annotation("code") {
        None => ReasonCode::FORBIDDEN,
        Some(code) => ReasonCode::parse(code).ok_or_else(|| {
            fault(&format!("`{code}` is no reason code")).help("a code is in upper case: `BOUNDS`")
        })?,
    };
    let approval = policy.annotation("approval").map(str::to_owned);
    if approval.as_ref().is_some_and(|rule| !is_name(rule)) {
        return Err(fault("`@approval` must name a rule"));
    }
    if approval.is_some() && effect == Effect::Permit {
        return Err(fault("`@approval` belongs on a `forbid`"));
    }
    let reason = policy.annotation("reason").map(str::to_owned);
    if reason.as_ref().is_some_and(|text| text.len() > REASON_BYTES_MAX) {
        return Err(fault(&format!("`@reason` has at most {REASON_BYTES_MAX} bytes")));
    }
    let (id, file) = (id.to_owned(), place.file.to_owned());
    let line = place.error("").line;
    Ok(PolicyInfo { id, effect, mode, code, reason, approval, file, line })
}

fn is_name(name: &str) -> bool {
    let printable = !name.chars().any(char::is_control);
    !name.trim().is_empty() && name.len() <= POLICY_ID_BYTES_MAX && printable
}
