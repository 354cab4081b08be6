//! What one transaction of the writer does, record by record.

use std::collections::HashMap;

use countersign_ledger::hash::sha256;
use countersign_ledger::limits::ENTRY_BYTES_MAX;
use countersign_ledger::{Frontier, Hash, LeafIndex, leaf_hash};
use countersign_model::{AgentId, OutcomeStatus, ReasonCode, RecordId};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::StoreError;
use crate::clock::Hlc;
use crate::db::{Column, Conn, row_sum};
use crate::effect::{self, Effect};
use crate::intent::{Appended, DenialFields};
use crate::prepare::{Place, Prepared, SealedRow};
use crate::rows::{LeafRow, Rows, Stream};

/// One record for the writer, with what else belongs into its transaction.
pub(crate) struct Job {
    pub(crate) prepared: Prepared,
    /// Taken when the job is run.
    pub(crate) work: Option<Work>,
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<Result<Done, StoreError>>,
    /// Whether the job permits a call.
    pub(crate) is_intent: bool,
    /// The call that the job ends.
    pub(crate) settles: Option<RecordId>,
}

impl Job {
    pub(crate) fn new(
        prepared: Prepared,
        work: Work,
        deadline: Instant,
        reply: oneshot::Sender<Result<Done, StoreError>>,
    ) -> Self {
        let is_intent = matches!(&work, Work::Intent { .. });
        let settles = match &work {
            Work::Outcome(settlement) => Some(settlement.call),
            Work::Intent { .. } | Work::Record(_) => None,
        };
        Self { prepared, work: Some(work), deadline, reply, is_intent, settles }
    }

    /// Returns where the job's claim comes in the order in which all gateways claim keys; jobs without
    /// a claim come after them, so that none that gives a key back makes another gateway wait.
    pub(crate) fn claims(&self) -> (bool, Option<(AgentId, [u8; 32])>) {
        let claim = match &self.work {
            Some(Work::Intent { claim: Some(claim) }) => Some((claim.agent, claim.key)),
            Some(Work::Intent { .. } | Work::Outcome(_) | Work::Record(_)) | None => None,
        };
        (claim.is_none(), claim)
    }

    /// Returns the call that the job permits.
    pub(crate) fn intent(&self) -> Option<RecordId> {
        self.is_intent.then_some(self.prepared.record)
    }
}

pub(crate) enum Work {
    Intent { claim: Option<Claim> },
    Outcome(Settlement),
    Record(Vec<Effect>),
}

/// An idempotency claim whose key and payload digest are keyed hashes already.
pub(crate) struct Claim {
    pub(crate) agent: AgentId,
    pub(crate) key: [u8; 32],
    pub(crate) digest: [u8; 32],
    pub(crate) denial: DenialFields,
}

/// The end of an open call.
pub(crate) struct Settlement {
    pub(crate) call: RecordId,
    pub(crate) status: OutcomeStatus,
    /// The state that the call must be in: `open`, or `unknown` when an operator settles it.
    pub(crate) from: &'static str,
    pub(crate) replay: Option<(i64, SealedRow)>,
}

/// What became of a job.
pub(crate) enum Done {
    Recorded(Appended),
    Replayed { first: RecordId, status: OutcomeStatus },
    InFlight { first: RecordId },
    Refused { code: ReasonCode, first: RecordId, place: Appended },
}

/// The writer's place in the tree and in its stream. It is replaced only after a commit.
#[derive(Clone)]
pub(crate) struct Head {
    /// The tree's right edge, if the writer orders the log too; absent if a sequencer does.
    pub(crate) frontier: Option<Frontier>,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) prev: Hash,
    pub(crate) time: Hlc,
    /// What the clock last said.
    pub(crate) clock_ms: i64,
    /// Calls that were opened since, and whether each claimed a key. Nobody else ends them: another gateway
    /// does only after it fenced this one.
    pub(crate) open: HashMap<RecordId, bool>,
}

