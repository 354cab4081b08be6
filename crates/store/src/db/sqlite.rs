//! Opens SQLite the way the ledger needs it, and checks that it obeyed.
//!
//! The writing connection is called in place, by the thread that owns it; readers are a pool whose
//! connections have threads of their own.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{CachedStatement, Connection, OpenFlags};
use sqlx::ConnectOptions as _;
use sqlx::error::{DatabaseError, ErrorKind};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};

use super::Column;
use crate::StoreError;

/// The database's file in the data folder.
pub(crate) const FILE: &str = "countersign.db";

/// Oldest SQLite without the WAL-reset fault of 3.7.0 to 3.51.2.
const VERSION_MIN: (u32, u32, u32) = (3, 51, 3);

/// Connections of a pool of readers.
const READERS_MAX: u32 = 4;

/// How long a reader waits for a lock.
const READER_BUSY: Duration = Duration::from_secs(2);

/// The schema, one text per version.
pub(crate) const MIGRATIONS: &[(i64, &str)] = &[
    (1, include_str!("../../migrations/sqlite/0001_ledger.sql")),
    (2, include_str!("../../migrations/sqlite/0002_privacy.sql")),
    (3, include_str!("../../migrations/sqlite/0003_close.sql")),
    (4, include_str!("../../migrations/sqlite/0004_executions.sql")),
    (5, include_str!("../../migrations/sqlite/0005_retention.sql")),
];

/// How long the writer waits for readers each time that an erasure asks it to empty its log.
const TRUNCATE_WAIT: Duration = Duration::from_millis(50);

/// Prepared statements that the writing connection keeps.
const STATEMENTS_KEPT: usize = 64;

/// Opens the one writing connection and reads its settings back.
pub(crate) fn open_writer(
    path: &Path,
    busy: Duration,
    create: bool,
) -> Result<Connection, StoreError> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    flags.set(OpenFlags::SQLITE_OPEN_CREATE, create);
    let conn = Connection::open_with_flags(path, flags).map_err(failed)?;
    conn.busy_timeout(busy).map_err(failed)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    run_script(
        &conn,
        "PRAGMA mmap_size = 0;
         PRAGMA foreign_keys = ON;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA fullfsync = 1;
         PRAGMA secure_delete = ON;
         PRAGMA wal_autocheckpoint = 0",
    )?;
    check_version(&conn)?;
    check_settings(&conn)?;
    Ok(conn)
}

/// Opens a connection that cannot write, for who holds the data folder's lock.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags).map_err(failed)?;
    conn.busy_timeout(READER_BUSY).map_err(failed)?;
    Ok(conn)
}

/// Opens a pool that cannot write and never moves the write-ahead log.
pub(crate) async fn open_readers(path: &Path) -> Result<SqlitePool, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(READER_BUSY)
        .foreign_keys(true)
        .pragma("mmap_size", "0")
        .disable_statement_logging()
        .statement_cache_capacity(256)
        .create_if_missing(false)
        .read_only(true)
        .pragma("query_only", "ON");
    Ok(SqlitePoolOptions::new()
        .max_connections(READERS_MAX)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(options)
        .await?)
}

fn check_version(conn: &Connection) -> Result<(), StoreError> {
    let text: String = one(conn, "SELECT sqlite_version()")?;
    let mut parts = text.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    if (part(), part(), part()) >= VERSION_MIN {
        return Ok(());
    }
    let (major, minor, patch) = VERSION_MIN;
    let expected = format!("{major}.{minor}.{patch} or newer");
    Err(StoreError::Setting { name: "sqlite_version", expected, found: text })
}

fn check_settings(conn: &Connection) -> Result<(), StoreError> {
    let mode: String = one(conn, "PRAGMA journal_mode")?;
    if mode != "wal" {
        let expected = "wal".to_owned();
        return Err(StoreError::Setting { name: "journal_mode", expected, found: mode });
    }
    for (name, sql, expected) in [
        ("synchronous", "PRAGMA synchronous", 2),
        ("fullfsync", "PRAGMA fullfsync", 1),
        ("mmap_size", "PRAGMA mmap_size", 0),
        ("secure_delete", "PRAGMA secure_delete", 1),
        ("foreign_keys", "PRAGMA foreign_keys", 1),
        ("wal_autocheckpoint", "PRAGMA wal_autocheckpoint", 0),
    ] {
        // A build without memory maps has no row for their size.
        let found = match conn.query_row(sql, [], |row| row.get(0)) {
            Err(rusqlite::Error::QueryReturnedNoRows) => 0,
            found => found.map_err(failed)?,
        };
        if found != expected {
            let (expected, found) = (expected.to_string(), found.to_string());
            return Err(StoreError::Setting { name, expected, found });
        }
    }
    Ok(())
}

