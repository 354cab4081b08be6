//! Counts of what a log holds, and decisions joined to their outcomes.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Population;
use crate::close::{DayTotals, day_of};
use crate::hash::sha256;
use crate::leaf::{CLOSE, DECISION, GAP, Leaf, OUTCOME};
use crate::tree::LeafIndex;

/// The verdict that an outcome must follow.
const ALLOW: &str = "allow";

/// All verdicts.
const VERDICTS: [&str; 3] = [ALLOW, "deny", "hold"];

/// The outcome of a call that nobody saw end; one more may follow that settles it.
const UNKNOWN: &str = "unknown";

/// What has been counted so far; it keeps 16 bytes for each record, and the id of each decision whose
/// outcome has not come yet, or is unknown.
#[derive(Default)]
pub(super) struct Tally {
    tenant: Option<String>,
    counts: BTreeMap<(String, Option<String>), u64>,
    /// Ids of all records, shortened by a hash: two of 10^9 are the same by chance once in 10^20 logs.
    records: HashSet<[u8; 16]>,
    pub(super) first_ms: Option<u64>,
    pub(super) last_ms: Option<u64>,
    pub(super) gaps: Vec<LeafIndex>,
    /// Allowed decisions without an outcome so far.
    open: HashMap<String, LeafIndex>,
    /// Outcomes whose decision has not come: streams are ordered, the log between them is not.
    early: HashMap<String, LeafIndex>,
    /// Decisions whose outcome is unknown.
    unknown: HashSet<String>,
    unmatched: Vec<LeafIndex>,
    /// Totals by day, to compare daily closes with.
    days: BTreeMap<String, DayTotals>,
    pub(super) closes: u64,
}

impl Tally {
    /// Counts the leaf at `index`; says what is wrong with it among the others.
    pub(super) fn add(&mut self, leaf: Leaf, index: LeafIndex) -> Result<(), String> {
        let tenant = self.tenant.get_or_insert_with(|| leaf.tenant.clone());
        if *tenant != leaf.tenant {
            return Err(format!("tenant `{}` in the log of tenant `{tenant}`", leaf.tenant));
        }
        if !self.records.insert(short(&leaf.record_id)) {
            return Err(format!("record `{}` stands there twice", leaf.record_id));
        }
        self.first_ms = Some(self.first_ms.map_or(leaf.time.ms, |ms| ms.min(leaf.time.ms)));
        self.last_ms = Some(self.last_ms.map_or(leaf.time.ms, |ms| ms.max(leaf.time.ms)));
        match leaf.kind.as_str() {
            DECISION => match leaf.decision.as_deref() {
                Some(ALLOW) => self.decided(&leaf.record_id, index),
                Some(verdict) if VERDICTS.contains(&verdict) => {}
                _ => return Err("the decision states no verdict".to_owned()),
            },
            OUTCOME => self.came_out(&leaf, index)?,
            GAP => self.gaps.push(index),
            CLOSE => self.closed(&leaf)?,
            _ => {}
        }
        self.days.entry(day_of(leaf.time.ms)).or_default().add(&leaf, index);
        let verdict = leaf.decision.filter(|_| leaf.kind == DECISION);
        *self.counts.entry((leaf.kind, verdict)).or_default() += 1;
        Ok(())
    }

    /// Compares a daily close with what has been counted of its day.
    fn closed(&mut self, leaf: &Leaf) -> Result<(), String> {
        let (Some(day), Some(totals)) = (&leaf.day, &leaf.totals) else {
            return Err("the close states no day or no totals".to_owned());
        };
        let counted = self.days.get(day).cloned().unwrap_or_default().to_json();
        if *totals != counted {
            return Err(format!("the totals of {day} are not those of its records: {counted}"));
        }
        self.closes += 1;
        Ok(())
    }

    fn decided(&mut self, record_id: &str, index: LeafIndex) {
        if self.early.remove(record_id).is_none() {
            self.open.insert(record_id.to_owned(), index);
        }
    }

    fn came_out(&mut self, leaf: &Leaf, index: LeafIndex) -> Result<(), String> {
        let decision = leaf.parent.as_ref().ok_or("the outcome names no decision")?;
        if leaf.reconciled {
            if !self.unknown.remove(decision) {
                self.unmatched.push(index);
            }
            return Ok(());
        }
        if leaf.outcome.as_deref() == Some(UNKNOWN) {
            self.unknown.insert(decision.clone());
        }
        if self.open.remove(decision).is_none() {
            self.unmatched.extend(self.early.insert(decision.clone(), index));
        }
        Ok(())
    }

    pub(super) fn population(&self) -> Vec<Population> {
        let counts = self.counts.iter();
        let population = counts.map(|((kind, verdict), count)| Population {
            kind: kind.clone(),
            verdict: verdict.clone(),
            count: *count,
        });
        population.collect()
    }

    pub(super) fn decisions_without_outcome(&self) -> Vec<LeafIndex> {
        sorted(self.open.values().copied())
    }

    pub(super) fn outcomes_without_decision(&self) -> Vec<LeafIndex> {
        sorted(self.early.values().chain(&self.unmatched).copied())
    }
}

/// Returns what a record's id is known by among all records of the log.
fn short(record_id: &str) -> [u8; 16] {
    sha256(record_id.as_bytes()).0.first_chunk().copied().unwrap_or_default()
}

fn sorted(indexes: impl Iterator<Item = LeafIndex>) -> Vec<LeafIndex> {
    let mut indexes: Vec<_> = indexes.collect();
    indexes.sort_unstable();
    indexes
}
