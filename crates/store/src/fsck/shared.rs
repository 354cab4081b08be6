//! The check of a ledger in PostgreSQL: the log again from its leaves, and what is published from it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use countersign_ledger::leaf::Leaf;
use countersign_ledger::stream::StreamChecker;
use countersign_ledger::{Frontier, Hash, leaf_hash};
use tokio::time::{Instant, sleep};

use super::joins::{Told, record_id};
use super::ledger::is_sealed;
use super::{Claim, Problem, Report, check_published, claim, open_note, signed};
use crate::config::{Database, StoreConfig};
use crate::db::postgres::Servers;
use crate::db::{Column, Pool, Row, int};
use crate::erase::{CHANGES, ERASURES};
use crate::keystore::Keystore;
use crate::StoreError;

/// Leaves that one query reads.
const PAGE: i64 = 2_000;
/// How long records that the log does not have yet are waited for, if something depends on them.
const ORDER_PATIENCE: Duration = Duration::from_secs(5);
/// How often they are looked for.
const ORDER_POLL: Duration = Duration::from_millis(100);

/// Checks a ledger that several gateways share, and what this one publishes of it: every leaf's hash, the
/// tree, every stream's chain, every stored checkpoint, the published log; and that the log tells of every
/// private section that is missing.
///
/// Out of scope, unlike in [`super::check`]: sums of the other rows, what is in sealed sections, the schema.
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
    let db = Servers::parse(urls, tenant).map_err(broken)?.readers().await.map_err(broken)?;
    let keys = config.keys.clone().unwrap_or_else(|| folder.join("keys"));
    let keys = Keystore::open(&keys).ok();
    let report = Report::default();
    let now_ms = config.clock.now_ms();
    let missing = Vec::new();
    let keys = keys.as_ref();
    let mut check = Check { db: &db, tenant, now_ms, keys, report, signed: 0, missing };
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
    check.missing().await?;
    let report = check.report;
    db.close().await;
    Ok(report)
}

struct Check<'a> {
    db: &'a Pool,
    tenant: &'a str,
    now_ms: i64,
    keys: Option<&'a Keystore>,
    report: Report,
    /// Leaves that a checkpoint of ours covers.
    signed: u64,
    /// Leaves with private fields whose sections are not there, each with its place.
    missing: Vec<(u64, Vec<u8>)>,
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
        let mut from = 0;
        while from < size {
            let page = self.page(from, size).await?;
            if page.is_empty() {
                return Err(Problem::row("leaf", from, "idx", "the leaf is missing"));
            }
            for row in &page {
                pass.leaf(from, row)?;
                self.note_missing(from, row)?;
                from += 1;
            }
            progress(pass.tree.size().0, u64::try_from(size).unwrap_or(u64::MAX));
        }
        if let Some((edge, root)) = stored
            && (edge != pass.tree.to_bytes() || root != pass.tree.root().0)
        {
            return Err(Problem::row("frontier", self.tenant, "root", "the leaves say otherwise"));
        }
        self.report.leaves = pass.tree.size().0;
        self.report.root = pass.tree.root().to_string();
        super::compare_roots(&pass.roots, self.report.leaves, claims)
    }

    fn note_missing(&mut self, index: i64, row: &Row) -> Result<(), Problem> {
        let broken = Problem::query("sealed");
        if !row.get::<bool>(9).map_err(&broken)? {
            let body: Vec<u8> = row.get(8).map_err(&broken)?;
            if is_sealed(&body) {
                self.missing.push((u64::try_from(index).unwrap_or(0), body));
            }
        }
        Ok(())
    }

    async fn told(&self) -> Result<Told, StoreError> {
        let (db, tenant) = (self.db, self.tenant);
        let erasures = ERASURES.read_ordered(db, tenant, u64::MAX).await?;
        let changes = CHANGES.read_ordered(db, tenant, u64::MAX).await?;
        let signed = ERASURES.read_ordered(db, tenant, self.signed).await?;
        let signed = signed.iter().map(|leaf| record_id(leaf).to_owned()).collect();
        Ok(Told::of(erasures, &changes, signed, self.now_ms))
    }

    /// Checks that the log tells of every section that is missing. Read last: what is purged meanwhile is
    /// told of by then.
    async fn missing(&mut self) -> Result<(), Problem> {
        let broken = |error| Problem::row("intake", "", "body", error);
        let deadline = Instant::now() + ORDER_PATIENCE;
        loop {
            let ahead = ERASURES.read_ahead(self.db, self.tenant).await.map_err(broken)?;
            let told = self.told().await.map_err(broken)?;
            let mut report = self.report.clone();
            let done = self.missing.iter().try_for_each(|(index, leaf)| {
                told.missing(&mut report, &format!("leaf {index}"), *index, leaf)
            });
            // What a gateway has written and the log does not have yet is waited for.
            if done.is_err() && !ahead.is_empty() && Instant::now() < deadline {
                sleep(ORDER_POLL).await;
                continue;
            }
            self.report = report;
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

    async fn page(&self, from: i64, size: i64) -> Result<Vec<Row>, Problem> {
        let size = Column::Int(size);
        let args = [Column::Text(self.tenant), Column::Int(from), size, Column::Int(PAGE)];
        let rows = self.db.fetch_all(
            "SELECT l.idx, l.replica, l.epoch, l.seq, l.leaf_hash, i.record, i.kind, i.prev, i.body,
                    EXISTS (SELECT 1 FROM sealed s WHERE s.tenant = l.tenant
                       AND s.record = i.record AND s.section = 'private')
               FROM leaf l LEFT JOIN intake i ON i.tenant = l.tenant AND i.replica = l.replica
                AND i.epoch = l.epoch AND i.seq = l.seq
              WHERE l.tenant = $1 AND l.idx >= $2 AND l.idx < $3 ORDER BY l.idx LIMIT $4",
            &args,
        );
        rows.await.map_err(Problem::query("leaf"))
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
