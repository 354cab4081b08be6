//! The check of a ledger in PostgreSQL: the log again from its leaves, and what is published from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use countersign_ledger::leaf::Leaf;
use countersign_ledger::stream::StreamChecker;
use countersign_ledger::{Frontier, Hash, leaf_hash};
use countersign_model::RecordId;
use futures_util::TryStreamExt as _;
use sqlx::postgres::PgPool;
use tokio::time::{Instant, sleep};

use super::joins::{Told, compare, id, lost, open, record_id};
use super::ledger::is_sealed;
use super::rows::check_postgres;
use super::{Claim, Problem, Report, check_published, claim, open_note, signed};
use crate::StoreError;
use crate::batch::record_bytes;
use crate::config::{Database, StoreConfig};
use crate::db::postgres::Servers;
use crate::db::{Column, Pool, Row, int};
use crate::erase::{CHANGES, ERASURES};
use crate::keystore::Keystore;
use crate::prepare::PRIVATE;
use crate::reader::read_sealed;
use crate::retention::proof::Counts;

/// Leaves that one query reads.
const PAGE: i64 = 2_000;
/// Leaves without their sections that are kept until the log tells of them.
const MISSING_MAX: usize = 4_096;
/// The sections of records, as [`read_sealed`] takes them.
const SECTIONS: &str =
    "SELECT d.section, d.subject, d.period, d.nonce, d.ciphertext, d.dek, s.slot, d.record
       FROM sealed d LEFT JOIN subject s ON s.tenant = d.tenant AND s.subject = d.subject
      WHERE d.tenant = $1 AND d.record = ANY($2)";
/// How long records that the log does not have yet are waited for, if something depends on them.
const ORDER_PATIENCE: Duration = Duration::from_secs(5);
/// How often they are looked for.
const ORDER_POLL: Duration = Duration::from_millis(100);

/// Checks a ledger that several gateways share, and what this one publishes of it: every leaf's hash, the
/// tree, every stream's chain, every stored checkpoint, the published log; the sums of the other rows; sealed
/// sections against the digests in their leaves, if the keystore is at hand; and that the log tells of every
/// private section that is missing, and of none that is there.
///
/// Gateways go on meanwhile. Held for the length of the check are the roots of the stored checkpoints, what tells of
/// erasures and purges, and what was deleted since it began; leaves and sections are read by the page. Out of scope, unlike in [`super::check`]: claims and open calls against the
/// outcomes, the schema.
///
/// # Errors
/// [`Problem`] names the first bad table, key and column, or the first bad file.
pub async fn check_shared(
    folder: &Path,
    config: &StoreConfig,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Report, Problem> {
    let Database::Postgres(urls) = &config.database else {
        let (keys, now_ms) = (config.keys.as_deref(), config.clock.now_ms());
        return super::check_at(folder, keys, now_ms, progress).await;
    };
    let broken = |error: StoreError| Problem::file("database", error);
    let tenant = config.tenant.as_str();
    let pool = Servers::parse(urls, tenant).map_err(broken)?.readers().await.map_err(broken)?;
    let Pool::Postgres(pg) = &pool else {
        return Err(Problem::file("database", "it is no PostgreSQL"));
    };
    let keys = config.keys.clone().unwrap_or_else(|| folder.join("keys"));
    let keys = Keystore::open(&keys).ok();
    let report = Report::default();
    let now_ms = config.clock.now_ms();
    let missing = Vec::new();
    let keys = keys.as_ref();
    let mut check = Check { db: &pool, pg, tenant, now_ms, keys, report, signed: 0, missing };
    check.rows().await?;
    let published = check_published(folder, check.keys)?;
    let mut claims = check.checkpoints().await?;
    check.report.checkpoints = u64::try_from(claims.len()).unwrap_or(u64::MAX);
    if let Some(point) = published {
        check.report.published = point.size.0;
        claims.push(claim("log/checkpoint".to_owned(), &point));
    }
    check.signed = signed(&claims, keys);
    check.frontier_and_leaves(&claims, progress).await?;
    check.strays().await?;
    check.orphans().await?;
    check.missing().await?;
    let report = check.report.judged_by(keys);
    pool.close().await;
    Ok(report)
}

struct Check<'a> {
    db: &'a Pool,
    /// The same, for what is read row by row.
    pg: &'a PgPool,
    tenant: &'a str,
    now_ms: i64,
    keys: Option<&'a Keystore>,
    report: Report,
    /// Leaves that a checkpoint of ours covers.
    signed: u64,
    /// Leaves with private fields whose sections are not there, each with its place, unless the log told of
    /// them when the check began.
    missing: Vec<(u64, RecordId, Vec<u8>)>,
}

