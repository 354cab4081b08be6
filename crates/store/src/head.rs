//! Where the log stands, read from the database.

use countersign_ledger::hash::sha256;
use countersign_ledger::leaf::{Leaf, Time};
use countersign_ledger::{Frontier, Hash};
use sqlx::{Connection as _, Row as _, SqliteConnection};

use crate::StoreError;
use crate::batch::Head;
use crate::clock::Hlc;
use crate::db::{Column, int, row_sum, unsigned};

/// Who runs, and in which epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Coord {
    /// Empty after a clean stop.
    pub(crate) leader: String,
    pub(crate) epoch: u64,
}

/// Returns the sum of a row of `coord`.
pub(crate) fn coord_sum(tenant: &str, leader: &str, epoch: i64) -> Vec<u8> {
    row_sum("coord", &[Column::Text(tenant), Column::Text(leader), Column::Int(epoch)])
}

pub(crate) async fn load_coord(
    conn: &mut SqliteConnection,
    tenant: &str,
) -> Result<Option<Coord>, StoreError> {
    let row = sqlx::query("SELECT leader, epoch FROM coord WHERE tenant = $1")
        .bind(tenant)
        .fetch_optional(conn)
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Coord { leader: row.try_get(0)?, epoch: unsigned(row.try_get(1)?, "epoch")? }))
}

/// Notes whose store it is; nothing has run yet.
pub(crate) async fn create_coord(
    conn: &mut SqliteConnection,
    tenant: &str,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO coord (tenant, leader, epoch, sum) VALUES ($1, '', 0, $2)")
        .bind(tenant)
        .bind(coord_sum(tenant, "", 0))
        .execute(conn)
        .await?;
    Ok(())
}

/// Begins an epoch: the number after the last one, fenced by it.
pub(crate) async fn begin_epoch(
    conn: &mut SqliteConnection,
    tenant: &str,
    replica: &str,
    last: u64,
) -> Result<u64, StoreError> {
    let epoch = last + 1;
    let rows = sqlx::query(
        "UPDATE coord SET leader = $2, epoch = $3, sum = $4 WHERE tenant = $1 AND epoch = $5",
    )
    .bind(tenant)
    .bind(replica)
    .bind(int(epoch))
    .bind(coord_sum(tenant, replica, int(epoch)))
    .bind(int(last))
    .execute(conn)
    .await?
    .rows_affected();
    if rows == 1 { Ok(epoch) } else { Err(StoreError::unavailable("another writer took over")) }
}

/// Marks a clean stop of the running epoch.
pub(crate) async fn mark_stopped(
    conn: &mut SqliteConnection,
    tenant: &str,
    epoch: u64,
) -> Result<(), StoreError> {
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::query("UPDATE coord SET leader = '', sum = $3 WHERE tenant = $1 AND epoch = $2")
        .bind(tenant)
        .bind(int(epoch))
        .bind(coord_sum(tenant, "", int(epoch)))
        .execute(&mut *tx)
        .await?;
    tx.commit().await?;
    Ok(())
}

/// The last leaf of the log and its place.
pub(crate) struct Last {
    pub(crate) leaf: Leaf,
    pub(crate) body: Vec<u8>,
}

/// Reads the last leaf of the log.
pub(crate) async fn load_last(
    conn: &mut SqliteConnection,
    tenant: &str,
    size: u64,
) -> Result<Option<Last>, StoreError> {
    let Some(index) = size.checked_sub(1) else { return Ok(None) };
    let body: Option<Vec<u8>> = sqlx::query_scalar(
        "SELECT i.body FROM leaf l JOIN intake i ON i.tenant = l.tenant
            AND i.replica = l.replica AND i.epoch = l.epoch AND i.seq = l.seq
          WHERE l.tenant = $1 AND l.idx = $2",
    )
    .bind(tenant)
    .bind(int(index))
    .fetch_optional(conn)
    .await?;
    let body = body.ok_or_else(|| StoreError::corrupt(format!("leaf {index} is missing")))?;
    let leaf = Leaf::parse(&body)
        .map_err(|error| StoreError::corrupt(format!("leaf {index}: {error}")))?;
    Ok(Some(Last { leaf, body }))
}

pub(crate) async fn load_frontier(
    conn: &mut SqliteConnection,
    tenant: &str,
) -> Result<Frontier, StoreError> {
    let row = sqlx::query("SELECT size, edge, root FROM frontier WHERE tenant = $1")
        .bind(tenant)
        .fetch_optional(&mut *conn)
        .await?;
    let leaves: i64 =
        sqlx::query_scalar("SELECT coalesce(max(idx) + 1, 0) FROM leaf WHERE tenant = $1")
            .bind(tenant)
            .fetch_one(conn)
            .await?;
    let frontier = match row {
        None => Frontier::new(),
        Some(row) => {
            let edge: Vec<u8> = row.try_get(1)?;
            let frontier = Frontier::from_bytes(&edge)
                .map_err(|error| StoreError::corrupt(format!("frontier: {error}")))?;
            let (size, root): (i64, Vec<u8>) = (row.try_get(0)?, row.try_get(2)?);
            if size != int(frontier.size().0) || root != frontier.root().0 {
                return Err(StoreError::corrupt("frontier: size, edge and root differ"));
            }
            frontier
        }
    };
    if leaves == int(frontier.size().0) {
        Ok(frontier)
    } else {
        Err(StoreError::corrupt(format!("{leaves} leaves, frontier of {}", frontier.size())))
    }
}

/// Reads the writer's place in tree and stream.
pub(crate) async fn load_head(
    conn: &mut SqliteConnection,
    tenant: &str,
    replica: &str,
) -> Result<Head, StoreError> {
    let frontier = load_frontier(conn, tenant).await?;
    let last = load_last(conn, tenant, frontier.size().0).await?;
    let epoch = load_coord(conn, tenant).await?.map_or(0, |coord| coord.epoch);
    let (prev, time) = (Hash([0; 32]), Hlc::default());
    let mut head = Head { frontier, epoch, seq: 1, prev, time, clock_ms: 0 };
    if let Some(Last { leaf, body }) = last {
        let Time { ms, n } = leaf.time;
        head.time = Hlc { ms: i64::try_from(ms).unwrap_or(i64::MAX), n };
        head.clock_ms = head.time.ms;
        if leaf.gw.replica == replica && leaf.gw.epoch == epoch {
            head.seq = leaf.gw.seq + 1;
            head.prev = sha256(&body);
        }
    }
    Ok(head)
}
