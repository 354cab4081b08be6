//! Who calls: credentials in, callers out, an `auth` record for every attempt.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderMap;
use countersign_model::{
    Agent, AgentName, Draft, Kind, Principal, PrincipalType, Provenance, ReasonCode, RecordId,
};
use countersign_store::{Clock, IdSource, Store};
use serde_json::{Map, Value};

use crate::limits::CLAIM_BYTES_MAX;

/// Headers by which clients like to say who they are; kept as claims, used for nothing.
const CLAIM_HEADERS: [&str; 5] =
    ["x-agent-id", "x-user-id", "x-user-email", "x-forwarded-user", "x-principal"];
/// Accepted attempts with the same credential are one `auth` record in this time, in milliseconds.
const ACCEPTED_WINDOW_MS: i64 = 60_000;
/// Credentials whose last accepted attempt is remembered.
const WINDOWS_MAX: usize = 65_536;

/// An authenticated caller. Its only makers are [`Identity::authenticate`] and
/// the test listener with one fixed agent.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The agent that the credential belongs to.
    pub agent: Arc<Agent>,
    /// The person, service account or organisation behind it.
    pub principal: Principal,
    /// The credential's id, never its secret.
    pub credential: String,
    /// What the client said about itself.
    pub claims: Map<String, Value>,
}

/// Why a credential was refused; recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthRefusal {
    /// The credential is missing, unknown, expired, or its agent is disabled.
    Rejected,
    /// The attempt could not be recorded.
    NotRecorded,
}

/// Authenticates callers against the registry of agents.
pub struct Identity {
    store: Store,
    clock: Arc<dyn Clock>,
    ids: IdSource,
    /// When each credential last got an `accepted` record.
    accepted: Mutex<HashMap<String, i64>>,
    /// A test listener may act as one agent without a credential.
    fixed: Option<AgentName>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("fixed", &self.fixed).finish_non_exhaustive()
    }
}

impl Identity {
    /// Makes an identity service over the store's registry.
    pub fn new(
        store: Store,
        clock: Arc<dyn Clock>,
        ids: IdSource,
        fixed: Option<AgentName>,
    ) -> Self {
        Self { store, clock, ids, accepted: Mutex::default(), fixed }
    }

    /// Finds out who sent the request, and writes the `auth` record.
    ///
    /// # Errors
    ///
    /// Refuses a missing, unknown, malformed or expired credential, a disabled agent, and any
    /// attempt that cannot be recorded.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, AuthRefusal> {
        let claims = claims(headers);
        let Some(presented) = presented_key(headers) else {
            if let Some(caller) = self.fixed(&claims) {
                return Ok(caller);
            }
            return Err(self.reject(ReasonCode::CREDENTIAL_MISSING, None, None, &claims).await);
        };
        match self.store.authenticate(presented) {
            Ok(accepted) => {
                let caller = caller(accepted.agent, accepted.key_id, claims);
                self.accept(&caller).await?;
                Ok(caller)
            }
            Err(failure) => {
                let agent = failure.agent.map(|id| id.to_string());
                Err(self.reject(failure.reason, failure.key_id, agent, &claims).await)
            }
        }
    }

    /// Gives the caller of a test listener with one fixed agent.
    fn fixed(&self, claims: &Map<String, Value>) -> Option<Caller> {
        let name = self.fixed.as_ref()?;
        let agent = self.store.agent(name.as_str())?;
        Some(caller(agent, "fixed".into(), claims.clone()))
    }

    /// Records an accepted credential once a minute.
    async fn accept(&self, caller: &Caller) -> Result<(), AuthRefusal> {
        let now = self.clock.now_ms();
        {
            let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
            match accepted.get(&caller.credential) {
                Some(last) if now - last < ACCEPTED_WINDOW_MS && now >= *last => return Ok(()),
                _ => {
                    if accepted.len() >= WINDOWS_MAX {
                        accepted.clear();
                    }
                    accepted.insert(caller.credential.clone(), now);
                }
            }
        }
        let draft = self
            .draft("accepted", &caller.claims)
            .with("agent", caller.agent.id.to_string())
            .with("environment", caller.agent.environment.as_str())
            .with("key_id", caller.credential.as_str())
            .with("window_ms", ACCEPTED_WINDOW_MS)
            .about(caller.principal.id.as_str());
        self.store.append(draft).await.map(|_| ()).map_err(|_| {
            self.accepted.lock().unwrap_or_else(PoisonError::into_inner).remove(&caller.credential);
            AuthRefusal::NotRecorded
        })
    }

    /// Records a rejected credential and gives the refusal.
    async fn reject(
        &self,
        reason: ReasonCode,
        key_id: Option<String>,
        agent: Option<String>,
        claims: &Map<String, Value>,
    ) -> AuthRefusal {
        let draft = self
            .draft("rejected", claims)
            .with("reasons", vec![Value::from(reason.as_str())])
            .with_some("key_id", key_id)
            .with_some("agent", agent);
        match self.store.append(draft).await {
            Ok(_) => AuthRefusal::Rejected,
            Err(_) => AuthRefusal::NotRecorded,
        }
    }

    fn draft(&self, result: &str, claims: &Map<String, Value>) -> Draft {
        let draft = Draft::new(RecordId((self.ids)()), Kind::Auth).with("result", result);
        if claims.is_empty() { draft } else { draft.sealed("claimed", claims.clone()) }
    }
}

fn caller(agent: Arc<Agent>, credential: String, claims: Map<String, Value>) -> Caller {
    let principal = Principal {
        kind: PrincipalType::Human,
        id: agent.owner.clone(),
        provenance: Provenance::Registry,
    };
    Caller { agent, principal, credential, claims }
}

/// Reads the API key from `Authorization: Bearer` (RFC 6750, section 2.1). Two such headers are none.
fn presented_key(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(axum::http::header::AUTHORIZATION).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// Collects what the client's headers claim about its identity.
fn claims(headers: &HeaderMap) -> Map<String, Value> {
    let mut claims = Map::new();
    for name in CLAIM_HEADERS {
        if let Some(value) = headers.get(name) {
            let text: String =
                String::from_utf8_lossy(value.as_bytes()).chars().take(CLAIM_BYTES_MAX).collect();
            claims.insert(name.to_owned(), text.into());
        }
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_keys() {
        for (values, expected) in [
            (vec!["Bearer k1"], Some("k1")),
            (vec!["bearer k1"], Some("k1")),
            (vec!["Basic k1"], None),
            (vec!["k1"], None),
            (vec!["Bearer k1", "Bearer k2"], None),
            (vec![], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in &values {
                headers.append("authorization", value.parse().unwrap());
            }
            assert_eq!(presented_key(&headers), expected, "{values:?}");
        }
    }
}
