//! Where the log stands, read from the database.

use std::collections::HashMap;

use countersign_ledger::hash::sha256;
use countersign_ledger::leaf::{Leaf, Time};
use countersign_ledger::{Frontier, Hash};

use crate::StoreError;
use crate::batch::Head;
use crate::clock::Hlc;
use crate::db::{Column, Conn, int, row_sum, unsigned};

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

pub(crate) async fn load_coord(conn: &mut Conn, tenant: &str) -> Result<Option<Coord>, StoreError> {
    let sql = "SELECT leader, epoch FROM coord WHERE tenant = $1";
    let Some(row) = conn.fetch_optional(sql, &[Column::Text(tenant)]).await? else {
        return Ok(None);
    };
    Ok(Some(Coord { leader: row.get(0)?, epoch: unsigned(row.get(1)?, "epoch")? }))
}

/// Notes whose store it is; nothing has run yet.
pub(crate) async fn create_coord(conn: &mut Conn, tenant: &str) -> Result<(), StoreError> {
    let sql = "INSERT INTO coord (tenant, leader, epoch, sum) VALUES ($1, '', 0, $2)";
    conn.execute(sql, &[Column::Text(tenant), Column::Blob(&coord_sum(tenant, "", 0))]).await?;
    Ok(())
}

/// Begins an epoch: the number after the last one, fenced by it.
pub(crate) async fn begin_epoch(
    conn: &mut Conn,
    tenant: &str,
    replica: &str,
    last: u64,
) -> Result<u64, StoreError> {
    let epoch = last + 1;
    let sql = "UPDATE coord SET leader = $2, epoch = $3, sum = $4 WHERE tenant = $1 AND epoch = $5";
    let args = [
        Column::Text(tenant),
        Column::Text(replica),
        Column::Int(int(epoch)),
        Column::Blob(&coord_sum(tenant, replica, int(epoch))),
        Column::Int(int(last)),
    ];
    let rows = conn.execute(sql, &args).await?;
    if rows == 1 { Ok(epoch) } else { Err(StoreError::unavailable("another writer took over")) }
}

/// Marks a clean stop of the running epoch.
pub(crate) async fn mark_stopped(
    conn: &mut Conn,
    tenant: &str,
    epoch: u64,
) -> Result<(), StoreError> {
    let sql = "UPDATE coord SET leader = '', sum = $3 WHERE tenant = $1 AND epoch = $2";
    let (epoch, sum) = (int(epoch), coord_sum(tenant, "", int(epoch)));
    conn.execute(sql, &[Column::Text(tenant), Column::Int(epoch), Column::Blob(&sum)]).await?;
    Ok(())
}

/// The last leaf of the log and its place.
pub(crate) struct Last {
    pub(crate) leaf: Leaf,
    pub(crate) body: Vec<u8>,
}

/// Reads the last leaf of the log.
pub(crate) async fn load_last(
    conn: &mut Conn,
    tenant: &str,
    size: u64,
) -> Result<Option<Last>, StoreError> {
    let Some(index) = size.checked_sub(1) else { return Ok(None) };
    let row = conn
        .fetch_optional(
            "SELECT i.body FROM leaf l JOIN intake i ON i.tenant = l.tenant
                AND i.replica = l.replica AND i.epoch = l.epoch AND i.seq = l.seq
              WHERE l.tenant = $1 AND l.idx = $2",
            &[Column::Text(tenant), Column::Int(int(index))],
        )
        .await?;
    let row = row.ok_or_else(|| StoreError::corrupt(format!("leaf {index} is missing")))?;
    let body: Vec<u8> = row.get(0)?;
    let leaf = Leaf::parse(&body)
        .map_err(|error| StoreError::corrupt(format!("leaf {index}: {error}")))?;
    Ok(Some(Last { leaf, body }))
}

pub(crate) async fn load_frontier(conn: &mut Conn, tenant: &str) -> Result<Frontier, StoreError> {
    let tenant = [Column::Text(tenant)];
    let sql = "SELECT size, edge, root FROM frontier WHERE tenant = $1";
    let row = conn.fetch_optional(sql, &tenant).await?;
    let sql = "SELECT coalesce(max(idx) + 1, 0) FROM leaf WHERE tenant = $1";
    let leaves: i64 = conn.fetch_one(sql, &tenant).await?.get(0)?;
    let frontier = match row {
        None => Frontier::new(),
        Some(row) => {
            let edge: Vec<u8> = row.get(1)?;
            let frontier = Frontier::from_bytes(&edge)
                .map_err(|error| StoreError::corrupt(format!("frontier: {error}")))?;
            let (size, root): (i64, Vec<u8>) = (row.get(0)?, row.get(2)?);
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
    conn: &mut Conn,
    tenant: &str,
    replica: &str,
) -> Result<Head, StoreError> {
    let frontier = load_frontier(conn, tenant).await?;
    let last = load_last(conn, tenant, frontier.size().0).await?;
    let epoch = load_coord(conn, tenant).await?.map_or(0, |coord| coord.epoch);
    let (prev, time) = (Hash([0; 32]), Hlc::default());
    let open = HashMap::new();
    let mut head = Head { frontier: Some(frontier), epoch, seq: 1, prev, time, clock_ms: 0, open };
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
