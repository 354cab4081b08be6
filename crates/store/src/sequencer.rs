//! Gives the records of all gateways their places in the log (PostgreSQL).
//!
//! One process leads; the others look on. Its lease in `coord` keeps them polite, its fencing epoch keeps
//! the log one: every transaction updates the lease under that epoch first. What it reads is durable
//! before its own commit is, since the write-ahead log has one order.

use std::time::Duration;

use countersign_ledger::hash::sha256;
use countersign_ledger::{Frontier, Hash, leaf_hash};
use tokio::time::{Instant, timeout};

use crate::StoreError;
use crate::db::postgres::{Role, Servers};
use crate::db::{Column, Conn, Row, int, unsigned};
use crate::limits::{COMMIT_GIVEN_UP_MS, LEASE_RENEWED_MS, SEQUENCED_RECORDS_MAX};

/// How long the database may take for what is to be ordered at once.
const ROUND_GIVEN_UP: Duration = Duration::from_millis(COMMIT_GIVEN_UP_MS);

/// The process that orders the log, or would if the leader were gone.
pub(crate) struct Sequencer {
    servers: Servers,
    tenant: String,
    instance: String,
    conn: Option<Conn>,
    /// Absent if another process leads.
    lease: Option<Lease>,
}

/// The right to order the log.
struct Lease {
    /// The fencing epoch.
    epoch: u64,
    /// When it was last renewed, and the tree that was durable then; absent at first.
    renewed: Option<(Instant, Frontier)>,
}

/// Places of one stream's records.
struct Run {
    replica: String,
    epoch: u64,
    seq: u64,
    last: Hash,
}

impl Sequencer {
    pub(crate) fn new(servers: Servers, tenant: &str, instance: &str) -> Self {
        let (tenant, instance) = (tenant.to_owned(), instance.to_owned());
        Self { servers, tenant, instance, conn: None, lease: None }
    }

    /// Returns the tree that is durable, if this process leads.
    pub(crate) fn durable(&self) -> Option<&Frontier> {
        self.lease.as_ref()?.renewed.as_ref().map(|(_, frontier)| frontier)
    }

    /// Orders what is durable and has no place yet, if this process leads or can. A stream with a hole or a broken chain goes no further, and the log file says so.
    pub(crate) async fn run(&mut self) -> Result<(), StoreError> {
        let done = match timeout(ROUND_GIVEN_UP, self.rounds()).await {
            Ok(done) => done,
            Err(_) => Err(StoreError::unavailable("the database does not answer")),
        };
        if let Err(StoreError::Database(_) | StoreError::Unavailable { .. }) = &done {
            self.lease = None;
            if let Some(conn) = self.conn.take() {
                conn.close_hard().await;
            }
        }
        done
    }

