//! The one task with the one connection that writes. For SQLite it has a thread to itself, which calls the
//! database in place: a commit costs its caller two changes of threads, there and back.
//!
//! It collects what arrived while the previous commit ran and commits it as one transaction. Nothing
//! in memory outlives a failed commit: the connection is closed, the write-ahead log is moved into the
//! database by a new one, and the place in the tree is read from there.

mod shared;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_model::{Draft, Kind, OutcomeStatus, ReasonCode, RecordId};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::StoreError;
use crate::anchor::Anchor;
use crate::batch::{Batch, Done, Head, Job, Settlement, Work};
use crate::clock::{Clock, IdSource, step_back};
use crate::db::postgres::Servers;
use crate::db::{self, Column, Conn, sqlite};
use crate::effect::Purge;
use crate::head::{load_head, mark_stopped};
use crate::limits::{
    BATCH_RECORDS_MAX, COMMIT_GIVEN_UP_MS, STREAM_BEAT_MS, WAL_COMMIT_BYTES, WAL_PASSIVE_BYTES,
    WAL_TRUNCATE_PAGES,
};
use crate::prepare::Prepared;
use crate::sequencer::Sequencer;
use crate::settled::Settled;
use crate::stream::{self, Lost};
use crate::subject::Subjects;

/// How often the writer tries again what it owes itself while the database fails.
const RETRY: Duration = Duration::from_millis(500);

/// How often results past their time are deleted, in milliseconds.
const PURGE_EVERY_MS: i64 = 600_000;

/// How long the database may take for a batch before the connection is given up.
const COMMIT_GIVEN_UP: Duration = Duration::from_millis(COMMIT_GIVEN_UP_MS);

type Reply = oneshot::Sender<Result<(), StoreError>>;

fn no_answer() -> StoreError {
    StoreError::unavailable("the database does not answer")
}

/// A message to the writer.
pub(crate) enum Message {
    Job(Box<Job>),
    /// Stores a signed checkpoint.
    Checkpoint {
        size: u64,
        note: String,
        reply: Reply,
    },
    /// Stores what others add to a checkpoint.
    Anchor {
        anchor: Anchor,
        reply: Reply,
    },
    /// Deletes for an erasure.
    Purge(Purge, Reply),
    /// Closes the stream of a gateway that is gone.
    Close(Lost, Reply),
    /// Marks a clean stop and ends the task.
    Stop(Reply),
}

/// Where the writer writes.
pub(crate) enum Place {
    /// The database file; this writer also orders the log.
    File(PathBuf),
    /// A database that other gateways write too, and the name of this process there.
    Servers { servers: Servers, instance: String },
}

impl Place {
    pub(crate) fn servers(&self) -> Option<&Servers> {
        match self {
            Self::File(_) => None,
            Self::Servers { servers, .. } => Some(servers),
        }
    }

    /// Returns what orders the log, if its writers do not.
    pub(crate) fn sequencer(&self, tenant: &str) -> Option<Sequencer> {
        match self {
            Self::File(_) => None,
            Self::Servers { servers, instance } => {
                Some(Sequencer::new(servers.clone(), tenant, instance))
            }
        }
    }
}

/// What the writer knows for life.
pub(crate) struct Context {
    pub(crate) place: Place,
    pub(crate) tenant: String,
    pub(crate) replica: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ids: IdSource,
    pub(crate) busy: Duration,
    pub(crate) settled: Arc<Settled>,
    pub(crate) subjects: Arc<Subjects>,
    /// Keeps the data folder locked for as long as the writer lives.
    pub(crate) lock: std::fs::File,
}

/// The writer's state.
pub(crate) struct Writer {
    context: Context,
    open: Option<(Conn, Head)>,
    /// Calls that are open, or may be, though nobody else records how they ended: intents whose callers
    /// were refused, and calls whose outcome could not be recorded in time.
    orphans: Vec<(RecordId, OutcomeStatus)>,
    unmoved_bytes: usize,
    next_purge_ms: i64,
    /// Whether the database failed and nothing was recorded since.
    paused: bool,
}