/// One transaction under way.
pub(crate) struct Batch<'a> {
    conn: &'a mut Conn,
    /// Whether the transaction is open. With PostgreSQL, where each message costs, it is opened when
    /// something has to be read or written before the end; else the last statement is all of it.
    begun: bool,
    pub(crate) tenant: &'a str,
    pub(crate) replica: &'a str,
    pub(crate) now: i64,
    pub(crate) head: Head,
    /// Bytes of bodies and sections.
    pub(crate) bytes: usize,
    rows: Rows,
}

/// State of a call that waits for its outcome.
const OPEN: &str = "open";

type Refusable<T> = Result<Result<T, StoreError>, sqlx::Error>;

impl<'a> Batch<'a> {
    /// Begins a batch in an open transaction.
    pub(crate) fn new(
        conn: &'a mut Conn,
        tenant: &'a str,
        replica: &'a str,
        now: i64,
        head: Head,
    ) -> Self {
        let rows = Rows::default();
        Self { conn, begun: true, tenant, replica, now, head, bytes: 0, rows }
    }

    /// Begins a batch with a transaction of its own.
    ///
    /// After an error the connection must be closed: the transaction may be open.
    pub(crate) async fn begin(
        conn: &'a mut Conn,
        tenant: &'a str,
        replica: &'a str,
        head: Head,
    ) -> Result<Self, sqlx::Error> {
        let mut batch = Self { begun: false, ..Self::new(conn, tenant, replica, 0, head) };
        if matches!(batch.conn, Conn::Sqlite(_)) {
            batch.tx().await?;
        }
        Ok(batch)
    }

    /// Ends the transaction without a trace.
    pub(crate) async fn roll_back(self) -> Result<Head, sqlx::Error> {
        if self.begun {
            self.conn.roll_back().await?;
        }
        Ok(self.head)
    }

    /// Returns the connection in an open transaction.
    async fn tx(&mut self) -> Result<&mut Conn, sqlx::Error> {
        if !self.begun {
            self.conn.begin().await?;
            self.begun = true;
        }
        Ok(self.conn)
    }
}

