//! Agents and their API keys.
//!
//! A key reads `csk_<environment>_<key id>_<secret>`: 16 and 64 lower-case hexadecimal digits, the
//! secret 256 random bits. The database has an HMAC of it. Authentication looks at a snapshot in memory.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use countersign_model::{
    Agent, AgentId, AgentStatus, Draft, Kind, NewAgent, ReasonCode, TimestampMs,
};

use crate::db::{Column, Pool};
use crate::effect::{ApiKey, Effect, NEVER, agent_sum};
use crate::keystore::random;
use crate::limits::CREDENTIAL_BYTES_MAX;
use crate::{Store, StoreError};

/// The start of every API key.
const PREFIX: &str = "csk";

/// An accepted credential.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// Who acts.
    pub agent: Arc<Agent>,
    /// The key that was used; not secret.
    pub key_id: String,
}

/// A rejected credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthFailure {
    /// Why it was rejected.
    pub reason: ReasonCode,
    /// The key that it claims to be, if such a key exists.
    pub key_id: Option<String>,
    /// The key's agent, if such a key exists.
    pub agent: Option<AgentId>,
}

/// A new API key: the only time that its text is seen.
#[expect(missing_debug_implementations, reason = "key material")]
pub struct NewKey {
    /// The key's public name.
    pub id: String,
    /// The text that the agent presents.
    pub text: zeroize::Zeroizing<String>,
}

#[derive(Default)]
struct Snapshot {
    agents: HashMap<AgentId, Arc<Agent>>,
    keys: HashMap<String, ApiKey>,
}

impl Snapshot {
    async fn load(db: &Pool, tenant: &str) -> Result<Self, StoreError> {
        let mut snapshot = Snapshot::default();
        for agent in load_agents(db, tenant).await? {
            snapshot.agents.insert(agent.id, Arc::new(agent));
        }
        let sql = "SELECT key_id, agent, hash, created_ms, expires_ms, sum FROM api_key
              WHERE tenant = $1";
        let rows = db.fetch_all(sql, &[Column::Text(tenant)]).await?;
        for row in rows {
            let (agent, sum): (Vec<u8>, Vec<u8>) = (row.get(1)?, row.get(5)?);
            let key = ApiKey {
                id: row.get(0)?,
                agent: agent_id(&agent)?,
                hash: row.get(2)?,
                created_ms: row.get(3)?,
                expires_ms: row.get(4)?,
            };
            if key.sum(tenant) != sum {
                return Err(StoreError::corrupt(format!("api_key `{}`", key.id)));
            }
            snapshot.keys.insert(key.id.clone(), key);
        }
        Ok(snapshot)
    }
}

/// All agents and keys, in memory.
pub(crate) struct Registry {
    snapshot: RwLock<Snapshot>,
    /// Held during a change, so that changes do not cross.
    changing: tokio::sync::Mutex<()>,
}

impl Registry {
    pub(crate) async fn load(db: &Pool, tenant: &str) -> Result<Self, StoreError> {
        let snapshot = RwLock::new(Snapshot::load(db, tenant).await?);
        Ok(Self { snapshot, changing: tokio::sync::Mutex::default() })
    }

    /// Reads everything again: another gateway changed it.
    pub(crate) async fn reload(&self, db: &Pool, tenant: &str) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        let snapshot = Snapshot::load(db, tenant).await?;
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
        Ok(())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Snapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, agent: Option<&Agent>, keys: &[ApiKey]) {
        let mut snapshot = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agent {
            snapshot.agents.insert(agent.id, Arc::new(agent.clone()));
        }
        for key in keys {
            snapshot.keys.insert(key.id.clone(), key.clone());
        }
    }

    fn by_name(&self, name: &str) -> Option<Arc<Agent>> {
        self.read().agents.values().find(|agent| agent.name.as_str() == name).cloned()
    }
}

fn agent_id(bytes: &[u8]) -> Result<AgentId, StoreError> {
    let uuid = uuid::Uuid::from_slice(bytes)
        .map_err(|_| StoreError::corrupt("an agent id does not have 16 bytes"))?;
    Ok(AgentId(uuid))
}