impl Writer {
    pub(crate) fn new(context: Context, conn: Conn, head: Head) -> Self {
        let (open, orphans) = (Some((conn, head)), Vec::new());
        Self { context, open, orphans, unmoved_bytes: 0, next_purge_ms: 0, paused: false }
    }

    /// Starts the writer; what is returned ends when the writer has ended.
    pub(crate) fn start(
        self,
        queue: mpsc::Receiver<Message>,
    ) -> Result<oneshot::Receiver<()>, StoreError> {
        let (running, ended) = oneshot::channel();
        if let Place::Servers { .. } = self.context.place {
            tokio::spawn(self.run(queue, running));
            return Ok(ended);
        }
        let no_thread =
            |_| StoreError::unavailable("the operating system gives the writer no thread");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.map_err(no_thread)?;
        let writer = move || runtime.block_on(self.run(queue, running));
        std::thread::Builder::new().name("writer".to_owned()).spawn(writer).map_err(no_thread)?;
        Ok(ended)
    }

    /// Serves until the last sender is gone or a stop is asked for.
    async fn run(mut self, mut queue: mpsc::Receiver<Message>, _running: oneshot::Sender<()>) {
        loop {
            let first = match self.patience() {
                None => queue.recv().await.map(Some),
                Some(patience) => tokio::time::timeout(patience, queue.recv())
                    .await
                    .map_or(Some(None), |message| message.map(Some)),
            };
            let Some(first) = first else { break };
            if first.is_none() {
                self.beat().await;
            }
            if let Place::Servers { .. } = self.context.place {
                // Whoever is about to send gets to: what it sends then costs no commit of its own.
                tokio::task::yield_now().await;
            }
            let (jobs, other) = collect(first, &mut queue);
            self.serve(jobs).await;
            match other {
                Some(Message::Checkpoint { size, note, reply }) => {
                    let _ = reply.send(self.store_checkpoint(size, &note).await);
                }
                Some(Message::Anchor { anchor, reply }) => {
                    let _ = reply.send(self.store_anchor(&anchor).await);
                }
                Some(Message::Purge(purge, reply)) => {
                    let _ = reply.send(self.purge(purge).await);
                }
                Some(Message::Close(lost, reply)) => {
                    let _ = reply.send(self.close_stream(&lost).await);
                }
                Some(Message::Stop(reply)) => {
                    let _ = reply.send(self.stop().await);
                    break;
                }
                Some(Message::Job(_)) | None => {}
            }
        }
        let _ = self.context.lock.unlock();
    }

    async fn serve(&mut self, mut jobs: Vec<Job>) {
        self.drop_late(&mut jobs);
        self.orphans.extend(self.context.settled.take_abandoned());
        if jobs.is_empty() && self.orphans.is_empty() {
            return;
        }
        if let Err(error) = self.reopen().await {
            tracing::error!(%error, "the database cannot be opened; every record is refused");
            refuse(jobs);
            return;
        }
        self.settle_orphans().await;
        if !jobs.is_empty() && self.open.is_some() {
            self.commit(jobs).await;
        } else {
            refuse(jobs);
        }
        self.tend().await;
    }

    /// Returns how long the writer waits for work before it does something by itself.
    fn patience(&self) -> Option<Duration> {
        match &self.context.place {
            _ if !self.orphans.is_empty() => Some(RETRY),
            Place::File(_) => None,
            Place::Servers { .. } => Some(Duration::from_millis(STREAM_BEAT_MS)),
        }
    }

    /// Drops jobs that nobody waits for any more.
    fn drop_late(&self, jobs: &mut Vec<Job>) {
        let now = Instant::now();
        jobs.retain(|job| job.deadline > now && !job.reply.is_closed());
    }

    /// Opens the database again after a failure.
    async fn reopen(&mut self) -> Result<(), StoreError> {
        if self.open.is_some() {
            return Ok(());
        }
        let context = &self.context;
        self.open = Some(match &context.place {
            Place::File(path) => {
                let conn = sqlite::open_writer(path, context.busy, false)?;
                // What the failed commit left in the log was never synced, and may not be synced
                // again: moving it writes and syncs the database anew, and empties the log.
                sqlite::truncate_wal(&conn)?;
                let mut conn = Conn::sqlite(conn);
                let head = load_head(&mut conn, &context.tenant, &context.replica).await?;
                self.paused = true;
                (conn, head)
            }
            Place::Servers { servers, instance } => {
                let begun = stream::begin(context, servers, instance, false);
                timeout(COMMIT_GIVEN_UP, begun).await.unwrap_or_else(|_| Err(no_answer()))?
            }
        });
        Ok(())
    }