/// What a pass over the leaves gathers.
struct Pass {
    tree: Frontier,
    streams: StreamChecker,
    /// Roots at the sizes that something vouches for.
    roots: BTreeMap<u64, Option<Hash>>,
}

impl Check<'_> {
    async fn checkpoints(&self) -> Result<Vec<Claim>, Problem> {
        let sql = "SELECT size, note FROM checkpoint WHERE tenant = $1 ORDER BY size";
        let rows = self.db.fetch_all(sql, &[Column::Text(self.tenant)]).await;
        let mut claims = Vec::new();
        for row in rows.map_err(Problem::query("checkpoint"))? {
            let size: i64 = row.get(0).map_err(Problem::query("checkpoint"))?;
            let note: String = row.get(1).map_err(Problem::query("checkpoint"))?;
            let bad = |reason: String| Problem::row("checkpoint", size, "note", reason);
            let Some(keys) = self.keys else { continue };
            let (point, _) = open_note(note.as_bytes(), keys).map_err(bad)?;
            if int(point.size.0) != size {
                return Err(Problem::row("checkpoint", size, "size", "the note has another one"));
            }
            let (object, column) = ("checkpoint".to_owned(), "note");
            let (key, size, root) = (size.to_string(), point.size.0, point.root);
            claims.push(Claim { object, key, column, size, root });
        }
        Ok(claims)
    }

    async fn frontier_and_leaves(
        &mut self,
        claims: &[Claim],
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<(), Problem> {
        // Read first: the log grows meanwhile, and only as far as this is compared.
        let sql = "SELECT size, edge, root FROM frontier WHERE tenant = $1";
        let row = self.db.fetch_optional(sql, &[Column::Text(self.tenant)]).await;
        let broken = Problem::query("frontier");
        let (mut size, mut stored) = (0, None);
        if let Some(row) = row.map_err(&broken)? {
            size = row.get(0).map_err(&broken)?;
            let edge: Vec<u8> = row.get(1).map_err(&broken)?;
            let root: Vec<u8> = row.get(2).map_err(&broken)?;
            stored = Some((edge, root));
        }
        let roots = claims.iter().map(|claim| (claim.size, None)).collect();
        let mut pass = Pass { tree: Frontier::new(), streams: StreamChecker::default(), roots };
        pass.note_root();
        let before = u64::try_from(size).unwrap_or(0);
        let told =
            self.told(before).await.map_err(|error| Problem::row("intake", "", "body", error))?;
        let (mut counts, mut from) = (Counts::default(), 0);
        while from < size {
            let page = self.page(from, size).await?;
            if page.is_empty() {
                return Err(Problem::row("leaf", from, "idx", "the leaf is missing"));
            }
            let mut owners = Owners::new();
            for row in &page {
                pass.leaf(from, row)?;
                let (record, owner) = Owner::of(from, row)?;
                if owner.is_sealed {
                    told.count(owner.index, &mut counts);
                }
                owners.insert(record, owner);
                from += 1;
            }
            self.open_sections(&mut owners).await?;
            self.compare_sections(owners, &told).await?;
            progress(pass.tree.size().0, u64::try_from(size).unwrap_or(u64::MAX));
        }
        told.check(&counts)?;
        if let Some((edge, root)) = stored
            && (edge != pass.tree.to_bytes() || root != pass.tree.root().0)
        {
            return Err(Problem::row("frontier", self.tenant, "root", "the leaves say otherwise"));
        }
        self.report.leaves = pass.tree.size().0;
        self.report.root = pass.tree.root().to_string();
        super::compare_roots(&pass.roots, self.report.leaves, claims)
    }

    /// Opens the sections of a page of leaves, one after the other.
    async fn open_sections(&mut self, owners: &mut Owners) -> Result<(), Problem> {
        let broken = Problem::query("sealed");
        let records: Vec<&[u8]> = owners.keys().map(Vec::as_slice).collect();
        let mut rows = sqlx::query(SECTIONS).bind(self.tenant).bind(records).fetch(self.pg);
        while let Some(row) = rows.try_next().await.map_err(&broken)? {
            let row = Row::Postgres(row);
            let bytes: Vec<u8> = row.get(7).map_err(&broken)?;
            let Some(owner) = owners.get_mut(&bytes) else { continue };
            let record = owner.record;
            let sealed =
                read_sealed(&row).map_err(|error| Problem::row("sealed", record, "dek", error))?;
            owner.there.insert(sealed.section().to_owned());
            let slot: Option<i64> = row.get(6).map_err(&broken)?;
            let opened = open(&mut self.report, self.keys, self.tenant, record, slot, &sealed)?;
            if let Some(section) = opened.filter(|_| sealed.section() == PRIVATE) {
                owner.expected = compare(record, &owner.body, &section)?;
            }
        }
        Ok(())
    }

    /// Checks that of a page of leaves those sections are there that should be, as far as the log tells.
    async fn compare_sections(&mut self, owners: Owners, told: &Told) -> Result<(), Problem> {
        for owner in owners.into_values() {
            let Owner { index, record, body, is_sealed, there, expected } = owner;
            if let Some(section) = expected.iter().find(|section| !there.contains(*section)) {
                return Err(lost(record, section));
            }
            there.iter().try_for_each(|section| told.there(record, index, section))?;
            if is_sealed
                && !there.contains(PRIVATE)
                && told.missing(&mut self.report, &record.to_string(), index, &body).is_err()
            {
                self.missing.push((index, record, body));
                if self.missing.len() >= MISSING_MAX {
                    self.missing().await?;
                }
            }
        }
        Ok(())
    }

    /// Reads what leaves before one tell of.
    async fn told(&self, before: u64) -> Result<Told, StoreError> {
        let (db, tenant) = (self.db, self.tenant);
        let erasures = ERASURES.read_ordered(db, tenant, before).await?;
        let changes = CHANGES.read_ordered(db, tenant, before).await?;
        let signed = ERASURES.read_ordered(db, tenant, self.signed.min(before)).await?;
        let signed = signed.iter().map(|leaf| record_id(leaf).to_owned()).collect();
        Ok(Told::of(erasures, &changes, signed, self.now_ms))
    }

    /// Checks that the log tells by now of the sections that were missing. What is purged meanwhile is.
    async fn missing(&mut self) -> Result<(), Problem> {
        let broken = |error| Problem::row("intake", "", "body", error);
        let deadline = Instant::now() + ORDER_PATIENCE;
        loop {
            let ahead = ERASURES.read_ahead(self.db, self.tenant).await.map_err(broken)?;
            let told = self.told(u64::MAX).await.map_err(broken)?;
            let mut report = self.report.clone();
            let done = self.missing.iter().try_for_each(|(index, record, leaf)| {
                told.missing(&mut report, &record.to_string(), *index, leaf)
            });
            // What a gateway has written and the log does not have yet is waited for.
            if done.is_err() && !ahead.is_empty() && Instant::now() < deadline {
                sleep(ORDER_POLL).await;
                continue;
            }
            self.report = report;
            self.missing.clear();
            return done;
        }
    }

    /// Looks for records that are no leaf and never will be: of no gateway's stream, or behind its place.
    async fn strays(&self) -> Result<(), Problem> {
        let broken = Problem::query("intake");
        let sql = "SELECT i.replica, i.epoch, i.seq FROM intake i
               LEFT JOIN leaf l ON l.tenant = i.tenant AND l.replica = i.replica
                AND l.epoch = i.epoch AND l.seq = i.seq
                AND l.idx < (SELECT size FROM frontier WHERE tenant = $1)
               LEFT JOIN stream s ON s.tenant = i.tenant AND s.replica = i.replica
               LEFT JOIN position p ON p.tenant = i.tenant AND p.replica = i.replica
              WHERE i.tenant = $1 AND l.idx IS NULL AND (s.replica IS NULL
                 OR (i.epoch, i.seq) <= (coalesce(p.epoch, 0), coalesce(p.seq, 0)))
              ORDER BY i.replica, i.epoch, i.seq LIMIT 1";
        let row = self.db.fetch_optional(sql, &[Column::Text(self.tenant)]).await;
        let Some(row) = row.map_err(&broken)? else { return Ok(()) };
        let replica: String = row.get(0).map_err(&broken)?;
        let (epoch, seq): (i64, i64) = (row.get(1).map_err(&broken)?, row.get(2).map_err(&broken)?);
        let key = format!("{replica}/{epoch}/{seq}");
        Err(Problem::row("intake", key, "seq", "no gateway's stream has this record"))
    }

    /// Looks for sections of no record, and for a record that stands there twice. A record and its sections
    /// are written at once.
    async fn orphans(&self) -> Result<(), Problem> {
        for (table, sql, reason) in [
            (
                "sealed",
                "SELECT d.record FROM sealed d WHERE d.tenant = $1 AND NOT EXISTS
                    (SELECT FROM intake i WHERE i.tenant = d.tenant AND i.record = d.record) LIMIT 1",
                "there is no such record",
            ),
            (
                "intake",
                "SELECT record FROM intake WHERE tenant = $1 GROUP BY record HAVING count(*) > 1 LIMIT 1",
                "the record stands there twice",
            ),
        ] {
            let found = sqlx::query_scalar::<_, Vec<u8>>(sql).bind(self.tenant);
            let found = found.fetch_optional(self.pg).await.map_err(Problem::query(table))?;
            if let Some(record) = found {
                return Err(Problem::row(table, id(table, &record)?, "record", reason));
            }
        }
        Ok(())
    }

    async fn rows(&mut self) -> Result<(), Problem> {
        self.report.rows = check_postgres(self.pg, self.tenant).await?;
        Ok(())
    }

    async fn page(&self, from: i64, size: i64) -> Result<Vec<Row>, Problem> {
        let size = Column::Int(size);
        let args = [Column::Text(self.tenant), Column::Int(from), size, Column::Int(PAGE)];
        let rows = self.db.fetch_all(
            "SELECT l.idx, l.replica, l.epoch, l.seq, l.leaf_hash, i.record, i.kind, i.prev, i.body
               FROM leaf l LEFT JOIN intake i ON i.tenant = l.tenant AND i.replica = l.replica
                AND i.epoch = l.epoch AND i.seq = l.seq
              WHERE l.tenant = $1 AND l.idx >= $2 AND l.idx < $3 ORDER BY l.idx LIMIT $4",
            &args,
        );
        rows.await.map_err(Problem::query("leaf"))
    }
}

