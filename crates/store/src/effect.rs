//! Changes of tables that ride in the transaction of the record that tells of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_model::{Agent, AgentId, AgentStatus};
use serde_json::Value;

use crate::StoreError;
use crate::db::{self, Column, Conn, row_sum, with_sum};

pub(crate) enum Effect {
    PutAgent(Box<Agent>),
    PutKey(ApiKey),
    PutBundle {
        hash: String,
        files: Arc<BTreeMap<String, Vec<u8>>>,
    },
    ActivateBundle {
        hash: String,
    },
    /// Lets other gateways look for what this record changes.
    TellOthers,
    /// Refuses the record if anything that gateways tell each other changed since [`Store::news`] said this, and
    /// lets nothing change until the record is there. Comes before other effects.
    ///
    /// [`Store::news`]: crate::Store::news
    Unchanged {
        news: i64,
    },
    /// Deletes all sealed sections of records whose time has come.
    PurgeSections {
        records: Vec<Vec<u8>>,
        /// How many there are: with another number nothing is deleted, and nothing recorded.
        sections: u64,
        /// Bytes of their ciphertext.
        bytes: usize,
    },
}

impl Effect {
    /// Returns how many bytes it rewrites, if that is much.
    pub(crate) fn bytes(&self) -> usize {
        if let Self::PurgeSections { bytes, .. } = self { *bytes } else { 0 }
    }
}

/// What the writer deletes for an erasure; no record tells of it before all of it is done.
pub(crate) enum Purge {
    /// Sealed sections of a subject, by row id.
    Sealed { name: String, rows: Vec<i64> },
    /// Kept results of a subject, by row id.
    Replay { name: String, rows: Vec<i64> },
    /// The mapping of a subject to its slot.
    Subject { name: String },
    /// Everything under a name, in PostgreSQL.
    Name { name: String },
    /// What the write-ahead log still has of deleted rows.
    Log,
}

impl Purge {
    /// Deletes, durably; what is gone already stays so.
    pub(crate) async fn run(
        self,
        conn: &mut Conn,
        tenant: &str,
        busy: Duration,
    ) -> Result<(), StoreError> {
        let (sql, name, rows) = match self {
            Self::Sealed { name, rows } => (
                "DELETE FROM sealed WHERE tenant = $1 AND subject = $2
                  AND rowid IN (SELECT value FROM json_each($3))",
                name,
                rows,
            ),
            Self::Replay { name, rows } => (
                "DELETE FROM replay WHERE tenant = $1 AND subject = $2
                  AND rowid IN (SELECT value FROM json_each($3))",
                name,
                rows,
            ),
            Self::Subject { name } => (
                "DELETE FROM subject WHERE tenant = $1 AND subject = $2 AND $3 = '[]'",
                name,
                Vec::new(),
            ),
            Self::Name { name } => return purge_name(conn, tenant, &name).await,
            Self::Log => return db::empty_log(conn, busy),
        };
        let rows = serde_json::Value::from(rows).to_string();
        let args = [tenant, &name, &rows].map(Column::Text);
        conn.execute(sql, &args).await?;
        Ok(())
    }
}

/// Deletes what is sealed under a name, and the name, in the role that may.
async fn purge_name(conn: &mut Conn, tenant: &str, name: &str) -> Result<(), StoreError> {
    let args = [tenant, name].map(Column::Text);
    conn.begin().await?;
    conn.execute("SET LOCAL ROLE countersign_retention", &[]).await?;
    for sql in [
        "DELETE FROM sealed WHERE tenant = $1 AND subject = $2",
        "DELETE FROM replay WHERE tenant = $1 AND subject = $2",
        "DELETE FROM subject WHERE tenant = $1 AND subject = $2",
    ] {
        conn.execute(sql, &args).await?;
    }
    Ok(conn.commit().await?)
}

