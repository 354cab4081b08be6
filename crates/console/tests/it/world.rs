//! A control plane over a real listener and a real store.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use countersign_console::{
    BoxFuture, ControlToken, Operator, OperatorError, Setup, Tokens, UpstreamSpec, router,
};
use countersign_ledger::{LeafIndex, VerifierKey};
use countersign_model::{Draft, Kind, NewAgent, OutcomeStatus, RecordId, ServerName, TenantId};
use countersign_store::{
    Clock, Committed, IdSource, Intent, Keystore, Outcome, Reader, Store, StoreConfig,
};
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// The first moment of every test.
pub(crate) const START_MS: i64 = 1_795_219_200_000;

/// A clock that a test sets.
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn set(&self, ms: i64) {
        self.0.store(ms, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// An operator over no gateway: knows the server `crm`, and remembers what it was asked.
#[derive(Default)]
pub(crate) struct Asked(pub(crate) Mutex<Vec<String>>);

impl Asked {
    pub(crate) fn note<T>(&self, what: String, answer: T) -> BoxFuture<'_, T>
    where
        T: Send + 'static,
    {
        self.0.lock().unwrap().push(what);
        Box::pin(async { answer })
    }
}

impl Operator for Asked {
    fn reload_policy<'a>(&'a self, actor: &'a str) -> BoxFuture<'a, Result<String, OperatorError>> {
        self.note(format!("reload by {actor}"), Ok("ab12".to_owned()))
    }

    fn pin<'a>(
        &'a self,
        server: &'a ServerName,
        actor: &'a str,
    ) -> BoxFuture<'a, Result<usize, OperatorError>> {
        let known = server.as_str() == "crm";
        let unknown = OperatorError::Unknown(format!("there is no server `{server}`"));
        self.note(format!("pin {server} by {actor}"), if known { Ok(3) } else { Err(unknown) })
    }

    fn add_upstream<'a>(
        &'a self,
        upstream: UpstreamSpec,
        actor: &'a str,
    ) -> BoxFuture<'a, Result<(), OperatorError>> {
        self.note(format!("add {upstream:?} by {actor}"), Ok(()))
    }
}

pub(crate) struct World {
    _folder: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) token: ControlToken,
    pub(crate) address: SocketAddr,
    pub(crate) asked: Arc<Asked>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) reader: Reader,
    pub(crate) log_key: VerifierKey,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn ids() -> IdSource {
    let next = AtomicU64::new(1);
    Arc::new(move || {
        let n = u128::from(next.fetch_add(1, Ordering::SeqCst));
        Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 | n)
    })
}

