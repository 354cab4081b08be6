//! Opens SQLite the way the ledger needs it, and checks that it obeyed.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use crate::StoreError;

/// The database's file in the data folder.
pub(crate) const FILE: &str = "countersign.db";

/// Oldest SQLite without the WAL-reset fault of 3.7.0 to 3.51.2.
const VERSION_MIN: (u32, u32, u32) = (3, 51, 3);

/// Connections of a pool of readers.
const READERS_MAX: u32 = 4;

/// The schema, one text per version.
pub(crate) const MIGRATIONS: &[(i64, &str)] = &[
    (1, include_str!("../../migrations/sqlite/0001_ledger.sql")),
    (2, include_str!("../../migrations/sqlite/0002_privacy.sql")),
    (3, include_str!("../../migrations/sqlite/0003_close.sql")),
    (4, include_str!("../../migrations/sqlite/0004_executions.sql")),
];

/// How long the writer waits for readers each time that an erasure asks it to empty its log.
const TRUNCATE_WAIT: Duration = Duration::from_millis(50);

fn options(path: &Path, busy: Duration) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(busy)
        .foreign_keys(true)
        .pragma("mmap_size", "0")
        .disable_statement_logging()
        .statement_cache_capacity(256)
}

/// Opens the one writing connection and reads its settings back.
pub(crate) async fn open_writer(
    path: &Path,
    busy: Duration,
    create: bool,
) -> Result<SqliteConnection, StoreError> {
    let options = options(path, busy)
        .create_if_missing(create)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("fullfsync", "1")
        .pragma("secure_delete", "ON")
        .pragma("wal_autocheckpoint", "0");
    let mut conn = SqliteConnection::connect_with(&options).await?;
    check_version(&mut conn).await?;
    check_settings(&mut conn).await?;
    Ok(conn)
}

/// Opens a pool that cannot write and never moves the write-ahead log.
pub(crate) async fn open_readers(path: &Path) -> Result<SqlitePool, StoreError> {
    let options = options(path, Duration::from_secs(2))
        .create_if_missing(false)
        .read_only(true)
        .pragma("query_only", "ON");
    Ok(SqlitePoolOptions::new()
        .max_connections(READERS_MAX)
        .acquire_timeout(Duration::from_secs(5))
        .connect_with(options)
        .await?)
}

async fn check_version(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let text: String = sqlx::query_scalar("SELECT sqlite_version()").fetch_one(conn).await?;
    let mut parts = text.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    if (part(), part(), part()) >= VERSION_MIN {
        return Ok(());
    }
    let (major, minor, patch) = VERSION_MIN;
    let expected = format!("{major}.{minor}.{patch} or newer");
    Err(StoreError::Setting { name: "sqlite_version", expected, found: text })
}

async fn check_settings(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *conn).await?;
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
        let found: Option<i64> = sqlx::query_scalar(sql).fetch_optional(&mut *conn).await?;
        let found = found.unwrap_or(0);
        if found != expected {
            let (expected, found) = (expected.to_string(), found.to_string());
            return Err(StoreError::Setting { name, expected, found });
        }
    }
    Ok(())
}

/// Brings the schema up to date, each version in a transaction of its own.
pub(crate) async fn migrate(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *conn).await?;
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
        let mut tx = conn.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(*sql).execute(&mut *tx).await?;
        match version {
            1 => sqlx::raw_sql("PRAGMA user_version = 1").execute(&mut *tx).await?,
            2 => sqlx::raw_sql("PRAGMA user_version = 2").execute(&mut *tx).await?,
            3 => sqlx::raw_sql("PRAGMA user_version = 3").execute(&mut *tx).await?,
            4 => sqlx::raw_sql("PRAGMA user_version = 4").execute(&mut *tx).await?,
            _ => return Err(StoreError::corrupt("a migration without a version")),
        };
        tx.commit().await?;
    }
    Ok(())
}

/// Moves the whole write-ahead log into the database and empties it; both are synced.
pub(crate) async fn truncate_wal(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let (busy, _, _): (i64, i64, i64) =
        sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(conn).await?;
    if busy == 0 {
        Ok(())
    } else {
        Err(StoreError::unavailable("the write-ahead log is in use by a reader"))
    }
}

/// Does what [`truncate_wal`] does without waiting long for readers; others wait for the writer meanwhile.
pub(crate) async fn truncate_wal_within(
    conn: &mut SqliteConnection,
    busy: Duration,
) -> Result<(), StoreError> {
    busy_timeout(conn, TRUNCATE_WAIT).await?;
    let done = truncate_wal(conn).await;
    busy_timeout(conn, busy).await?;
    done
}

async fn busy_timeout(conn: &mut SqliteConnection, wait: Duration) -> Result<(), StoreError> {
    // A pragma takes no parameters.
    let sql = sqlx::AssertSqlSafe(format!("PRAGMA busy_timeout = {}", wait.as_millis()));
    sqlx::raw_sql(sql).execute(conn).await?;
    Ok(())
}

/// Moves what it can of the write-ahead log; returns how many pages the log has.
pub(crate) async fn checkpoint_wal(conn: &mut SqliteConnection) -> Result<i64, StoreError> {
    let (_, pages, _): (i64, i64, i64) =
        sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(conn).await?;
    Ok(pages)
}
