//! The gateway as a whole: its configuration, its parts, its life.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use countersign_model::{AgentName, Draft, Environment, Kind, RecordId, ServerName, TenantId};
use countersign_store::{Clock, IdSource, Store, StoreError};

use crate::gate::Gate;
use crate::identity::Identity;
use crate::limits::SHUTDOWN_GRACE;
use crate::mcp::{Parking, Sessions};
use crate::pipeline::Pipeline;
use crate::rules::{Rules, RulesError};
use crate::upstream::{ClientIdentity, UpstreamConfig, Upstreams};
use crate::watch::{self, WatchError};

/// What the data plane needs to know.
#[derive(Debug)]
pub struct GatewayConfig {
    /// The tenant whose log and policy this is.
    pub tenant: TenantId,
    /// The folder of the policy bundle.
    pub policies: PathBuf,
    /// The folder of tool definitions pinned at first sight.
    pub pins: PathBuf,
    /// The environment of each server, for those without a manifest in the bundle.
    pub environments: BTreeMap<ServerName, Environment>,
    /// Host names that clients may use, besides loopback; without port.
    pub hosts: Vec<String>,
    /// Origins of web pages that may call, besides loopback ones; `scheme://host[:port]`.
    pub origins: Vec<String>,
    /// A test listener may act as one agent without a credential.
    pub fixed_agent: Option<AgentName>,
    /// The servers behind the gateway.
    pub upstreams: Vec<UpstreamConfig>,
    /// The name and version that the gateway tells its peers.
    pub identity: ClientIdentity,
}

/// A client that was here within this time, in milliseconds, still uses the gateway.
const USED_MS: i64 = 10_000;
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

impl GatewayConfig {
    /// Tells whether a `Host` header names this gateway.
    #[must_use]
    pub fn host_allowed(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        LOOPBACK.iter().any(|known| name.eq_ignore_ascii_case(known))
            || self.hosts.iter().any(|known| name.eq_ignore_ascii_case(known))
    }

    /// Tells whether a web page of this origin may call.
    #[must_use]
    pub fn origin_allowed(&self, origin: &str) -> bool {
        if self.origins.iter().any(|known| origin.eq_ignore_ascii_case(known)) {
            return true;
        }
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        host.is_some_and(|host| {
            let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
            LOOPBACK.iter().any(|known| name.eq_ignore_ascii_case(known) || host == *known)
        })
    }
}

/// The data plane.
#[derive(Debug)]
pub struct Gateway {
    /// The configuration it was started with.
    pub config: GatewayConfig,
    /// Who calls.
    pub identity: Identity,
    /// What happens to a call.
    pub pipeline: Pipeline,
    /// The servers behind it.
    pub upstreams: Arc<Upstreams>,
    /// Clients of the stateful era.
    pub sessions: Sessions,
    /// Calls that wait for their clients.
    pub parking: Arc<Parking>,
    last_used_ms: AtomicI64,
}

impl Gateway {
    /// Puts the parts together.
    ///
    /// # Errors
    ///
    /// Fails if the policy bundle cannot be read or has errors.
    pub fn new(
        mut config: GatewayConfig,
        store: Store,
        clock: Arc<dyn Clock>,
        ids: IdSource,
    ) -> Result<Arc<Self>, RulesError> {
        let rules =
            Arc::new(Rules::load(&config.policies, &config.pins, config.environments.clone())?);
        let upstreams =
            Arc::new(Upstreams::new(std::mem::take(&mut config.upstreams), &config.identity));
        let identity = Identity::new(
            store.clone(),
            Arc::clone(&clock),
            Arc::clone(&ids),
            config.fixed_agent.clone(),
        );
        let (tenant, gate) = (config.tenant.clone(), Gate::default());
        let pipeline = Pipeline { tenant, rules, store, clock, ids, gate };
        Ok(Arc::new(Self {
            config,
            identity,
            pipeline,
            upstreams,
            sessions: Sessions::default(),
            parking: Arc::default(),
            last_used_ms: AtomicI64::new(0),
        }))
    }

