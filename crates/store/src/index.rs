//! The search index, `index.db`: filled behind the ledger, made again from its leaves at any time.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use countersign_ledger::LeafIndex;
use countersign_model::RecordId;
use serde_json::{Value, json};
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
const VERSION: i64 = 2;

/// Leaves whose first and last time are kept together.
const BLOCK: i64 = 256;

const SCHEMA: &str = "
DROP TABLE IF EXISTS entry;
DROP TABLE IF EXISTS rule;
DROP TABLE IF EXISTS block;
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
CREATE TABLE block (n INTEGER PRIMARY KEY, first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL) STRICT;
CREATE TABLE position (size INTEGER NOT NULL, last_hash BLOB NOT NULL) STRICT;
INSERT INTO position VALUES (0, x'');
PRAGMA user_version = 2;
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

/// A condition that a search can start from, since it has an index.
struct Lead {
    /// How many leaves meet it, as far as it matters.
    count: &'static str,
    /// The search; `$1` to `$12` mean the same in all.
    find: &'static str,
}

macro_rules! find {
    ($from:literal, $lead:literal, $idx:literal) => {
        concat!(
            "SELECT ",
            $idx,
            " AS leaf FROM ",
            $from,
            " WHERE ",
            $lead,
            " AND ($1 IS NULL OR agent = $1) AND ($2 IS NULL OR principal = $2)
              AND ($3 IS NULL OR tool = $3)
              AND ($4 IS NULL OR EXISTS
                   (SELECT 1 FROM rule WHERE rule.rule = $4 AND rule.idx = entry.idx))
              AND ($5 IS NULL OR decision = $5) AND ($6 IS NULL OR kind = $6)
              AND ($7 IS NULL OR result = $7) AND ($8 IS NULL OR ms >= $8)
              AND ($9 IS NULL OR ms < $9) AND ",
            $idx,
            " < $10 AND ",
            $idx,
            " >= $12 ORDER BY leaf DESC LIMIT $11"
        )
    };
    ($lead:literal) => {
        find!("entry", $lead, "entry.idx")
    };
}

macro_rules! lead {
    ($table:literal, $column:literal, $find:expr) => {
        Lead {
            count: concat!(
                "SELECT count(*) FROM (SELECT 1 FROM ",
                $table,
                " WHERE ",
                $column,
                " = $1 AND idx >= $2 AND idx < $3 LIMIT 2000)"
            ),
            find: $find,
        }
    };
}

const PRINCIPAL: Lead = lead!("entry", "principal", find!("principal = $2"));
const RULE: Lead = lead!(
    "rule",
    "rule",
    find!("rule AS lead CROSS JOIN entry ON entry.idx = lead.idx", "lead.rule = $4", "lead.idx")
);
const TOOL: Lead = lead!("entry", "tool", find!("tool = $3"));
const AGENT: Lead = lead!("entry", "agent", find!("agent = $1"));
const RESULT: Lead = lead!("entry", "result", find!("result = $7"));
const DECISION: Lead = lead!("entry", "decision", find!("decision = $5"));
const KIND: Lead = lead!("entry", "kind", find!("kind = $6"));
const ALL: &str = find!("TRUE");

impl Index {
    pub(crate) async fn open(folder: &Path) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(folder.join(FILE))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5))
            .pragma("cache_size", "-32768");
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
            match unsigned(position, "index position")? {
                position if position == size => return Ok(added),
                position if position > size => {
                    // Another process may have added what came after `size` was read.
                    if position <= reader.size().await? {
                        return Ok(added);
                    }
                    self.forget().await?;
                }
                _ => {}
            }
            added += self.step(reader).await?;
        }
    }

    /// Empties the index: the ledger is shorter than it.
    async fn forget(&self) -> Result<(), StoreError> {
        tracing::warn!("the search index is ahead of the ledger and is made again");
        let mut tx = self.db.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::raw_sql(SCHEMA).execute(&mut *tx).await?;
        Ok(tx.commit().await?)
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
        add(&mut tx, &records).await?;
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
        let (from, until) = self.span(query).await?;
        let sql = self.lead(query, principal, from, until).await?;
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
            .bind(until)
            .bind(i64::from(query.limit()))
            .bind(from)
            .fetch_all(&self.db)
            .await?;
        found.into_iter().map(|index| unsigned(index, "index position").map(LeafIndex)).collect()
    }

    /// Returns the first leaf that a query may find, and the leaf after the last.
    ///
    /// Leaves of several gateways are not quite in the order of their times, so blocks of them have bounds.
    async fn span(&self, query: &Query) -> Result<(i64, i64), StoreError> {
        let (mut from, mut until) = (0, query.before.map_or(i64::MAX, |index| int(index.0)));
        if let Some(ms) = query.from_ms {
            let sql = "SELECT min(n) FROM block WHERE last_ms >= $1";
            let first: Option<i64> = sqlx::query_scalar(sql).bind(ms).fetch_one(&self.db).await?;
            from = first.map_or(i64::MAX, |n| n * BLOCK);
        }
        if let Some(ms) = query.until_ms {
            let sql = "SELECT max(n) FROM block WHERE first_ms < $1";
            let last: Option<i64> = sqlx::query_scalar(sql).bind(ms).fetch_one(&self.db).await?;
            until = until.min(last.map_or(0, |n| (n + 1) * BLOCK));
        }
        Ok((from, until))
    }

    /// Chooses the condition that the fewest leaves meet to start from.
    async fn lead(
        &self,
        query: &Query,
        principal: Option<&str>,
        from: i64,
        until: i64,
    ) -> Result<&'static str, StoreError> {
        let conditions = [
            (PRINCIPAL, principal),
            (RULE, query.rule.as_deref()),
            (TOOL, query.tool.as_deref()),
            (AGENT, query.agent.as_deref()),
            (RESULT, query.result.as_deref()),
            (DECISION, query.decision.as_deref()),
            (KIND, query.kind.as_deref()),
        ];
        let (mut fewest, mut chosen) = (i64::MAX, ALL);
        for (lead, value) in conditions {
            let Some(value) = value else { continue };
            let count = sqlx::query_scalar(lead.count).bind(value).bind(from).bind(until);
            let count: i64 = count.fetch_one(&self.db).await?;
            if count < fewest {
                (fewest, chosen) = (count, lead.find);
            }
        }
        Ok(chosen)
    }

    pub(crate) async fn close(&self) {
        self.db.close().await;
    }
}

