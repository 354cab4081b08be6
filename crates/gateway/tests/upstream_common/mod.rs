//! Permits from a real store, and upstreams with short limits.
#![expect(dead_code, reason = "each test binary uses a part")]

use std::sync::Arc;
use std::time::Duration;

use countersign_gateway::permit::Permit;
use countersign_gateway::upstream::{
    ClientIdentity, ClientProfile, Event, Exchange, OwnerKey, Request, Session, Transport,
    UpstreamConfig, Upstreams,
};
use countersign_model::{Draft, Kind, RecordId, ServerName, TenantId};
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

/// Makes permits in the only way there is: by durable decisions.
pub struct Permits {
    store: Store,
    _folder: tempfile::TempDir,
}

impl Permits {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ids: IdSource = Arc::new(Uuid::new_v4);
        let config = StoreConfig::new(TenantId("acme".into()), Arc::new(Standing), ids);
        let data = folder.path().join("data");
        Store::create(&data, &config).await.unwrap();
        Self { store: Store::open(&data, config).await.unwrap(), _folder: folder }
    }

    pub async fn permit(&self) -> Permit {
        let id = RecordId(Uuid::new_v4());
        let draft = Draft::new(id, Kind::Decision)
            .with("decision", "allow")
            .with("agent", Uuid::new_v4().to_string())
            .with("tool", "fake/echo")
            .with("argument_hash", "-")
            .with("server", "fake");
        let denial = Box::new(|_: &_| Map::new());
        let intent = Intent { draft, denial, idempotency: None };
        match self.store.commit_intent(intent).await.unwrap() {
            Committed::Durable(receipt) => Permit::from_receipt(receipt),
            other => panic!("no receipt: {other:?}"),
        }
    }
}

pub const SERVER: &str = "fake";

pub fn server() -> ServerName {
    SERVER.parse().unwrap()
}

pub fn owner(key: &str) -> OwnerKey {
    OwnerKey::new(key)
}

pub fn raw(value: &Value) -> Box<RawValue> {
    RawValue::from_string(value.to_string()).unwrap()
}

pub fn profile() -> ClientProfile {
    let capabilities = serde_json::json!({ "sampling": {}, "elicitation": {} });
    ClientProfile { capabilities: raw(&capabilities), version: None }
}

pub fn config(transport: Transport) -> UpstreamConfig {
    let mut config = UpstreamConfig::new(server(), transport);
    config.request_timeout = Duration::from_secs(10);
    config.result_bytes_max = 100_000;
    config
}

pub fn http(url: &str) -> Transport {
    Transport::Http { url: url.parse().unwrap(), headers: Vec::new() }
}

pub fn upstreams(config: UpstreamConfig) -> Upstreams {
    let identity = ClientIdentity { name: "countersign".into(), version: "0.1.0".into() };
    Upstreams::new(vec![config], &identity)
}

pub async fn session(upstreams: &Upstreams, key: &str) -> Arc<Session> {
    upstreams.session(&server(), &owner(key), &profile()).await.unwrap()
}

pub fn tool<'a>(name: &'a str, params: &Value) -> Request<'a> {
    let mut all = params.clone();
    all["name"] = name.into();
    Request { name: Some(name), ..Request::new("tools/call", raw(&all)) }
}

/// Calls a tool and returns what came before the end, and the end.
pub async fn run(exchange: &mut Exchange) -> (Vec<Event>, Event) {
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
pub fn text(event: &Event) -> String {
    let Event::Result(result) = event else { panic!("no result: {event:?}") };
    let result: Value = serde_json::from_str(result.get()).unwrap();
    result["content"][0]["text"].as_str().unwrap_or_default().to_owned()
}