    /// Tells whether a server is configured.
    #[must_use]
    pub fn has_server(&self, server: &ServerName) -> bool {
        self.upstreams.config(server).is_some()
    }

    /// Returns the rules.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.pipeline.rules
    }

    /// Returns the ledger.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.pipeline.store
    }

    /// Returns the gate that every call passes.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.pipeline.gate
    }

    /// Returns the time in milliseconds since the Unix epoch.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.pipeline.clock.now_ms()
    }

    /// Makes a fresh record id.
    #[must_use]
    pub fn record_id(&self) -> RecordId {
        RecordId((self.pipeline.ids)())
    }

    /// Notes that a client was here.
    pub(crate) fn touch(&self) {
        self.last_used_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Tells whether a client has a session open or was here within the last ten seconds.
    #[must_use]
    pub fn is_used(&self) -> bool {
        let since = self.now_ms().saturating_sub(self.last_used_ms.load(Ordering::Relaxed));
        since < USED_MS || !self.sessions.all().is_empty()
    }

    /// Puts one more server behind the gateway until it stops, and pins its tools at first sight.
    ///
    /// # Errors
    ///
    /// Fails if the change cannot be recorded or the server does not answer.
    pub async fn add_upstream(
        &self,
        upstream: UpstreamConfig,
        environment: Environment,
        actor: &str,
    ) -> Result<(), WatchError> {
        let server = upstream.name.clone();
        let draft = Draft::new(self.record_id(), Kind::Change)
            .with("object", "upstream")
            .with("event", "added")
            .with("server", server.as_str())
            .sealed("actor", actor);
        self.store().append(draft).await.map_err(WatchError::NotRecorded)?;
        self.rules().add_server(server.clone(), environment)?;
        self.upstreams.add(upstream);
        watch::compare(self, &server).await.map(drop)
    }

    /// Keeps the bundle in force with the ledger, so that decisions can be made again from it.
    ///
    /// # Errors
    ///
    /// Fails if the ledger cannot be written.
    pub async fn keep_bundle(&self, actor: &str) -> Result<(), StoreError> {
        let rules = self.rules().current();
        let (hash, files) = (rules.bundle.hash().to_owned(), rules.bundle.files().0.clone());
        drop(rules);
        self.store().put_bundle(&hash, &files, actor).await.map(drop)
    }

    /// Ends running calls within [`SHUTDOWN_GRACE`] and stops the upstream servers.
    pub async fn shutdown(&self) {
        let _ = tokio::time::timeout(SHUTDOWN_GRACE, self.upstreams.shutdown()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> GatewayConfig {
        GatewayConfig {
            tenant: TenantId("default".into()),
            policies: PathBuf::new(),
            pins: PathBuf::new(),
            environments: BTreeMap::new(),
            hosts: vec!["gw.example".into()],
            origins: vec!["https://app.example".into()],
            fixed_agent: None,
            upstreams: Vec::new(),
            identity: ClientIdentity { name: "t".into(), version: "0".into() },
        }
    }

    #[test]
    fn hosts() {
        for (host, ok) in [
            ("localhost:7700", true),
            ("127.0.0.1", true),
            ("[::1]:7700", true),
            ("GW.example:443", true),
            ("evil.example", false),
            ("127.0.0.1.evil.example:7700", false),
            ("", false),
        ] {
            assert_eq!(config().host_allowed(host), ok, "{host:?}");
        }
    }

    #[test]
    fn origins() {
        for (origin, ok) in [
            ("http://localhost:3000", true),
            ("http://127.0.0.1", true),
            ("https://[::1]", true),
            ("https://app.example", true),
            ("https://evil.example", false),
            ("http://localhost.evil.example", false),
            ("null", false),
        ] {
            assert_eq!(config().origin_allowed(origin), ok, "{origin:?}");
        }
    }
}
