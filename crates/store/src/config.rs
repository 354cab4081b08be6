//! What a store needs to know.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use countersign_model::TenantId;

use crate::Retention;
use crate::clock::{Clock, IdSource};
use crate::limits::{COMMIT_DEADLINE_MS, HEARTBEAT_MS, QUEUE_RECORDS_MAX};

/// Where the tables are.
#[derive(Clone, Default)]
pub enum Database {
    /// In one file in the data folder: one gateway.
    #[default]
    Sqlite,
    /// In PostgreSQL 15 or later: several gateways share the log. URLs of the server, or of several
    /// servers of which one is the primary.
    Postgres(Vec<String>),
}

impl fmt::Debug for Database {
    /// Leaves the URLs out: they may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "Sqlite",
            Self::Postgres(_) => "Postgres",
        })
    }
}

/// The settings of a store.
#[derive(Clone)]
pub struct StoreConfig {
    /// The tenant whose log it is.
    pub tenant: TenantId,
    /// Where the tables are.
    pub database: Database,
    /// The name of this gateway process among the writers of the log.
    pub replica: String,
    /// The log's origin: a URL without a scheme, also the name of the log's key.
    pub origin: String,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where record ids come from.
    pub ids: IdSource,
    /// The keystore's folder; `keys` in the data folder if absent.
    pub keys: Option<PathBuf>,
    /// The socket of the process that signs; this process signs itself if absent.
    pub signer: Option<PathBuf>,
    /// How long a caller waits for its commit.
    pub commit_deadline: Duration,
    /// How many records may wait for the writer.
    pub queue: usize,
    /// The pause between two publications.
    pub publish_every: Duration,
    /// The silence of this gateway after which a heartbeat is recorded.
    pub heartbeat_every: Duration,
    /// How long private sections are kept.
    pub retention: Retention,
}

impl StoreConfig {
    /// Returns the default settings: replica `g1`, origin `localhost/<tenant>`.
    #[must_use]
    pub fn new(tenant: TenantId, clock: Arc<dyn Clock>, ids: IdSource) -> Self {
        Self {
            origin: format!("localhost/{tenant}"),
            tenant,
            database: Database::Sqlite,
            replica: "g1".to_owned(),
            clock,
            ids,
            keys: None,
            signer: None,
            commit_deadline: Duration::from_millis(COMMIT_DEADLINE_MS),
            queue: QUEUE_RECORDS_MAX,
            publish_every: Duration::from_secs(1),
            heartbeat_every: Duration::from_millis(HEARTBEAT_MS),
            retention: Retention::default(),
        }
    }
}

impl fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreConfig")
            .field("tenant", &self.tenant)
            .field("database", &self.database)
            .field("replica", &self.replica)
            .field("origin", &self.origin)
            .field("keys", &self.keys)
            .field("signer", &self.signer)
            .field("commit_deadline", &self.commit_deadline)
            .finish_non_exhaustive()
    }
}
