//! Derives everything that is stored from the leaf bytes again, and names the first place that differs.
//!
//! One read transaction sees the database as of one moment; a gateway may write meanwhile. Checked are:
//! every row of every table; leaf hashes, streams, the tree and its checkpoints; sealed sections against
//! the digests in their leaves, if the keystore is at hand; claims and open calls against the outcomes;
//! the published log; the signer's memory; SQLite's own structures; the schema with its triggers.

mod joins;
mod ledger;
mod rows;
mod schema;
mod shared;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use countersign_ledger::verify::{VerifyOptions, verify_log};
use countersign_ledger::{Checkpoint, Hash, Note, VerifierKey};
use sqlx::{Connection as _, SqliteConnection};

use crate::db;
use crate::files::read_if_there;
use crate::keystore::Keystore;
use crate::publish::{CHECKPOINT, FOLDER};
use crate::published::PublishedLog;

pub use shared::check_shared;

/// What a sound store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Leaves of the log.
    pub leaves: u64,
    /// The root over all of them, in hexadecimal.
    pub root: String,
    /// Checkpoints that were checked.
    pub checkpoints: u64,
    /// Leaves under the published checkpoint.
    pub published: u64,
    /// Sealed sections that were opened and match their leaves.
    pub sections_opened: u64,
    /// Sealed sections whose keys are not there: no keystore, or the keys were destroyed.
    pub sections_closed: u64,
    /// Records whose private fields were deleted by an erasure.
    pub records_erased: u64,
    /// Records whose private fields were purged because their time had come.
    pub records_purged: u64,
    /// The jobs that purged them, with their counts of records.
    pub purge_jobs: BTreeMap<String, u64>,
    /// Records of both sorts that only records beyond the last signed checkpoint tell of: whoever has the
    /// database alone could have written those. Absent without the keys that say what is signed.
    pub gone_unsigned: Option<u64>,
    /// Allowed calls without an outcome.
    pub open_calls: u64,
    /// Rows whose sums were checked.
    pub rows: u64,
}

/// The first place where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}, {key}, {column}: {reason}")]
pub struct Problem {
    /// The table or file.
    pub object: String,
    /// The row's key, or the position in a file; empty if the whole object is bad.
    pub key: String,
    /// The column; empty for a file.
    pub column: String,
    /// What is wrong.
    pub reason: String,
}

impl Problem {
    #[expect(clippy::needless_pass_by_value, reason = "callers pass numbers, ids and errors alike")]
    pub(crate) fn row(
        object: &str,
        key: impl ToString,
        column: &str,
        reason: impl ToString,
    ) -> Self {
        let (key, reason) = (key.to_string(), reason.to_string());
        Self { object: object.to_owned(), key, column: column.to_owned(), reason }
    }

    #[expect(clippy::needless_pass_by_value, reason = "callers pass numbers, ids and errors alike")]
    pub(crate) fn file(object: impl ToString, reason: impl ToString) -> Self {
        Self::row(&object.to_string(), "", "", reason)
    }

    /// Returns what a failed query of a table says.
    pub(crate) fn query(table: &str) -> impl Fn(sqlx::Error) -> Self + '_ {
        move |error| Self::row(table, "", "", error)
    }
}

/// What the parts of the check share.
pub(crate) struct Check<'a> {
    pub(crate) conn: &'a mut SqliteConnection,
    pub(crate) tenant: String,
    /// The time of the check, in Unix milliseconds.
    pub(crate) now_ms: i64,
    pub(crate) keys: Option<Keystore>,
    pub(crate) report: Report,
    /// Leaves that a checkpoint of ours covers.
    pub(crate) signed: u64,
    /// Roots at the sizes that something vouches for, filled by the pass over the leaves.
    pub(crate) roots: BTreeMap<u64, Option<Hash>>,
}

