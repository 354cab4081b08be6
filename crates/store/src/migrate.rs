//! Moves a ledger from SQLite to PostgreSQL; what was proven before stays proven.
//!
//! The leaves are copied byte for byte and keep their places, so the tree is the same one and grows on under
//! the same key. The keystore, the signer's memory, the published log, the search index and the tokens are
//! files of the data folder and stay there.
//!
//! Everything is written in one transaction, which is committed once the tree derived from the copied
//! bodies is the one that was there: a target is empty or whole. A marker in the data folder is written before
//! the commit, and from then on nobody writes the ledger in SQLite, unless the commit was undone.
//!
//! Out of scope: the way back.

mod copy;
mod moved;
mod tables;
mod target;

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use countersign_ledger::Frontier;
use countersign_model::{Draft, Kind, RecordId};
use sqlx::SqliteConnection;
use tokio::time::timeout;

use crate::config::{Database, StoreConfig};
use crate::db::postgres::Servers;
use crate::db::{Conn, Pool, sqlite};
use crate::head::{Coord, load_coord, load_frontier};
use crate::keystore::Keystore;
use crate::publish::Publisher;
use crate::store::{keys_folder, lock};
use crate::subject::RANGE_SLOTS;
use crate::{Store, StoreError, fsck};
use moved::Marker;
pub use moved::moved_to;
pub(crate) use moved::must_be_here;
use tables::TABLES;

/// Longest time that PostgreSQL has for one statement.
const STATEMENT_GIVEN_UP: Duration = Duration::from_secs(60);

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The ledger in SQLite is checked, leaf by leaf.
    Check,
    /// Rows are copied.
    Copy,
    /// What was copied is read back, and the tree derived from it again.
    Verify,
}

/// Is told how much of how much of a step is done.
type Progress<'a> = &'a mut (dyn FnMut(Step, u64, u64) + Send);

/// A ledger that moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Leaves of the log when it moved.
    pub leaves: u64,
    /// The root over them, in hexadecimal.
    pub root: String,
    /// The rows of each table.
    pub rows: Vec<(&'static str, u64)>,
    /// The record in the new place that says so.
    pub record_id: RecordId,
    /// Leaves under the first checkpoint that was signed in the new place.
    pub published: u64,
}

