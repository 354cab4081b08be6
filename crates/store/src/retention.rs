//! Keeps private sections for as long as is set, and no longer: the schedule, and the purge with proof.
//!
//! What is set stands in the log as `change` records, so the schedule that a record is under follows from
//! the log alone. A purge deletes sealed sections whose time has come, in transactions of many records each;
//! the `erasure` record that tells of them is in the same transaction, so none is missing without a record.
//! When all are gone the write-ahead log is emptied, keys of months that open nothing any more are destroyed,
//! and a last record says so. Leaves, their digests and proofs stay. Legal holds keep what they are on. Under a
//! clock that may have jumped nothing is purged.
//!
//! Out of scope: public parts of records, which are kept; backups.

mod clock;
pub(crate) mod proof;
mod purge;
pub(crate) mod schedule;

use std::collections::BTreeSet;

use countersign_ledger::LeafIndex;
use countersign_model::{Draft, Kind};
use serde_json::Value;

use crate::db::{Column, Pool, int, unsigned};
use crate::erase;
use crate::{Reader, Store, StoreError};
use proof::Purges;
use schedule::Schedule;

pub use proof::PurgeJob;
pub use purge::Purged;
pub(crate) use purge::Purging;
pub use schedule::{
    OutOfBounds, Retention, SECTIONS_DAYS, SECTIONS_DAYS_MAX, SECTIONS_DAYS_MIN, Setting,
};

/// Leaves that are looked at in one round trip.
const PAGE: i64 = 500;

/// A record whose private sections are due.
pub(crate) struct Due {
    index: u64,
    record: Vec<u8>,
    sections: u64,
    /// Of their ciphertext.
    bytes: u64,
    /// Whether no leaf with private fields is between it and the one before.
    joins: bool,
}

/// A look through the log from its oldest private sections on.
pub(crate) struct Scan {
    tenant: String,
    /// What is configured.
    days: u32,
    schedule: Schedule,
    held_subjects: BTreeSet<String>,
    now_ms: i64,
    /// The next leaf to look at.
    from: u64,
    /// The first leaf that is kept for now.
    low: Option<u64>,
    /// Records that are due and held.
    held: u64,
    /// When the first of those that are neither due nor held is due.
    next_due_ms: Option<i64>,
    /// Whether the last leaf with private fields that was looked at is due.
    joined: bool,
    ended: bool,
}

impl Scan {
    async fn begin(
        db: &Pool,
        tenant: &str,
        days: u32,
        now_ms: i64,
        from: u64,
    ) -> Result<Self, StoreError> {
        let mut scan = Self {
            tenant: tenant.to_owned(),
            days,
            schedule: Schedule::of([]),
            held_subjects: BTreeSet::new(),
            now_ms,
            from,
            low: None,
            held: 0,
            next_due_ms: None,
            joined: false,
            ended: false,
        };
        scan.reload(db).await?;
        Ok(scan)
    }

    /// Reads the schedule and the holds, which may have changed.
    async fn reload(&mut self, db: &Pool) -> Result<(), StoreError> {
        self.schedule = load_schedule(db, &self.tenant).await?;
        if self.schedule.current() != self.days {
            // What is configured and not recorded yet holds as if it were recorded now.
            self.schedule = self.schedule.clone().with(self.now_ms, self.days);
        }
        self.held_subjects = erase::holds(db, &self.tenant).await?.into_keys().collect();
        Ok(())
    }

    /// Returns what is due among the next leaves, as far as `bytes_max` of ciphertext and a record more; the
    /// scan has ended when no later one can be due.
    async fn page(&mut self, db: &Pool, bytes_max: u64) -> Result<Vec<Due>, StoreError> {
        let sql = "SELECT l.idx, i.record, i.body, (SELECT count(*) FROM sealed s
                     WHERE s.tenant = l.tenant AND s.record = i.record),
                    (SELECT coalesce(sum(length(s.ciphertext)), 0) FROM sealed s
                     WHERE s.tenant = l.tenant AND s.record = i.record)
               FROM leaf l JOIN intake i ON i.tenant = l.tenant AND i.replica = l.replica
                AND i.epoch = l.epoch AND i.seq = l.seq
              WHERE l.tenant = $1 AND l.idx >= $2 ORDER BY l.idx LIMIT $3";
        let from = Column::Int(int(self.from));
        let rows =
            db.fetch_all(sql, &[Column::Text(&self.tenant), from, Column::Int(PAGE)]).await?;
        self.ended = rows.is_empty();
        let (mut due, mut bytes) = (Vec::new(), 0_u64);
        for row in &rows {
            let index = unsigned(row.get(0)?, "leaf.idx")?;
            let leaf = parse(&row.get::<Vec<u8>>(2)?)?;
            self.from = index + 1;
            let sections = unsigned(row.get(3)?, "sealed")?;
            if let Some(mut found) = self.look(index, row.get(1)?, &leaf, sections) {
                found.bytes = unsigned(row.get(4)?, "sealed")?;
                bytes = bytes.saturating_add(found.bytes);
                due.push(found);
            }
            if self.ended || bytes >= bytes_max {
                break;
            }
        }
        Ok(due)
    }

    /// Looks at one leaf with the count of its sections.
    fn look(&mut self, index: u64, record: Vec<u8>, leaf: &Value, sections: u64) -> Option<Due> {
        let recorded_ms = erase::time(leaf).0;
        // Later records are kept as long or shorter, so the shortest time of all says when to stop.
        let shortest = schedule::days_ms(self.schedule.current());
        self.ended =
            recorded_ms.saturating_add(shortest) > self.now_ms.saturating_add(schedule::SKEW_MS);
        let due_ms = self.schedule.due_ms(recorded_ms);
        let is_due = due_ms <= self.now_ms;
        let is_held = self.held_subjects.contains(text(leaf, "principal"));
        if sections == 0 {
            if !is_due {
                self.low.get_or_insert(index);
            }
            // Private fields that are gone already were told of by another record.
            self.joined &= leaf.get("_sd").is_none();
            return None;
        }
        if is_due && !is_held {
            let joins = std::mem::replace(&mut self.joined, true);
            return Some(Due { index, record, sections, bytes: 0, joins });
        }
        self.low.get_or_insert(index);
        self.joined = false;
        if is_due {
            self.held += 1;
        } else {
            self.next_due_ms = Some(self.next_due_ms.map_or(due_ms, |next| next.min(due_ms)));
        }
        None
    }
}