/// Adds records, one statement for each table.
///
/// SQLite's JSON ends a text at U+0000; names of tools and policies have printable characters only.
async fn add(tx: &mut SqliteConnection, records: &[Record]) -> Result<(), StoreError> {
    let rows = Additions::of(records);
    for (sql, rows) in [
        (
            "INSERT INTO entry
                    (idx, record, parent, kind, ms, agent, principal, tool, decision, result)
             SELECT value->>0, unhex(value->>1, '-'), unhex(value->>2, '-'), value->>3, value->>4,
                    value->>5, value->>6, value->>7, value->>8, value->>9
               FROM json_each($1)",
            rows.entries,
        ),
        (
            "UPDATE entry SET result = ended.value->>1 FROM json_each($1) AS ended
              WHERE record = unhex(ended.value->>0, '-') AND kind = 'decision'",
            rows.results.into_iter().map(|(call, result)| json!([call, result])).collect(),
        ),
        (
            "INSERT INTO rule (rule, idx)
             SELECT value->>0, value->>1 FROM json_each($1) WHERE TRUE
             ON CONFLICT DO NOTHING",
            rows.rules,
        ),
        (
            "INSERT INTO block (n, first_ms, last_ms)
             SELECT value->>0, value->>1, value->>2 FROM json_each($1) WHERE TRUE
             ON CONFLICT (n) DO UPDATE SET first_ms = min(first_ms, excluded.first_ms),
                                           last_ms = max(last_ms, excluded.last_ms)",
            rows.blocks.into_iter().map(|(n, (first, last))| json!([n, first, last])).collect(),
        ),
    ] {
        sqlx::query(sql).bind(Value::Array(rows).to_string()).execute(&mut *tx).await?;
    }
    Ok(())
}

/// What some records add to the tables.
#[derive(Default)]
struct Additions<'a> {
    entries: Vec<Value>,
    /// The latest outcome is the call's result.
    results: BTreeMap<&'a str, &'a str>,
    rules: Vec<Value>,
    /// The first and the last time of each block that the records are in.
    blocks: BTreeMap<i64, (i64, i64)>,
}

impl<'a> Additions<'a> {
    fn of(records: &'a [Record]) -> Self {
        let mut additions = Self::default();
        for record in records {
            additions.add(record);
        }
        additions
    }

    fn add(&mut self, record: &'a Record) {
        let leaf = &record.leaf;
        let text = |name: &str| leaf.get(name).and_then(Value::as_str);
        let parent = text("parent").filter(|id| id.parse::<RecordId>().is_ok());
        let ms = leaf.pointer("/time/ms").and_then(Value::as_i64).unwrap_or(0);
        let index = int(record.index.0);
        self.entries.push(json!([
            index,
            record.record_id.to_string(),
            parent,
            text("kind").unwrap_or_default(),
            ms,
            text("agent"),
            text("principal"),
            text("tool"),
            text("decision"),
            text("outcome"),
        ]));
        if let (Some(parent), Some(outcome)) = (parent, text("outcome")) {
            self.results.insert(parent, outcome);
        }
        let rules = leaf.get("rules").and_then(Value::as_array).into_iter().flatten();
        let rules = rules.filter_map(|rule| rule.as_str().or_else(|| rule.get("id")?.as_str()));
        self.rules.extend(rules.map(|rule| json!([rule, index])));
        let (first, last) = self.blocks.entry(index / BLOCK).or_insert((ms, ms));
        (*first, *last) = (ms.min(*first), ms.max(*last));
    }
}
