//! A store in a temporary folder, filled by the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use countersign_decision::{Bundle, BundleFiles, Recorded, decide};
use countersign_ledger::VerifierKey;
use countersign_model::{
    Agent, AgentFacts, CallFacts, Draft, Facts, Kind, NewAgent, OutcomeStatus, Principal,
    PrincipalType, Provenance, RecordId, TenantId, TimestampMs, ToolName,
};
use countersign_store::{
    Clock, Committed, DenialFields, IdSource, IdempotencyClaim, Intent, Outcome, Reader, Store,
    StoreConfig,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

/// 2026-03-15T03:00:00Z, a Sunday.
pub(crate) const START_MS: i64 = 1_773_543_600_000;

pub(crate) const POLICIES: &str = r#"
@id("allow-crm")
permit (principal, action in [Action::"crm/query", Action::"crm/refund"], resource);

@id("refund-bounds")
@code("BOUNDS")
@reason("amount>100")
forbid (principal, action == Action::"crm/refund", resource)
when { context.arguments.amount > 100 };

@id("approve-refund")
@approval("refunds")
forbid (principal, action == Action::"crm/refund", resource)
when { context.arguments.amount > 50 };
"#;

#[derive(Debug)]
struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(250, Ordering::SeqCst)
    }
}

pub(crate) struct World {
    /// Deleted with the world.
    _folder: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) bundle: Bundle,
    pub(crate) agents: Vec<Agent>,
    ids: IdSource,
}

pub(crate) fn files(policies: &str) -> BundleFiles {
    let tool = |name: &str, field: &str, kind: &str| {
        json!({"name": name, "inputSchema": {"type": "object",
            "properties": {field: {"type": kind}}, "required": [field]}})
    };
    let tools = json!({"server": "crm", "tools": [
        tool("query", "text", "string"), tool("refund", "amount", "integer"), tool("wipe", "all", "boolean"),
    ]});
    let files = [
        ("policies/a.cedar", policies.to_owned()),
        ("manifests/crm.toml", "environment = \"prod\"\n".to_owned()),
        ("tools/crm.json", tools.to_string()),
    ];
    BundleFiles(files.map(|(path, text)| (path.to_owned(), text.into_bytes())).into())
}