/// What is kept how long, what is due and what is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionStatus {
    /// Every setting that the log has, oldest first; the first is the default.
    pub settings: Vec<Setting>,
    /// Records whose private sections are due.
    pub due_records: u64,
    /// Their sections.
    pub due_sections: u64,
    /// Records that would be due but for a legal hold.
    pub held_records: u64,
    /// When the next record is due, in Unix milliseconds, if one was seen that will be.
    pub next_due_ms: Option<i64>,
    /// Purges that ended, oldest first.
    pub jobs: Vec<PurgeJob>,
    /// The purge that is under way or was cut off.
    pub pending: Option<String>,
}

impl Reader {
    /// Says what is kept how long, what is due at a time and what is held. `days` is what is configured.
    ///
    /// # Errors
    /// [`StoreError::Database`], [`StoreError::Corrupt`].
    pub async fn retention(
        &self,
        days: Retention,
        now_ms: i64,
    ) -> Result<RetentionStatus, StoreError> {
        let (db, tenant) = (&self.db, self.tenant.as_str());
        let purges = load_purges(db, tenant).await?;
        let settings = load_schedule(db, tenant).await?.settings().to_vec();
        let mut scan = Scan::begin(db, tenant, days.sections_days(), now_ms, purges.next).await?;
        let (mut records, mut sections) = (0, 0);
        while !scan.ended {
            for due in scan.page(db, u64::MAX).await? {
                records += 1;
                sections += due.sections;
            }
        }
        Ok(RetentionStatus {
            settings,
            due_records: records,
            due_sections: sections,
            held_records: scan.held,
            next_due_ms: scan.next_due_ms,
            jobs: purges.jobs,
            pending: purges.pending.map(|begun| begun.job),
        })
    }

    /// Says when and under which job the private fields of a leaf were purged, if they were.
    pub(crate) async fn purged(&self, index: LeafIndex) -> Result<Option<String>, StoreError> {
        use countersign_ledger::close::day_of;
        let purges = load_purges(&self.db, self.tenant.as_str()).await?;
        Ok(purges.covering(index.0).map(|batch| {
            let day = day_of(u64::try_from(batch.ms).unwrap_or(0));
            format!("purged on {day} when their time had come, job `{}`", batch.job)
        }))
    }
}

impl Store {
    /// Records the retention that is configured, if it is not the one that was recorded last.
    ///
    /// # Errors
    /// As [`Store::append`]; [`StoreError::Database`].
    pub async fn record_retention(&self) -> Result<(), StoreError> {
        let tenant = self.inner.config.tenant.as_str();
        let days = self.inner.config.retention.sections_days();
        let _alone = self.inner.erasing.lock().await;
        let before = load_schedule(&self.inner.read, tenant).await?.current();
        if before == days {
            return Ok(());
        }
        let draft = Draft::new(self.new_id(), Kind::Change)
            .with("object", schedule::OBJECT)
            .with("action", "set")
            .with("class", schedule::CLASS)
            .with("days", days)
            .with("before", before);
        self.append(draft).await.map(drop)
    }
}

/// Reads the schedule; settings that have no place in the log yet count too.
pub(crate) async fn load_schedule(db: &Pool, tenant: &str) -> Result<Schedule, StoreError> {
    Ok(Schedule::of(&erase::CHANGES.read(db, tenant).await?))
}

/// Reads the purges.
pub(crate) async fn load_purges(db: &Pool, tenant: &str) -> Result<Purges, StoreError> {
    Ok(Purges::of(&erase::erasures(db, tenant).await?))
}

pub(crate) fn parse(body: &[u8]) -> Result<Value, StoreError> {
    serde_json::from_slice(body).map_err(|_| StoreError::corrupt("the body of a leaf"))
}

fn text<'a>(leaf: &'a Value, name: &str) -> &'a str {
    leaf.get(name).and_then(Value::as_str).unwrap_or_default()
}
