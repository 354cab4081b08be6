//! A gateway's stream in PostgreSQL: its number, its epoch, and how a process takes it over.
//!
//! The row of `stream` fences: every batch updates it under its epoch, so whoever counts the epoch up
//! waits for a batch under way and none of an earlier epoch comes after it.

use std::collections::HashMap;

use countersign_ledger::Hash;
use countersign_ledger::leaf::Leaf;
use countersign_model::{Draft, Kind, RecordId};
use serde_json::json;

use crate::StoreError;
use crate::batch::{Batch, Head, Work};
use crate::clock::Hlc;
use crate::db::postgres::{Role, Servers};
use crate::db::{Column, Conn, Pool, int, unsigned};
use crate::prepare::Prepared;
use crate::subject::SLOT_RANGES_MAX;
use crate::writer::Context;

/// How often a number is tried for before another gateway's registration is left to go first.
const NUMBER_TRIES: u32 = 16;

/// A stream as its row has it.
struct Stream {
    epoch: u64,
    seq: u64,
    instance: String,
}

/// Registers a gateway if it is new, and returns its number, which gives it keystore slots of its own.
pub(crate) async fn register(
    servers: &Servers,
    tenant: &str,
    replica: &str,
) -> Result<u32, StoreError> {
    let mut conn = servers.connect(Role::Gateway).await?;
    let args = [Column::Text(tenant), Column::Text(replica)];
    for _ in 0..NUMBER_TRIES {
        let found = conn
            .fetch_optional("SELECT number FROM stream WHERE tenant = $1 AND replica = $2", &args)
            .await?;
        if let Some(row) = found {
            let number = u32::try_from(row.get::<i64>(0)?).unwrap_or(u32::MAX);
            conn.close().await?;
            if number >= SLOT_RANGES_MAX {
                let reason = format!("a log has at most {SLOT_RANGES_MAX} gateways, ever");
                return Err(StoreError::invalid(reason));
            }
            return Ok(number);
        }
        conn.execute(
            "INSERT INTO stream (tenant, replica, number, epoch, seq, instance, beat)
             SELECT $1, $2, coalesce(max(number) + 1, 0), 0, 0, '', now()
               FROM stream WHERE tenant = $1 ON CONFLICT DO NOTHING",
            &args,
        )
        .await?;
    }
    Err(StoreError::unavailable("other gateways register at the same time"))
}

/// Connects, begins an epoch of this process and returns the writer's place in it.
///
/// # Errors
/// [`StoreError::Unavailable`] if another process runs under this gateway's name, unless this one
/// only starts (`starting`): then the other one is fenced.
pub(crate) async fn begin(
    context: &Context,
    servers: &Servers,
    instance: &str,
    starting: bool,
) -> Result<(Conn, Head), StoreError> {
    let (tenant, replica) = (context.tenant.as_str(), context.replica.as_str());
    let mut conn = servers.connect(Role::Gateway).await?;
    conn.begin().await?;
    let last = lock(&mut conn, tenant, replica).await?;
    if !starting && !last.instance.is_empty() && last.instance != instance {
        return Err(StoreError::unavailable("another process runs under this gateway's name"));
    }
    let epoch = last.epoch + 1;
    conn.execute(
        "UPDATE stream SET epoch = $3, seq = 0, instance = $4, beat = now()
          WHERE tenant = $1 AND replica = $2",
        &[
            Column::Text(tenant),
            Column::Text(replica),
            Column::Int(int(epoch)),
            Column::Text(instance),
        ],
    )
    .await?;
    let time = last_time(&mut conn, tenant, replica, &last).await?;
    let (prev, clock_ms) = (Hash([0; 32]), time.ms);
    let open = HashMap::new();
    let mut head = Head { frontier: None, epoch, seq: 1, prev, time, clock_ms, open };
    if last.instance.is_empty() {
        conn.commit().await?;
        return Ok((conn, head));
    }
    let why = if starting { "unclean_stop" } else { "connection_lost" };
    let mut gap = gap(context, why, (replica, last.epoch, last.seq))?;
    let mut batch = Batch::new(&mut conn, tenant, replica, context.clock.now_ms(), head);
    batch.run(&mut gap, Work::Record(Vec::new())).await??;
    head = batch.commit().await?;
    Ok((conn, head))
}

/// Prepares the record that names the last known place of a stream.
fn gap(context: &Context, why: &str, last: (&str, u64, u64)) -> Result<Prepared, StoreError> {
    let (replica, epoch, seq) = last;
    let draft = Draft::new(RecordId((context.ids)()), Kind::Gap)
        .with("gap", why)
        .with("last", json!({ "replica": replica, "epoch": epoch, "seq": seq }));
    Prepared::public(&draft, &context.tenant)
}