/// Why a ledger did not move. Unless the error says otherwise, the target holds nothing of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    /// The check found something.
    #[error("the check of the ledger failed, nothing was copied: {0}")]
    Damaged(#[from] fsck::Problem),
    /// The target is another ledger, or a gateway has run on it.
    #[error(
        "tenant `{tenant}` is not empty there, table `{table}` has {rows} rows; nothing was changed"
    )]
    NotEmpty {
        /// The tenant.
        tenant: String,
        /// The first table that has rows.
        table: &'static str,
        /// How many.
        rows: u64,
    },
    /// PostgreSQL's texts have no U+0000.
    #[error("a text of table `{table}` has a zero character, which PostgreSQL does not take")]
    Text {
        /// The table.
        table: &'static str,
    },
    /// The copy is not what was copied.
    #[error("the copy differs from the ledger: {what}; nothing of it was kept")]
    Differs {
        /// Where.
        what: String,
    },
    /// An earlier move, whose end is not known, went to another place.
    #[error("an earlier move to `{to}` may have been done, says `moved.json` in the data folder")]
    Elsewhere {
        /// The databases that the marker names.
        to: String,
    },
    /// The connection broke during the commit. The ledger in SQLite does not open until it is known.
    #[error("it is not known whether the ledger was moved: {0}")]
    Unknown(#[source] sqlx::Error),
    /// The ledger is whole in its new place, where it may say nothing of the move.
    #[error("the ledger was moved, but its first record or checkpoint there failed: {0}")]
    NotRecorded(#[source] StoreError),
    /// Anything else.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for MigrateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Waits for PostgreSQL, but not for ever.
async fn within<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, MigrateError> {
    match timeout(STATEMENT_GIVEN_UP, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(StoreError::unavailable("the database does not answer").into()),
    }
}

/// Adds up what is told of a step.
fn counter(step: Step, all: u64, progress: Progress<'_>) -> impl FnMut(u64) + Send {
    let mut done = 0;
    move |more| {
        done += more;
        progress(step, done, all);
    }
}

/// Moves the ledger of a data folder to the PostgreSQL that `config` names, for the tenant and under the
/// gateway's name there, and records that it did. Nothing in the data folder changes but what a start of a
/// gateway changes too, and that from then on the ledger in SQLite cannot be opened for writing.
///
/// After a move that was broken off it looks whether the ledger is there, and records it then.
///
/// # Errors
/// [`MigrateError`]; [`StoreError::Locked`] if a process uses the folder, [`StoreError::Behind`] and
/// [`StoreError::Forked`] if the ledger does not continue what was signed or published.
pub async fn migrate(
    folder: &Path,
    config: &StoreConfig,
    progress: Progress<'_>,
) -> Result<Migrated, MigrateError> {
    let Database::Postgres(urls) = &config.database else {
        return Err(StoreError::invalid("a ledger moves to PostgreSQL").into());
    };
    let (servers, tenant) = (Servers::parse(urls, config.tenant.as_str())?, config.tenant.as_str());
    let locked = lock(folder)?;
    let to = moved::places(urls)?;
    if let Some(marker) = Marker::read(folder)? {
        if marker.to != to {
            return Err(MigrateError::Elsewhere { to: marker.to.join(", ") });
        }
        if let Some(rows) = target::arrived(&servers, tenant, &marker).await? {
            return Migrated::new(marker, rows, config).record(locked, folder, config).await;
        }
    }
    // Before the check, which may take long; the connection would break meanwhile.
    drop(target::connect(&servers, tenant).await?);
    let mut source = Source::open(folder, config, &mut *progress).await?;
    let mut target = target::connect(&servers, tenant).await?;
    target::make_tables(&servers).await?;
    let rows = source.copy(&mut target, config, progress).await?;
    let Source { conn, frontier, .. } = source;
    let marker = Marker { to, size: frontier.size().0, root: frontier.root().to_string() };
    commit(&mut target, &marker, folder).await?;
    for conn in [conn, target] {
        conn.close_hard().await;
    }
    Migrated::new(marker, rows, config).record(locked, folder, config).await
}

/// Commits what was copied; before, the marker closes the ledger in SQLite.
async fn commit(target: &mut Conn, marker: &Marker, folder: &Path) -> Result<(), MigrateError> {
    if let Err(error) = marker.write(folder) {
        let _ = within(target.roll_back()).await;
        let _ = Marker::remove(folder);
        return Err(error.into());
    }
    match timeout(STATEMENT_GIVEN_UP, target.commit()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if undone(&error) => {
            Marker::remove(folder)?;
            Err(error.into())
        }
        Ok(Err(error)) => Err(MigrateError::Unknown(error)),
        Err(_) => Err(MigrateError::Unknown(sqlx::Error::Protocol("it takes too long".into()))),
    }
}

/// Whether the server answered a commit with an error that means that nothing of it is left: an integrity
/// constraint violation or a transaction rollback, but not "statement completion unknown" (PostgreSQL's
/// documentation, appendix A). A connection that is terminated may have committed.
fn undone(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code != "40003" && (code.starts_with("23") || code.starts_with("40")))
}

/// The ledger in SQLite; the data folder is locked, so that nobody writes it meanwhile.
struct Source {
    conn: Conn,
    /// Streams the rows of whole tables.
    rows: SqliteConnection,
    coord: Coord,
    frontier: Frontier,
}

impl Source {
    /// Checks the ledger as `verify` does, and against what was signed and published as a start does.
    async fn open(
        folder: &Path,
        config: &StoreConfig,
        progress: Progress<'_>,
    ) -> Result<Self, MigrateError> {
        let path = folder.join(sqlite::FILE);
        if !path.exists() {
            return Err(StoreError::Missing(path).into());
        }
        let keys_folder = keys_folder(folder, config);
        let keys = std::sync::Arc::new(Keystore::open(&keys_folder)?);
        let told = &mut |done, all| progress(Step::Check, done, all);
        fsck::check(folder, Some(&keys_folder), told).await?;
        let pool = sqlite::open_readers(&path).await?;
        let rows = pool.acquire().await?.detach();
        let mut conn = Conn::sqlite(sqlite::open_reader(&path)?);
        let tenant = config.tenant.as_str();
        let coord = load_coord(&mut conn, tenant).await?;
        let coord = coord
            .ok_or_else(|| StoreError::invalid(format!("the store is not of tenant `{tenant}`")))?;
        let pool = Pool::Sqlite(pool);
        Publisher::open(&pool, folder, config, &keys, None).await?;
        pool.close().await;
        let frontier = load_frontier(&mut conn, tenant).await?;
        let sql = "SELECT coalesce(max(slot), 0) FROM subject";
        if conn.fetch_one(sql, &[]).await?.get::<i64>(0)? >= i64::from(RANGE_SLOTS) {
            let reason = format!("a gateway on PostgreSQL has keys for {RANGE_SLOTS} people");
            return Err(StoreError::invalid(reason).into());
        }
        Ok(Self { conn, rows, coord, frontier })
    }

    /// Copies and verifies everything in one transaction, which stays open; returns the rows of each table.
    async fn copy(
        &mut self,
        target: &mut Conn,
        config: &StoreConfig,
        progress: Progress<'_>,
    ) -> Result<Vec<(&'static str, u64)>, MigrateError> {
        let (tenant, replica) = (config.tenant.as_str(), config.replica.as_str());
        target::begin(target, tenant, replica, &self.coord).await?;
        let copied = self.copy_tables(target, config, progress).await;
        if copied.is_err() {
            // What failed says more than a connection that is broken too.
            let _ = within(target.roll_back()).await;
        }
        copied
    }

    async fn copy_tables(
        &mut self,
        target: &mut Conn,
        config: &StoreConfig,
        progress: Progress<'_>,
    ) -> Result<Vec<(&'static str, u64)>, MigrateError> {
        let (tenant, replica) = (config.tenant.as_str(), config.replica.as_str());
        target::put_streams(&mut self.conn, target, tenant, replica, &self.coord).await?;
        let (mut counts, mut tallies) = (Vec::with_capacity(TABLES.len()), Vec::new());
        for table in TABLES {
            counts.push((table.name, target::count(&mut self.conn, table.count, tenant).await?));
        }
        let all = counts.iter().map(|(_, rows)| rows).sum();
        let Conn::Postgres(to) = &mut *target else {
            return Err(StoreError::invalid("a ledger moves from SQLite to PostgreSQL").into());
        };
        let mut told = counter(Step::Copy, all, &mut *progress);
        for table in TABLES {
            tallies.push(copy::copy(table, &mut self.rows, to, &mut told).await?);
        }
        drop(told);
        target::analyze(to).await?;
        let mut told = counter(Step::Verify, all + self.frontier.size().0, progress);
        for ((table, copied), (_, rows)) in TABLES.iter().zip(tallies).zip(&counts) {
            let found = copy::read_back(table, to, tenant, &mut told).await?;
            if found != copied || found.rows != *rows {
                return Err(MigrateError::Differs { what: format!("table `{}`", table.name) });
            }
        }
        target::check_tree(target, tenant, &self.frontier, &mut told).await?;
        Ok(counts)
    }
}

impl Migrated {
    fn new(marker: Marker, rows: Vec<(&'static str, u64)>, config: &StoreConfig) -> Self {
        let Marker { size: leaves, root, .. } = marker;
        Self { leaves, root, rows, record_id: RecordId((config.ids)()), published: 0 }
    }

    /// Opens the ledger in its new place, as a gateway does, records where it comes from, and has it signed.
    async fn record(
        mut self,
        locked: File,
        folder: &Path,
        config: &StoreConfig,
    ) -> Result<Self, MigrateError> {
        let published = self.append(locked, folder, config).await;
        self.published = published.map_err(MigrateError::NotRecorded)?;
        if self.published > self.leaves {
            return Ok(self);
        }
        let why = StoreError::unavailable("another process orders the log and has not signed it");
        Err(MigrateError::NotRecorded(why))
    }

    async fn append(
        &self,
        locked: File,
        folder: &Path,
        config: &StoreConfig,
    ) -> Result<u64, StoreError> {
        let store = Store::open_locked(locked, folder, config.clone()).await?;
        let draft = Draft::new(self.record_id, Kind::Change)
            .with("object", "store")
            .with("action", "moved")
            .with("from", "sqlite")
            .with("to", "postgresql")
            .with("size", self.leaves)
            .with("root", self.root.clone());
        let recorded = store.append(draft).await;
        let published = store.publish_now().await;
        let stopped = store.shutdown().await;
        recorded?;
        stopped?;
        published
    }
}
