//! What the log says was purged, and whether that fits the log.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;

use super::schedule::Schedule;
use super::text;

/// The cause that `erasure` leaves of retention name; those of persons name none.
pub(crate) const CAUSE: &str = "retention";

/// One transaction of a purge, as its leaf tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) job: String,
    /// The record that tells of it.
    pub(crate) record: String,
    /// When it was recorded, in Unix milliseconds.
    pub(crate) ms: i64,
    /// Leaves of which every one with private fields lost them in this transaction.
    pub(crate) ranges: Vec<(u64, u64)>,
    pub(crate) records: u64,
    pub(crate) sections: u64,
    periods: Vec<String>,
}

/// What a job that goes on has done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Begun {
    pub(crate) job: String,
    pub(crate) batches: u64,
    pub(crate) records: u64,
    pub(crate) sections: u64,
    pub(crate) periods: BTreeSet<String>,
}

/// A purge that ended, as its last leaf tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgeJob {
    /// Its id.
    pub job: String,
    /// When it ended, in Unix milliseconds.
    pub ended_ms: i64,
    /// Records whose private fields were deleted.
    pub records: u64,
    /// Their sections.
    pub sections: u64,
    /// Records that a legal hold kept.
    pub held: u64,
    /// Ids of the keys that were destroyed.
    pub keys: Vec<String>,
}

/// Leaves with private fields by the places of the batches that tell of them.
#[derive(Debug, Default)]
pub(crate) struct Counts(HashMap<usize, u64>);

/// All purges that the log has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Purges {
    batches: Vec<Batch>,
    /// Ranges with the places of their batches; no two overlap.
    ranges: Vec<(u64, u64, usize)>,
    pub(crate) jobs: Vec<PurgeJob>,
    /// No leaf before this index has private sections left.
    pub(crate) next: u64,
    pub(crate) pending: Option<Begun>,
}

impl Purges {
    /// Reads the purges among `erasure` leaves, which are in the order of their times.
    pub(crate) fn of<'a>(leaves: impl IntoIterator<Item = &'a Value>) -> Self {
        let mut purges = Self::default();
        for leaf in leaves.into_iter().filter(|leaf| text(leaf, "cause") == CAUSE) {
            match text(leaf, "phase") {
                "purged" => purges.add(Batch::of(leaf)),
                "keys" => purges.begin(text(leaf, "job")).periods.extend(texts(leaf, "keys")),
                "done" => purges.end(leaf),
                _ => {}
            }
        }
        purges.ranges.sort_unstable();
        purges
    }

    fn add(&mut self, batch: Batch) {
        let place = self.batches.len();
        self.ranges.extend(batch.ranges.iter().map(|(from, to)| (*from, *to, place)));
        let begun = self.begin(&batch.job);
        begun.batches += 1;
        begun.records = begun.records.saturating_add(batch.records);
        begun.sections = begun.sections.saturating_add(batch.sections);
        begun.periods.extend(batch.periods.iter().cloned());
        self.batches.push(batch);
    }

    /// Returns what a job has done so far.
    fn begin(&mut self, job: &str) -> &mut Begun {
        let begun = self.pending.get_or_insert_default();
        if begun.job != job {
            *begun = Begun { job: job.to_owned(), ..Begun::default() };
        }
        begun
    }

    fn end(&mut self, leaf: &Value) {
        self.pending = None;
        self.next = self.next.max(number(leaf, "next"));
        self.jobs.push(PurgeJob {
            job: text(leaf, "job").to_owned(),
            ended_ms: millis(leaf),
            records: number(leaf, "records"),
            sections: number(leaf, "sections"),
            held: number(leaf, "held"),
            keys: texts(leaf, "keys"),
        });
    }

    /// Returns the batch that purged a leaf.
    pub(crate) fn covering(&self, leaf: u64) -> Option<&Batch> {
        self.batches.get(self.place(leaf)?)
    }

    fn place(&self, leaf: u64) -> Option<usize> {
        let after = self.ranges.partition_point(|(from, _, _)| *from <= leaf);
        let (_, to, place) = self.ranges.get(after.checked_sub(1)?)?;
        (leaf < *to).then_some(*place)
    }

    /// Counts a leaf that has private fields.
    pub(crate) fn count(&self, leaf: u64, counts: &mut Counts) {
        if let Some(place) = self.place(leaf) {
            *counts.0.entry(place).or_default() += 1;
        }
    }

    /// Compares every batch with the leaves that have private fields, all of which were counted.
    ///
    /// # Errors
    /// The id of the `erasure` record, and what is wrong with it.
    pub(crate) fn check(&self, counts: &Counts) -> Result<(), (String, String)> {
        for (place, batch) in self.batches.iter().enumerate() {
            let counted = counts.0.get(&place).copied().unwrap_or(0);
            if counted != batch.records {
                let reason = format!("it says {} records, there are {counted}", batch.records);
                return Err((batch.record.clone(), reason));
            }
        }
        Ok(())
    }
}

