//! Why a call was decided as it was: one paragraph that a person understands, and the proof.

use std::fmt;

use countersign_decision::{Effect, PolicyInfo};
use countersign_model::{Mode, Reason};
use serde::Serialize;
use serde_json::Value;

use crate::case::Case;
use crate::proof::Proof;
use crate::sentence::{agent, asked, claim, lost_claim, sentence};
use crate::time::{duration, spoken, utc, weekday};
use crate::{Opened, Record, cut, shown};

/// Characters of the arguments that the paragraph repeats.
const ARGUMENTS_CHARS_MAX: usize = 600;

/// Characters of a bundle's hash that the paragraph repeats.
const HASH_CHARS: usize = 12;

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Why {
    /// The record: a decision's id is the call's evaluation id.
    pub record_id: String,
    /// The record's kind.
    pub kind: String,
    /// When, RFC 3339.
    pub at: String,
    /// The day of the week, in UTC.
    pub weekday: &'static str,
    /// The agent's name, or its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The person who answers for the agent, at the time of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What the agent is for, as it is registered now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// On whose behalf; absent if the name is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// The pseudonym of the principal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pseudonym: Option<String>,
    /// The tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The MCP method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The arguments; absent if they are closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Value>,
    /// `allow`, `deny` or `hold`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// The policies that determined it.
    pub rules: Vec<String>,
    /// What the recorded bundle says about them.
    pub policies: Vec<PolicyInfo>,
    /// The reasons: whole if they are open, else their codes.
    pub reasons: Value,
    /// The hash of the bundle that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
    /// What came of it, in a word; absent if nothing was to come or nothing is recorded yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// How long the call took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<i64>,
    /// All of it in plain English.
    pub paragraph: String,
    /// The proof that the log has the record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
    /// Why there is no proof yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_proof: Option<String>,
}

impl Why {
    /// Explains a case.
    #[must_use]
    pub fn of(case: &Case) -> Self {
        let Opened { record, .. } = &case.main;
        let text = |name: &str| record.text(name).map(str::to_owned);
        let last = case.outcomes.last();
        Self {
            record_id: record.id().to_owned(),
            kind: record.kind().to_owned(),
            at: utc(record.time_ms()),
            weekday: weekday(record.time_ms()),
            agent: text("agent_name").or_else(|| text("agent")),
            owner: owner(case),
            purpose: case.agent.as_ref().map(|agent| agent.purpose.clone()),
            principal: case.main.principal().map(str::to_owned),
            pseudonym: text("principal"),
            tool: text("tool"),
            method: text("method"),
            arguments: case.main.arguments(),
            decision: text("decision"),
            rules: record.list("rules").into_iter().map(str::to_owned).collect(),
            policies: case.policies.clone(),
            reasons: reasons_value(&case.main),
            bundle: text("bundle"),
            outcome: last.map(|last| last.record.result().to_owned()),
            duration_ms: case.outcomes.iter().find_map(|one| one.record.integer("duration_ms")),
            paragraph: shown(&paragraph(case)),
            proof: case.proof.as_ref().ok().cloned(),
            no_proof: case.proof.as_ref().err().cloned(),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n\nProof:", self.paragraph)?;
        let Some(proof) = &self.proof else {
            let reason = self.no_proof.as_deref().unwrap_or("there is none");
            return writeln!(f, "  none yet: {reason}");
        };
        writeln!(
            f,
            "  record     {} is leaf {} of {} in the log",
            self.record_id, proof.leaf_index, proof.tree_size
        )?;
        writeln!(f, "  leaf hash  {}", proof.leaf_hash)?;
        writeln!(f, "  root       {}", proof.root)?;
        writeln!(f, "  signed by  {}", proof.origin)?;
        writeln!(f, "  log key    {}", proof.vkey)?;
        writeln!(f, "Check it offline:")?;
        writeln!(f, "  countersign show {} --proof record.json", self.record_id)?;
        writeln!(f, "  countersign verify --record record.json --vkey '{}'", proof.vkey)?;
        writeln!(f, "That the list is complete (every record counted, none missing):")?;
        writeln!(f, "  countersign verify --log countersign-data/log --vkey '{}'", proof.vkey)
    }
}

fn owner(case: &Case) -> Option<String> {
    let then = case.main.value("facts").and_then(|facts| facts.pointer("/agent/owner"));
    let then = then.and_then(Value::as_str).map(str::to_owned);
    then.or_else(|| case.agent.as_ref().map(|agent| agent.owner.clone()))
}

/// Tells the whole story.
fn paragraph(case: &Case) -> String {
    let record = &case.main.record;
    if record.kind() != "decision" {
        let said = sentence(record, case.main.principal());
        return format!("On {}: {said}", spoken(record.time_ms()));
    }
    let mut story = format!("On {}, {}", spoken(record.time_ms()), request(case));
    story.push_str(&verdict(case));
    story.push_str(&what_came(case));
    if let Some(reason) = &case.main.closed {
        story.push_str(&format!(" The private fields of the record are closed: {reason}."));
    }
    story
}

/// Tells who asked for what, on whose behalf.
fn request(case: &Case) -> String {
    let record = &case.main.record;
    let mut about = Vec::new();
    if let Some(agent) = &case.agent {
        about.push(format!("purpose: {}", agent.purpose));
    }
    about.extend(owner(case).map(|owner| format!("owner: {owner}")));
    about.extend(record.text("environment").map(|name| format!("environment: {name}")));
    let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join("; ")) };
    let who = format!("agent {}{about}, acting on behalf of {}", agent(record), behalf(&case.main));
    let arguments = arguments(&case.main);
    match record.text("origin") {
        Some("mcp-server") => {
            let server = record.text("server").unwrap_or("unknown");
            let method = record.text("method").unwrap_or("something");
            format!(
                "server `{server}`, called by {who}, asked the client for `{method}`{arguments}."
            )
        }
        _ if record.fields().get("round").is_some_and(|round| round == true) => {
            format!(
                "{who}, went on with call {} of {}{arguments}.",
                record.text("parent").unwrap_or(""),
                asked(record)
            )
        }
        _ => format!("{who}, asked for {}{arguments}.", asked(record)),
    }
}