    /// Commits jobs as one transaction and answers them.
    async fn commit(&mut self, mut jobs: Vec<Job>) {
        let Some((mut conn, head)) = self.open.take() else { return refuse(jobs) };
        let done = match &self.context.place {
            Place::File(_) => self.transact(&mut conn, head, &mut jobs).await,
            Place::Servers { .. } => {
                // Other gateways may claim the same keys: in one order nobody waits in a circle.
                jobs.sort_by_cached_key(Job::claims);
                timeout(COMMIT_GIVEN_UP, self.transact(&mut conn, head, &mut jobs))
                    .await
                    .unwrap_or_else(|_| Err(sqlx::Error::Protocol("no answer".into())))
            }
        };
        match done {
            Ok((head, done)) => {
                self.open = Some((conn, head));
                self.paused &= done.is_empty();
                self.answer(jobs, done);
            }
            Err(error) => {
                tracing::error!(%error, records = jobs.len(), "a commit failed");
                conn.close_hard().await;
                // Whether the transaction is durable shows only when the database is open again.
                self.orphans.extend(jobs.iter().filter_map(Job::intent).map(not_forwarded));
                refuse(jobs);
            }
        }
    }

    async fn transact(
        &mut self,
        conn: &mut Conn,
        head: Head,
        jobs: &mut Vec<Job>,
    ) -> Result<(Head, Vec<Result<Done, StoreError>>), sqlx::Error> {
        let (tenant, replica) = (&self.context.tenant, &self.context.replica);
        let mut batch = Batch::begin(conn, tenant, replica, head).await?;
        // The lock may have taken long: the batch begins now.
        self.drop_late(jobs);
        if jobs.is_empty() {
            return Ok((batch.roll_back().await?, Vec::new()));
        }
        let now = self.context.clock.now_ms();
        batch.now = now;
        if self.paused {
            batch
                .run(&mut pause(&self.context, &batch.head)?, Work::Record(Vec::new()))
                .await?
                .ok();
        }
        if let Some(back) = step_back(batch.head.clock_ms, now) {
            batch.run(&mut clock_step(&self.context, back)?, Work::Record(Vec::new())).await?.ok();
        }
        batch.head.clock_ms = now;
        let mut done = Vec::with_capacity(jobs.len());
        for job in jobs.iter_mut() {
            done.push(match job.work.take() {
                Some(work) => batch.run(&mut job.prepared, work).await?,
                None => Err(StoreError::unavailable("the record was tried before")),
            });
        }
        self.unmoved_bytes += batch.bytes + WAL_COMMIT_BYTES;
        Ok((batch.commit().await?, done))
    }

    fn answer(&mut self, jobs: Vec<Job>, done: Vec<Result<Done, StoreError>>) {
        for (job, done) in jobs.into_iter().zip(done) {
            if let (Ok(_), Some(subject)) = (&done, job.prepared.new_subject()) {
                self.context.subjects.committed(subject);
            }
            let (call, settles) = (job.prepared.record, job.settles);
            let recorded = matches!(&done, Ok(Done::Recorded(_)));
            if let (true, Some(call)) = (recorded, settles) {
                self.context.settled.announce(call);
            }
            let is_intent = job.is_intent;
            if job.reply.send(done).is_err() && is_intent && recorded {
                self.orphans.push(not_forwarded(call));
            }
        }
    }

    /// Records the outcomes that nobody else records.
    async fn settle_orphans(&mut self) {
        let orphans = std::mem::take(&mut self.orphans);
        for chunk in orphans.chunks(BATCH_RECORDS_MAX) {
            let Some((mut conn, head)) = self.open.take() else {
                self.orphans.extend_from_slice(chunk);
                continue;
            };
            match self.transact_orphans(&mut conn, head, chunk).await {
                Ok(head) => {
                    self.open = Some((conn, head));
                    self.paused = false;
                    chunk.iter().for_each(|(call, _)| self.context.settled.announce(*call));
                }
                Err(error) => {
                    tracing::error!(%error, "outcomes of refused calls cannot be recorded yet");
                    conn.close_hard().await;
                    self.orphans.extend_from_slice(chunk);
                }
            }
        }
    }