/// Reads every agent, oldest first.
pub(crate) async fn load_agents(db: &Pool, tenant: &str) -> Result<Vec<Agent>, StoreError> {
    let sql = "SELECT agent, name, purpose, owner, environment, roles, status, created_ms, sum
           FROM agent WHERE tenant = $1 ORDER BY created_ms, name";
    let rows = db.fetch_all(sql, &[Column::Text(tenant)]).await?;
    rows.iter()
        .map(|row| {
            let (id, name): (Vec<u8>, String) = (row.get(0)?, row.get(1)?);
            let damaged = || StoreError::corrupt(format!("agent `{name}`"));
            let (environment, roles, status): (String, String, String) =
                (row.get(4)?, row.get(5)?, row.get(6)?);
            let agent = Agent {
                id: agent_id(&id)?,
                name: name.parse().map_err(|_| damaged())?,
                purpose: row.get(2)?,
                owner: row.get(3)?,
                environment: environment.parse().map_err(|_| damaged())?,
                roles: serde_json::from_str(&roles).map_err(|_| damaged())?,
                status: match status.as_str() {
                    "active" => AgentStatus::Active,
                    "disabled" => AgentStatus::Disabled,
                    _ => return Err(damaged()),
                },
                created: TimestampMs(row.get(7)?),
            };
            let sum: Vec<u8> = row.get(8)?;
            if agent_sum(tenant, &agent) == sum { Ok(agent) } else { Err(damaged()) }
        })
        .collect()
}

/// The registry of agents; every change is recorded in the same transaction.
#[derive(Clone, Copy, Debug)]
pub struct Agents<'a> {
    store: &'a Store,
}

impl Store {
    /// Returns the registry of agents.
    #[must_use]
    pub fn agents(&self) -> Agents<'_> {
        Agents { store: self }
    }

    /// Returns the agent with this name, from memory.
    #[must_use]
    pub fn agent(&self, name: &str) -> Option<Arc<Agent>> {
        self.inner.registry.by_name(name)
    }

    /// Checks a presented API key against the snapshot in memory.
    ///
    /// # Errors
    /// [`AuthFailure`] says why, for the record; what the caller learns is for the gateway to say.
    pub fn authenticate(&self, credential: &str) -> Result<Authenticated, AuthFailure> {
        let unknown = |reason| AuthFailure { reason, key_id: None, agent: None };
        if credential.is_empty() {
            return Err(unknown(ReasonCode::CREDENTIAL_MISSING));
        }
        let invalid = || unknown(ReasonCode::CREDENTIAL_INVALID);
        let (environment, id, secret) = parse_key(credential).ok_or_else(invalid)?;
        let snapshot = self.inner.registry.read();
        let key = snapshot.keys.get(id).ok_or_else(invalid)?;
        let agent = snapshot.agents.get(&key.agent).ok_or_else(invalid)?;
        let failure =
            |reason| AuthFailure { reason, key_id: Some(id.to_owned()), agent: Some(key.agent) };
        // The secret comes first: whoever does not have it learns nothing about key and agent.
        if !self.inner.keys.api_key_fits(id, secret, &key.hash)
            || environment != agent.environment.as_str()
        {
            return Err(failure(ReasonCode::CREDENTIAL_INVALID));
        }
        if self.now_ms() >= key.expires_ms {
            return Err(failure(ReasonCode::CREDENTIAL_EXPIRED));
        }
        if agent.status == AgentStatus::Disabled {
            return Err(failure(ReasonCode::AGENT_DISABLED));
        }
        Ok(Authenticated { agent: Arc::clone(agent), key_id: id.to_owned() })
    }
}