fn behalf(main: &Opened) -> String {
    let kind = main.value("principal").and_then(|it| it.get("type")).and_then(Value::as_str);
    match (main.principal(), main.record.text("principal")) {
        (Some(person), _) => match kind {
            Some("human") | None => person.to_owned(),
            Some(kind) => format!("{person} ({})", kind.replace('_', " ")),
        },
        (None, Some(pseudonym)) => {
            format!("a principal whose name is closed (pseudonym {pseudonym})")
        }
        (None, None) => "nobody known".to_owned(),
    }
}

fn arguments(main: &Opened) -> String {
    match main.arguments() {
        Some(Value::Null) => " without arguments".to_owned(),
        Some(Value::Object(members)) if members.is_empty() => " without arguments".to_owned(),
        Some(arguments) => {
            format!(" with arguments {}", cut(&arguments.to_string(), ARGUMENTS_CHARS_MAX))
        }
        None if main.closed.is_some() => " with arguments that are closed".to_owned(),
        None => " without arguments".to_owned(),
    }
}

/// Tells the verdict, which rules of which bundle said so, and why.
fn verdict(case: &Case) -> String {
    let record = &case.main.record;
    let by = rules(case, false);
    let bundle = record.text("bundle").map_or_else(String::new, |hash| {
        format!(" under policy bundle {}", hash.chars().take(HASH_CHARS).collect::<String>())
    });
    let by = if by.is_empty() { by } else { format!(", by {by}") };
    let mut text = if let Some(code) = lost_claim(record) {
        let reason = claim(code).unwrap_or_default();
        format!(" Policy allowed it{bundle}{by}, but it was denied: {reason} ({code}).")
    } else {
        let done = match record.result() {
            "allow" => "It was allowed",
            "deny" => "It was denied",
            "hold" => "It was held",
            _ => "It was decided",
        };
        let because = because(&case.main);
        format!(" {done}{bundle}{by}{because}.")
    };
    if let Some(would) = record.text("would_be") {
        let would = match would {
            "deny" => "denied",
            "hold" => "held",
            other => other,
        };
        let softer = rules(case, true);
        let by = if softer.is_empty() { String::new() } else { format!(", by {softer}") };
        text.push_str(&format!(" If every policy were enforced, it would have been {would}{by}."));
    }
    text
}

