//! Deletes private sections whose time has come, batch by batch, and says so in the log.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use countersign_ledger::hash::sha256;
use countersign_model::{Draft, Kind, RecordId};
use serde_json::{Value, json};

use super::proof::{Begun, CAUSE};
use super::schedule::{SECTIONS_DAYS_MIN, days_ms};
use super::{Due, Scan, load_purges};
use crate::batch::record_from;
use crate::db::{Column, Pool};
use crate::effect::Effect;
use crate::keystore::{check_period, period_of};
use crate::store::Inner;
use crate::subject::blocking;
use crate::{Appended, Store, StoreError};

/// Records that one transaction purges, and a page more.
const BATCH_RECORDS: usize = 500;
/// Bytes of ciphertext that one transaction deletes, and a record more: others wait for it.
const BATCH_BYTES: u64 = 4 << 20;
/// Ranges after which a batch ends: its leaf has at most 16 KiB.
const BATCH_RANGES: usize = 200;
/// Pages that are looked at for one batch, so that nobody waits long for the lock of erasures.
const BATCH_PAGES: usize = 20;
/// The pause between two purges by itself, in milliseconds.
const PURGE_EVERY_MS: i64 = 24 * 60 * 60 * 1_000;
/// The pause after one that failed, in milliseconds.
const RETRY_AFTER_MS: i64 = 60 * 1_000;
/// Row ids that one look through a table covers, so that no read holds the write-ahead log for long.
const SCAN_ROWS: i64 = 50_000;

/// What a purge did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// The job's id; `None` if there was nothing to do, and nothing was recorded.
    pub job: Option<String>,
    /// Records whose private sections were deleted.
    pub records: u64,
    /// These sections.
    pub sections: u64,
    /// Records that were due and kept, because of a legal hold.
    pub held: u64,
    /// Ids of the keys that were destroyed because they opened nothing any more.
    pub keys: Vec<String>,
    /// The record that says that it is done.
    pub record: Option<Appended>,
}

impl Purged {
    /// Returns it as the command line and the control plane show it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Self { job, records, sections, held, keys, record } = self;
        json!({
            "job": job,
            "records": records,
            "sections": sections,
            "held": held,
            "keys": keys,
            "record_id": record.as_ref().map(|place| place.record_id),
            "index": record.as_ref().and_then(|place| place.index).map(|index| index.0),
        })
    }
}

/// How often news of other gateways may come between before a purge that somebody asked for gives up.
const OVERTAKEN_MAX: u32 = 16;

/// A purge that goes on.
pub(crate) struct Purging {
    begun: Begun,
    scan: Scan,
}

/// What one transaction purges.
#[derive(Default)]
struct Batch {
    records: Vec<Vec<u8>>,
    ranges: Vec<(u64, u64)>,
    sections: u64,
    /// Of ciphertext.
    bytes: u64,
    periods: BTreeSet<String>,
    /// A line for each section: record, name and digest.
    lines: String,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.records.len() >= BATCH_RECORDS
            || self.ranges.len() >= BATCH_RANGES
            || self.bytes >= BATCH_BYTES
    }

    fn add(&mut self, due: Due) {
        match self.ranges.last_mut() {
            Some((_, to)) if due.joins => *to = due.index + 1,
            _ => self.ranges.push((due.index, due.index + 1)),
        }
        self.sections += due.sections;
        self.bytes = self.bytes.saturating_add(due.bytes);
        self.records.push(due.record);
    }

    /// Reads what is to go: the digest of all of it stays.
    async fn read(&mut self, db: &Pool, tenant: &str) -> Result<(), StoreError> {
        let sql = "SELECT section, period, nonce, ciphertext, dek FROM sealed
              WHERE tenant = $1 AND record = $2";
        for record in &self.records {
            let id: RecordId = record_from(record)?;
            let mut digests = BTreeMap::new();
            for row in db.fetch_all(sql, &[Column::Text(tenant), Column::Blob(record)]).await? {
                let parts: [Vec<u8>; 3] = [row.get(2)?, row.get(3)?, row.get(4)?];
                self.periods.insert(row.get(1)?);
                digests.insert(row.get::<String>(0)?, sha256(&parts.concat()));
            }
            // By bytes, which a database's collation need not do.
            for (section, digest) in digests {
                self.lines.push_str(&format!("{id} {section} {digest}\n"));
            }
        }
        Ok(())
    }
}

impl Store {
    /// Deletes the private sections whose time has come, all of them, and records it. Goes on with a purge
    /// that was cut off. Records under a legal hold are kept and counted.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if another gateway leads the log, or if a commit fails: what was deleted
    /// until then is recorded, and the next purge goes on. [`StoreError::ClockGap`] if the clock may have jumped,
    /// until [`Store::confirm_clock`]; [`StoreError::Overtaken`]; [`StoreError::Database`], [`StoreError::Io`].
    pub async fn purge_now(&self) -> Result<Purged, StoreError> {
        // With several gateways: takes the lead if nobody has it.
        self.order_now().await?;
        self.must_lead().await?;
        let store = self.clone();
        // A task of its own: a caller that goes away does not stop it half-way.
        let work = tokio::spawn(async move {
            store.record_retention().await?;
            let mut purging = store.inner.purging.lock().await;
            let mut overtaken = 0;
            loop {
                store.must_lead().await?;
                match store.purge_some(&mut purging).await {
                    Ok(Some(done)) => return Ok(done),
                    Ok(None) => {}
                    // The next step looks again who is on hold.
                    Err(StoreError::Overtaken) if overtaken < OVERTAKEN_MAX => overtaken += 1,
                    Err(error) => return Err(error),
                }
            }
        });
        work.await.unwrap_or_else(|_| Err(StoreError::unavailable("the purge ended early")))
    }

