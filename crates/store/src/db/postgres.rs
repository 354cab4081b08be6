//! Opens PostgreSQL the way the ledger needs it, and checks that it obeyed.

use std::str::FromStr as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::time::timeout;

use super::{Column, Conn, Pool, warnings};
use crate::StoreError;

/// The schema, one text per version.
const MIGRATIONS: &[(i64, &str)] = &[
    (1, include_str!("../../migrations/postgres/0001_ledger.sql")),
    (2, include_str!("../../migrations/postgres/0002_executions.sql")),
    (3, include_str!("../../migrations/postgres/0003_anchor.sql")),
    (4, include_str!("../../migrations/postgres/0004_retention.sql")),
    (5, include_str!("../../migrations/postgres/0005_leaf_place.sql")),
];

/// The version of the schema that this program knows.
const LATEST: i64 = 5;

/// Oldest server, as `server_version_num` has it.
const VERSION_MIN: i64 = 150_000;

/// Longest time until a connection to one server stands.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// Connections of a pool of readers.
const READERS_MAX: u32 = 4;

/// Makes migrations of one database wait for each other: "countersi" in ASCII.
const MIGRATION_LOCK: &str = "SELECT pg_advisory_xact_lock(7165075839398737257)";

/// What a connection may do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// Add records of its own gateway.
    Gateway,
    /// Order records, sign and publish.
    Sequencer,
    /// Read.
    Reader,
}

impl Role {
    fn sql(self) -> &'static str {
        match self {
            Self::Gateway => "SET ROLE countersign_gateway",
            Self::Sequencer => "SET ROLE countersign_sequencer",
            Self::Reader => "SET ROLE countersign_reader",
        }
    }
}

/// Where the database is: one server, or several of which one is the primary.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    tenant: Arc<str>,
    servers: Arc<[PgConnectOptions]>,
    /// The server that was the primary when last looked for.
    primary: Arc<AtomicUsize>,
}

/// A gateway joins rows with what it brings by their keys, one after the other. Any other plan, made while a
/// table was small, would go through all of its rows, those deleted since the last vacuum too.
const LOOKUPS_ONLY: [&str; 3] =
    ["SET enable_hashjoin = off", "SET enable_mergejoin = off", "SET enable_bitmapscan = off"];

impl Servers {
    /// Reads URLs, `postgres://user@host:port/database`.
    pub(crate) fn parse(urls: &[String], tenant: &str) -> Result<Self, StoreError> {
        let mut servers = Vec::with_capacity(urls.len());
        for url in urls {
            let options = PgConnectOptions::from_str(url).map_err(|error| {
                StoreError::invalid(format!("the URL of the database is not valid: {error}"))
            })?;
            let options = options.application_name("countersign").statement_cache_capacity(256);
            servers.push(
                options
                    .options([("search_path", "countersign"), ("countersign.tenant", tenant)])
                    // Every row is looked up by its key. A plan made while a table was small would read
                    // all of it for as long as the connection lives.
                    .options([("enable_seqscan", "off"), ("jit", "off")])
                    .disable_statement_logging(),
            );
        }
        Ok(Self { tenant: tenant.into(), servers: servers.into(), primary: Arc::default() })
    }

    /// Connects to the primary in a role.
    pub(crate) async fn connect(&self, role: Role) -> Result<Conn, StoreError> {
        let mut conn = self.connect_as_user().await?;
        if matches!(role, Role::Gateway) {
            for sql in LOOKUPS_ONLY {
                conn.execute(sql, &[]).await?;
            }
        }
        conn.execute(role.sql(), &[]).await?;
        Ok(conn)
    }

    /// Connects to the primary as the user of the URL, who owns the tables.
    pub(crate) async fn connect_as_user(&self) -> Result<Conn, StoreError> {
        let mut conn = self.connect_primary().await?;
        check_settings(&mut conn).await?;
        let mut conn = Conn::Postgres(conn);
        warnings::check(&mut conn).await?;
        Ok(conn)
    }

    /// Opens connections to the primary that only read.
    pub(crate) async fn readers(&self) -> Result<Pool, StoreError> {
        self.connect_primary().await?.close().await?;
        let pool: PgPool = PgPoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(Duration::from_secs(5))
            .after_connect(|conn, _| {
                Box::pin(async move {
                    sqlx::query(Role::Reader.sql()).execute(&mut *conn).await?;
                    sqlx::query("SET default_transaction_read_only = on").execute(conn).await?;
                    Ok(())
                })
            })
            .connect_lazy_with(self.at_primary()?);
        Ok(Pool::Postgres(pool))
    }

    /// Lets a pool connect to the server that is the primary now.
    pub(crate) fn redirect(&self, pool: &Pool) -> Result<(), StoreError> {
        if let Pool::Postgres(pool) = pool {
            pool.set_connect_options(self.at_primary()?);
        }
        Ok(())
    }

    fn at_primary(&self) -> Result<PgConnectOptions, StoreError> {
        let options = self.servers.get(self.primary.load(Ordering::Relaxed));
        options.cloned().ok_or_else(|| StoreError::invalid("no database is named"))
    }