/// Names the rules that are enforced, or the `softer` ones that only say what would have been done.
fn rules(case: &Case, softer: bool) -> String {
    let named = case.main.record.list("rules").into_iter().filter_map(|rule| {
        let known = case.policies.iter().find(|policy| policy.id == rule);
        let soft = known.is_some_and(|policy| policy.mode != Mode::Enforce);
        let text = known.map_or_else(|| format!("rule `{rule}`"), describe);
        (soft == softer).then_some(text)
    });
    let named: Vec<String> = named.collect();
    match named.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

fn describe(policy: &PolicyInfo) -> String {
    let effect = match policy.effect {
        Effect::Permit => "permit",
        Effect::Forbid => "forbid",
    };
    let mode = match policy.mode {
        Mode::Enforce => String::new(),
        mode @ (Mode::Warn | Mode::Observe) => format!(", mode {mode}"),
    };
    format!("rule `{}` ({effect}{mode}, {}:{})", policy.id, policy.file, policy.line)
}

fn reasons(main: &Opened) -> Vec<Reason> {
    let reasons = main.value("reasons").cloned().unwrap_or_default();
    serde_json::from_value(reasons).unwrap_or_default()
}

fn reasons_value(main: &Opened) -> Value {
    let open = main.value("reasons").cloned();
    open.unwrap_or_else(|| Value::from(main.record.list("reasons")))
}

fn because(main: &Opened) -> String {
    let open = reasons(main);
    let reasons: Vec<String> = if open.is_empty() {
        main.record.list("reasons").into_iter().map(str::to_owned).collect()
    } else {
        open.iter()
            .map(|reason| format!("{} ({} at {})", reason.detail, reason.code, reason.stage))
            .collect()
    };
    if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join("; ")) }
}

/// Tells what came of the call.
fn what_came(case: &Case) -> String {
    match case.main.record.result() {
        "allow" => {}
        "hold" => return " Nothing was forwarded: a person has to approve it first.".to_owned(),
        _ => return " Nothing was forwarded.".to_owned(),
    }
    if case.outcomes.is_empty() {
        return " No outcome is recorded yet.".to_owned();
    }
    case.outcomes.iter().map(came).collect()
}

fn came(outcome: &Opened) -> String {
    let record = &outcome.record;
    if record.fields().get("reconciled").is_some_and(|it| it == true) {
        return settled(outcome);
    }
    let after = record
        .integer("duration_ms")
        .map_or_else(String::new, |ms| format!(" after {}", duration(ms)));
    let detail = record.text("detail").map_or_else(String::new, |detail| format!(" ({detail})"));
    match record.result() {
        "executed" => format!(" It was forwarded and executed{after}{detail}."),
        "failed" => format!(" It was forwarded; the server answered with an error{after}{detail}."),
        "not_forwarded" => format!(" It was not forwarded{detail}."),
        _ => {
            let known = recorded_at(record);
            format!(" It may or may not have been executed: its outcome is unknown{detail}{known}.")
        }
    }
}

fn settled(outcome: &Opened) -> String {
    let who = outcome.principal().unwrap_or("an operator");
    let reason = outcome.value("reason").and_then(Value::as_str);
    let reason = reason.map_or_else(String::new, |reason| format!(", saying: “{reason}”"));
    let result = outcome.record.result().replace('_', " ");
    format!(" On {}, {who} settled it as {result}{reason}.", spoken(outcome.record.time_ms()))
}

fn recorded_at(record: &Record) -> String {
    format!(", as recorded on {}", spoken(record.time_ms()))
}

#[cfg(test)]
#[path = "why_tests.rs"]
mod tests;
