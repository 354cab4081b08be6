//! Which records a package has, and in which of its lists.

use serde::{Deserialize, Serialize};

use crate::{Record, time};

/// What must hold of a record besides its time; only public fields, so that anyone can check it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filters {
    /// The agent's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The tool, `<server>/<tool>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The verdict: decisions with it, and their outcomes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
}

impl Filters {
    /// Returns whether a record's own fields match.
    #[must_use]
    pub fn pass(&self, record: &Record) -> bool {
        let is = |wanted: Option<&str>, name: &str| {
            wanted.is_none_or(|wanted| record.text(name) == Some(wanted))
        };
        let verdict = self.decision.is_none() || record.kind() == "decision";
        verdict
            && is(self.agent.as_deref(), "agent")
            && is(self.tool.as_deref(), "tool")
            && is(self.decision.as_deref(), "decision")
    }

    /// Says the filters in words: `none`, or `agent = 0191…, decision = deny`.
    #[must_use]
    pub fn words(&self) -> String {
        let named = [("agent", &self.agent), ("tool", &self.tool), ("decision", &self.decision)];
        let set = named.into_iter().filter_map(|(name, value)| {
            value.as_deref().map(|value| format!("{name} = {}", crate::shown(value)))
        });
        let set: Vec<String> = set.collect();
        if set.is_empty() { "none".to_owned() } else { set.join(", ") }
    }
}

/// The period and the filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The first millisecond.
    pub from_ms: i64,
    /// The millisecond after the last one.
    pub to_ms: i64,
    /// What else must hold.
    pub filters: Filters,
}

impl Scope {
    /// Returns whether a time is in the period.
    #[must_use]
    pub fn contains(&self, ms: i64) -> bool {
        (self.from_ms..self.to_ms).contains(&ms)
    }

    /// Returns both ends as RFC 3339 in UTC.
    #[must_use]
    pub fn ends(&self) -> (String, String) {
        (time::utc(self.from_ms), time::utc(self.to_ms))
    }
}

/// The lists of a package; a record stands in at most one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum List {
    /// Verdicts of the period.
    Decisions,
    /// What came of calls, recorded within the period.
    Outcomes,
    /// What came of listed decisions, recorded outside the period.
    LateOutcomes,
    /// Accepted and rejected credentials.
    Auth,
    /// Changes of policies, tools, agents and configuration.
    Changes,
    /// What a person should look at.
    Detections,
    /// Where the recorder stopped without a clean end; filters do not apply.
    Gaps,
    /// Signs of life.
    Heartbeats,
    /// Who read or exported what, and who was refused it.
    Accesses,
    /// Private fields that were destroyed, and why: persons' erasures and purges of retention.
    Erasures,
    /// Legal holds set and lifted.
    Holds,
    /// Restore tests and other checks that the ledger was put to.
    Checks,
    /// All other kinds.
    Other,
}

impl List {
    /// All lists, in the order in which they are shown.
    pub const ALL: [Self; 13] = [
        Self::Decisions,
        Self::Outcomes,
        Self::LateOutcomes,
        Self::Auth,
        Self::Changes,
        Self::Detections,
        Self::Gaps,
        Self::Heartbeats,
        Self::Accesses,
        Self::Erasures,
        Self::Holds,
        Self::Checks,
        Self::Other,
    ];

    /// Returns the list's name, as its files have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Decisions => "decisions",
            Self::Outcomes => "outcomes",
            Self::LateOutcomes => "late_outcomes",
            Self::Auth => "auth",
            Self::Changes => "changes",
            Self::Detections => "detections",
            Self::Gaps => "gaps",
            Self::Heartbeats => "heartbeats",
            Self::Accesses => "accesses",
            Self::Erasures => "erasures",
            Self::Holds => "holds",
            Self::Checks => "checks",
            Self::Other => "other",
        }
    }

    /// Returns the list with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|list| list.name() == name)
    }

    /// Says which records are in the list.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Decisions => "Decisions (allow, deny, hold) recorded in the period",
            Self::Outcomes => "Outcomes of calls recorded in the period",
            Self::LateOutcomes => "Outcomes of listed decisions recorded outside the period",
            Self::Auth => "Credentials accepted or rejected in the period",
            Self::Changes => "Changes of policies, tools, agents and configuration in the period",
            Self::Detections => "Detections in the period",
            Self::Gaps => "Places in the period where the recorder stopped without a clean end",
            Self::Heartbeats => "Signs of life in the period",
            Self::Accesses => "Readings and exports of records, and refused ones, in the period",
            Self::Erasures => {
                "Private fields destroyed in the period: erasures of persons, purges of retention"
            }
            Self::Holds => "Legal holds set and lifted in the period",
            Self::Checks => "Checks of the ledger in the period: restore tests of its archive",
            Self::Other => "Records of all other kinds in the period",
        }
    }

    /// Returns the list in which records of a kind stand.
    pub(crate) fn of_kind(kind: &str) -> Self {
        match kind {
            "decision" => Self::Decisions,
            "outcome" => Self::Outcomes,
            "auth" => Self::Auth,
            "change" => Self::Changes,
            "detection" => Self::Detections,
            "gap" => Self::Gaps,
            "heartbeat" => Self::Heartbeats,
            "access" => Self::Accesses,
            "erasure" => Self::Erasures,
            "legal_hold" => Self::Holds,
            "check" => Self::Checks,
            _ => Self::Other,
        }
    }

    /// Returns the file with the leaves.
    pub(crate) fn records(self) -> String {
        format!("records/{}.jsonl", self.name())
    }

    /// Returns the files with the rows, the main one first.
    pub(crate) fn tables(self) -> Vec<String> {
        let narrow = (self == Self::Decisions).then(|| "csv/decisions_narrow.csv".to_owned());
        [format!("csv/{}.csv", self.name())].into_iter().chain(narrow).collect()
    }

    /// Says precisely which records are in the list.
    #[must_use]
    pub fn rule(self, scope: &Scope) -> String {
        let (from, to) = scope.ends();
        let filters = scope.filters.words();
        let kind = match self {
            Self::Decisions => "decision",
            Self::Auth => "auth",
            Self::Changes => "change",
            Self::Detections => "detection",
            Self::Heartbeats => "heartbeat",
            Self::Accesses => "access",
            Self::Erasures => "erasure",
            Self::Holds => "legal_hold",
            Self::Checks => "check",
            Self::Other => "none of those of the other lists",
            Self::Gaps => return format!("kind = gap and {from} <= time < {to}; no filters"),
            Self::Outcomes => {
                return format!(
                    "kind = outcome and {from} <= time < {to}; filters on its decision: {filters}"
                );
            }
            Self::LateOutcomes => {
                return format!(
                    "kind = outcome and not {from} <= time < {to}; its decision is in decisions"
                );
            }
        };
        format!("kind = {kind} and {from} <= time < {to}; filters: {filters}")
    }
}
