//! Permits from a real store, and upstreams with short limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use countersign_gateway::permit::Permit;
use countersign_gateway::upstream::{
    ClientIdentity, ClientProfile, Event, Exchange, OwnerKey, Request, Session, Transport,
    UpstreamConfig, Upstreams,
};
use countersign_model::{Draft, Kind, ReasonCode, RecordId, ServerName, TenantId};
use countersign_store::{Clock, Committed, IdSource, Intent, Store, StoreConfig};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use uuid::Uuid;

/// A clock that stands still: nothing here depends on the time.
struct Standing;

impl Clock for Standing {
    fn now_ms(&self) -> i64 {
        1_795_219_200_000
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Returns an id that this process has not used.
fn fresh() -> Uuid {
    let n = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 | u128::from(n))
}

/// Makes permits in the only way there is: by durable decisions.
pub(crate) struct Permits {
    store: Store,
    _folder: tempfile::TempDir,
}

impl Permits {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ids: IdSource = Arc::new(fresh);
        let config = StoreConfig::new(TenantId("acme".into()), Arc::new(Standing), ids);
        let data = folder.path().join("data");
        Store::create(&data, &config).await.unwrap();
        Self { store: Store::open(&data, config).await.unwrap(), _folder: folder }
    }

    pub(crate) async fn permit(&self) -> Permit {
        let id = RecordId(fresh());
        let draft = Draft::new(id, Kind::Decision)
            .with("decision", "allow")
            .with("agent", Uuid::from_u128(7).to_string())
            .with("tool", "fake/echo")
            .with("rules", vec!["allow-fake".to_owned()]);
        let denial = Box::new(|_: &ReasonCode| Map::new());
        let intent = Intent { draft, denial, idempotency: None };
        let committed = self.store.commit_intent(intent).await.unwrap();
        let Committed::Recorded(receipt) = committed else { panic!("no receipt: {committed:?}") };
        Permit::from_receipt(receipt)
    }
}

pub(crate) const SERVER: &str = "fake";

pub(crate) fn server() -> ServerName {
    SERVER.parse().unwrap()
}

pub(crate) fn owner(key: &str) -> OwnerKey {
    OwnerKey::new(key)
}

pub(crate) fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap()
}

pub(crate) fn profile() -> ClientProfile {
    let capabilities = serde_json::json!({ "sampling": {}, "elicitation": {} });
    ClientProfile { capabilities: raw(&capabilities), version: None }
}

pub(crate) fn config(transport: Transport) -> UpstreamConfig {
    let mut config = UpstreamConfig::new(server(), transport);
    config.request_timeout = Duration::from_secs(10);
    config.result_bytes_max = 100_000;
    config
}

pub(crate) fn upstreams(config: UpstreamConfig) -> Upstreams {
    let identity = ClientIdentity { name: "countersign".into(), version: "0.1.0".into() };
    Upstreams::new(vec![config], &identity)
}

pub(crate) async fn session(upstreams: &Upstreams, key: &str) -> Arc<Session> {
    upstreams.session(&server(), &owner(key), &profile()).await.unwrap()
}

pub(crate) fn tool<'a>(name: &'a str, params: &Value) -> Request<'a> {
    let mut all = params.clone();
    all["name"] = name.into();
    Request { name: Some(name), ..Request::new("tools/call", raw(&all)) }
}

/// Calls a tool and returns what came before the end, and the end.
pub(crate) async fn run(exchange: &mut Exchange) -> (Vec<Event>, Event) {
    let mut events = Vec::new();
    loop {
        let event = exchange.next().await;
        if event.is_last() {
            return (events, event);
        }
        events.push(event);
    }
}

/// Returns the text of a tool's result.
pub(crate) fn text(event: &Event) -> String {
    let Event::Result(result) = event else { panic!("no result: {event:?}") };
    let result: Value = serde_json::from_str(result.get()).unwrap();
    result["content"][0]["text"].as_str().unwrap_or_default().to_owned()
}