    async fn must_lead(&self) -> Result<(), StoreError> {
        if self.inner.publishing.lock().await.leads() {
            return Ok(());
        }
        Err(StoreError::unavailable("another gateway leads the log, and it purges"))
    }

    /// Goes a step on with the daily purge, if one is due; a step is one transaction.
    pub(crate) async fn purge_daily(&self) -> Result<(), StoreError> {
        let (now, next) = (self.now_ms(), self.inner.next_purge_ms.load(Ordering::Relaxed));
        // A pause that is longer than any was set by a clock that was ahead.
        if next > now && next <= now.saturating_add(PURGE_EVERY_MS) {
            return Ok(());
        }
        // Whoever has the lock purges.
        let Ok(mut purging) = self.inner.purging.try_lock() else { return Ok(()) };
        if self.must_lead().await.is_err() {
            // Whoever leads now goes on with it.
            *purging = None;
            return Ok(());
        }
        let done = self.purge_some(&mut purging).await;
        let pause = match &done {
            // The next step looks again who is on hold.
            Ok(None) | Err(StoreError::Overtaken) => 0,
            // Nothing changes by itself: one warning a day.
            Ok(Some(_)) | Err(StoreError::ClockGap { .. }) => PURGE_EVERY_MS,
            Err(_) => RETRY_AFTER_MS,
        };
        self.inner.next_purge_ms.store(self.now_ms().saturating_add(pause), Ordering::Relaxed);
        let done = match done {
            Err(StoreError::Overtaken) => None,
            done => done?,
        };
        if let Some(Purged { job: Some(job), records, held, .. }) = done {
            tracing::info!(job, records, held, "private sections were purged by age");
        }
        Ok(())
    }

    /// Purges one batch; returns what all of it came to when nothing more is due.
    async fn purge_some(
        &self,
        purging: &mut Option<Purging>,
    ) -> Result<Option<Purged>, StoreError> {
        // After an error the next step begins anew.
        let mut going = match purging.take() {
            Some(going) => going,
            None => self.begin_purge().await?,
        };
        let done = {
            // Nobody is put on hold or erased meanwhile.
            let _alone = self.inner.erasing.lock().await;
            self.purge_batch(&mut going).await?
        };
        if !done {
            *purging = Some(going);
            return Ok(None);
        }
        self.end_purge(going).await.map(Some)
    }

    async fn begin_purge(&self) -> Result<Purging, StoreError> {
        // One time for all of it: the clock may step while the log is read.
        let now_ms = self.now_ms();
        self.must_believe_clock(now_ms).await?;
        let Inner { read, config, .. } = &*self.inner;
        let tenant = config.tenant.as_str();
        let purges = load_purges(read, tenant).await?;
        let days = config.retention.sections_days();
        let scan = Scan::begin(read, tenant, days, now_ms, purges.next).await?;
        Ok(Purging { begun: purges.pending.unwrap_or_default(), scan })
    }

    /// Returns whether nothing more is due.
    async fn purge_batch(&self, going: &mut Purging) -> Result<bool, StoreError> {
        let Purging { begun, scan } = going;
        let (db, tenant) = (&self.inner.read, self.inner.config.tenant.as_str());
        // Before the holds are read: one that is set from here on makes the batch fail.
        let news = self.news().await?;
        scan.reload(db).await?;
        let mut batch = Batch::default();
        for _ in 0..BATCH_PAGES {
            for due in scan.page(db, BATCH_BYTES.saturating_sub(batch.bytes)).await? {
                batch.add(due);
            }
            if scan.ended || batch.is_full() {
                break;
            }
        }
        if batch.records.is_empty() {
            return Ok(scan.ended);
        }
        batch.read(db, tenant).await?;
        if begun.job.is_empty() {
            begun.job = self.new_id().to_string();
        }
        let records = u64::try_from(batch.records.len()).unwrap_or(u64::MAX);
        let draft = Draft::new(self.new_id(), Kind::Erasure)
            .with("phase", "purged")
            .with("cause", CAUSE)
            .with("job", begun.job.as_str())
            .with("batch", begun.batches)
            .with("ranges", json!(batch.ranges))
            .with("records", records)
            .with("sections", batch.sections)
            .with("digest", sha256(batch.lines.as_bytes()).to_string())
            .with("periods", json!(batch.periods));
        let bytes = usize::try_from(batch.bytes).unwrap_or(usize::MAX);
        let effect =
            Effect::PurgeSections { records: batch.records, sections: batch.sections, bytes };
        self.append_with(draft, vec![Effect::Unchanged { news }, effect]).await?;
        begun.batches += 1;
        begun.records += records;
        begun.sections += batch.sections;
        begun.periods.append(&mut batch.periods);
        Ok(scan.ended)
    }