/// Reads a stream's row and keeps others from changing it until the transaction ends.
async fn lock(conn: &mut Conn, tenant: &str, replica: &str) -> Result<Stream, StoreError> {
    let sql =
        "SELECT epoch, seq, instance FROM stream WHERE tenant = $1 AND replica = $2 FOR UPDATE";
    let row = conn.fetch_one(sql, &[Column::Text(tenant), Column::Text(replica)]).await?;
    Ok(Stream {
        epoch: unsigned(row.get(0)?, "stream.epoch")?,
        seq: unsigned(row.get(1)?, "stream.seq")?,
        instance: row.get(2)?,
    })
}

/// Returns the time of a stream's last record.
async fn last_time(
    conn: &mut Conn,
    tenant: &str,
    replica: &str,
    last: &Stream,
) -> Result<Hlc, StoreError> {
    let row = conn
        .fetch_optional(
            "SELECT body FROM intake
              WHERE tenant = $1 AND replica = $2 AND epoch <= $3 ORDER BY epoch DESC, seq DESC LIMIT 1",
            &[Column::Text(tenant), Column::Text(replica), Column::Int(int(last.epoch))],
        )
        .await?;
    let Some(row) = row else { return Ok(Hlc::default()) };
    let body: Vec<u8> = row.get(0)?;
    let leaf = Leaf::parse(&body)
        .map_err(|error| StoreError::corrupt(format!("the last record of `{replica}`: {error}")))?;
    Ok(Hlc { ms: i64::try_from(leaf.time.ms).unwrap_or(i64::MAX), n: leaf.time.n })
}

/// Says that the gateway is alive; false if another process has taken the stream over.
pub(crate) async fn beat(
    conn: &mut Conn,
    tenant: &str,
    replica: &str,
    epoch: u64,
) -> Result<bool, sqlx::Error> {
    let sql = "UPDATE stream SET beat = now() WHERE tenant = $1 AND replica = $2 AND epoch = $3";
    let args = [Column::Text(tenant), Column::Text(replica), Column::Int(int(epoch))];
    Ok(conn.execute(sql, &args).await? == 1)
}

/// Marks a clean stop.
pub(crate) async fn mark_stopped(
    conn: &mut Conn,
    tenant: &str,
    replica: &str,
    epoch: u64,
) -> Result<(), StoreError> {
    let sql = "UPDATE stream SET instance = '' WHERE tenant = $1 AND replica = $2 AND epoch = $3";
    let args = [Column::Text(tenant), Column::Text(replica), Column::Int(int(epoch))];
    conn.execute(sql, &args).await?;
    Ok(())
}

/// A gateway that has not been heard of for long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) replica: String,
    pub(crate) epoch: u64,
}

/// Returns the other gateways whose process ended without a word, or hangs.
pub(crate) async fn lost(db: &Pool, tenant: &str, own: &str) -> Result<Vec<Lost>, StoreError> {
    let rows = db
        .fetch_all(
            "SELECT replica, epoch FROM stream WHERE tenant = $1 AND replica <> $2 AND instance <> ''
                AND beat < now() - interval '30 seconds'",
            &[Column::Text(tenant), Column::Text(own)],
        )
        .await?;
    rows.iter()
        .map(|row| Ok(Lost { replica: row.get(0)?, epoch: unsigned(row.get(1)?, "stream.epoch")? }))
        .collect()
}

impl Lost {
    /// Fences the lost gateway and returns what closes its stream: a gap record, and the calls that it
    /// left open. `None` if it is back, or another gateway was faster.
    pub(crate) async fn take(
        &self,
        conn: &mut Conn,
        context: &Context,
    ) -> Result<Option<(Prepared, Vec<RecordId>)>, StoreError> {
        let Self { replica, epoch } = self;
        let tenant = context.tenant.as_str();
        let stream = lock(conn, tenant, replica).await?;
        if stream.epoch != *epoch || stream.instance.is_empty() {
            return Ok(None);
        }
        conn.execute(
            "UPDATE stream SET epoch = epoch + 1, seq = 0, instance = ''
              WHERE tenant = $1 AND replica = $2",
            &[Column::Text(tenant), Column::Text(replica)],
        )
        .await?;
        let calls = open_calls(conn, tenant, replica).await?;
        Ok(Some((gap(context, "gateway_lost", (replica, *epoch, stream.seq))?, calls)))
    }
}

/// Returns the calls that a gateway has open, oldest first.
pub(crate) async fn open_calls(
    conn: &mut Conn,
    tenant: &str,
    replica: &str,
) -> Result<Vec<RecordId>, StoreError> {
    let rows = conn
        .fetch_all(
            "SELECT record FROM open_call
              WHERE tenant = $1 AND replica = $2 AND state = 'open' ORDER BY record",
            &[Column::Text(tenant), Column::Text(replica)],
        )
        .await?;
    rows.iter().map(|row| crate::batch::record_from(&row.get::<Vec<u8>>(0)?)).collect()
}