/// Returns environment, key id and secret.
fn parse_key(text: &str) -> Option<(&str, &str, &str)> {
    if text.len() > CREDENTIAL_BYTES_MAX {
        return None;
    }
    // No part has an underscore: an environment is a slug, the others are hexadecimal.
    let mut parts = text.split('_');
    let (prefix, environment, id, secret) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    (prefix == PREFIX && parts.next().is_none()).then_some((environment, id, secret))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Agents<'_> {
    /// Registers an agent with its first API key.
    ///
    /// # Errors
    /// [`StoreError::NewAgent`], [`StoreError::NameTaken`], [`StoreError::Unavailable`].
    pub async fn add(&self, new: NewAgent, actor: &str) -> Result<(Agent, NewKey), StoreError> {
        let registry = &self.store.inner.registry;
        let _changing = registry.changing.lock().await;
        let now = self.store.now_ms();
        let expires = new.key_expires.map_or(NEVER, |time| time.0);
        let agent = new.into_agent(AgentId((self.store.inner.config.ids)()), TimestampMs(now))?;
        if registry.by_name(agent.name.as_str()).is_some() {
            return Err(StoreError::NameTaken(agent.name.to_string()));
        }
        let (key, shown) = self.make_key(&agent, now, expires)?;
        let draft = self.change(&agent, "added", actor)?.with("key_id", shown.id.clone());
        let effects = vec![Effect::PutAgent(Box::new(agent.clone())), Effect::PutKey(key.clone())];
        self.store.append_with(draft, effects).await?;
        registry.put(Some(&agent), &[key]);
        Ok((agent, shown))
    }

    /// Returns every agent, sorted by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Agent>> {
        let mut agents: Vec<_> =
            self.store.inner.registry.read().agents.values().cloned().collect();
        agents.sort_by(|a, b| a.name.cmp(&b.name));
        agents
    }

    /// Returns the agent with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Agent>> {
        self.store.inner.registry.by_name(name)
    }

    /// Disables an agent: every credential of it is refused from now on.
    ///
    /// # Errors
    /// [`StoreError::UnknownAgent`], [`StoreError::Unavailable`].
    pub async fn disable(&self, name: &str, actor: &str) -> Result<Agent, StoreError> {
        let registry = &self.store.inner.registry;
        let _changing = registry.changing.lock().await;
        let mut agent = self.known(name)?;
        agent.status = AgentStatus::Disabled;
        let draft = self.change(&agent, "disabled", actor)?;
        self.store.append_with(draft, vec![Effect::PutAgent(Box::new(agent.clone()))]).await?;
        registry.put(Some(&agent), &[]);
        Ok(agent)
    }

    /// Gives an agent a new key; its other keys end after `overlap_ms`, or before if they would anyway.
    ///
    /// # Errors
    /// [`StoreError::UnknownAgent`], [`StoreError::Unavailable`].
    pub async fn rotate_key(
        &self,
        name: &str,
        overlap_ms: u64,
        actor: &str,
    ) -> Result<NewKey, StoreError> {
        let registry = &self.store.inner.registry;
        let _changing = registry.changing.lock().await;
        let agent = self.known(name)?;
        let now = self.store.now_ms();
        let end = now.saturating_add(crate::db::int(overlap_ms));
        let (key, shown) = self.make_key(&agent, now, NEVER)?;
        let mut keys: Vec<ApiKey> = {
            let snapshot = registry.read();
            let of_agent = snapshot.keys.values().filter(|key| key.agent == agent.id);
            of_agent.filter(|key| key.expires_ms > end).cloned().collect()
        };
        keys.iter_mut().for_each(|key| key.expires_ms = end);
        keys.push(key);
        let draft = self
            .change(&agent, "key_rotated", actor)?
            .with("key_id", shown.id.clone())
            .with("overlap_ms", overlap_ms);
        self.store.append_with(draft, keys.iter().cloned().map(Effect::PutKey).collect()).await?;
        registry.put(None, &keys);
        Ok(shown)
    }

    fn known(&self, name: &str) -> Result<Agent, StoreError> {
        let agent = self.get(name).ok_or_else(|| StoreError::UnknownAgent(name.to_owned()))?;
        Ok(Agent::clone(&agent))
    }

    fn make_key(
        &self,
        agent: &Agent,
        created_ms: i64,
        expires_ms: i64,
    ) -> Result<(ApiKey, NewKey), StoreError> {
        let id = hex(&random::<8>()?);
        let secret = zeroize::Zeroizing::new(hex(&*zeroize::Zeroizing::new(random::<32>()?)));
        let hash = self.store.inner.keys.api_key_hash(&id, &secret)?.to_vec();
        let environment = agent.environment.as_str();
        let text = format!("{PREFIX}_{environment}_{id}_{}", secret.as_str()).into();
        Ok((
            ApiKey { id: id.clone(), agent: agent.id, hash, created_ms, expires_ms },
            NewKey { id, text },
        ))
    }

    /// Returns the record of a change, with the agent as it will be.
    fn change(&self, agent: &Agent, action: &str, actor: &str) -> Result<Draft, StoreError> {
        let after =
            serde_json::to_value(agent).map_err(|error| StoreError::invalid(error.to_string()))?;
        Ok(Draft::new(self.store.new_id(), Kind::Change)
            .with("object", "agent")
            .with("action", action)
            .with("agent", agent.id.to_string())
            .about(actor)
            .sealed("after", after))
    }
}