impl Batch<'_> {
    /// Does one job. The outer error fails the batch, the inner one only this job.
    pub(crate) async fn run(&mut self, prepared: &mut Prepared, work: Work) -> Refusable<Done> {
        match work {
            Work::Intent { claim } => self.intent(prepared, claim).await,
            Work::Outcome(settlement) => self.outcome(prepared, settlement).await,
            Work::Record(effects) => self.record(prepared, effects).await,
        }
    }

    async fn intent(&mut self, prepared: &mut Prepared, claim: Option<Claim>) -> Refusable<Done> {
        let claimed = claim.is_some();
        if let Some(claim) = claim
            && let Some(done) = self.claim(prepared, claim).await?
        {
            return Ok(done);
        }
        let call = prepared.record;
        let place = match self.append(prepared).await? {
            Ok(place) => place,
            Err(error) => return Ok(Err(error)),
        };
        self.rows.open_calls.push((call, OPEN, claimed));
        self.head.open.insert(call, claimed);
        Ok(Ok(Done::Recorded(place)))
    }

    /// Claims a key; returns what to answer if another call holds it.
    async fn claim(
        &mut self,
        prepared: &mut Prepared,
        claim: Claim,
    ) -> Result<Option<Result<Done, StoreError>>, sqlx::Error> {
        let tenant = self.tenant;
        let row = ClaimRow {
            agent: claim.agent,
            key: claim.key.to_vec(),
            record: prepared.record,
            digest: claim.digest.to_vec(),
        };
        let (first, digest, status) = loop {
            if row.insert(self.tx().await?, tenant).await? {
                return Ok(None);
            }
            // Another gateway may have given the key back in between.
            if let Some(holder) = row.holder(self.tx().await?, tenant).await? {
                break holder;
            }
        };
        let code = if digest != row.digest {
            ReasonCode::IDEMPOTENCY_PAYLOAD_MISMATCH
        } else {
            match status.as_str() {
                "open" => return Ok(Some(Ok(Done::InFlight { first }))),
                "unknown" => ReasonCode::IDEMPOTENCY_OUTCOME_UNKNOWN,
                _ if !self.is_kept(first).await? => ReasonCode::IDEMPOTENCY_RESULT_GONE,
                "failed" => {
                    let status = OutcomeStatus::Failed;
                    return Ok(Some(Ok(Done::Replayed { first, status })));
                }
                _ => {
                    let status = OutcomeStatus::Executed;
                    return Ok(Some(Ok(Done::Replayed { first, status })));
                }
            }
        };
        if let Err(error) = prepared.set_public(&(claim.denial)(&code)) {
            return Ok(Some(Err(error)));
        }
        let place = self.append(prepared).await?;
        Ok(Some(place.map(|place| Done::Refused { code, first, place })))
    }

    async fn is_kept(&mut self, call: RecordId) -> Result<bool, sqlx::Error> {
        let sql = "SELECT record FROM replay WHERE tenant = $1 AND record = $2 AND expires_ms > $3";
        let call = record_bytes(call);
        let args = [Column::Text(self.tenant), Column::Blob(&call), Column::Int(self.now)];
        Ok(self.tx().await?.fetch_optional(sql, &args).await?.is_some())
    }

    /// Takes one call out of the state that it must be in; returns whether it claimed a key.
    async fn take(&mut self, call: RecordId, from: &str) -> Result<Option<bool>, sqlx::Error> {
        let sql = "DELETE FROM open_call WHERE tenant = $1 AND record = $2 AND state = $3
             RETURNING claimed";
        let call = record_bytes(call);
        let args = [Column::Text(self.tenant), Column::Blob(&call), Column::Text(from)];
        let row = self.tx().await?.fetch_optional(sql, &args).await?;
        row.map(|row| Ok(row.get::<i64>(0)? == 1)).transpose()
    }

    async fn outcome(&mut self, prepared: &mut Prepared, end: Settlement) -> Refusable<Done> {
        let tenant = self.tenant;
        // A call whose outcome is unknown stays in the table, so its row is taken out before.
        let known = end.from == OPEN && end.status != OutcomeStatus::Unknown;
        let claimed = match self.head.open.remove(&end.call) {
            Some(claimed) if known => {
                self.rows.ended.push(end.call);
                Some(claimed)
            }
            // Its row is there until the batch is written.
            None if self.rows.ended.contains(&end.call) => None,
            _ => self.take(end.call, end.from).await?,
        };
        let Some(claimed) = claimed else {
            let reason = format!("call `{}` is not {}: it has an outcome", end.call, end.from);
            return Ok(Err(StoreError::invalid(reason)));
        };
        if end.status == OutcomeStatus::Unknown {
            self.rows.open_calls.push((end.call, "unknown", claimed));
        }
        if claimed {
            settle_claim(self.tx().await?, tenant, end.call, end.status).await?;
            if let Some((expires, row)) = end.replay {
                row.insert_replay(self.tx().await?, tenant, end.call, expires).await?;
            }
        }
        // The caller prepared the leaf, so it fits: a refusal here would leave the call half settled.
        match self.append(prepared).await? {
            Ok(place) => Ok(Ok(Done::Recorded(place))),
            Err(_) => Err(sqlx::Error::Protocol("an outcome does not fit its leaf".into())),
        }
    }

    async fn record(&mut self, prepared: &mut Prepared, effects: Vec<Effect>) -> Refusable<Done> {
        let tenant = self.tenant;
        for effect in effects {
            self.bytes = self.bytes.saturating_add(effect.bytes());
            if !effect::apply(self.tx().await?, tenant, effect).await? {
                return Ok(Err(StoreError::Overtaken));
            }
        }
        Ok(self.append(prepared).await?.map(Done::Recorded))
    }

    /// Gives a record its place; [`Batch::commit`] writes it.
    async fn append(&mut self, prepared: &mut Prepared) -> Refusable<Appended> {
        let tenant = self.tenant;
        let time = self.head.time.next(self.now);
        let body = prepared.leaf(&Place {
            replica: self.replica,
            epoch: self.head.epoch,
            seq: self.head.seq,
            prev: self.head.prev,
            time,
        });
        if body.len() > ENTRY_BYTES_MAX {
            return Ok(Err(StoreError::TooLarge { bytes: body.len(), max: ENTRY_BYTES_MAX }));
        }
        let hash = leaf_hash(&body);
        if let Some(subject) = prepared.new_subject() {
            subject.insert(self.tx().await?, tenant).await?;
        }
        let record = prepared.record;
        for row in prepared.take_sealed() {
            self.bytes += row.bytes().len();
            self.rows.sealed.push((record, row));
        }
        self.bytes += body.len();
        let index = self.head.frontier.as_mut().map(|frontier| {
            let index = LeafIndex(frontier.size().0);
            frontier.push(hash);
            index
        });
        let (seq, kind) = (self.head.seq, prepared.kind.as_str());
        let prev = std::mem::replace(&mut self.head.prev, sha256(&body));
        self.head.seq += 1;
        self.head.time = time;
        let at = index.map(|index| index.0);
        self.rows.leaves.push(LeafRow { index: at, seq, record, kind, prev, body, hash });
        Ok(Ok(Appended { record_id: record, index, leaf_hash: hash }))
    }

    /// Writes the records and the right edge that the batch leaves behind, and commits.
    pub(crate) async fn commit(self) -> Result<Head, sqlx::Error> {
        let Head { epoch, seq, .. } = self.head;
        let stream = Stream { tenant: self.tenant, replica: self.replica, epoch, seq: seq - 1 };
        self.rows.write(self.conn, self.begun, stream, self.head.frontier.as_ref()).await?;
        Ok(self.head)
    }
}