/// Deletes sealed sections in the transaction that tells of it; in PostgreSQL in the role that may.
async fn purge_sections(
    tx: &mut Conn,
    tenant: &str,
    records: &[Vec<u8>],
    sections: u64,
) -> Result<(), sqlx::Error> {
    let hex = |id: &Vec<u8>| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let records = Value::from_iter(records.iter().map(hex)).to_string();
    let args = [tenant, &records].map(Column::Text);
    if let Conn::Sqlite(_) = tx {
        let sql = "DELETE FROM sealed WHERE tenant = $1
                     AND record IN (SELECT unhex(value) FROM json_each($2))";
        let deleted = tx.execute(sql, &args).await?;
        return expect(deleted, sections);
    }
    let sql = "DELETE FROM sealed WHERE tenant = $1
                 AND record IN (SELECT decode(id, 'hex') FROM json_array_elements_text($2::json) AS id)";
    tx.execute("SET LOCAL ROLE countersign_retention", &[]).await?;
    let deleted = tx.execute(sql, &args).await?;
    tx.execute("SET LOCAL ROLE countersign_gateway", &[]).await?;
    expect(deleted, sections)
}

/// Refuses a deletion of other rows than were counted.
fn expect(deleted: u64, counted: u64) -> Result<(), sqlx::Error> {
    if deleted == counted {
        return Ok(());
    }
    let reason = format!("{counted} sealed sections were counted and {deleted} found");
    Err(sqlx::Error::Protocol(reason))
}

/// A stored API key.
#[derive(Clone)]
pub(crate) struct ApiKey {
    pub(crate) id: String,
    pub(crate) agent: AgentId,
    pub(crate) hash: Vec<u8>,
    pub(crate) created_ms: i64,
    /// [`NEVER`] if the key does not expire.
    pub(crate) expires_ms: i64,
}

/// The expiry of a key that does not expire.
pub(crate) const NEVER: i64 = i64::MAX;

/// Returns a status as the column has it.
pub(crate) fn status_text(status: AgentStatus) -> &'static str {
    match status {
        AgentStatus::Active => "active",
        AgentStatus::Disabled => "disabled",
    }
}

/// Changes the tables; returns whether the record may be made.
pub(crate) async fn apply(
    tx: &mut Conn,
    tenant: &str,
    effect: Effect,
) -> Result<bool, sqlx::Error> {
    let is_news = matches!(effect, Effect::PutAgent(_) | Effect::PutKey(_) | Effect::TellOthers);
    if is_news && matches!(tx, Conn::Postgres(_)) {
        let sql = "UPDATE registry_version SET version = version + 1 WHERE tenant = $1";
        tx.execute(sql, &[Column::Text(tenant)]).await?;
    }
    let done = match effect {
        Effect::Unchanged { news } => return is_unchanged(tx, tenant, news).await,
        Effect::PutAgent(agent) => put_agent(tx, tenant, &agent).await,
        Effect::PutKey(key) => key.put(tx, tenant).await,
        Effect::PutBundle { hash, files } => put_bundle(tx, tenant, &hash, &files).await,
        Effect::ActivateBundle { hash } => activate_bundle(tx, tenant, &hash).await,
        Effect::TellOthers => Ok(()),
        Effect::PurgeSections { records, sections, .. } => {
            purge_sections(tx, tenant, &records, sections).await
        }
    };
    done.map(|()| true)
}

/// Takes the row that everyone updates who tells others something: one of two comes first, and the other sees it.
async fn is_unchanged(tx: &mut Conn, tenant: &str, news: i64) -> Result<bool, sqlx::Error> {
    if let Conn::Sqlite(_) = tx {
        // There are no others.
        return Ok(true);
    }
    let sql = "SELECT version FROM registry_version WHERE tenant = $1 FOR UPDATE";
    let version: i64 = tx.fetch_one(sql, &[Column::Text(tenant)]).await?.get(0)?;
    Ok(version == news)
}

/// Returns an agent's roles as the column has them.
fn roles_text(agent: &Agent) -> String {
    serde_json::Value::from(agent.roles.clone()).to_string()
}

/// Returns the sum of a row of `agent`.
pub(crate) fn agent_sum(tenant: &str, agent: &Agent) -> Vec<u8> {
    row_sum("agent", &agent_columns(tenant, agent, &roles_text(agent)))
}