    /// Tries the servers in turn, the last known primary first.
    async fn connect_primary(&self) -> Result<PgConnection, StoreError> {
        let first = self.primary.load(Ordering::Relaxed);
        let mut last = StoreError::invalid("no database is named");
        for turn in 0..self.servers.len() {
            let place = (first + turn) % self.servers.len();
            let Some(options) = self.servers.get(place) else { continue };
            match timeout(CONNECT_DEADLINE, connect_to(options)).await {
                Ok(Ok(conn)) => {
                    self.primary.store(place, Ordering::Relaxed);
                    return Ok(conn);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = StoreError::unavailable("the database does not answer"),
            }
        }
        Err(last)
    }
}

async fn connect_to(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    let mut conn = options.connect().await?;
    let standby: bool =
        sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut conn).await?;
    if standby {
        return Err(StoreError::unavailable("the database is a standby"));
    }
    Ok(conn)
}

/// Sets what the ledger needs and reads it back.
async fn check_settings(conn: &mut PgConnection) -> Result<(), StoreError> {
    for sql in [
        "SET synchronous_commit = on",
        // Nothing may cancel a commit: the deadline lives in the gateway.
        "SET statement_timeout = 0",
        "SET lock_timeout = 0",
        // A gateway that hangs in a transaction must not keep its locks, nor one that gave up waiting for one.
        "SET idle_in_transaction_session_timeout = '3s'",
        "SET client_connection_check_interval = '1s'",
    ] {
        sqlx::query(sql).execute(&mut *conn).await?;
    }
    let version: i64 = sqlx::query_scalar("SELECT current_setting('server_version_num')::bigint")
        .fetch_one(&mut *conn)
        .await?;
    if version < VERSION_MIN {
        let (expected, found) = (format!("at least {VERSION_MIN}"), version.to_string());
        return Err(StoreError::Setting { name: "server_version_num", expected, found });
    }
    for name in ["synchronous_commit", "fsync", "full_page_writes"] {
        let found: String = sqlx::query_scalar("SELECT current_setting($1)")
            .bind(name)
            .fetch_one(&mut *conn)
            .await?;
        if found != "on" {
            return Err(StoreError::Setting { name, expected: "on".to_owned(), found });
        }
    }
    Ok(())
}

impl Servers {
    /// Makes the tables or brings them up to date, and the tenant's rows. The user of the URL must own the
    /// schema and may make roles.
    pub(crate) async fn migrate(&self) -> Result<(), StoreError> {
        let mut conn = self.connect_primary().await?;
        for sql in [
            "CREATE SCHEMA IF NOT EXISTS countersign",
            "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL)",
        ] {
            sqlx::query(sql).execute(&mut conn).await?;
        }
        let mut tx = conn.begin().await?;
        sqlx::query(MIGRATION_LOCK).execute(&mut *tx).await?;
        let found = version(&mut tx).await?;
        for (version, sql) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
            sqlx::raw_sql(*sql).execute(&mut *tx).await?;
            sqlx::query("INSERT INTO schema_version (version) VALUES ($1)")
                .bind(*version)
                .execute(&mut *tx)
                .await?;
        }
        for sql in [
            "INSERT INTO coord (tenant, leader, epoch, beat) VALUES ($1, '', 0, now())
             ON CONFLICT DO NOTHING",
            "INSERT INTO registry_version (tenant, version) VALUES ($1, 0) ON CONFLICT DO NOTHING",
        ] {
            sqlx::query(sql).bind(&*self.tenant).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(conn.close().await?)
    }

    /// Brings tables of an earlier version up to date; the user of the URL must own them then.
    pub(crate) async fn upgrade(&self, pool: &Pool) -> Result<(), StoreError> {
        if (1..LATEST).contains(&schema_version(pool).await?) {
            tracing::info!("the tables are of an earlier version and are brought up to date");
            self.migrate().await?;
        }
        Ok(())
    }

    /// Checks that the tables are those that this program knows, and that they have the tenant.
    pub(crate) async fn check_schema(&self, pool: &Pool) -> Result<(), StoreError> {
        let (known, found) = (LATEST, schema_version(pool).await?);
        if found != known {
            let (expected, found) = (known.to_string(), found.to_string());
            return Err(StoreError::Setting { name: "schema_version", expected, found });
        }
        let sql = "SELECT tenant FROM coord WHERE tenant = $1";
        match pool.fetch_optional(sql, &[Column::Text(&self.tenant)]).await? {
            Some(_) => Ok(()),
            None => Err(StoreError::invalid(format!("the store has no tenant `{}`", self.tenant))),
        }
    }
}

/// Returns the version of the tables that are there; 0 if there are none.
async fn schema_version(pool: &Pool) -> Result<i64, StoreError> {
    match pool.fetch_one("SELECT max(version) FROM schema_version", &[]).await {
        Ok(row) => Ok(row.get::<Option<i64>>(0)?.unwrap_or(0)),
        Err(sqlx::Error::Database(_)) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

async fn version(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let version: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM schema_version").fetch_one(conn).await?;
    Ok(version.unwrap_or(0))
}