impl Batch {
    fn of(leaf: &Value) -> Self {
        let pairs = leaf.get("ranges").and_then(Value::as_array).into_iter().flatten();
        let range = |pair: &Value| Some((pair.get(0)?.as_u64()?, pair.get(1)?.as_u64()?));
        Self {
            job: text(leaf, "job").to_owned(),
            record: text(leaf, "record_id").to_owned(),
            ms: millis(leaf),
            ranges: pairs.filter_map(range).collect(),
            records: number(leaf, "records"),
            sections: number(leaf, "sections"),
            periods: texts(leaf, "periods"),
        }
    }

    /// Returns whether a leaf's time had come when it was purged.
    pub(crate) fn was_due(&self, schedule: &Schedule, recorded_ms: i64) -> bool {
        schedule.at(self.ms).due_ms(recorded_ms) <= self.ms
    }
}

fn millis(leaf: &Value) -> i64 {
    leaf.pointer("/time/ms").and_then(Value::as_i64).unwrap_or(0)
}

fn number(leaf: &Value, name: &str) -> u64 {
    leaf.get(name).and_then(Value::as_u64).unwrap_or(0)
}

fn texts(leaf: &Value, name: &str) -> Vec<String> {
    let found = leaf.get(name).and_then(Value::as_array).into_iter().flatten();
    found.filter_map(|one| one.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn batch(job: &str, ranges: &[(u64, u64)], records: u64) -> Value {
        json!({"cause": CAUSE, "phase": "purged", "job": job, "ranges": ranges, "records": records,
               "sections": records, "periods": ["2025-01-standard"], "time": {"ms": 7, "n": 0}})
    }

    #[test]
    fn a_leaf_is_covered_by_the_batch_that_has_it_in_a_range() {
        let leaves = [batch("a", &[(0, 2), (4, 6)], 4), batch("b", &[(2, 3)], 1)];
        let purges = Purges::of(&leaves);
        let jobs: Vec<_> =
            (0..7).map(|leaf| purges.covering(leaf).map(|batch| batch.job.as_str())).collect();
        assert_eq!(jobs, [Some("a"), Some("a"), Some("b"), None, Some("a"), Some("a"), None]);
        let check = |private: &[u64]| {
            let mut counts = Counts::default();
            private.iter().for_each(|leaf| purges.count(*leaf, &mut counts));
            purges.check(&counts)
        };
        assert_eq!(check(&[0, 1, 2, 4, 5, 9]), Ok(()));
        assert_eq!(check(&[0, 1, 2, 3, 4, 5]), Ok(()), "3 is in no range");
        assert!(check(&[0, 2, 4, 5]).unwrap_err().1.contains("it says 4 records"));
    }

    #[test]
    fn a_job_without_an_end_is_pending_with_what_it_did() {
        let done = json!({"cause": CAUSE, "phase": "done", "job": "a", "next": 6, "held": 1,
                          "keys": ["2025-01-standard"], "time": {"ms": 9, "n": 0}});
        let person = json!({"phase": "done", "subject": "x"});
        let (first, second) = (batch("a", &[(0, 2)], 2), batch("b", &[(7, 9)], 2));
        let purges = Purges::of([&first, &done, &person]);
        assert_eq!((purges.pending.as_ref(), purges.next), (None, 6));
        assert_eq!((purges.jobs[0].held, purges.jobs[0].keys.len()), (1, 1));
        let purges = Purges::of([&first, &done, &second, &second]);
        let begun = purges.pending.unwrap();
        assert_eq!((begun.job.as_str(), begun.batches, begun.records), ("b", 2, 4));
    }
}
