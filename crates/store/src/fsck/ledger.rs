//! One pass over the leaves: hashes, columns, streams, the tree.

use std::collections::HashMap;

use countersign_ledger::stream::StreamChecker;
use countersign_ledger::{Frontier, Hash, Leaf, leaf_hash};
use countersign_model::RecordId;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::{Check, Problem};
use crate::db::int;

/// How often progress is told, in leaves.
const PROGRESS_EVERY: u64 = 1_024;
/// Rows that are read at a time.
const ROWS_AT_ONCE: i64 = 1_024;

/// The member of a leaf that lists the digests of private fields.
const SD: &[u8] = b"\"_sd\":[";

/// Returns whether a leaf has digests of private fields.
pub(super) fn is_sealed(body: &[u8]) -> bool {
    // Written by us, so in canonical form: a name in a value would have its quotes escaped.
    body.windows(SD.len()).any(|bytes| bytes == SD)
}

/// What later checks need of a record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Where its row is.
    pub(crate) rowid: i64,
    /// Where its leaf is.
    pub(crate) index: u64,
    /// Whether it allows a call.
    pub(crate) allows: bool,
    /// The latest outcome of the call.
    pub(crate) outcome: Option<String>,
    /// Whether the leaf has digests of private fields.
    pub(crate) is_sealed: bool,
}

pub(crate) type Records = HashMap<RecordId, Known>;

/// A row of `leaf` with its row of `intake`; text as bytes, since damage may break its encoding.
struct Pair {
    index: i64,
    leaf: Place,
    hash: Vec<u8>,
    intake: Place,
    rowid: i64,
    record: Vec<u8>,
    kind: Vec<u8>,
    prev: Vec<u8>,
    body: Vec<u8>,
}

struct Place {
    tenant: Vec<u8>,
    replica: Vec<u8>,
    epoch: i64,
    seq: i64,
}

impl Place {
    /// Reads the first columns of a row.
    fn read(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            tenant: row.try_get(0)?,
            replica: row.try_get(1)?,
            epoch: row.try_get(2)?,
            seq: row.try_get(3)?,
        })
    }

    /// Compares the columns with the leaf, which its hash vouches for.
    fn check(&self, table: &str, key: u64, leaf: &Leaf) -> Result<(), Problem> {
        for (column, fits) in [
            ("tenant", self.tenant == leaf.tenant.as_bytes()),
            ("replica", self.replica == leaf.gw.replica.as_bytes()),
            ("epoch", self.epoch == int(leaf.gw.epoch)),
            ("seq", self.seq == int(leaf.gw.seq)),
        ] {
            if !fits {
                return Err(Problem::row(table, key, column, "the leaf says something else"));
            }
        }
        Ok(())
    }
}

/// Tenant, size, edge, root and epoch.
type FrontierRow = (Vec<u8>, i64, Vec<u8>, Vec<u8>, i64);

/// The state of the pass.
#[derive(Default)]
struct Pass {
    /// Over the hashes as stored, and as computed.
    stored: Frontier,
    computed: Frontier,
    streams: StreamChecker,
    /// The first leaf whose stored hash is not that of its bytes.
    suspect: Option<u64>,
    records: Records,
    last_epoch: u64,
}