fn agent_columns<'a>(tenant: &'a str, agent: &'a Agent, roles: &'a str) -> [Column<'a>; 9] {
    [
        Column::Text(tenant),
        Column::Blob(agent.id.0.as_bytes()),
        Column::Text(agent.name.as_str()),
        Column::Text(&agent.purpose),
        Column::Text(&agent.owner),
        Column::Text(agent.environment.as_str()),
        Column::Text(roles),
        Column::Text(status_text(agent.status)),
        Column::Int(agent.created.0),
    ]
}

async fn put_agent(tx: &mut Conn, tenant: &str, agent: &Agent) -> Result<(), sqlx::Error> {
    let roles = roles_text(agent);
    tx.execute(
        "INSERT INTO agent
         (tenant, agent, name, purpose, owner, environment, roles, status, created_ms, sum)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (tenant, agent) DO UPDATE SET purpose = excluded.purpose,
         owner = excluded.owner, environment = excluded.environment, roles = excluded.roles,
         status = excluded.status, sum = excluded.sum",
        &with_sum(&agent_columns(tenant, agent, &roles), &agent_sum(tenant, agent)),
    )
    .await?;
    Ok(())
}

impl ApiKey {
    /// Returns the sum of the key's row.
    pub(crate) fn sum(&self, tenant: &str) -> Vec<u8> {
        row_sum("api_key", &self.columns(tenant))
    }

    fn columns<'a>(&'a self, tenant: &'a str) -> [Column<'a>; 6] {
        [
            Column::Text(tenant),
            Column::Text(&self.id),
            Column::Blob(self.agent.0.as_bytes()),
            Column::Blob(&self.hash),
            Column::Int(self.created_ms),
            Column::Int(self.expires_ms),
        ]
    }

    async fn put(&self, tx: &mut Conn, tenant: &str) -> Result<(), sqlx::Error> {
        tx.execute(
            "INSERT INTO api_key (tenant, key_id, agent, hash, created_ms, expires_ms, sum)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (tenant, key_id) DO UPDATE SET expires_ms = excluded.expires_ms,
             sum = excluded.sum",
            &with_sum(&self.columns(tenant), &self.sum(tenant)),
        )
        .await?;
        Ok(())
    }
}

/// Returns the sum of a row of `bundle`.
pub(crate) fn bundle_sum(tenant: &str, hash: &str, path: &str, content: &[u8]) -> Vec<u8> {
    row_sum("bundle", &bundle_columns(tenant, hash, path, content))
}

fn bundle_columns<'a>(
    tenant: &'a str,
    hash: &'a str,
    path: &'a str,
    content: &'a [u8],
) -> [Column<'a>; 4] {
    [Column::Text(tenant), Column::Text(hash), Column::Text(path), Column::Blob(content)]
}

async fn put_bundle(
    tx: &mut Conn,
    tenant: &str,
    hash: &str,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<(), sqlx::Error> {
    for (path, content) in files {
        let columns = bundle_columns(tenant, hash, path, content);
        tx.execute(
            "INSERT INTO bundle (tenant, hash, path, content, sum) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT DO NOTHING",
            &with_sum(&columns, &row_sum("bundle", &columns)),
        )
        .await?;
    }
    Ok(())
}

/// Returns the sum of the row of `active_bundle`.
pub(crate) fn active_bundle_sum(tenant: &str, hash: &str) -> Vec<u8> {
    row_sum("active_bundle", &[Column::Text(tenant), Column::Text(hash)])
}

async fn activate_bundle(tx: &mut Conn, tenant: &str, hash: &str) -> Result<(), sqlx::Error> {
    let columns = [Column::Text(tenant), Column::Text(hash)];
    tx.execute(
        "INSERT INTO active_bundle (tenant, hash, sum) VALUES ($1, $2, $3)
         ON CONFLICT (tenant) DO UPDATE SET hash = excluded.hash, sum = excluded.sum",
        &with_sum(&columns, &active_bundle_sum(tenant, hash)),
    )
    .await?;
    Ok(())
}
