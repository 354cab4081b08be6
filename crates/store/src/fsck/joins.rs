//! What belongs to records: sealed sections, claims, open calls.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_ledger::disclosure::open_leaf;
use countersign_ledger::seal::Section;
use countersign_model::RecordId;

use super::ledger::Records;
use super::{Check, Problem, Report};
use crate::StoreError;
use crate::batch::record_from;
use crate::db::Row;
use crate::erase;
use crate::keystore::Keystore;
use crate::prepare::{PRIVATE, SealedRow, blob_of};
use crate::reader::read_sealed;
use crate::retention::proof::{Counts, Purges};
use crate::retention::schedule::{SKEW_MS, Schedule};

impl Check<'_> {
    /// Compares what belongs to records with their leaves.
    pub(crate) async fn joins(&mut self, known: &Records) -> Result<(), Problem> {
        self.open_calls(known).await?;
        self.idempotency(known).await?;
        self.sections(known).await
    }

    async fn open_calls(&mut self, known: &Records) -> Result<(), Problem> {
        let rows: Vec<(Vec<u8>, String)> = sqlx::query_as("SELECT record, state FROM open_call")
            .fetch_all(&mut *self.conn)
            .await
            .map_err(Problem::query("open_call"))?;
        let mut open = HashSet::new();
        for (record, state) in rows {
            let call = id("open_call", &record)?;
            let expected = known
                .get(&call)
                .filter(|known| known.allows)
                .map(|known| known.outcome.as_deref().unwrap_or("open"));
            if expected != Some(state.as_str()) {
                let reason = format!("the log says `{}`", expected.unwrap_or("no such call"));
                return Err(Problem::row("open_call", call, "state", reason));
            }
            open.insert(call);
        }
        for (call, record) in known.iter().filter(|(_, record)| record.allows) {
            let is_open = matches!(record.outcome.as_deref(), None | Some("unknown"));
            if is_open && !open.contains(call) {
                return Err(Problem::row("open_call", call, "record", "the row is missing"));
            }
        }
        self.report.open_calls = u64::try_from(open.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    async fn idempotency(&mut self, known: &Records) -> Result<(), Problem> {
        let rows: Vec<(Vec<u8>, Vec<u8>, String)> =
            sqlx::query_as("SELECT record, idempotency_key, status FROM idempotency")
                .fetch_all(&mut *self.conn)
                .await
                .map_err(Problem::query("idempotency"))?;
        for (record, key, status) in rows {
            let call = id("idempotency", &record)?;
            let bad = |column, reason: String| Problem::row("idempotency", call, column, reason);
            let Some(record) = known.get(&call).filter(|record| record.allows) else {
                return Err(bad("record", "there is no such call".to_owned()));
            };
            let expected = record.outcome.as_deref().unwrap_or("open");
            if expected != status {
                return Err(bad("status", format!("the log says `{expected}`")));
            }
            let body = self.body(record.rowid).await?;
            let leaf: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            if leaf.get("idem").and_then(|key| key.as_str()) != Some(&URL_SAFE_NO_PAD.encode(key)) {
                return Err(bad("idempotency_key", "the leaf says something else".to_owned()));
            }
        }
        Ok(())
    }

    async fn body(&mut self, rowid: i64) -> Result<Vec<u8>, Problem> {
        sqlx::query_scalar("SELECT body FROM intake WHERE rowid = $1")
            .bind(rowid)
            .fetch_one(&mut *self.conn)
            .await
            .map_err(Problem::query("intake"))
    }

    /// Opens every section whose keys are there, and compares it with the digests in its leaf.
    async fn sections(&mut self, known: &Records) -> Result<(), Problem> {
        let broken = Problem::query("sealed");
        let mut missing: HashSet<RecordId> =
            known.iter().filter(|(_, known)| known.is_sealed).map(|(record, _)| *record).collect();
        let (mut last, mut blobs) = (0_i64, Blobs::default());
        loop {
            let row = sqlx::query(
                "SELECT d.section, d.subject, d.period, d.nonce, d.ciphertext, d.dek, s.slot,
                        d.record, d.rowid
                   FROM sealed d
                   LEFT JOIN subject s ON s.tenant = d.tenant AND s.subject = d.subject
                  WHERE d.rowid > $1 ORDER BY d.rowid LIMIT 1",
            )
            .bind(last)
            .fetch_optional(&mut *self.conn)
            .await
            .map_err(&broken)?;
            let Some(row) = row.map(Row::Sqlite) else {
                blobs.compare()?;
                return self.erased(known, missing, &blobs).await;
            };
            last = row.get(8).map_err(&broken)?;
            let record: Vec<u8> = row.get(7).map_err(&broken)?;
            let record = id("sealed", &record)?;
            let sealed =
                read_sealed(&row).map_err(|error| Problem::row("sealed", record, "dek", error))?;
            let Some(owner) = known.get(&record) else {
                return Err(Problem::row("sealed", record, "record", "there is no such record"));
            };
            if sealed.section() == PRIVATE {
                missing.remove(&record);
            } else {
                blobs.there.insert((record, sealed.section().to_owned()));
            }
            let slot: Option<i64> = row.get(6).map_err(&broken)?;
            let report = &mut self.report;
            let Some(section) =
                open(report, self.keys.as_ref(), &self.tenant, record, slot, &sealed)?
            else {
                continue;
            };
            if sealed.section() == PRIVATE {
                let body = self.body(owner.rowid).await?;
                let names = compare(record, &body, &section)?;
                blobs.expected.extend(names.into_iter().map(|name| (record, name)));
            }
        }
    }
}

/// Opens a section if its keys are there, and counts it.
pub(super) fn open(
    report: &mut Report,
    keys: Option<&Keystore>,
    tenant: &str,
    record: RecordId,
    slot: Option<i64>,
    sealed: &SealedRow,
) -> Result<Option<Section>, Problem> {
    let opened = match (keys, slot.and_then(|slot| u32::try_from(slot).ok())) {
        (Some(keys), Some(slot)) => sealed.open(keys, tenant, record, slot),
        _ => Err(StoreError::NoKey(String::new())),
    };
    match opened {
        Ok(section) => {
            report.sections_opened += 1;
            Ok(Some(section))
        }
        Err(StoreError::NoKey(_)) => {
            report.sections_closed += 1;
            Ok(None)
        }
        Err(error) => Err(mismatch(record, error)),
    }
}

/// Compares the private section of a record with the digests in its leaf; returns the names of sections with
/// large values that it refers to.
pub(super) fn compare(
    record: RecordId,
    body: &[u8],
    section: &Section,
) -> Result<Vec<String>, Problem> {
    match open_leaf(body, section.disclosures()) {
        Ok(opened) if opened.closed.is_empty() => {
            Ok(section.disclosures().iter().filter_map(blob_of).collect())
        }
        Ok(_) => Err(mismatch(record, "digests of the leaf stay closed")),
        Err(error) => Err(mismatch(record, error)),
    }
}

/// Sections with one large value each; few records have any.
#[derive(Default)]
struct Blobs {
    there: HashSet<(RecordId, String)>,
    /// Those that opened sections refer to.
    expected: HashSet<(RecordId, String)>,
}

impl Blobs {
    fn compare(&self) -> Result<(), Problem> {
        let missing = self.expected.difference(&self.there).min();
        missing.map_or(Ok(()), |(record, section)| Err(lost(*record, section)))
    }
}

/// Says that a large value is missing alone.
pub(super) fn lost(record: RecordId, section: &str) -> Problem {
    let reason = format!("section `{section}` is missing, and `{PRIVATE}` is there");
    Problem::row("sealed", record, "section", reason)
}

/// What the log says is gone.
pub(super) struct Told {
    erasures: Vec<serde_json::Value>,
    purges: Purges,
    schedule: Schedule,
    /// Ids of the erasures that a signed checkpoint covers.
    signed: HashSet<String>,
    /// The time of the check, in Unix milliseconds.
    now_ms: i64,
}

impl Told {
    /// Reads it from `erasure` and `change` leaves, oldest first.
    pub(super) fn of(
        erasures: Vec<serde_json::Value>,
        changes: &[serde_json::Value],
        signed: HashSet<String>,
        now_ms: i64,
    ) -> Self {
        let (purges, schedule) = (Purges::of(&erasures), Schedule::of(changes));
        Self { erasures, purges, schedule, signed, now_ms }
    }

    /// Counts a leaf that has private fields.
    pub(super) fn count(&self, index: u64, counts: &mut Counts) {
        self.purges.count(index, counts);
    }

    /// Checks that no purge tells of a section that is there.
    pub(super) fn there(&self, record: RecordId, index: u64, section: &str) -> Result<(), Problem> {
        let Some(batch) = self.purges.covering(index) else { return Ok(()) };
        let reason = format!("`{section}` is there, and job `{}` says it is not", batch.job);
        Err(Problem::row("sealed", record, "section", reason))
    }

    /// Compares what purges count with the leaves that have private fields.
    pub(super) fn check(&self, counts: &Counts) -> Result<(), Problem> {
        let false_word =
            |(record, reason): (String, String)| Problem::row("intake", record, "body", reason);
        self.purges.check(counts).map_err(false_word)
    }

    /// Checks that the log tells of a record whose private section is missing, and counts it.
    pub(super) fn missing(
        &self,
        report: &mut Report,
        record: &str,
        index: u64,
        leaf: &[u8],
    ) -> Result<(), Problem> {
        let bad = |reason: String| Err(Problem::row("sealed", record, "record", reason));
        let leaf: serde_json::Value = serde_json::from_slice(leaf).unwrap_or_default();
        if let Some(batch) = self.purges.covering(index) {
            if !batch.was_due(&self.schedule, erase::time(&leaf).0) {
                return bad(format!("job `{}` purged it before its time", batch.job));
            }
            if batch.ms > self.now_ms.saturating_add(SKEW_MS) {
                return bad(format!("job `{}` purged it at a time that is to come", batch.job));
            }
            report.records_purged += 1;
            report.gone(self.signed.contains(&batch.record));
            *report.purge_jobs.entry(batch.job.clone()).or_default() += 1;
            return Ok(());
        }
        let subject = leaf.get("principal").and_then(|it| it.as_str()).unwrap_or_default();
        let Some(erasure) = erase::covering(&self.erasures, subject, erase::time(&leaf)) else {
            return bad("the section is missing, and no erasure tells of it".to_owned());
        };
        report.records_erased += 1;
        report.gone(self.signed.contains(record_id(erasure)));
        Ok(())
    }
}

impl Check<'_> {
    /// Checks that an erasure or a purge tells of every record whose sealed section is not there, and that
    /// what purges tell of is not there.
    async fn erased(
        &mut self,
        known: &Records,
        missing: HashSet<RecordId>,
        blobs: &Blobs,
    ) -> Result<(), Problem> {
        let changes = self.leaves_of("change").await?;
        let erasures = self.leaves_of("erasure").await?;
        let is_signed = |leaf: &&serde_json::Value| {
            let record = record_id(leaf).parse::<RecordId>().ok();
            let place = record.and_then(|record| known.get(&record));
            place.is_some_and(|place| place.index < self.signed)
        };
        let signed = erasures.iter().filter(is_signed).map(|leaf| record_id(leaf).to_owned());
        let signed = signed.collect();
        let told = Told::of(erasures, &changes, signed, self.now_ms);
        let sealed = known.iter().filter(|(_, known)| known.is_sealed);
        let mut counts = Counts::default();
        sealed.clone().for_each(|(_, owner)| told.count(owner.index, &mut counts));
        told.check(&counts)?;
        for (record, section) in &blobs.there {
            if let Some(owner) = known.get(record) {
                told.there(*record, owner.index, section)?;
            }
        }
        for (record, owner) in sealed {
            if !missing.contains(record) {
                told.there(*record, owner.index, PRIVATE)?;
                continue;
            }
            let leaf = self.body(owner.rowid).await?;
            told.missing(&mut self.report, &record.to_string(), owner.index, &leaf)?;
        }
        Ok(())
    }

    /// Reads the leaves of a rare kind, oldest first.
    async fn leaves_of(&mut self, kind: &str) -> Result<Vec<serde_json::Value>, Problem> {
        let bodies: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT body FROM intake WHERE kind = $1 ORDER BY rowid")
                .bind(kind)
                .fetch_all(&mut *self.conn)
                .await
                .map_err(Problem::query("intake"))?;
        erase::parse(&bodies).map_err(|error| Problem::row("intake", "", "body", error))
    }
}

pub(super) fn record_id(leaf: &serde_json::Value) -> &str {
    leaf.get("record_id").and_then(|id| id.as_str()).unwrap_or_default()
}

fn mismatch(record: RecordId, reason: impl ToString) -> Problem {
    Problem::row("sealed", record, "ciphertext", reason)
}

pub(super) fn id(table: &str, bytes: &[u8]) -> Result<RecordId, Problem> {
    record_from(bytes).map_err(|error| Problem::row(table, "", "record", error))
}