/// Checks a store as [`check_at`] does, but for times: none counts as one that is to come.
///
/// # Errors
/// As [`check_at`].
pub async fn check(
    folder: &Path,
    keys: Option<&Path>,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Report, Problem> {
    check_at(folder, keys, i64::MAX, progress).await
}

/// Checks a store at a time in Unix milliseconds: a purge that is dated later is damage. `keys` is the
/// keystore's folder, `keys` in the data folder if absent. `progress` is told how many leaves of how many
/// are done.
///
/// # Errors
/// [`Problem`] names the first bad table, key and column, or the first bad file.
pub async fn check_at(
    folder: &Path,
    keys: Option<&Path>,
    now_ms: i64,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Report, Problem> {
    let keys_folder = keys.map_or_else(|| folder.join("keys"), Path::to_owned);
    let keys = Keystore::open(&keys_folder).ok();
    let path = folder.join(db::sqlite::FILE);
    let broken = |error: &dyn ToString| Problem::file(db::sqlite::FILE, error.to_string());
    let published = check_published(folder, keys.as_ref())?;
    let pool = db::sqlite::open_readers(&path).await.map_err(|error| broken(&error))?;
    let mut conn = pool.acquire().await.map_err(|error| broken(&error))?;
    let mut tx = conn.begin().await.map_err(|error| broken(&error))?;
    let tenant: String = sqlx::query_scalar("SELECT tenant FROM coord")
        .fetch_one(&mut *tx)
        .await
        .map_err(Problem::query("coord"))?;
    let (report, roots) = (Report::default(), BTreeMap::new());
    let mut check = Check { conn: &mut tx, tenant, now_ms, keys, report, signed: 0, roots };
    check.rows().await?;
    let claims = check.claims(published, &keys_folder).await?;
    let known = check.ledger(progress).await?;
    compare_roots(&check.roots, check.report.leaves, &claims)?;
    check.joins(&known).await?;
    check.structure().await?;
    check.schema().await?;
    let report = check.report.judged_by(check.keys.as_ref());
    tx.rollback().await.map_err(|error| broken(&error))?;
    drop(conn);
    pool.close().await;
    Ok(report)
}

impl Report {
    /// Notes a record that is gone, and whether what tells of it is signed.
    fn gone(&mut self, signed: bool) {
        let unsigned = self.gone_unsigned.get_or_insert(0);
        *unsigned += u64::from(!signed);
    }

    /// Leaves out what nobody can say without keys.
    fn judged_by(self, keys: Option<&Keystore>) -> Self {
        Self { gone_unsigned: keys.map(|_| self.gone_unsigned.unwrap_or(0)), ..self }
    }
}

/// Something that vouches for a root.
pub(crate) struct Claim {
    object: String,
    key: String,
    column: &'static str,
    size: u64,
    root: Hash,
}

/// Checks the published folder by itself; returns its checkpoint.
fn check_published(folder: &Path, keys: Option<&Keystore>) -> Result<Option<Checkpoint>, Problem> {
    let path = folder.join(FOLDER).join(CHECKPOINT);
    let object = || format!("{FOLDER}/{CHECKPOINT}");
    let note = read_if_there(&path).map_err(|error| Problem::file(object(), error))?;
    let (Some(note), Some(keys)) = (note, keys) else { return Ok(None) };
    let (point, keys) = open_note(&note, keys).map_err(|reason| Problem::file(object(), reason))?;
    let options = VerifyOptions { keys, ..VerifyOptions::default() };
    match verify_log(&PublishedLog::new(folder), &options, &mut |_| {}) {
        Ok(_) => Ok(Some(point)),
        Err(problem) => {
            let key = problem.index.map(|index| index.to_string()).unwrap_or_default();
            Err(Problem::row(&format!("{FOLDER}/{}", problem.object), key, "", problem.reason))
        }
    }
}

/// Opens a checkpoint that a key of our own signed.
fn open_note(note: &[u8], keys: &Keystore) -> Result<(Checkpoint, Vec<VerifierKey>), String> {
    let text = |error: &dyn ToString| error.to_string();
    let parsed = Note::parse(note).map_err(|error| text(&error))?;
    let origin = Checkpoint::parse(parsed.text()).map_err(|error| text(&error))?.origin;
    let keys = keys.log_keys(&origin).map_err(|error| text(&error))?;
    let point = Checkpoint::open(note, &keys).map_err(|error| text(&error))?;
    if parsed.to_bytes() != note {
        return Err("the note is not written as it was signed".to_owned());
    }
    Ok((point, keys))
}

impl Check<'_> {
    /// Collects everything that vouches for a root, and notes the sizes.
    async fn claims(
        &mut self,
        published: Option<Checkpoint>,
        keys_folder: &Path,
    ) -> Result<Vec<Claim>, Problem> {
        let mut claims = self.stored_checkpoints().await?;
        self.report.checkpoints = u64::try_from(claims.len()).unwrap_or(u64::MAX);
        if let Some(point) = published {
            self.report.published = point.size.0;
            claims.push(claim(format!("{FOLDER}/{CHECKPOINT}"), &point));
        }
        if let Some(keys) = &self.keys {
            let path: PathBuf = keys.signer_memory();
            let name = path.strip_prefix(keys_folder).unwrap_or(&path).display();
            let object = format!("keys/{name}");
            let bytes = read_if_there(&path).map_err(|error| Problem::file(&object, error))?;
            if let Some(bytes) = bytes {
                let text = String::from_utf8_lossy(&bytes);
                let point =
                    Checkpoint::parse(&text).map_err(|error| Problem::file(&object, error))?;
                claims.push(claim(object, &point));
            }
        }
        self.signed = signed(&claims, self.keys.as_ref());
        self.roots = claims.iter().map(|claim| (claim.size, None)).collect();
        Ok(claims)
    }

    async fn stored_checkpoints(&mut self) -> Result<Vec<Claim>, Problem> {
        let broken = Problem::query("checkpoint");
        let rows: Vec<(Vec<u8>, i64, Vec<u8>)> =
            sqlx::query_as("SELECT CAST(tenant AS BLOB), size, CAST(note AS BLOB) FROM checkpoint")
                .fetch_all(&mut *self.conn)
                .await
                .map_err(broken)?;
        let mut claims = Vec::with_capacity(rows.len());
        for (tenant, size, note) in rows {
            let bad = |column, reason: &dyn ToString| {
                Problem::row("checkpoint", size, column, reason.to_string())
            };
            if tenant != self.tenant.as_bytes() {
                return Err(bad("tenant", &"the tenant is another one"));
            }
            let point = match &self.keys {
                Some(keys) => open_note(&note, keys).map(|(point, _)| point),
                None => Note::parse(&note)
                    .map_err(|error| error.to_string())
                    .and_then(|n| Checkpoint::parse(n.text()).map_err(|error| error.to_string())),
            };
            let point = point.map_err(|reason| bad("note", &reason))?;
            if db::int(point.size.0) != size {
                return Err(bad("size", &format!("the note says {}", point.size)));
            }
            let (object, column, size) = ("checkpoint".to_owned(), "note", point.size.0);
            claims.push(Claim { object, key: size.to_string(), column, size, root: point.root });
        }
        Ok(claims)
    }

    /// Lets SQLite check its own pages and indexes.
    async fn structure(&mut self) -> Result<(), Problem> {
        let lines: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(1)")
            .fetch_all(&mut *self.conn)
            .await
            .map_err(Problem::query(db::sqlite::FILE))?;
        match lines.first().map(String::as_str) {
            Some("ok") => Ok(()),
            other => {
                Err(Problem::file(db::sqlite::FILE, other.unwrap_or("the check says nothing")))
            }
        }
    }
}

/// Compares what vouches for roots with the roots that follow from the leaves.
fn compare_roots(
    roots: &BTreeMap<u64, Option<Hash>>,
    leaves: u64,
    claims: &[Claim],
) -> Result<(), Problem> {
    for claim in claims {
        let found = roots.get(&claim.size).copied().flatten();
        if found != Some(claim.root) {
            let reason = match found {
                None => format!("it has {} leaves, the log {leaves}", claim.size),
                Some(root) => format!("the leaves lead to root `{root}`"),
            };
            return Err(Problem::row(&claim.object, &claim.key, claim.column, reason));
        }
    }
    Ok(())
}

/// Returns how many leaves are signed for, as far as the keys are there to say so.
fn signed(claims: &[Claim], keys: Option<&Keystore>) -> u64 {
    let sizes = claims.iter().filter(|_| keys.is_some()).map(|claim| claim.size);
    sizes.max().unwrap_or(0)
}

fn claim(object: String, point: &Checkpoint) -> Claim {
    Claim { object, key: String::new(), column: "", size: point.size.0, root: point.root }
}