/// A record of a page, and what is found of its sections.
struct Owner {
    index: u64,
    record: RecordId,
    body: Vec<u8>,
    /// Whether the leaf has digests of private fields.
    is_sealed: bool,
    /// Names of the sections that are there.
    there: BTreeSet<String>,
    /// Names of those with large values that the private section refers to.
    expected: Vec<String>,
}

/// By the bytes of their records' ids.
type Owners = BTreeMap<Vec<u8>, Owner>;

impl Owner {
    fn of(index: i64, row: &Row) -> Result<(Vec<u8>, Self), Problem> {
        let broken = Problem::query("intake");
        let (bytes, body): (Vec<u8>, Vec<u8>) =
            (row.get(5).map_err(&broken)?, row.get(8).map_err(&broken)?);
        let (record, is_sealed) = (id("intake", &bytes)?, is_sealed(&body));
        let index = u64::try_from(index).unwrap_or(0);
        let (there, expected) = (BTreeSet::new(), Vec::new());
        Ok((bytes, Self { index, record, body, is_sealed, there, expected }))
    }
}

impl Pass {
    fn note_root(&mut self) {
        if let Some(root) = self.roots.get_mut(&self.tree.size().0) {
            *root = Some(self.tree.root());
        }
    }

    fn leaf(&mut self, index: i64, row: &Row) -> Result<(), Problem> {
        let bad = |table, column, reason: &str| Err(Problem::row(table, index, column, reason));
        let broken = Problem::query("leaf");
        if row.get::<i64>(0).map_err(&broken)? != index {
            return bad("leaf", "idx", "the leaf before is missing");
        }
        let Some(body) = row.get::<Option<Vec<u8>>>(8).map_err(&broken)? else {
            return bad("intake", "body", "the record is missing");
        };
        let hash = leaf_hash(&body);
        if row.get::<Vec<u8>>(4).map_err(&broken)? != hash.0 {
            return bad("leaf", "leaf_hash", "it is not the hash of the leaf's bytes");
        }
        let leaf =
            Leaf::parse(&body).map_err(|error| Problem::row("intake", index, "body", error))?;
        let record: Option<RecordId> = leaf.record_id.parse().ok();
        if record.map(record_bytes) != Some(row.get(5).map_err(&broken)?) {
            return bad("intake", "record", "the leaf says something else");
        }
        let said = (leaf.gw.replica, int(leaf.gw.epoch), int(leaf.gw.seq));
        let replica: String = row.get(1).map_err(&broken)?;
        let place = (row.get(2).map_err(&broken)?, row.get(3).map_err(&broken)?);
        if said != (replica, place.0, place.1) {
            return bad("leaf", "seq", "the leaf says another place in a stream");
        }
        let prev: Vec<u8> = row.get(7).map_err(&broken)?;
        if Hash::from_base64url(&leaf.gw.prev).map(|hash| hash.0.to_vec()) != Some(prev) {
            return bad("intake", "prev", "the leaf says something else");
        }
        self.streams.check(&body).map_err(|error| Problem::row("intake", index, "body", error))?;
        if row.get::<String>(6).map_err(&broken)? != leaf.kind {
            return bad("intake", "kind", "the leaf says something else");
        }
        self.tree.push(hash);
        self.note_root();
        Ok(())
    }
}