/// Returns a record id as columns have it.
pub(crate) fn record_bytes(record: RecordId) -> Vec<u8> {
    record.0.as_bytes().to_vec()
}

/// Reads a record id from a column.
pub(crate) fn record_from(bytes: &[u8]) -> Result<RecordId, StoreError> {
    let uuid = uuid::Uuid::from_slice(bytes)
        .map_err(|_| StoreError::corrupt("a record id does not have 16 bytes"))?;
    Ok(RecordId(uuid))
}

/// Returns the sum of a row of `open_call`.
pub(crate) fn open_call_sum(tenant: &str, record: &[u8], state: &str, claimed: bool) -> Vec<u8> {
    row_sum(
        "open_call",
        &[
            Column::Text(tenant),
            Column::Blob(record),
            Column::Text(state),
            Column::Int(i64::from(claimed)),
        ],
    )
}

struct ClaimRow {
    agent: AgentId,
    key: Vec<u8>,
    record: RecordId,
    digest: Vec<u8>,
}

/// Returns the sum of a row of `idempotency`.
pub(crate) fn claim_sum(
    tenant: &str,
    agent: &[u8],
    key: &[u8],
    record: &[u8],
    digest: &[u8],
    status: &str,
) -> Vec<u8> {
    row_sum(
        "idempotency",
        &[
            Column::Text(tenant),
            Column::Blob(agent),
            Column::Blob(key),
            Column::Blob(record),
            Column::Blob(digest),
            Column::Text(status),
        ],
    )
}

impl ClaimRow {
    /// Returns whether the key was free.
    async fn insert(&self, tx: &mut Conn, tenant: &str) -> Result<bool, sqlx::Error> {
        let (agent, record) = (self.agent.0.as_bytes().to_vec(), record_bytes(self.record));
        let sum = claim_sum(tenant, &agent, &self.key, &record, &self.digest, "open");
        let args = [
            Column::Text(tenant),
            Column::Blob(&agent),
            Column::Blob(&self.key),
            Column::Blob(&record),
            Column::Blob(&self.digest),
            Column::Blob(&sum),
        ];
        let won = tx
            .fetch_optional(
                "INSERT INTO idempotency
                 (tenant, agent, idempotency_key, record, digest, status, sum)
                 VALUES ($1, $2, $3, $4, $5, 'open', $6)
                 ON CONFLICT (tenant, agent, idempotency_key) DO NOTHING RETURNING record",
                &args,
            )
            .await?;
        Ok(won.is_some())
    }