impl World {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let clock = Arc::new(TestClock(AtomicI64::new(START_MS)));
        let mut config = StoreConfig::new(TenantId("acme".into()), clock.clone(), ids());
        // The test's store waits for a disk that others use too.
        config.commit_deadline = Duration::from_secs(30);
        Store::create(&data, &config).await.unwrap();
        let store = Store::open(&data, config).await.unwrap();
        let token = ControlToken::read_or_create(&data.join("control.token")).unwrap();
        let asked = Arc::new(Asked::default());
        let operator: Arc<dyn Operator> = asked.clone();
        let reader = Reader::open(&data, None).await.unwrap();
        let keys = data.join("keys");
        let log_key = Keystore::open(&keys).unwrap().log_key(&store.config().origin).unwrap();
        let log_key = log_key.verifier_key();
        let routes = router(Setup {
            store: store.clone(),
            reader: reader.clone(),
            log: data.join("log"),
            control: token.clone(),
            tokens: Tokens::open(&data, &keys).unwrap(),
            operator,
            hosts: Vec::new(),
        });
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { _folder: folder, store, token, address, asked, clock, reader, log_key }
    }

    pub(crate) async fn send(&self, mut request: Request<Body>) -> Answer {
        let uri = format!("http://{}{}", self.address, request.uri());
        *request.uri_mut() = uri.parse().unwrap();
        let client = Client::builder(TokioExecutor::new()).build_http();
        let (parts, body) = client.request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn with(
        &self,
        method: &str,
        path: &str,
        credential: Option<&str>,
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(credential) = credential {
            request = request.header("authorization", format!("Bearer {credential}"));
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    /// Sends a request with the control token.
    pub(crate) async fn api(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.with(method, path, Some(self.token.expose()), &body).await
    }

    pub(crate) async fn agent_key(&self) -> String {
        let new = NewAgent {
            name: "bot".into(),
            purpose: "answers".into(),
            owner: "ada@example.com".into(),
            environment: "prod".into(),
            ..NewAgent::default()
        };
        self.store.agents().add(new, "test").await.unwrap().1.text.to_string()
    }

    /// Makes a named token and returns its text.
    pub(crate) async fn token_of(&self, name: &str, role: &str) -> String {
        let new = json!({"name": name, "role": role});
        let made = self.api("POST", "/api/v1/tokens", &new).await;
        assert_eq!(made.status, StatusCode::CREATED);
        made.json()["secret"].as_str().unwrap().to_owned()
    }

    /// Asks with a token.
    pub(crate) async fn get(&self, path: &str, token: &str) -> Answer {
        self.with("GET", path, Some(token), "").await
    }

    pub(crate) fn id(&self) -> RecordId {
        RecordId((self.store.config().ids)())
    }

    /// Records a decision as the gateway does; an allowed one gets an outcome unless it is `None`.
    pub(crate) async fn call(&self, call: Call<'_>, outcome: Option<OutcomeStatus>) -> RecordId {
        let id = self.id();
        let draft = call.draft(id);
        if call.verdict != "allow" {
            self.store.append(draft).await.unwrap();
            return id;
        }
        let intent = Intent { draft, denial: Box::new(|_: &_| Map::new()), idempotency: None };
        let Committed::Recorded(_receipt) = self.store.commit_intent(intent).await.unwrap() else {
            panic!("the intent is not recorded");
        };
        let Some(status) = outcome else { return id };
        let draft = Draft::new(self.id(), Kind::Outcome)
            .about(call.person)
            .with("tool", call.tool)
            .with("duration_ms", 142)
            .sealed("result", r#"{"ok":true}"#);
        let outcome = Outcome { evaluation_id: id, draft, status, result: None };
        self.store.commit_outcome(outcome).await.unwrap();
        id
    }

    /// Records many denials at once.
    pub(crate) async fn denials(&self, count: usize) -> Vec<String> {
        let mut tasks = tokio::task::JoinSet::new();
        let mut ids = Vec::with_capacity(count);
        for _ in 0..count {
            let (store, id) = (self.store.clone(), self.id());
            let draft = Call::default().draft(id);
            ids.push(id.to_string());
            tasks.spawn(async move { store.append(draft).await.unwrap() });
            if tasks.len() >= 256 {
                tasks.join_next().await.unwrap().unwrap();
            }
        }
        tasks.join_all().await;
        ids
    }

    /// Returns the newest record as the log has it.
    pub(crate) async fn newest(&self) -> countersign_evidence::Record {
        let size = self.reader.size().await.unwrap();
        self.reader.at(LeafIndex(size - 1)).await.unwrap().unwrap().into()
    }
}

/// A call as a test wants it recorded.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) agent: &'a str,
    pub(crate) person: &'a str,
    pub(crate) tool: &'a str,
    pub(crate) rule: &'a str,
    pub(crate) verdict: &'a str,
}

impl Default for Call<'_> {
    fn default() -> Self {
        let (agent, person) = ("00000000-0000-0000-0000-000000000000", "ada@example.com");
        Self { agent, person, tool: "crm/query", rule: "deny-all", verdict: "deny" }
    }
}

impl Call<'_> {
    fn draft(&self, id: RecordId) -> Draft {
        Draft::new(id, Kind::Decision)
            .about(self.person)
            .with("origin", "mcp")
            .with("agent", self.agent)
            .with("agent_name", "bot")
            .with("method", "tools/call")
            .with("tool", self.tool)
            .with("decision", self.verdict)
            .with("rules", vec![self.rule])
            .sealed("arguments.text", "deals of this month")
            .sealed("principal", json!({"id": self.person, "type": "human"}))
    }
}