    /// Lets nothing of what was purged be left, destroys keys that open nothing, and records the end.
    async fn end_purge(&self, going: Purging) -> Result<Purged, StoreError> {
        let Purging { begun, scan } = going;
        let keys = self.idle_periods(&begun.periods, scan.now_ms).await?;
        if begun.batches == 0 && keys.is_empty() {
            return Ok(Purged { held: scan.held, ..Purged::default() });
        }
        self.empty_log().await?;
        let job = if begun.job.is_empty() { self.new_id().to_string() } else { begun.job };
        if !keys.is_empty() {
            self.destroy_keys(&job, &keys).await?;
        }
        let draft = Draft::new(self.new_id(), Kind::Erasure)
            .with("phase", "done")
            .with("cause", CAUSE)
            .with("job", job.as_str())
            .with("batches", begun.batches)
            .with("records", begun.records)
            .with("sections", begun.sections)
            .with("held", scan.held)
            .with("keys", json!(keys))
            .with("next", scan.low.unwrap_or(scan.from));
        let record = self.append_with(draft, vec![Effect::TellOthers]).await?;
        Ok(Purged {
            job: Some(job),
            records: begun.records,
            sections: begun.sections,
            held: scan.held,
            keys,
            record: Some(record),
        })
    }

    /// Destroys keys of months; the log says first that this happens.
    async fn destroy_keys(&self, job: &str, keys: &[String]) -> Result<(), StoreError> {
        let draft = Draft::new(self.new_id(), Kind::Erasure)
            .with("phase", "keys")
            .with("cause", CAUSE)
            .with("job", job)
            .with("keys", json!(keys));
        self.append(draft).await?;
        let (keystore, doomed) = (Arc::clone(&self.inner.keys), keys.to_vec());
        blocking(move || doomed.iter().try_for_each(|period| keystore.destroy_period(period))).await
    }

    /// Returns the months whose keys open nothing any more, and on which nothing can be sealed any more.
    ///
    /// `purged` are those of which the job has deleted sections: a key that a crash outran may be gone.
    async fn idle_periods(
        &self,
        purged: &BTreeSet<String>,
        now_ms: i64,
    ) -> Result<Vec<String>, StoreError> {
        let keystore = Arc::clone(&self.inner.keys);
        let there = blocking(move || keystore.periods()).await?;
        let first_kept = period_of(now_ms.saturating_sub(days_ms(SECTIONS_DAYS_MIN)));
        // The names come from rows.
        purged.iter().try_for_each(|period| check_period(period))?;
        let candidates: BTreeSet<&String> = there.iter().chain(purged).collect();
        let mut idle = Vec::new();
        for period in candidates.into_iter().filter(|period| **period < first_kept) {
            if !is_used(&self.inner.read, self.inner.config.tenant.as_str(), period).await? {
                idle.push(period.clone());
            }
        }
        Ok(idle)
    }

    /// Lets go of keys that another gateway's purge has destroyed.
    pub(crate) fn heed_purges(&self, erasures: &[Value]) {
        let keys = erasures.iter().filter_map(|leaf| leaf.get("keys")?.as_array()).flatten();
        let gone: HashSet<&str> = keys.filter_map(Value::as_str).collect();
        self.inner.keys.forget_periods(&gone);
    }
}

/// Returns whether anything is sealed under the key of a period. No index leads there: every other write
/// would pay for it.
async fn is_used(db: &Pool, tenant: &str, period: &str) -> Result<bool, StoreError> {
    if let Pool::Postgres(_) = db {
        let sql = "SELECT EXISTS (SELECT 1 FROM sealed WHERE tenant = $1 AND period = $2)
                       OR EXISTS (SELECT 1 FROM replay WHERE tenant = $1 AND period = $2)";
        return Ok(db.fetch_one(sql, &[tenant, period].map(Column::Text)).await?.get(0)?);
    }
    for (bounds, rows) in [
        (
            "SELECT coalesce(min(rowid), 0), coalesce(max(rowid), -1) FROM sealed",
            "SELECT 1 FROM sealed WHERE period = $1 AND rowid >= $2 AND rowid < $3 LIMIT 1",
        ),
        (
            "SELECT coalesce(min(rowid), 0), coalesce(max(rowid), -1) FROM replay",
            "SELECT 1 FROM replay WHERE period = $1 AND rowid >= $2 AND rowid < $3 LIMIT 1",
        ),
    ] {
        let ends = db.fetch_one(bounds, &[]).await?;
        let (mut from, last): (i64, i64) = (ends.get(0)?, ends.get(1)?);
        while from <= last {
            let until = from.saturating_add(SCAN_ROWS);
            let args = [Column::Text(period), Column::Int(from), Column::Int(until)];
            if db.fetch_optional(rows, &args).await?.is_some() {
                return Ok(true);
            }
            from = until;
        }
    }
    Ok(false)
}
