//! The search index, `index.db`: filled behind the ledger, made again from its leaves at any time.

use std::path::Path;
use std::time::Duration;

use countersign_ledger::LeafIndex;
use countersign_model::RecordId;
use serde_json::Value;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Row as _, SqliteConnection};

use crate::StoreError;
use crate::batch::record_bytes;
use crate::db::{int, unsigned};
use crate::limits::QUERY_RECORDS_MAX;
use crate::reader::{Reader, Record};

/// The index's file in the data folder.
const FILE: &str = "index.db";

/// Version of the index's tables; another one is made again.
const VERSION: i64 = 1;

const SCHEMA: &str = "
DROP TABLE IF EXISTS entry;
DROP TABLE IF EXISTS rule;
DROP TABLE IF EXISTS position;
CREATE TABLE entry (
    idx INTEGER PRIMARY KEY, record BLOB NOT NULL, parent BLOB, kind TEXT NOT NULL, ms INTEGER NOT NULL,
    agent TEXT, principal TEXT, tool TEXT, decision TEXT, result TEXT
) STRICT;
CREATE INDEX entry_record ON entry (record);
CREATE INDEX entry_parent ON entry (parent) WHERE parent IS NOT NULL;
CREATE INDEX entry_kind ON entry (kind, idx);
CREATE INDEX entry_ms ON entry (ms);
CREATE INDEX entry_agent ON entry (agent, idx);
CREATE INDEX entry_principal ON entry (principal, idx);
CREATE INDEX entry_tool ON entry (tool, idx);
CREATE INDEX entry_decision ON entry (decision, idx);
CREATE INDEX entry_result ON entry (result, idx);
CREATE TABLE rule (rule TEXT NOT NULL, idx INTEGER NOT NULL, PRIMARY KEY (rule, idx)) STRICT, WITHOUT ROWID;
CREATE TABLE position (size INTEGER NOT NULL, last_hash BLOB NOT NULL) STRICT;
INSERT INTO position VALUES (0, x'');
PRAGMA user_version = 1;
";

/// What to look for; every field that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The agent's id.
    pub agent: Option<String>,
    /// The person's plain id; looking for it takes the keystore.
    pub principal: Option<String>,
    /// The person's pseudonym, if the plain id is not given.
    pub pseudonym: Option<String>,
    /// The tool, `<server>/<tool>`.
    pub tool: Option<String>,
    /// The id of a policy that determined the verdict.
    pub rule: Option<String>,
    /// The verdict of decisions.
    pub decision: Option<String>,
    /// The record's kind.
    pub kind: Option<String>,
    /// How the call ended, of decisions and outcomes: `executed`, `failed`, `unknown`, `not_forwarded`.
    pub result: Option<String>,
    /// The first millisecond.
    pub from_ms: Option<i64>,
    /// The millisecond after the last one.
    pub until_ms: Option<i64>,
    /// At most this many records; 0 and more than 1,000 mean 1,000.
    pub limit: u32,
    /// Where the last page ended.
    pub before: Option<LeafIndex>,
}

impl Query {
    pub(crate) fn limit(&self) -> u32 {
        if self.limit == 0 { QUERY_RECORDS_MAX } else { self.limit.min(QUERY_RECORDS_MAX) }
    }
}

/// A part of a query's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// The records, newest first.
    pub records: Vec<Record>,
    /// What [`Query::before`] gets for the next page, if there may be one.
    pub next: Option<LeafIndex>,
}

#[derive(Clone)]
pub(crate) struct Index {
    db: SqlitePool,
}

/// One query text per leading condition, so that each has its index; `$1` to `$11` mean the same in all.
macro_rules! find {
    ($lead:literal) => {
        concat!(
            "SELECT idx FROM entry WHERE ",
            $lead,
            " AND ($1 IS NULL OR agent = $1) AND ($2 IS NULL OR principal = $2)
              AND ($3 IS NULL OR tool = $3)
              AND ($4 IS NULL OR EXISTS
                   (SELECT 1 FROM rule WHERE rule.rule = $4 AND rule.idx = entry.idx))
              AND ($5 IS NULL OR decision = $5) AND ($6 IS NULL OR kind = $6)
              AND ($7 IS NULL OR result = $7) AND ($8 IS NULL OR ms >= $8)
              AND ($9 IS NULL OR ms < $9) AND idx < $10 ORDER BY idx DESC LIMIT $11"
        )
    };
}