    async fn transact_orphans(
        &self,
        conn: &mut Conn,
        head: Head,
        calls: &[(RecordId, OutcomeStatus)],
    ) -> Result<Head, sqlx::Error> {
        let (tenant, replica) = (&self.context.tenant, &self.context.replica);
        let mut batch = Batch::begin(conn, tenant, replica, head).await?;
        batch.now = self.context.clock.now_ms();
        if self.paused {
            batch
                .run(&mut pause(&self.context, &batch.head)?, Work::Record(Vec::new()))
                .await?
                .ok();
        }
        for (call, status) in calls {
            let (mut prepared, settlement) = closing_outcome(&self.context, *call, *status)?;
            // A call that is not open was never durable, or has an outcome: there is nothing to settle.
            batch.run(&mut prepared, Work::Outcome(settlement)).await?.ok();
        }
        batch.commit().await
    }

    /// Does between batches what need not be done in one.
    async fn tend(&mut self) {
        let now = self.context.clock.now_ms();
        let tenant = self.context.tenant.clone();
        let Some((conn, _)) = &mut self.open else { return };
        if now >= self.next_purge_ms {
            self.next_purge_ms = now + PURGE_EVERY_MS;
            let sql = "DELETE FROM replay WHERE tenant = $1 AND expires_ms <= $2";
            let args = [Column::Text(&tenant), Column::Int(now)];
            if let Err(error) = conn.execute(sql, &args).await {
                return self.fail(error.into());
            }
        }
        if self.unmoved_bytes < WAL_PASSIVE_BYTES {
            return;
        }
        self.unmoved_bytes = 0;
        let Conn::Sqlite(conn) = conn else { return };
        let conn = conn.get_mut();
        match sqlite::checkpoint_wal(conn) {
            // A reader may stand in the way of emptying the log: then it is tried again later.
            Ok(pages) if pages > WAL_TRUNCATE_PAGES => drop(sqlite::truncate_wal(conn)),
            Ok(_) => {}
            Err(error) => self.fail(error),
        }
    }

    /// Gives the connection up after an error outside of a batch.
    #[expect(clippy::needless_pass_by_value, reason = "the error ends here")]
    fn fail(&mut self, error: StoreError) {
        tracing::error!(%error, "the database failed between commits");
        self.open = None;
    }

    async fn store_checkpoint(&mut self, size: u64, note: &str) -> Result<(), StoreError> {
        self.reopen().await?;
        let Some((conn, _)) = &mut self.open else {
            return Err(StoreError::unavailable("the database failed"));
        };
        let sql = "INSERT INTO checkpoint (tenant, size, note) VALUES ($1, $2, $3)
             ON CONFLICT DO NOTHING";
        let tenant = Column::Text(&self.context.tenant);
        let args = [tenant, Column::Int(db::int(size)), Column::Text(note)];
        let stored = conn.execute(sql, &args).await;
        stored.map(drop).map_err(|error| {
            self.open = None;
            error.into()
        })
    }

    async fn store_anchor(&mut self, anchor: &Anchor) -> Result<(), StoreError> {
        self.reopen().await?;
        let Some((conn, _)) = &mut self.open else {
            return Err(StoreError::unavailable("the database failed"));
        };
        let stored = anchor.put(conn, &self.context.tenant).await;
        stored.map_err(|error| {
            self.open = None;
            error.into()
        })
    }

    async fn purge(&mut self, purge: Purge) -> Result<(), StoreError> {
        self.reopen().await?;
        let Some((conn, _)) = &mut self.open else {
            return Err(StoreError::unavailable("the database failed"));
        };
        let done = purge.run(conn, &self.context.tenant, self.context.busy).await;
        if matches!(done, Err(StoreError::Database(_))) {
            self.open = None;
        }
        done
    }

