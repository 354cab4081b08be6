//! A whole gateway for a test: real store in a temporary folder, real sockets, a fake upstream that
//! counts what it saw.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use countersign_gateway::upstream::{ClientIdentity, Transport, UpstreamConfig};
use countersign_gateway::{Gateway, GatewayConfig, watch};
use countersign_ledger::LeafIndex;
use countersign_model::{NewAgent, ServerName, TenantId};
use countersign_store::{Clock, Reader, Store, StoreConfig};
use countersign_testkit::FakeUpstream;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

/// A clock that tests can move.
#[derive(Debug)]
pub(crate) struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        // One tick a look, so that times are ordered.
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

pub(crate) struct World {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) store: Store,
    pub(crate) upstream: FakeUpstream,
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) folder: TempDir,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The structured refusal of a tool result or an error.
    pub(crate) fn refusal(&self) -> Value {
        let result = self.body.pointer("/result/_meta/dev.countersign~1refusal");
        let error = self.body.pointer("/error/data/dev.countersign~1refusal");
        result.or(error).cloned().unwrap_or(Value::Null)
    }

    pub(crate) fn code(&self) -> String {
        self.refusal().get("code").and_then(Value::as_str).unwrap_or_default().to_owned()
    }
}

/// What most tests permit.
pub(crate) const PERMIT_ALL: &str = "@id(\"all\") permit(principal, action, resource);";

impl World {
    pub(crate) async fn new(policy: &str) -> Self {
        Self::with(policy, "environment = \"prod\"\n").await
    }

    pub(crate) async fn with(policy: &str, manifest: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let policies = folder.path().join("policies");
        std::fs::create_dir_all(policies.join("policies")).unwrap();
        std::fs::create_dir_all(policies.join("manifests")).unwrap();
        std::fs::write(policies.join("policies/test.cedar"), policy).unwrap();
        std::fs::write(policies.join("manifests/fake.toml"), manifest).unwrap();

        let clock = Arc::new(TestClock(AtomicI64::new(1_700_000_000_000)));
        #[expect(clippy::disallowed_methods, reason = "tests need ids that differ")]
        let ids: countersign_store::IdSource = Arc::new(Uuid::now_v7);
        let tenant = TenantId("test".into());
        let settings = StoreConfig::new(tenant.clone(), clock.clone(), Arc::clone(&ids));
        let data = folder.path().join("data");
        Store::create(&data, &settings).await.unwrap();
        let store = Store::open(&data, settings).await.unwrap();
        let key = add_agent(&store, "bot", &["tester"]).await;

        let upstream = FakeUpstream::start().await.unwrap();
        let name: ServerName = "fake".parse().unwrap();
        let transport =
            Transport::Http { url: upstream.url().parse().unwrap(), headers: Vec::new() };
        let mut config = UpstreamConfig::new(name.clone(), transport);
        config.meta_allow = vec!["dev.countersign/*".into()];
        let config = GatewayConfig {
            tenant,
            policies,
            pins: folder.path().join("pins"),
            environments: BTreeMap::new(),
            hosts: Vec::new(),
            origins: Vec::new(),
            fixed_agent: None,
            upstreams: vec![config],
            identity: ClientIdentity { name: "countersign".into(), version: "test".into() },
        };
        let gateway = Gateway::new(config, store.clone(), clock.clone(), ids).unwrap();
        watch::compare(&gateway, &name).await.unwrap();
        gateway.keep_bundle("test").await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(countersign_gateway::serve(
            Arc::clone(&gateway),
            listener,
            std::future::pending(),
        ));
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { gateway, store, upstream, url, key, folder, http }
    }

    /// Sends a request of the stateless era to one endpoint, with the headers that it needs.
    pub(crate) async fn modern(&self, path: &str, method: &str, params: Value) -> Answer {
        self.modern_as(&self.key, path, method, params).await
    }

    pub(crate) async fn modern_as(
        &self,
        key: &str,
        path: &str,
        method: &str,
        params: Value,
    ) -> Answer {
        let body = modern_body(method, params);
        let request = self.modern_request(key, path, &body);
        self.send(request.body(Full::from(body.to_string())).unwrap()).await
    }

    pub(crate) fn modern_request(
        &self,
        key: &str,
        path: &str,
        body: &Value,
    ) -> hyper::http::request::Builder {
        let mut request = hyper::Request::post(format!("{}{path}", self.url))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("authorization", format!("Bearer {key}"))
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", body["method"].as_str().unwrap_or_default());
        let name = body["params"].get("name").or_else(|| body["params"].get("uri"));
        if let Some(name) = name.and_then(Value::as_str) {
            request = request.header("mcp-name", name);
        }
        request
    }

    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Answer {
        self.modern("/mcp/fake", "tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    pub(crate) async fn call_keyed(&self, tool: &str, arguments: Value, key: &str) -> Answer {
        let meta = json!({"dev.countersign/idempotency-key": key});
        let params = json!({"name": tool, "arguments": arguments, "_meta": meta});
        self.modern("/mcp/fake", "tools/call", params).await
    }

    pub(crate) async fn send(&self, request: hyper::Request<Full<Bytes>>) -> Answer {
        let response = self.http.request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&bytes);
        // A stream's last event is the response.
        let last = text.lines().rev().find_map(|line| line.strip_prefix("data: "));
        let body = serde_json::from_str(last.unwrap_or(&text)).unwrap_or(Value::Null);
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// All leaves of the ledger, in order.
    pub(crate) async fn leaves(&self) -> Vec<Value> {
        let reader = self.reader().await;
        let records = reader.range(LeafIndex(0), 1_000).await.unwrap();
        reader.close().await;
        records.into_iter().map(|record| record.leaf).collect()
    }

    /// The leaves of one kind.
    pub(crate) async fn kind(&self, kind: &str) -> Vec<Value> {
        self.leaves().await.into_iter().filter(|leaf| leaf["kind"] == kind).collect()
    }

    pub(crate) async fn reader(&self) -> Reader {
        Reader::open(&self.folder.path().join("data"), None).await.unwrap()
    }
}

/// A request of the stateless era.
pub(crate) fn modern_body(method: &str, mut params: Value) -> Value {
    let meta = params.as_object_mut().unwrap().entry("_meta").or_insert_with(|| json!({}));
    let meta = meta.as_object_mut().unwrap();
    meta.insert("io.modelcontextprotocol/protocolVersion".into(), "2026-07-28".into());
    meta.entry("io.modelcontextprotocol/clientCapabilities").or_insert_with(|| json!({}));
    json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
}

/// Registers an agent of the environment `prod` and gives its key.
pub(crate) async fn add_agent(store: &Store, name: &str, roles: &[&str]) -> String {
    let new = NewAgent {
        name: name.into(),
        purpose: "tests".into(),
        owner: "dana@example.com".into(),
        environment: "prod".into(),
        roles: roles.iter().map(ToString::to_string).collect(),
        key_expires: None,
    };
    let (_, key) = store.agents().add(new, "test").await.unwrap();
    key.text.to_string()
}