impl Check<'_> {
    /// Checks every leaf and the frontier; returns what records there are.
    pub(crate) async fn ledger(
        &mut self,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<Records, Problem> {
        let broken = Problem::query("intake");
        let size: i64 = sqlx::query_scalar("SELECT count(*) FROM intake NOT INDEXED")
            .fetch_one(&mut *self.conn)
            .await
            .map_err(&broken)?;
        let size = u64::try_from(size).unwrap_or(0);
        self.leaf_keys().await?;
        let mut pass = Pass::default();
        self.note_root(&pass.computed);
        // Both are in the order of the log: one writer writes both rows of a record at once. Paired by
        // order and not by key, a damaged key is seen for what it is.
        let (mut last_leaf, mut last_intake) = (i64::MIN, i64::MIN);
        loop {
            let leaves = self.leaf_rows(last_leaf).await?;
            let records = self.intake_rows(last_intake).await?;
            if leaves.is_empty() && records.is_empty() {
                break;
            }
            for place in 0..leaves.len().max(records.len()) {
                let n = pass.computed.size().0;
                let pair = read_pair(leaves.get(place), records.get(place), n)?;
                (last_leaf, last_intake) = (pair.index, pair.rowid);
                pass.pair(n, &pair)?;
                self.note_root(&pass.computed);
                let done = pass.computed.size().0;
                if done.is_multiple_of(PROGRESS_EVERY) || done == size {
                    progress(done, size);
                }
            }
        }
        let report = &mut self.report;
        (report.leaves, report.root) = (pass.computed.size().0, pass.computed.root().to_string());
        self.frontier(&pass).await?;
        Ok(pass.records)
    }

    /// Reads the next rows of `leaf`.
    async fn leaf_rows(&mut self, after: i64) -> Result<Vec<SqliteRow>, Problem> {
        sqlx::query(
            "SELECT CAST(tenant AS BLOB), CAST(replica AS BLOB), epoch, seq, idx, leaf_hash
               FROM leaf WHERE tenant = $1 AND idx > $2 ORDER BY idx LIMIT $3",
        )
        .bind(&self.tenant)
        .bind(after)
        .bind(ROWS_AT_ONCE)
        .fetch_all(&mut *self.conn)
        .await
        .map_err(Problem::query("leaf"))
    }

    /// Reads the next rows of `intake`.
    async fn intake_rows(&mut self, after: i64) -> Result<Vec<SqliteRow>, Problem> {
        sqlx::query(
            "SELECT CAST(tenant AS BLOB), CAST(replica AS BLOB), epoch, seq,
                    rowid, record, CAST(kind AS BLOB), prev, body
               FROM intake NOT INDEXED WHERE rowid > $1 ORDER BY rowid LIMIT $2",
        )
        .bind(after)
        .bind(ROWS_AT_ONCE)
        .fetch_all(&mut *self.conn)
        .await
        .map_err(Problem::query("intake"))
    }

    /// Checks that the leaves are numbered without a hole: a damaged key would shift the others.
    async fn leaf_keys(&mut self) -> Result<(), Problem> {
        let broken = Problem::query("leaf");
        let stranger: Option<i64> =
            sqlx::query_scalar("SELECT idx FROM leaf WHERE tenant <> $1 LIMIT 1")
                .bind(&self.tenant)
                .fetch_optional(&mut *self.conn)
                .await
                .map_err(&broken)?;
        if let Some(index) = stranger {
            return Err(Problem::row("leaf", index, "tenant", "the tenant is another one"));
        }
        let (count, last): (i64, i64) =
            sqlx::query_as("SELECT count(*), coalesce(max(idx), -1) FROM leaf")
                .fetch_one(&mut *self.conn)
                .await
                .map_err(&broken)?;
        if last == count - 1 {
            return Ok(());
        }
        let reason = format!("there are {count} leaves");
        Err(Problem::row("leaf", last, "idx", reason))
    }

    fn note_root(&mut self, frontier: &Frontier) {
        if let Some(root) = self.roots.get_mut(&frontier.size().0) {
            *root = Some(frontier.root());
        }
    }

    /// Compares the frontier's row with the leaves, and finds which of a leaf and its hash is bad.
    async fn frontier(&mut self, pass: &Pass) -> Result<(), Problem> {
        let rows: Vec<FrontierRow> =
            sqlx::query_as("SELECT CAST(tenant AS BLOB), size, edge, root, epoch FROM frontier")
                .fetch_all(&mut *self.conn)
                .await
                .map_err(Problem::query("frontier"))?;
        let bad = |column, reason| Err(Problem::row("frontier", &self.tenant, column, reason));
        let Some((tenant, size, edge, root, epoch)) = rows.into_iter().next() else {
            return if pass.computed.size().0 == 0 { Ok(()) } else { bad("size", "it is missing") };
        };
        if let Some(index) = pass.suspect {
            let bytes_are_bad = root == pass.stored.root().0;
            return Err(if bytes_are_bad {
                Problem::row("intake", index, "body", "the bytes do not have the leaf's hash")
            } else {
                Problem::row("leaf", index, "leaf_hash", "it is not the hash of the leaf's bytes")
            });
        }
        for (column, fits) in [
            ("tenant", tenant == self.tenant.as_bytes()),
            ("size", size == int(pass.computed.size().0)),
            ("edge", edge == pass.computed.to_bytes()),
            ("root", root == pass.computed.root().0),
            ("epoch", epoch == int(pass.last_epoch)),
        ] {
            if !fits {
                return bad(column, "the leaves say something else");
            }
        }
        Ok(())
    }
}