impl World {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let next = AtomicU64::new(1);
        let ids: IdSource = Arc::new(move || {
            let n = u128::from(next.fetch_add(1, Ordering::SeqCst));
            Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 | n)
        });
        let clock = Arc::new(TestClock(AtomicI64::new(START_MS)));
        let mut config = StoreConfig::new(TenantId("default".into()), clock, Arc::clone(&ids));
        // The test's store waits for a disk that others use too.
        config.commit_deadline = std::time::Duration::from_secs(30);
        let data = folder.path().join("data");
        Store::create(&data, &config).await.unwrap();
        let store = Store::open(&data, config).await.unwrap();
        let bundle = Bundle::load(&files(POLICIES)).unwrap();
        store.put_bundle(bundle.hash(), &bundle.files().0, "ada@example.com").await.unwrap();
        let mut world = Self { _folder: folder, store, bundle, agents: Vec::new(), ids };
        for name in ["backup-bot", "billing-bot"] {
            let new = NewAgent {
                name: name.into(),
                purpose: format!("the work of {name}"),
                owner: format!("owner-of-{name}@example.com"),
                environment: "prod".into(),
                ..NewAgent::default()
            };
            let (agent, _) = world.store.agents().add(new, "ada@example.com").await.unwrap();
            world.agents.push(agent);
        }
        world
    }

    pub(crate) async fn reader(&self) -> Reader {
        Reader::open(self.store.folder(), None).await.unwrap()
    }

    pub(crate) fn key(&self) -> VerifierKey {
        VerifierKey::parse(&self.store.vkey().unwrap()).unwrap()
    }

    pub(crate) fn id(&self) -> RecordId {
        RecordId((self.ids)())
    }

    pub(crate) fn facts(&self, agent: usize, person: &str, tool: &str, arguments: Value) -> Facts {
        let tool: ToolName = tool.parse().unwrap();
        Facts {
            v: Facts::VERSION,
            evaluation_id: self.id(),
            at: TimestampMs(START_MS),
            tenant: TenantId("default".into()),
            origin: "mcp".into(),
            agent: AgentFacts::from(&self.agents[agent]),
            principal: Principal {
                kind: PrincipalType::Human,
                id: person.into(),
                provenance: Provenance::Registry,
            },
            session: None,
            call: CallFacts {
                method: "tools/call".into(),
                server: tool.server().clone(),
                tool: Some(tool),
                target: None,
                arguments,
                keyed: true,
                pin_mismatch: false,
            },
        }
    }

    /// Decides and records a call as the gateway does; an allowed one gets an outcome.
    pub(crate) async fn call(&self, facts: &Facts, key: Option<&str>) -> RecordId {
        let decision = decide(&self.bundle, facts);
        let draft = draft(facts, &Recorded::from(&decision), &json!(decision.reasons));
        if decision.verdict != countersign_model::Verdict::Allow {
            self.store.append(draft).await.unwrap();
            return facts.evaluation_id;
        }
        let public = draft.public.clone();
        let denial: DenialFields = Box::new(move |code| {
            let mut public = public;
            public.insert("decision".into(), "deny".into());
            public.insert("mode".into(), "enforce".into());
            public.insert("reasons".into(), json!([code.as_str()]));
            public.remove("would_be");
            public
        });
        let arguments = facts.call.arguments.to_string();
        let idempotency = key.map(|key| IdempotencyClaim {
            agent: facts.agent.id,
            key: key.into(),
            digest: countersign_ledger::hash::sha256(arguments.as_bytes()).0,
        });
        let intent = Intent { draft, denial, idempotency };
        if let Committed::Recorded(_) = self.store.commit_intent(intent).await.unwrap() {
            let draft = Draft::new(self.id(), Kind::Outcome)
                .about(facts.principal.id.as_str())
                .with("agent", facts.agent.id.to_string())
                .with("tool", facts.call.tool.as_ref().unwrap().to_string())
                .with("duration_ms", 142);
            let status = OutcomeStatus::Executed;
            let outcome = Outcome {
                evaluation_id: facts.evaluation_id,
                draft,
                status,
                result: Some("{\"ok\":true}".into()),
            };
            self.store.commit_outcome(outcome).await.unwrap();
        }
        facts.evaluation_id
    }

    pub(crate) async fn auth(&self, result: &str) {
        let draft = Draft::new(self.id(), Kind::Auth)
            .with("result", result)
            .with("reasons", json!(["CREDENTIAL_MISSING"]));
        self.store.append(draft).await.unwrap();
    }
}

/// Gives the facts without the arguments, which are sealed beside them.
fn sealed_facts(facts: &Facts) -> Value {
    let mut value = serde_json::to_value(facts).unwrap();
    if !facts.call.arguments.as_object().unwrap().is_empty() {
        value["call"].as_object_mut().unwrap().remove("arguments");
    }
    value
}

/// Drafts a decision record with the fields that the gateway writes.
pub(crate) fn draft(facts: &Facts, recorded: &Recorded, reasons: &Value) -> Draft {
    let mut draft = Draft::new(facts.evaluation_id, Kind::Decision)
        .about(facts.principal.id.as_str())
        .with("origin", "mcp")
        .with("environment", "prod")
        .with("agent", facts.agent.id.to_string())
        .with("agent_name", facts.agent.name.as_str())
        .with("method", "tools/call")
        .with("server", "crm")
        .with("tool", facts.call.tool.as_ref().unwrap().to_string())
        .with("decision", recorded.decision.to_string())
        .with("mode", recorded.mode.to_string())
        .with("bundle", recorded.bundle.as_str())
        .with("rules", json!(recorded.rules))
        .with("reasons", json!(recorded.codes))
        .with_some("would_be", recorded.would_be.map(|it| it.to_string()))
        .with_some("tool_pin", recorded.tool_pin.as_deref())
        .sealed("principal", json!({"id": facts.principal.id, "type": "human"}))
        .sealed("facts", sealed_facts(facts));
    if reasons.as_array().is_some_and(|list| !list.is_empty()) {
        draft = draft.sealed("reasons", reasons.clone());
    }
    let empty = Map::new();
    for (name, value) in facts.call.arguments.as_object().unwrap_or(&empty) {
        draft = draft.sealed(format!("arguments.{name}"), value.clone());
    }
    draft
}