    async fn rounds(&mut self) -> Result<(), StoreError> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.servers.connect(Role::Sequencer).await?,
        };
        let done = self.lead_and_order(&mut conn).await;
        self.conn = Some(conn);
        done
    }

    async fn lead_and_order(&mut self, conn: &mut Conn) -> Result<(), StoreError> {
        if self.lease.is_none() {
            self.lease = take_lease(conn, &self.tenant, &self.instance).await?;
        }
        while let Some(Lease { epoch, renewed }) = &mut self.lease {
            let behind = behind(conn, &self.tenant).await?;
            let fresh = |at: &Instant| at.elapsed() < Duration::from_millis(LEASE_RENEWED_MS);
            if behind.is_empty() && renewed.as_ref().is_some_and(|(at, _)| fresh(at)) {
                break;
            }
            conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ", &[]).await?;
            match order(conn, &self.tenant, *epoch, &behind).await {
                Ok(Some((ordered, frontier))) => {
                    conn.commit().await?;
                    *renewed = Some((Instant::now(), frontier));
                    // What came meanwhile waits for the next round: under load there is always something,
                    // and each commit of ours holds up those of the calls.
                    if ordered < usize::try_from(SEQUENCED_RECORDS_MAX).unwrap_or(usize::MAX) {
                        break;
                    }
                }
                Ok(None) => {
                    conn.roll_back().await?;
                    tracing::warn!("another process orders the log now");
                    self.lease = None;
                    break;
                }
                Err(error) => {
                    let _ = conn.roll_back().await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Stores a signed checkpoint, if this process still leads.
    pub(crate) async fn store_checkpoint(
        &mut self,
        size: u64,
        note: &str,
    ) -> Result<(), StoreError> {
        let lost = || StoreError::unavailable("another process orders the log now");
        let epoch = self.lease.as_ref().ok_or_else(lost)?.epoch;
        let conn = self.conn.as_mut().ok_or_else(lost)?;
        let args = [
            Column::Text(&self.tenant),
            Column::Int(int(size)),
            Column::Text(note),
            Column::Int(int(epoch)),
        ];
        let stored = conn
            .execute(
                "INSERT INTO checkpoint (tenant, size, note)
                 SELECT $1, $2, $3 FROM coord WHERE tenant = $1 AND epoch = $4
                 ON CONFLICT (tenant, size) DO NOTHING",
                &args,
            )
            .await?;
        if stored == 1 {
            return Ok(());
        }
        // The same tree may have been signed again after a crash, by a further key.
        let sql = "SELECT note FROM checkpoint WHERE tenant = $1 AND size = $2";
        let args = [Column::Text(&self.tenant), Column::Int(int(size))];
        let kept = conn.fetch_optional(sql, &args).await?;
        let kept: Option<String> = kept.map(|row| row.get(0)).transpose()?;
        let text = |note: &str| note.rsplit_once("\n\n").map(|(text, _)| text.to_owned());
        if kept.is_some_and(|kept| text(&kept) == text(note)) {
            return Ok(());
        }
        self.lease = None;
        Err(lost())
    }

    /// Lets another process lead at once.
    pub(crate) async fn stop(&mut self) {
        if let (Some(mut conn), Some(Lease { epoch, .. })) = (self.conn.take(), self.lease.take()) {
            let sql = "UPDATE coord SET leader = '' WHERE tenant = $1 AND epoch = $2";
            let args = [Column::Text(&self.tenant), Column::Int(int(epoch))];
            let _ = conn.execute(sql, &args).await;
            let _ = conn.close().await;
        }
    }
}

async fn take_lease(
    conn: &mut Conn,
    tenant: &str,
    instance: &str,
) -> Result<Option<Lease>, StoreError> {
    let row = conn
        .fetch_optional(
            "UPDATE coord SET leader = $2, epoch = epoch + 1, beat = now()
              WHERE tenant = $1
                AND (leader IN ('', $2) OR beat < now() - interval '5 seconds') RETURNING epoch",
            &[Column::Text(tenant), Column::Text(instance)],
        )
        .await?;
    row.map(|row| Ok(Lease { epoch: unsigned(row.get(0)?, "coord.epoch")?, renewed: None }))
        .transpose()
}

/// Returns the streams that are longer than the log knows.
async fn behind(conn: &mut Conn, tenant: &str) -> Result<Vec<Run>, StoreError> {
    let rows = conn
        .fetch_all(
            "SELECT s.replica, coalesce(p.epoch, 0), coalesce(p.seq, 0),
                    coalesce(p.last, decode(repeat('00', 32), 'hex'))
               FROM stream s LEFT JOIN position p ON p.tenant = s.tenant AND p.replica = s.replica
              WHERE s.tenant = $1 AND EXISTS (
                    SELECT FROM intake i WHERE i.tenant = s.tenant AND i.replica = s.replica
                       AND (i.epoch, i.seq) > (coalesce(p.epoch, 0), coalesce(p.seq, 0)))
              ORDER BY s.replica",
            &[Column::Text(tenant)],
        )
        .await?;
    rows.iter().map(Run::read).collect()
}

impl Run {
    fn read(row: &Row) -> Result<Self, StoreError> {
        let last: Vec<u8> = row.get(3)?;
        Ok(Self {
            replica: row.get(0)?,
            epoch: unsigned(row.get(1)?, "position.epoch")?,
            seq: unsigned(row.get(2)?, "position.seq")?,
            last: Hash::from_slice(&last)
                .ok_or_else(|| StoreError::corrupt("position: a hash does not have 32 bytes"))?,
        })
    }

    /// Checks that a record is the next one of the stream, and moves on to it.
    fn follow(&mut self, epoch: u64, seq: u64, prev: &[u8], body: &[u8]) -> Result<(), StoreError> {
        let begins = epoch > self.epoch && seq == 1 && prev == [0; 32];
        let continues = epoch == self.epoch && seq == self.seq + 1 && prev == self.last.0;
        if !begins && !continues {
            let Self { replica, epoch: at, seq: last, .. } = self;
            return Err(StoreError::corrupt(format!(
                "stream `{replica}`: record {epoch}/{seq} does not follow {at}/{last}"
            )));
        }
        (self.epoch, self.seq, self.last) = (epoch, seq, sha256(body));
        Ok(())
    }
}

/// New leaves, column by column.
#[derive(Default)]
struct Leaves {
    replica: Vec<String>,
    epoch: Vec<i64>,
    seq: Vec<i64>,
    hash: Vec<Vec<u8>>,
}

/// Orders a part of what is there; returns how much, and the tree then. `None` if another process leads.
async fn order(
    conn: &mut Conn,
    tenant: &str,
    epoch: u64,
    behind: &[Run],
) -> Result<Option<(usize, Frontier)>, StoreError> {
    let sql = "UPDATE coord SET beat = now() WHERE tenant = $1 AND epoch = $2";
    let fence = [Column::Text(tenant), Column::Int(int(epoch))];
    if conn.execute(sql, &fence).await? != 1 {
        return Ok(None);
    }
    let mut frontier = frontier(conn, tenant).await?;
    let first = frontier.size().0;
    let mut leaves = Leaves::default();
    let mut runs = Vec::with_capacity(behind.len());
    for run in behind {
        let mut run = Run { replica: run.replica.clone(), ..*run };
        match read_run(conn, tenant, &mut run, &mut frontier, &mut leaves).await {
            // The other streams go on; nobody skips what is missing in this one.
            Err(StoreError::Corrupt(what)) => tracing::error!(what, "a stream cannot be ordered"),
            done => done?,
        }
        runs.push(run);
    }
    let ordered = leaves.seq.len();
    if ordered > 0 {
        write(conn, tenant, epoch, (first, &frontier), leaves, &runs).await?;
    }
    Ok(Some((ordered, frontier)))
}

async fn read_run(
    conn: &mut Conn,
    tenant: &str,
    run: &mut Run,
    frontier: &mut Frontier,
    leaves: &mut Leaves,
) -> Result<(), StoreError> {
    let rows = conn
        .fetch_all(
            "SELECT epoch, seq, prev, body FROM intake
              WHERE tenant = $1 AND replica = $2 AND (epoch, seq) > ($3, $4)
              ORDER BY epoch, seq LIMIT $5",
            &[
                Column::Text(tenant),
                Column::Text(&run.replica),
                Column::Int(int(run.epoch)),
                Column::Int(int(run.seq)),
                Column::Int(SEQUENCED_RECORDS_MAX),
            ],
        )
        .await?;
    for row in &rows {
        let (epoch, seq): (i64, i64) = (row.get(0)?, row.get(1)?);
        let (prev, body): (Vec<u8>, Vec<u8>) = (row.get(2)?, row.get(3)?);
        run.follow(unsigned(epoch, "epoch")?, unsigned(seq, "seq")?, &prev, &body)?;
        let hash = leaf_hash(&body);
        frontier.push(hash);
        leaves.replica.push(run.replica.clone());
        leaves.epoch.push(epoch);
        leaves.seq.push(seq);
        leaves.hash.push(hash.0.to_vec());
    }
    Ok(())
}

async fn frontier(conn: &mut Conn, tenant: &str) -> Result<Frontier, StoreError> {
    let sql = "SELECT edge FROM frontier WHERE tenant = $1";
    let Some(row) = conn.fetch_optional(sql, &[Column::Text(tenant)]).await? else {
        return Ok(Frontier::new());
    };
    Frontier::from_bytes(&row.get::<Vec<u8>>(0)?)
        .map_err(|error| StoreError::corrupt(format!("frontier: {error}")))
}

async fn write(
    conn: &mut Conn,
    tenant: &str,
    epoch: u64,
    (first, frontier): (u64, &Frontier),
    leaves: Leaves,
    runs: &[Run],
) -> Result<(), StoreError> {
    let Conn::Postgres(postgres) = conn else {
        return Err(StoreError::invalid("only PostgreSQL has a sequencer"));
    };
    sqlx::query(
        "INSERT INTO leaf (tenant, idx, replica, epoch, seq, leaf_hash)
         SELECT $1, $2 + l.n - 1, l.replica, l.epoch, l.seq, l.hash
           FROM unnest($3::text[], $4::bigint[], $5::bigint[], $6::bytea[])
                WITH ORDINALITY AS l (replica, epoch, seq, hash, n)",
    )
    .bind(tenant)
    .bind(int(first))
    .bind(leaves.replica)
    .bind(leaves.epoch)
    .bind(leaves.seq)
    .bind(leaves.hash)
    .execute(&mut *postgres)
    .await?;
    for run in runs {
        let args = [
            Column::Text(tenant),
            Column::Text(&run.replica),
            Column::Int(int(run.epoch)),
            Column::Int(int(run.seq)),
            Column::Blob(&run.last.0),
        ];
        conn.execute(
            "INSERT INTO position (tenant, replica, epoch, seq, last) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (tenant, replica) DO UPDATE SET epoch = excluded.epoch,
             seq = excluded.seq, last = excluded.last",
            &args,
        )
        .await?;
    }
    let (edge, root) = (frontier.to_bytes(), frontier.root());
    let args = [
        Column::Text(tenant),
        Column::Int(int(frontier.size().0)),
        Column::Blob(&edge),
        Column::Blob(&root.0),
        Column::Int(int(epoch)),
    ];
    conn.execute(
        "INSERT INTO frontier (tenant, size, edge, root, epoch) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant) DO UPDATE SET size = excluded.size, edge = excluded.edge,
         root = excluded.root, epoch = excluded.epoch",
        &args,
    )
    .await?;
    Ok(())
}
