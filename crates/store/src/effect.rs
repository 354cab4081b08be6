//! Changes of tables that ride in the transaction of the record that tells of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use countersign_model::{Agent, AgentId, AgentStatus};
use sqlx::SqliteConnection;

use crate::StoreError;
use crate::db::{self, Column, row_sum};

pub(crate) enum Effect {
    PutAgent(Box<Agent>),
    PutKey(ApiKey),
    PutBundle { hash: String, files: Arc<BTreeMap<String, Vec<u8>>> },
    ActivateBundle { hash: String },
}

/// What the writer deletes for an erasure; no record tells of it before all of it is done.
pub(crate) enum Purge {
    /// Sealed sections of a subject, by row id.
    Sealed { name: String, rows: Vec<i64> },
    /// Kept results of a subject, by row id.
    Replay { name: String, rows: Vec<i64> },
    /// The mapping of a subject to its slot.
    Subject { name: String },
    /// What the write-ahead log still has of deleted rows.
    Log,
}

impl Purge {
    /// Deletes, durably; what is gone already stays so.
    pub(crate) async fn run(
        self,
        conn: &mut SqliteConnection,
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
            Self::Log => return db::truncate_wal_within(conn, busy).await,
        };
        let rows = serde_json::Value::from(rows).to_string();
        sqlx::query(sql).bind(tenant).bind(name).bind(rows).execute(conn).await?;
        Ok(())
    }
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

pub(crate) async fn apply(
    tx: &mut SqliteConnection,
    tenant: &str,
    effect: Effect,
) -> Result<(), sqlx::Error> {
    match effect {
        Effect::PutAgent(agent) => put_agent(tx, tenant, &agent).await,
        Effect::PutKey(key) => key.put(tx, tenant).await,
        Effect::PutBundle { hash, files } => put_bundle(tx, tenant, &hash, &files).await,
        Effect::ActivateBundle { hash } => activate_bundle(tx, tenant, &hash).await,
    }
}

/// Returns an agent's roles as the column has them.
fn roles_text(agent: &Agent) -> String {
    serde_json::Value::from(agent.roles.clone()).to_string()
}

/// Returns the sum of a row of `agent`.
pub(crate) fn agent_sum(tenant: &str, agent: &Agent) -> Vec<u8> {
    row_sum(
        "agent",
        &[
            Column::Text(tenant),
            Column::Blob(agent.id.0.as_bytes()),
            Column::Text(agent.name.as_str()),
            Column::Text(&agent.purpose),
            Column::Text(&agent.owner),
            Column::Text(agent.environment.as_str()),
            Column::Text(&roles_text(agent)),
            Column::Text(status_text(agent.status)),
            Column::Int(agent.created.0),
        ],
    )
}

async fn put_agent(
    tx: &mut SqliteConnection,
    tenant: &str,
    agent: &Agent,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO agent
         (tenant, agent, name, purpose, owner, environment, roles, status, created_ms, sum)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (tenant, agent) DO UPDATE SET purpose = excluded.purpose,
         owner = excluded.owner, environment = excluded.environment, roles = excluded.roles,
         status = excluded.status, sum = excluded.sum",
    )
    .bind(tenant)
    .bind(agent.id.0.as_bytes().to_vec())
    .bind(agent.name.as_str())
    .bind(&agent.purpose)
    .bind(&agent.owner)
    .bind(agent.environment.as_str())
    .bind(roles_text(agent))
    .bind(status_text(agent.status))
    .bind(agent.created.0)
    .bind(agent_sum(tenant, agent))
    .execute(tx)
    .await?;
    Ok(())
}

impl ApiKey {
    /// Returns the sum of the key's row.
    pub(crate) fn sum(&self, tenant: &str) -> Vec<u8> {
        row_sum(
            "api_key",
            &[
                Column::Text(tenant),
                Column::Text(&self.id),
                Column::Blob(self.agent.0.as_bytes()),
                Column::Blob(&self.hash),
                Column::Int(self.created_ms),
                Column::Int(self.expires_ms),
            ],
        )
    }

    async fn put(&self, tx: &mut SqliteConnection, tenant: &str) -> Result<(), sqlx::Error> {
        sqlx::query(
            "INSERT INTO api_key (tenant, key_id, agent, hash, created_ms, expires_ms, sum)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (tenant, key_id) DO UPDATE SET expires_ms = excluded.expires_ms,
             sum = excluded.sum",
        )
        .bind(tenant)
        .bind(&self.id)
        .bind(self.agent.0.as_bytes().to_vec())
        .bind(&self.hash)
        .bind(self.created_ms)
        .bind(self.expires_ms)
        .bind(self.sum(tenant))
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// Returns the sum of a row of `bundle`.
pub(crate) fn bundle_sum(tenant: &str, hash: &str, path: &str, content: &[u8]) -> Vec<u8> {
    let (tenant, hash, path) = (Column::Text(tenant), Column::Text(hash), Column::Text(path));
    row_sum("bundle", &[tenant, hash, path, Column::Blob(content)])
}

async fn put_bundle(
    tx: &mut SqliteConnection,
    tenant: &str,
    hash: &str,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<(), sqlx::Error> {
    for (path, content) in files {
        sqlx::query(
            "INSERT INTO bundle (tenant, hash, path, content, sum) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT DO NOTHING",
        )
        .bind(tenant)
        .bind(hash)
        .bind(path)
        .bind(content)
        .bind(bundle_sum(tenant, hash, path, content))
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// Returns the sum of the row of `active_bundle`.
pub(crate) fn active_bundle_sum(tenant: &str, hash: &str) -> Vec<u8> {
    row_sum("active_bundle", &[Column::Text(tenant), Column::Text(hash)])
}

async fn activate_bundle(
    tx: &mut SqliteConnection,
    tenant: &str,
    hash: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO active_bundle (tenant, hash, sum) VALUES ($1, $2, $3)
         ON CONFLICT (tenant) DO UPDATE SET hash = excluded.hash, sum = excluded.sum",
    )
    .bind(tenant)
    .bind(hash)
    .bind(active_bundle_sum(tenant, hash))
    .execute(tx)
    .await?;
    Ok(())
}
