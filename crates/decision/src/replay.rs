//! Deciding again what was decided.

use countersign_model::{Decision, Facts, Mode, Verdict};
use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;
use crate::decide::decide;

/// The fields of a decision that its record shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// What was done.
    pub decision: Verdict,
    /// What would have been done if every policy had been enforced, where that differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub would_be: Option<Verdict>,
    /// The weakest mode among the determining policies.
    pub mode: Mode,
    /// The ids of the determining policies, sorted.
    pub rules: Vec<String>,
    /// The reason codes, most important first.
    pub codes: Vec<String>,
    /// The bundle's hash.
    pub bundle: String,
    /// The pin of the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_pin: Option<String>,
}

impl From<&Decision> for Recorded {
    fn from(decision: &Decision) -> Self {
        Self {
            decision: decision.verdict,
            would_be: decision.would_be,
            mode: decision.mode(),
            rules: decision.rules.iter().map(|rule| rule.id.clone()).collect(),
            codes: decision.reasons.iter().map(|reason| reason.code.to_string()).collect(),
            bundle: decision.bundle.clone(),
            tool_pin: decision.tool_pin.clone(),
        }
    }
}

/// What came of deciding again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The same.
    Match,
    /// This is not the bundle that decided.
    BundleHashMismatch,
    /// Something else, field by field: `decision: recorded allow, now deny`.
    Differs(Vec<String>),
}

/// Decides stored facts again and compares with the record.
#[must_use]
pub fn replay(bundle: &Bundle, facts: &Facts, recorded: &Recorded) -> Replay {
    if recorded.bundle != bundle.hash() {
        return Replay::BundleHashMismatch;
    }
    let now = Recorded::from(&decide(bundle, facts));
    let verdict = |verdict: &Option<Verdict>| verdict.map_or("none".to_owned(), |v| v.to_string());
    let pin = |pin: &Option<String>| pin.clone().unwrap_or_else(|| "none".to_owned());
    let fields = |it: &Recorded| {
        [
            ("decision", it.decision.to_string()),
            ("would_be", verdict(&it.would_be)),
            ("mode", it.mode.to_string()),
            ("rules", it.rules.join(" ")),
            ("codes", it.codes.join(" ")),
            ("tool_pin", pin(&it.tool_pin)),
        ]
    };
    let differences: Vec<_> = fields(recorded)
        .into_iter()
        .zip(fields(&now))
        .filter(|((_, then), (_, now))| then != now)
        .map(|((field, then), (_, now))| format!("{field}: recorded {then}, now {now}"))
        .collect();
    if differences.is_empty() { Replay::Match } else { Replay::Differs(differences) }
}
