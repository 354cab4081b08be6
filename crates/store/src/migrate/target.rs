//! The PostgreSQL side: it must be empty, its streams are made, and what was copied is derived again.

use countersign_ledger::hash::sha256;
use countersign_ledger::{Frontier, leaf_hash};
use sqlx::postgres::PgConnection;

use super::moved::Marker;
use super::tables::TABLES;
use super::{MigrateError, within};
use crate::StoreError;
use crate::db::postgres::Servers;
use crate::db::{Column, Conn, Row, int, unsigned};
use crate::head::{Coord, load_frontier};

/// Leaves that one query reads back.
const PAGE: i64 = 1_000;

/// What stands in `stream.instance` of a gateway that did not stop cleanly on SQLite.
const UNCLEAN: &str = "sqlite";

/// What stops a transaction that hangs from keeping its rows for ever; between two statements lies a look
/// through a whole table of the source.
const IDLE: &str = "SET LOCAL idle_in_transaction_session_timeout = '10min'";

/// Looks whether a ledger that may have moved is there, whole and as it was; returns the rows of its tables.
pub(super) async fn arrived(
    servers: &Servers,
    tenant: &str,
    marker: &Marker,
) -> Result<Option<Vec<(&'static str, u64)>>, MigrateError> {
    let mut target = servers.connect_as_user().await?;
    // The streams come with the copy: an empty ledger is told from none.
    let streams = "SELECT count(*) FROM stream WHERE tenant = $1";
    if !has_tables(&mut target).await? || count(&mut target, streams, tenant).await? == 0 {
        return Ok(None);
    }
    let frontier = load_frontier(&mut target, tenant).await?;
    if (frontier.size().0, frontier.root().to_string()) != (marker.size, marker.root.clone()) {
        return Ok(None);
    }
    let mut rows = Vec::with_capacity(TABLES.len());
    for table in TABLES {
        rows.push((table.name, count(&mut target, table.count, tenant).await?));
    }
    Ok(Some(rows))
}

async fn has_tables(target: &mut Conn) -> Result<bool, MigrateError> {
    let found = within(target.fetch_one("SELECT to_regclass('stream') IS NOT NULL", &[])).await?;
    Ok(found.get(0)?)
}

/// Connects to a target in which the tenant has nothing.
pub(super) async fn connect(servers: &Servers, tenant: &str) -> Result<Conn, MigrateError> {
    let mut target = servers.connect_as_user().await?;
    must_be_empty(&mut target, tenant).await?;
    Ok(target)
}

async fn must_be_empty(target: &mut Conn, tenant: &str) -> Result<(), MigrateError> {
    if !has_tables(target).await? {
        return Ok(());
    }
    let own = [
        ("stream", "SELECT count(*) FROM stream WHERE tenant = $1"),
        ("position", "SELECT count(*) FROM position WHERE tenant = $1"),
    ];
    for (table, sql) in TABLES.iter().map(|table| (table.name, table.count)).chain(own) {
        let rows = count(target, sql, tenant).await?;
        if rows > 0 {
            return Err(MigrateError::NotEmpty { tenant: tenant.to_owned(), table, rows });
        }
    }
    Ok(())
}

/// Counts a tenant's rows in either database.
pub(super) async fn count(
    conn: &mut Conn,
    sql: &'static str,
    tenant: &str,
) -> Result<u64, MigrateError> {
    let row = within(conn.fetch_one(sql, &[Column::Text(tenant)])).await?;
    Ok(unsigned(row.get(0)?, "a count")?)
}

/// How far a gateway's stream reaches in the log.
struct Reach {
    replica: String,
    epoch: i64,
    seq: i64,
    last: [u8; 32],
}

async fn reaches(source: &mut Conn) -> Result<Vec<Reach>, MigrateError> {
    let rows = source.fetch_all(
        "SELECT l.replica, l.epoch, l.seq, i.body FROM leaf l
           JOIN intake i ON i.tenant = l.tenant AND i.replica = l.replica
            AND i.epoch = l.epoch AND i.seq = l.seq
          WHERE l.idx IN (SELECT max(idx) FROM leaf GROUP BY replica) ORDER BY l.replica",
        &[],
    );
    let read = |row: &Row| -> Result<Reach, sqlx::Error> {
        let body: Vec<u8> = row.get(3)?;
        let (replica, last) = (row.get(0)?, sha256(&body).0);
        Ok(Reach { replica, epoch: row.get(1)?, seq: row.get(2)?, last })
    };
    Ok(rows.await?.iter().map(read).collect::<Result<_, _>>()?)
}

/// Opens the transaction and makes the row of the gateway that goes on: whoever registers on this tenant
/// meanwhile waits for it.
pub(super) async fn begin(
    target: &mut Conn,
    tenant: &str,
    replica: &str,
    coord: &Coord,
) -> Result<(), MigrateError> {
    target.begin().await?;
    target.execute(IDLE, &[]).await?;
    target.execute("SET LOCAL lock_timeout = '10s'", &[]).await?;
    insert_stream(target, tenant, (replica, 0), coord).await
}