impl Index {
    pub(crate) async fn open(folder: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(folder.join(FILE))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5));
        let db = SqlitePoolOptions::new().max_connections(2).connect_with(options).await?;
        let mut tx = db.begin_with("BEGIN IMMEDIATE").await?;
        let version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *tx).await?;
        if version != VERSION {
            sqlx::raw_sql(SCHEMA).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(Self { db })
    }

    /// Adds the leaves that the ledger has and the index lacks; returns how many.
    pub(crate) async fn catch_up(&self, reader: &Reader) -> Result<u64, StoreError> {
        let size = reader.size().await?;
        let mut added = 0;
        loop {
            let position: i64 =
                sqlx::query_scalar("SELECT size FROM position").fetch_one(&self.db).await?;
            if unsigned(position, "index position")? >= size {
                return Ok(added);
            }
            added += self.step(reader).await?;
        }
    }

    /// Adds some leaves in one transaction.
    async fn step(&self, reader: &Reader) -> Result<u64, StoreError> {
        let mut tx = self.db.begin_with("BEGIN IMMEDIATE").await?;
        let row = sqlx::query("SELECT size, last_hash FROM position").fetch_one(&mut *tx).await?;
        let (size, last): (u64, Vec<u8>) =
            (unsigned(row.try_get(0)?, "position")?, row.try_get(1)?);
        if let Some(index) = size.checked_sub(1) {
            let same =
                reader.at(LeafIndex(index)).await?.is_some_and(|leaf| leaf.leaf_hash.0 == *last);
            if !same {
                tracing::warn!("the search index belongs to another ledger and is made again");
                sqlx::raw_sql(SCHEMA).execute(&mut *tx).await?;
                tx.commit().await?;
                return Ok(0);
            }
        }
        let records = reader.range(LeafIndex(size), QUERY_RECORDS_MAX).await?;
        for record in &records {
            add(&mut tx, record).await?;
        }
        if let Some(record) = records.last() {
            sqlx::query("UPDATE position SET size = $1, last_hash = $2")
                .bind(int(record.index.0 + 1))
                .bind(record.leaf_hash.0.as_slice())
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(u64::try_from(records.len()).unwrap_or(u64::MAX))
    }

    pub(crate) async fn position(&self, record: RecordId) -> Result<Option<LeafIndex>, StoreError> {
        let found: Option<i64> = sqlx::query_scalar("SELECT min(idx) FROM entry WHERE record = $1")
            .bind(record_bytes(record))
            .fetch_one(&self.db)
            .await?;
        found.map(|index| unsigned(index, "index position").map(LeafIndex)).transpose()
    }

    pub(crate) async fn children(&self, record: RecordId) -> Result<Vec<LeafIndex>, StoreError> {
        let found: Vec<i64> =
            sqlx::query_scalar("SELECT idx FROM entry WHERE parent = $1 ORDER BY idx")
                .bind(record_bytes(record))
                .fetch_all(&self.db)
                .await?;
        found.into_iter().map(|index| unsigned(index, "index position").map(LeafIndex)).collect()
    }

    pub(crate) async fn find(
        &self,
        query: &Query,
        principal: Option<&str>,
    ) -> Result<Vec<LeafIndex>, StoreError> {
        let sql = if principal.is_some() {
            find!("principal = $2")
        } else if query.rule.is_some() {
            find!("idx IN (SELECT idx FROM rule WHERE rule.rule = $4)")
        } else if query.tool.is_some() {
            find!("tool = $3")
        } else if query.agent.is_some() {
            find!("agent = $1")
        } else if query.result.is_some() {
            find!("result = $7")
        } else if query.decision.is_some() {
            find!("decision = $5")
        } else if query.kind.is_some() {
            find!("kind = $6")
        } else {
            find!("TRUE")
        };
        let found: Vec<i64> = sqlx::query_scalar(sql)
            .bind(query.agent.as_deref())
            .bind(principal)
            .bind(query.tool.as_deref())
            .bind(query.rule.as_deref())
            .bind(query.decision.as_deref())
            .bind(query.kind.as_deref())
            .bind(query.result.as_deref())
            .bind(query.from_ms)
            .bind(query.until_ms)
            .bind(query.before.map_or(i64::MAX, |index| int(index.0)))
            .bind(i64::from(query.limit()))
            .fetch_all(&self.db)
            .await?;
        found.into_iter().map(|index| unsigned(index, "index position").map(LeafIndex)).collect()
    }

    pub(crate) async fn close(&self) {
        self.db.close().await;
    }
}

async fn add(tx: &mut SqliteConnection, record: &Record) -> Result<(), StoreError> {
    let leaf = &record.leaf;
    let text = |name: &str| leaf.get(name).and_then(Value::as_str);
    let parent = text("parent").and_then(|id| id.parse::<RecordId>().ok()).map(record_bytes);
    let ms = leaf.pointer("/time/ms").and_then(Value::as_i64).unwrap_or(0);
    let index = int(record.index.0);
    sqlx::query(
        "INSERT INTO entry (idx, record, parent, kind, ms, agent, principal, tool, decision, result)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(index)
    .bind(record_bytes(record.record_id))
    .bind(parent.clone())
    .bind(text("kind").unwrap_or_default())
    .bind(ms)
    .bind(text("agent"))
    .bind(text("principal"))
    .bind(text("tool"))
    .bind(text("decision"))
    .bind(text("outcome"))
    .execute(&mut *tx)
    .await?;
    if let (Some(parent), Some(outcome)) = (parent, text("outcome")) {
        // The latest outcome is the call's result.
        sqlx::query("UPDATE entry SET result = $2 WHERE record = $1 AND kind = 'decision'")
            .bind(parent)
            .bind(outcome)
            .execute(&mut *tx)
            .await?;
    }
    for rule in leaf.get("rules").and_then(Value::as_array).into_iter().flatten() {
        let Some(rule) = rule.as_str().or_else(|| rule.get("id").and_then(Value::as_str)) else {
            continue;
        };
        sqlx::query("INSERT INTO rule (rule, idx) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(rule)
            .bind(index)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}
