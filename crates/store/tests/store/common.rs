//! A store in a temporary folder, with a clock and ids that the test controls.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use countersign_model::{AgentId, Draft, Kind, OutcomeStatus, RecordId, TenantId};
use countersign_store::{
    Clock, Committed, IdSource, IdempotencyClaim, Intent, Outcome, Receipt, Store, StoreConfig,
    StoreError,
};
use serde_json::{Map, json};
use sqlx::{Connection as _, SqliteConnection};
use uuid::Uuid;

/// 2026-11-21T00:00:00Z.
pub(crate) const START_MS: i64 = 1_795_219_200_000;

pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<TestClock>,
    ids: IdSource,
}

impl World {
    pub(crate) fn new() -> Self {
        let next = AtomicU64::new(1);
        let ids: IdSource = Arc::new(move || {
            let n = next.fetch_add(1, Ordering::SeqCst);
            Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 | u128::from(n))
        });
        let clock = Arc::new(TestClock(AtomicI64::new(START_MS)));
        Self { folder: tempfile::tempdir().unwrap(), clock, ids }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path().join("countersign.db")
    }

    pub(crate) fn config(&self) -> StoreConfig {
        let clock: Arc<dyn Clock> = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let config = StoreConfig::new(TenantId("acme".into()), clock, Arc::clone(&self.ids));
        // A busy machine is no fault of the store; tests of deadlines set their own.
        StoreConfig { commit_deadline: Duration::from_secs(20), ..config }
    }

    pub(crate) fn id(&self) -> RecordId {
        RecordId((self.ids)())
    }

    pub(crate) async fn create(&self) -> Store {
        Store::create(&self.path(), &self.config()).await.unwrap();
        self.open().await
    }

    pub(crate) async fn open(&self) -> Store {
        for _ in 0..100 {
            match Store::open(&self.path(), self.config()).await {
                // The writer has a thread of its own: it ends a moment after a runtime that was killed.
                Err(StoreError::Locked(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                opened => return opened.unwrap(),
            }
        }
        panic!("the ledger stays locked");
    }

    pub(crate) fn intent(&self) -> Intent {
        let draft = Draft::new(self.id(), Kind::Decision)
            .with("decision", "allow")
            .with("agent", agent().to_string())
            .with("tool", "crm/update")
            .with("rules", vec!["allow-crm".to_owned()])
            .about("ada@example.com")
            .sealed("arguments.amount", json!(12.5))
            .sealed("facts", json!({ "v": 1 }));
        let denial = Box::new(|code: &countersign_model::ReasonCode| {
            let mut fields = Map::new();
            fields.insert("decision".into(), "deny".into());
            fields.insert("reasons".into(), json!([code.as_str()]));
            fields
        });
        Intent { draft, denial, idempotency: None }
    }

    pub(crate) fn claiming(&self, key: &str, digest: u8) -> Intent {
        let claim = IdempotencyClaim { agent: agent(), key: key.into(), digest: [digest; 32] };
        Intent { idempotency: Some(claim), ..self.intent() }
    }

    pub(crate) fn outcome(
        &self,
        call: RecordId,
        status: OutcomeStatus,
        result: Option<&str>,
    ) -> Outcome {
        let draft = Draft::new(self.id(), Kind::Outcome);
        Outcome { evaluation_id: call, draft, status, result: result.map(str::to_owned) }
    }
}

pub(crate) fn agent() -> AgentId {
    AgentId(Uuid::from_u128(7))
}

pub(crate) fn recorded(committed: Committed) -> Receipt {
    let Committed::Recorded(receipt) = committed else { panic!("not recorded: {committed:?}") };
    receipt
}

/// A second connection to the database, for looking and for damage.
pub(crate) async fn raw(path: &Path) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    SqliteConnection::connect_with(&options).await.unwrap()
}
