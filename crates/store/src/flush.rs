//! Makes what PostgreSQL has executed durable, beside the writer, and answers for it.
//!
//! The writer's transactions end without waiting for the disk, so the server executes the next one while it
//! syncs the last. Here a connection of its own commits an empty message and waits: the server's write-ahead
//! log is one sequence, so with that commit everything executed before it is durable, on the standbys that
//! the server waits for too (PostgreSQL 15, section 30.4 "Asynchronous Commit"). Only then anybody is answered.
//!
//! Both connections are of one server, so a server that loses what it executed loses both.

use std::sync::Arc;
use std::time::Duration;

use countersign_model::OutcomeStatus;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::StoreError;
use crate::batch::{Done, Job};
use crate::db::Conn;
use crate::db::postgres::{Role, Servers};
use crate::db::warnings;
use crate::limits::COMMIT_GIVEN_UP_MS;
use crate::settled::Settled;
use crate::subject::Subjects;

/// Batches that may wait for one flush.
const BATCHES_MAX: usize = 16;

/// How long a flush may take before its connection is given up.
const FLUSH_GIVEN_UP: Duration = Duration::from_millis(COMMIT_GIVEN_UP_MS);

/// A transaction that writes nothing else is not flushed, so this one writes a message that nobody reads.
const FLUSH: &str = "SELECT pg_logical_emit_message(true, 'countersign', '')";

/// Which server a connection is of, and since when that runs.
const SERVER: &str =
    "SELECT pg_postmaster_start_time()::text || ' ' || coalesce(inet_server_addr()::text, '')
                          || ' ' || coalesce(inet_server_port(), 0)";

/// Jobs whose transaction has ended, with what came of each.
pub(crate) struct Executed {
    pub(crate) jobs: Vec<Job>,
    pub(crate) done: Vec<Result<Done, StoreError>>,
}

/// Who is told of what is durable.
#[derive(Clone)]
pub(crate) struct Answers {
    pub(crate) settled: Arc<Settled>,
    pub(crate) subjects: Arc<Subjects>,
}

impl Answers {
    /// Answers jobs that are durable; calls that nobody will forward are noted for the writer to settle.
    pub(crate) fn give(&self, Executed { jobs, done }: Executed) {
        for (job, done) in jobs.into_iter().zip(done) {
            if let (Ok(_), Some(subject)) = (&done, job.prepared.new_subject()) {
                self.subjects.committed(subject);
            }
            let (call, settles) = (job.prepared.record, job.settles);
            let recorded = matches!(&done, Ok(Done::Recorded(_)));
            if let (true, Some(call)) = (recorded, settles) {
                self.settled.announce(call);
            }
            let is_intent = job.is_intent;
            if job.reply.send(done).is_err() && is_intent && recorded {
                self.settled.abandon(call, OutcomeStatus::NotForwarded);
            }
        }
    }

    /// Refuses jobs that may be durable or not: what they permit is not forwarded.
    pub(crate) fn refuse(&self, jobs: Vec<Job>) {
        for job in jobs {
            if let Some(call) = job.intent() {
                self.settled.abandon(call, OutcomeStatus::NotForwarded);
            }
            let _ = job.reply.send(Err(StoreError::unavailable("the database failed")));
        }
    }
}

/// The task that flushes.
pub(crate) struct Flusher {
    queue: mpsc::Sender<Executed>,
    task: JoinHandle<()>,
}

impl Flusher {
    /// Connects to the server of the writer's connection.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if that is not the primary any more; as [`Servers::connect`].
    pub(crate) async fn start(
        servers: &Servers,
        writer: &mut Conn,
        answers: Answers,
    ) -> Result<Self, StoreError> {
        let mut conn = servers.connect(Role::Gateway).await?;
        let own: String = conn.fetch_one(SERVER, &[]).await?.get(0)?;
        let writers: String = writer.fetch_one(SERVER, &[]).await?.get(0)?;
        if own != writers {
            return Err(StoreError::unavailable("the database has moved to another server"));
        }
        let (queue, executed) = mpsc::channel(BATCHES_MAX);
        Ok(Self { queue, task: tokio::spawn(run(conn, executed, answers)) })
    }

    /// Returns whether a flush failed; then nothing more is taken.
    pub(crate) fn has_failed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Hands over what was executed on the writer's connection; gives it back if the task has failed.
    pub(crate) async fn take(&self, executed: Executed) -> Result<(), Executed> {
        self.queue.send(executed).await.map_err(|refused| refused.0)
    }

    /// Waits until everything is answered.
    pub(crate) async fn finish(self) {
        drop(self.queue);
        let _ = self.task.await;
    }
}

fn no_answer() -> StoreError {
    StoreError::unavailable("the database does not answer")
}

async fn run(mut conn: Conn, mut queue: mpsc::Receiver<Executed>, answers: Answers) {
    while let Some(first) = queue.recv().await {
        let mut waiting = vec![first];
        while let Ok(next) = queue.try_recv() {
            waiting.push(next);
        }
        let flushed = timeout(FLUSH_GIVEN_UP, warnings::refusing(conn.execute(FLUSH, &[]))).await;
        if let Ok(Ok(_)) = flushed {
            waiting.into_iter().for_each(|executed| answers.give(executed));
            continue;
        }
        let error = flushed.map_or_else(|_| Some(no_answer()), |done| done.err().map(Into::into));
        tracing::error!(?error, "what was recorded is not known to be durable; it is refused");
        queue.close();
        while let Some(next) = queue.recv().await {
            waiting.push(next);
        }
        waiting.into_iter().for_each(|executed| answers.refuse(executed.jobs));
        conn.close_hard().await;
        return;
    }
    let _ = conn.close().await;
}