/// Makes the rows of streams, each at the place where the log has its last record, and lets the next
/// sequencer's epoch come after every one there was.
pub(super) async fn put_streams(
    source: &mut Conn,
    target: &mut Conn,
    tenant: &str,
    replica: &str,
    coord: &Coord,
) -> Result<(), MigrateError> {
    let reaches = reaches(source).await?;
    let mut others: Vec<&str> = reaches.iter().map(|reach| reach.replica.as_str()).collect();
    if !coord.leader.is_empty() && !others.contains(&coord.leader.as_str()) {
        others.push(&coord.leader);
    }
    others.retain(|other| *other != replica);
    for (number, other) in (1..).zip(others) {
        insert_stream(target, tenant, (other, number), coord).await?;
    }
    for Reach { replica, epoch, seq, last } in &reaches {
        let position = [
            Column::Text(tenant),
            Column::Text(replica),
            Column::Int(*epoch),
            Column::Int(*seq),
            Column::Blob(last),
        ];
        let sql = "INSERT INTO position (tenant, replica, epoch, seq, last)
                   VALUES ($1, $2, $3, $4, $5)";
        within(target.execute(sql, &position)).await?;
        let sql = "UPDATE stream SET seq = $4 WHERE tenant = $1 AND replica = $2 AND epoch = $3";
        within(target.execute(sql, position.get(..4).unwrap_or_default())).await?;
    }
    let sql = "UPDATE coord SET epoch = $2 WHERE tenant = $1";
    let args = [Column::Text(tenant), Column::Int(int(coord.epoch))];
    within(target.execute(sql, &args)).await?;
    Ok(())
}

/// Makes a stream's row. SQLite counts one epoch for all of them: the next one begins after it.
async fn insert_stream(
    target: &mut Conn,
    tenant: &str,
    (replica, number): (&str, i64),
    coord: &Coord,
) -> Result<(), MigrateError> {
    let instance = if coord.leader == replica { UNCLEAN } else { "" };
    let args = [
        Column::Text(tenant),
        Column::Text(replica),
        Column::Int(number),
        Column::Int(int(coord.epoch)),
        Column::Text(instance),
    ];
    let sql = "INSERT INTO stream (tenant, replica, number, epoch, seq, instance, beat)
               VALUES ($1, $2, $3, $4, 0, $5, now())";
    within(target.execute(sql, &args)).await?;
    Ok(())
}

/// Lets the planner know how large the tables are by now, here and at the first start.
pub(super) async fn analyze(target: &mut PgConnection) -> Result<(), MigrateError> {
    let sql = "ANALYZE intake, leaf, sealed, replay, subject, idempotency, open_call, checkpoint";
    within(sqlx::query(sql).execute(target)).await?;
    Ok(())
}

/// Derives the tree from the copied bodies and compares it with the one that was there.
pub(super) async fn check_tree(
    target: &mut Conn,
    tenant: &str,
    expected: &Frontier,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<(), MigrateError> {
    let differs = |what: String| Err(MigrateError::Differs { what });
    let mut tree = Frontier::new();
    loop {
        let args = [Column::Text(tenant), Column::Int(int(tree.size().0)), Column::Int(PAGE)];
        let page = within(target.fetch_all(
            "SELECT l.idx, l.leaf_hash, i.body FROM leaf l JOIN intake i ON i.tenant = l.tenant
                AND i.replica = l.replica AND i.epoch = l.epoch AND i.seq = l.seq
              WHERE l.tenant = $1 AND l.idx >= $2 ORDER BY l.idx LIMIT $3",
            &args,
        ));
        let page = page.await?;
        if page.is_empty() {
            break;
        }
        for row in &page {
            let (index, hash): (i64, Vec<u8>) = (row.get(0)?, row.get(1)?);
            let computed = leaf_hash(&row.get::<Vec<u8>>(2)?);
            if index != int(tree.size().0) || hash != computed.0 {
                return differs(format!("leaf {}", tree.size()));
            }
            tree.push(computed);
        }
        progress(u64::try_from(page.len()).unwrap_or(u64::MAX));
    }
    if tree != *expected || load_frontier(target, tenant).await? != *expected {
        return differs(format!("a root over {} leaves", tree.size()));
    }
    Ok(())
}

/// Makes the tables, or brings them up to date, once it is sure that the tenant has nothing there.
pub(super) async fn make_tables(servers: &Servers) -> Result<(), StoreError> {
    servers.migrate().await?;
    let pool = servers.readers().await?;
    let checked = servers.check_schema(&pool).await;
    pool.close().await;
    checked
}
