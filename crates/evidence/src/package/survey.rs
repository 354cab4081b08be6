//! Looks at every leaf of the log, in order, and says in which list it stands.

use std::collections::{BTreeMap, HashMap};

use countersign_ledger::LeafIndex;
use serde::{Deserialize, Serialize};

use super::list::{List, Scope};
use crate::{Record, time};

/// The totals of a list, which sums over its rows must equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// The number of records.
    pub rows: u64,
    /// By verdict, outcome, result or event, whichever the kind has.
    pub by_result: BTreeMap<String, u64>,
    /// By day, in UTC.
    pub by_day: BTreeMap<String, u64>,
    /// By the agent's id; empty if a record names none.
    pub by_agent: BTreeMap<String, u64>,
}

impl Totals {
    fn add(&mut self, record: &Record) {
        self.rows += 1;
        let day = time::utc(record.time_ms()).chars().take(10).collect();
        let agent = record.text("agent").unwrap_or_default().to_owned();
        *self.by_result.entry(record.result().to_owned()).or_default() += 1;
        *self.by_day.entry(day).or_default() += 1;
        *self.by_agent.entry(agent).or_default() += 1;
    }
}

/// How many records of a kind are in no list, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excluded {
    /// Recorded before or after the period.
    pub outside_period: u64,
    /// Of the period, but not what the filters ask for.
    pub filtered: u64,
}

/// A listed decision and the last outcome of its call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listed {
    pub(crate) decision: LeafIndex,
    pub(crate) outcome: Option<LeafIndex>,
}

/// An allowed decision that waits for its outcome.
struct Call {
    /// Where it stands among the listed ones.
    listed: Option<usize>,
    /// Whether it matches the filters, in or out of the period.
    passes: bool,
}

/// What is known so far. Grows by two numbers per listed decision, and by an id per call without a known
/// outcome.
pub(crate) struct Survey<'a> {
    scope: &'a Scope,
    calls: HashMap<String, Call>,
    pub(crate) listed: Vec<Listed>,
    pub(crate) totals: BTreeMap<List, Totals>,
    pub(crate) excluded: BTreeMap<String, Excluded>,
    pub(crate) gaps: Vec<LeafIndex>,
    /// The latest time of any record of the log.
    pub(crate) as_of_ms: i64,
    pub(crate) tenant: String,
    /// The first leaf that is not before the period.
    pub(crate) first: Option<LeafIndex>,
}

impl<'a> Survey<'a> {
    pub(crate) fn new(scope: &'a Scope) -> Self {
        Self {
            scope,
            calls: HashMap::new(),
            listed: Vec::new(),
            totals: List::ALL.map(|list| (list, Totals::default())).into(),
            excluded: BTreeMap::new(),
            gaps: Vec::new(),
            as_of_ms: 0,
            tenant: String::new(),
            first: None,
        }
    }

    /// Takes the next leaf; returns the list in which it stands.
    pub(crate) fn add(&mut self, record: &Record) -> Option<List> {
        let ms = record.time_ms();
        self.as_of_ms = self.as_of_ms.max(ms);
        if self.tenant.is_empty() {
            record.text("tenant").unwrap_or_default().clone_into(&mut self.tenant);
        }
        if ms >= self.scope.from_ms {
            self.first.get_or_insert(LeafIndex(record.index()));
        }
        let now = self.scope.contains(ms);
        let list = match record.kind() {
            "decision" => self.decision(record, now),
            "outcome" => self.outcome(record, now),
            "gap" => now.then_some(List::Gaps),
            kind => (now && self.scope.filters.pass(record)).then(|| List::of_kind(kind)),
        };
        match list {
            Some(list) => self.totals.entry(list).or_default().add(record),
            None => {
                let excluded = self.excluded.entry(record.kind().to_owned()).or_default();
                let reason =
                    if now { &mut excluded.filtered } else { &mut excluded.outside_period };
                *reason += 1;
            }
        }
        if list == Some(List::Gaps) {
            self.gaps.push(LeafIndex(record.index()));
        }
        list
    }

    fn decision(&mut self, record: &Record, now: bool) -> Option<List> {
        let passes = self.scope.filters.pass(record);
        let place = (now && passes).then_some(self.listed.len());
        if place.is_some() {
            self.listed.push(Listed { decision: LeafIndex(record.index()), outcome: None });
        }
        if record.text("decision") == Some("allow") {
            self.calls.insert(record.id().to_owned(), Call { listed: place, passes });
        }
        place.map(|_| List::Decisions)
    }

    /// An outcome is asked for by its decision; one without is judged by its own fields.
    fn outcome(&mut self, record: &Record, now: bool) -> Option<List> {
        let parent = record.text("parent").unwrap_or_default();
        let call = self.calls.get(parent);
        let passes = call.map_or_else(|| self.scope.filters.pass(record), |call| call.passes);
        let listed = call.and_then(|call| call.listed);
        if let Some(place) = listed.and_then(|place| self.listed.get_mut(place)) {
            place.outcome = Some(LeafIndex(record.index()));
        }
        // An unknown outcome may be settled by a later one.
        if record.text("outcome") != Some("unknown") {
            self.calls.remove(parent);
        }
        match (now, listed) {
            (true, _) => passes.then_some(List::Outcomes),
            (false, listed) => listed.map(|_| List::LateOutcomes),
        }
    }
}