fn read_pair(
    leaf: Option<&SqliteRow>,
    record: Option<&SqliteRow>,
    n: u64,
) -> Result<Pair, Problem> {
    let Some(leaf) = leaf else {
        return Err(Problem::row("leaf", n, "idx", "the leaf is missing"));
    };
    let Some(record) = record else {
        return Err(Problem::row("intake", n, "body", "the record is missing"));
    };
    let read = || -> Result<Pair, sqlx::Error> {
        Ok(Pair {
            leaf: Place::read(leaf)?,
            index: leaf.try_get(4)?,
            hash: leaf.try_get(5)?,
            intake: Place::read(record)?,
            rowid: record.try_get(4)?,
            record: record.try_get(5)?,
            kind: record.try_get(6)?,
            prev: record.try_get(7)?,
            body: record.try_get(8)?,
        })
    };
    read().map_err(|error| Problem::row("intake", n, "", error))
}

impl Pass {
    fn pair(&mut self, n: u64, pair: &Pair) -> Result<(), Problem> {
        let hash = leaf_hash(&pair.body);
        let stored = Hash::from_slice(&pair.hash)
            .ok_or_else(|| Problem::row("leaf", n, "leaf_hash", "it does not have 32 bytes"))?;
        self.stored.push(stored);
        self.computed.push(hash);
        if stored != hash {
            self.suspect.get_or_insert(n);
        }
        // After a suspect only the tree is followed: its root tells which of the two is bad.
        if self.suspect.is_some() {
            return Ok(());
        }
        let leaf =
            Leaf::parse(&pair.body).map_err(|error| Problem::row("intake", n, "body", error))?;
        if pair.index != int(n) {
            return Err(Problem::row("leaf", pair.index, "idx", format!("expected {n}")));
        }
        pair.leaf.check("leaf", n, &leaf)?;
        pair.intake.check("intake", n, &leaf)?;
        let record: Option<RecordId> = leaf.record_id.parse().ok();
        let column = if record.map(crate::batch::record_bytes) != Some(pair.record.clone()) {
            Some("record")
        } else if pair.kind != leaf.kind.as_bytes() {
            Some("kind")
        } else if Hash::from_base64url(&leaf.gw.prev).map(|prev| prev.0.to_vec())
            != Some(pair.prev.clone())
        {
            Some("prev")
        } else {
            None
        };
        if let Some(column) = column {
            return Err(Problem::row("intake", n, column, "the leaf says something else"));
        }
        self.streams.check(&pair.body).map_err(|error| Problem::row("intake", n, "body", error))?;
        self.last_epoch = leaf.gw.epoch;
        self.remember(n, pair, &leaf, record)
    }

    fn remember(
        &mut self,
        n: u64,
        pair: &Pair,
        leaf: &Leaf,
        record: Option<RecordId>,
    ) -> Result<(), Problem> {
        let Some(record) = record else { return Ok(()) };
        let allows = leaf.decision.as_deref() == Some("allow");
        let is_sealed = is_sealed(&pair.body);
        let rowid = pair.rowid;
        let known = Known { rowid, index: n, allows, outcome: None, is_sealed };
        if self.records.insert(record, known).is_some() {
            return Err(Problem::row("intake", n, "record", "the record stands there twice"));
        }
        let call = leaf.parent.as_deref().and_then(|parent| parent.parse::<RecordId>().ok());
        if leaf.kind == "outcome"
            && let Some(call) = call.and_then(|call| self.records.get_mut(&call))
        {
            let body: serde_json::Value = serde_json::from_slice(&pair.body).unwrap_or_default();
            call.outcome = body.get("outcome").and_then(|text| text.as_str()).map(str::to_owned);
        }
        Ok(())
    }
}