/// Brings the schema up to date, each version in a transaction of its own.
pub(crate) fn migrate(conn: &mut Connection) -> Result<(), StoreError> {
    let found: i64 = one(conn, "PRAGMA user_version")?;
    let known = MIGRATIONS.last().map_or(0, |(version, _)| *version);
    if found > known {
        let expected = format!("at most {known}");
        return Err(StoreError::Setting {
            name: "user_version",
            expected,
            found: found.to_string(),
        });
    }
    for (version, sql) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
        let tx = conn
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(failed)?;
        run_script(&tx, sql)?;
        tx.pragma_update(None, "user_version", version).map_err(failed)?;
        tx.commit().map_err(failed)?;
    }
    Ok(())
}

/// Moves the whole write-ahead log into the database and empties it; both are synced.
pub(crate) fn truncate_wal(conn: &Connection) -> Result<(), StoreError> {
    let busy: i64 = one(conn, "PRAGMA wal_checkpoint(TRUNCATE)")?;
    if busy == 0 {
        Ok(())
    } else {
        Err(StoreError::unavailable("the write-ahead log is in use by a reader"))
    }
}

/// Does what [`truncate_wal`] does without waiting long for readers; others wait for the writer meanwhile.
pub(crate) fn truncate_wal_within(conn: &Connection, busy: Duration) -> Result<(), StoreError> {
    conn.busy_timeout(TRUNCATE_WAIT).map_err(failed)?;
    let done = truncate_wal(conn);
    conn.busy_timeout(busy).map_err(failed)?;
    done
}

/// Moves what it can of the write-ahead log; returns how many pages the log has.
pub(crate) fn checkpoint_wal(conn: &Connection) -> Result<i64, StoreError> {
    let pages = conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(1));
    Ok(pages.map_err(failed)?)
}

/// Runs statements that take nothing; what they answer is dropped.
fn run_script(conn: &Connection, sql: &'static str) -> Result<(), sqlx::Error> {
    conn.execute_batch(sql).map_err(failed)
}

/// Returns the first column of the one row of an answer.
fn one<T: rusqlite::types::FromSql>(
    conn: &Connection,
    sql: &'static str,
) -> Result<T, sqlx::Error> {
    conn.query_row(sql, [], |row| row.get(0)).map_err(failed)
}

/// Runs a statement; returns how many rows were changed.
pub(crate) fn execute(
    conn: &Connection,
    sql: &'static str,
    args: &[Column<'_>],
) -> Result<u64, sqlx::Error> {
    let mut statement = bound(conn, sql, args).map_err(failed)?;
    // Not `raw_execute`, which refuses statements that answer with rows.
    let mut rows = statement.raw_query();
    while rows.next().map_err(failed)?.is_some() {}
    Ok(conn.changes())
}

/// Returns the rows of an answer.
pub(crate) fn fetch(
    conn: &Connection,
    sql: &'static str,
    args: &[Column<'_>],
) -> Result<Vec<Vec<Value>>, sqlx::Error> {
    let mut statement = bound(conn, sql, args).map_err(failed)?;
    let columns = statement.column_count();
    let mut rows = statement.raw_query();
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(failed)? {
        let values = (0..columns).map(|column| row.get(column));
        found.push(values.collect::<Result<_, _>>().map_err(failed)?);
    }
    Ok(found)
}

/// Returns a statement with its arguments. SQLite takes `$1` for a name and counts parameters by when they
/// first occur; the number in the name says which argument is meant.
fn bound<'c>(
    conn: &'c Connection,
    sql: &'static str,
    args: &[Column<'_>],
) -> rusqlite::Result<CachedStatement<'c>> {
    let mut statement = conn.prepare_cached(sql)?;
    for place in 1..=statement.parameter_count() {
        let number = statement.parameter_name(place).and_then(|name| name.get(1..)?.parse().ok());
        let arg = number.and_then(|number: usize| args.get(number.checked_sub(1)?));
        match arg.ok_or(rusqlite::Error::InvalidParameterCount(args.len(), place))? {
            Column::Int(value) => statement.raw_bind_parameter(place, value)?,
            Column::Text(value) => statement.raw_bind_parameter(place, value)?,
            Column::Blob(value) => statement.raw_bind_parameter(place, value)?,
        }
    }
    Ok(statement)
}

/// An error of the writing connection.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Failure {
    text: String,
    source: rusqlite::Error,
}

impl DatabaseError for Failure {
    fn message(&self) -> &str {
        &self.text
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

/// Wraps an error of the writing connection in the type that those of all others have.
pub(crate) fn failed(source: rusqlite::Error) -> sqlx::Error {
    sqlx::Error::Database(Box::new(Failure { text: source.to_string(), source }))
}