    /// Returns record, payload digest and status of the call that has the key.
    async fn holder(
        &self,
        tx: &mut Conn,
        tenant: &str,
    ) -> Result<Option<(RecordId, Vec<u8>, String)>, sqlx::Error> {
        let sql = "SELECT record, digest, status FROM idempotency
              WHERE tenant = $1 AND agent = $2 AND idempotency_key = $3";
        let agent = self.agent.0.as_bytes().as_slice();
        let args = [Column::Text(tenant), Column::Blob(agent), Column::Blob(&self.key)];
        let Some(row) = tx.fetch_optional(sql, &args).await? else { return Ok(None) };
        let record: Vec<u8> = row.get(0)?;
        let first = record_from(&record).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Some((first, row.get(1)?, row.get(2)?)))
    }
}

/// Writes how a call with a key ended; one that was not forwarded gives its key back.
async fn settle_claim(
    tx: &mut Conn,
    tenant: &str,
    call: RecordId,
    status: OutcomeStatus,
) -> Result<(), sqlx::Error> {
    let record = record_bytes(call);
    if status == OutcomeStatus::NotForwarded {
        let sql = "DELETE FROM idempotency WHERE tenant = $1 AND record = $2";
        tx.execute(sql, &[Column::Text(tenant), Column::Blob(&record)]).await?;
        return Ok(());
    }
    let sql =
        "SELECT agent, idempotency_key, digest FROM idempotency WHERE tenant = $1 AND record = $2";
    let row = tx.fetch_one(sql, &[Column::Text(tenant), Column::Blob(&record)]).await?;
    let (agent, key, digest): (Vec<u8>, Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let sum = claim_sum(tenant, &agent, &key, &record, &digest, status.as_str());
    let sql = "UPDATE idempotency SET status = $3, sum = $4 WHERE tenant = $1 AND record = $2";
    let (tenant, status) = (Column::Text(tenant), Column::Text(status.as_str()));
    tx.execute(sql, &[tenant, Column::Blob(&record), status, Column::Blob(&sum)]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use countersign_model::{Draft, Kind};

    use super::*;
    use crate::db::sqlite;
    use crate::head;
    use crate::writer::open_calls;

    #[tokio::test]
    async fn a_call_that_ends_is_not_open_and_the_others_are() {
        let folder = tempfile::tempdir().unwrap();
        let second = Duration::from_secs(1);
        let mut conn = sqlite::open_writer(&folder.path().join("db"), second, true).unwrap();
        sqlite::migrate(&mut conn).unwrap();
        let mut conn = Conn::sqlite(conn);
        let calls: Vec<_> = (1..=3).map(|n| RecordId(uuid::Uuid::from_u128(n))).collect();
        let head = head::load_head(&mut conn, "acme", "a").await.unwrap();
        let mut batch = Batch::begin(&mut conn, "acme", "a", head).await.unwrap();
        for call in &calls {
            let draft = Draft::new(*call, Kind::Decision);
            let mut prepared = Prepared::public(&draft, "acme").unwrap();
            batch.run(&mut prepared, Work::Intent { claim: None }).await.unwrap().ok().unwrap();
        }
        let head = batch.commit().await.unwrap();
        assert_eq!(head.open.len(), 3);

        let mut batch = Batch::begin(&mut conn, "acme", "a", head).await.unwrap();
        let mut end = async |call, n| {
            let status = OutcomeStatus::Executed;
            let settlement = Settlement { call, status, from: OPEN, replay: None };
            let draft = Draft::new(RecordId(uuid::Uuid::from_u128(n)), Kind::Outcome);
            let mut prepared = Prepared::public(&draft, "acme").unwrap();
            batch.run(&mut prepared, Work::Outcome(settlement)).await.unwrap().is_ok()
        };
        assert!(end(calls[1], 4).await);
        assert!(!end(calls[1], 5).await, "a call ends once");
        let head = batch.commit().await.unwrap();
        assert_eq!(open_calls(&mut conn, "acme").await.unwrap(), [calls[0], calls[2]]);
        assert!(head.open.contains_key(&calls[0]) && !head.open.contains_key(&calls[1]));
    }
}
