//! The totals of a day, as the daily close states them and as a verifier counts them again.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::leaf::{DECISION, Leaf};
use crate::tree::LeafIndex;

/// Most agents that a close names; the others are counted together.
pub const AGENTS_NAMED_MAX: usize = 200;

/// Milliseconds of a day.
pub const DAY_MS: u64 = 86_400_000;

/// What the records of a day add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DayTotals {
    records: u64,
    first: Option<LeafIndex>,
    last: Option<LeafIndex>,
    by_kind: BTreeMap<String, u64>,
    by_decision: BTreeMap<String, u64>,
    by_mode: BTreeMap<String, u64>,
    by_agent: BTreeMap<String, u64>,
}

impl DayTotals {
    /// Counts a record of the day. Verdicts, modes and agents are those of decisions.
    pub fn add(&mut self, leaf: &Leaf, index: LeafIndex) {
        self.records += 1;
        self.first = Some(self.first.map_or(index, |first| first.min(index)));
        self.last = Some(self.last.map_or(index, |last| last.max(index)));
        let count = |totals: &mut BTreeMap<String, u64>, name: Option<&str>| {
            if let Some(name) = name {
                *totals.entry(name.to_owned()).or_default() += 1;
            }
        };
        count(&mut self.by_kind, Some(&leaf.kind));
        if leaf.kind == DECISION {
            count(&mut self.by_decision, leaf.decision.as_deref());
            count(&mut self.by_mode, leaf.mode.as_deref());
            count(&mut self.by_agent, leaf.agent.as_deref());
        }
    }

    /// Returns the field `totals` of a close: `records`, `first` and `last` (leaf indexes, absent if
    /// there are none), `by_kind`, `by_decision`, `by_mode`, `by_agent` (the first
    /// [`AGENTS_NAMED_MAX`] in the order of their ids) and `other_agents`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let table = |totals: &BTreeMap<String, u64>| -> Value {
            let named = totals.iter().take(AGENTS_NAMED_MAX);
            named.map(|(name, n)| (name.clone(), Value::from(*n))).collect::<Map<_, _>>().into()
        };
        let others: u64 = self.by_agent.values().skip(AGENTS_NAMED_MAX).sum();
        let mut fields = Map::new();
        fields.insert("records".into(), self.records.into());
        fields.insert("by_kind".into(), table(&self.by_kind));
        fields.insert("by_decision".into(), table(&self.by_decision));
        fields.insert("by_mode".into(), table(&self.by_mode));
        fields.insert("by_agent".into(), table(&self.by_agent));
        fields.insert("other_agents".into(), others.into());
        for (name, index) in [("first", self.first), ("last", self.last)] {
            if let Some(index) = index {
                fields.insert(name.into(), index.0.into());
            }
        }
        fields.into()
    }
}

/// Returns the day that a Unix time in milliseconds falls in: `<yyyy-mm-dd>`, UTC.
#[must_use]
pub fn day_of(ms: u64) -> String {
    let (year, month, day) = civil(ms);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Returns year, month and day of a Unix time in milliseconds, UTC: Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
#[must_use]
pub fn civil(ms: u64) -> (u64, u64, u64) {
    let days = ms / DAY_MS + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (ms, day) in [
            (0, "1970-01-01"),
            (951_782_400_000, "2000-02-29"),
            (951_868_799_999, "2000-02-29"),
            (951_868_800_000, "2000-03-01"),
            (1_767_225_599_999, "2025-12-31"),
            (1_795_219_200_000, "2026-11-21"),
        ] {
            assert_eq!(day_of(ms), day, "{ms}");
        }
    }
}