    async fn stop(&mut self) -> Result<(), StoreError> {
        self.reopen().await?;
        self.orphans.extend(self.context.settled.take_abandoned());
        self.settle_orphans().await;
        let Some((mut conn, head)) = self.open.take() else {
            return Err(StoreError::unavailable("the database failed"));
        };
        let Context { place, tenant, replica, .. } = &self.context;
        match place {
            Place::File(_) => mark_stopped(&mut conn, tenant, head.epoch).await?,
            Place::Servers { .. } => {
                stream::mark_stopped(&mut conn, tenant, replica, head.epoch).await?;
            }
        }
        if let Conn::Sqlite(conn) = &mut conn {
            sqlite::truncate_wal(conn.get_mut()).ok();
        }
        Ok(conn.close().await?)
    }
}

/// Takes what waits, up to the size of a batch, or up to something that is no job.
fn collect(
    first: Option<Message>,
    queue: &mut mpsc::Receiver<Message>,
) -> (Vec<Job>, Option<Message>) {
    let mut jobs = Vec::new();
    let mut next = first;
    while let Some(message) = next {
        match message {
            Message::Job(job) => jobs.push(*job),
            other @ (Message::Checkpoint { .. }
            | Message::Anchor { .. }
            | Message::Purge(..)
            | Message::Close(..)
            | Message::Stop(_)) => {
                return (jobs, Some(other));
            }
        }
        next = if jobs.len() < BATCH_RECORDS_MAX { queue.try_recv().ok() } else { None };
    }
    (jobs, None)
}

fn not_forwarded(call: RecordId) -> (RecordId, OutcomeStatus) {
    (call, OutcomeStatus::NotForwarded)
}

fn refuse(jobs: Vec<Job>) {
    for job in jobs {
        let _ = job.reply.send(Err(StoreError::unavailable("the database failed")));
    }
}

/// Prepares the record that says after which one the database failed; what came since was refused.
fn pause(context: &Context, head: &Head) -> Result<Prepared, sqlx::Error> {
    let last = json!({
        "replica": context.replica, "epoch": head.epoch, "seq": head.seq.saturating_sub(1),
    });
    let draft = Draft::new(RecordId((context.ids)()), Kind::Gap)
        .with("gap", "database_failed")
        .with("last", last);
    Prepared::public(&draft, &context.tenant).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn clock_step(context: &Context, back_ms: i64) -> Result<Prepared, sqlx::Error> {
    let record = RecordId((context.ids)());
    let draft = Draft::new(record, Kind::Detection)
        .with("detection", "clock_step")
        .with("back_ms", back_ms);
    Prepared::public(&draft, &context.tenant).map_err(|error| sqlx::Error::Encode(error.into()))
}

/// Prepares the outcome that the store itself records of a call.
pub(crate) fn closing_outcome(
    context: &Context,
    call: RecordId,
    status: OutcomeStatus,
) -> Result<(Prepared, Settlement), sqlx::Error> {
    let reason = match status {
        OutcomeStatus::NotForwarded | OutcomeStatus::Executed | OutcomeStatus::Failed => {
            ReasonCode::AUDIT_UNAVAILABLE
        }
        OutcomeStatus::Unknown => ReasonCode::OUTCOME_UNKNOWN,
    };
    let draft = Draft::new(RecordId((context.ids)()), Kind::Outcome)
        .with("parent", call.to_string())
        .with("outcome", status.as_str())
        .with("reasons", vec![reason.as_str().to_owned()]);
    let prepared = Prepared::public(&draft, &context.tenant)
        .map_err(|error| sqlx::Error::Encode(error.into()))?;
    Ok((prepared, Settlement { call, status, from: "open", replay: None }))
}

/// Returns the calls that are open, oldest first.
pub(crate) async fn open_calls(conn: &mut Conn, tenant: &str) -> Result<Vec<RecordId>, StoreError> {
    let sql = "SELECT record FROM open_call WHERE tenant = $1 AND state = 'open' ORDER BY record";
    let rows = conn.fetch_all(sql, &[Column::Text(tenant)]).await?;
    rows.iter().map(|row| crate::batch::record_from(&row.get::<Vec<u8>>(0)?)).collect()
}
