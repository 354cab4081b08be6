//! Small bundles and facts.

use std::path::Path;

use countersign_decision::{Bundle, BundleFiles};
use countersign_model::{
    AgentFacts, AgentId, CallFacts, Facts, Principal, PrincipalType, Provenance, RecordId,
    TenantId, TimestampMs, ToolName,
};
use serde_json::{Value, json};

pub(crate) const MANIFEST: &str = r#"
environment = "prod"
[tools.refund]
tags = ["money"]
idempotency = "required"
timeout_ms = 5000
"#;

/// A server `crm` with the tools `refund` and `locate`.
pub(crate) fn tools() -> Value {
    json!({
        "server": "crm",
        "instructions": "Be kind.",
        "tools": [
            {
                "name": "refund",
                "description": "Refunds an order.",
                "inputSchema": {
                    "type": "object",
                    "properties": {
                        "amount": {"type": "integer"},
                        "limit": {"type": "integer"},
                        "order": {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]},
                        "labels": {"type": "array", "items": {"type": "string"}},
                        "anything": {},
                    },
                    "required": ["amount"],
                },
                "_meta": {"seen": 1},
            },
            {
                "name": "locate",
                "inputSchema": {
                    "type": "object",
                    "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}},
                    "required": ["lat", "lon"],
                    "additionalProperties": false,
                },
            },
        ],
    })
}

pub(crate) fn files(policies: &str) -> BundleFiles {
    let text = [
        ("policies/a.cedar", policies.to_owned()),
        ("manifests/crm.toml", MANIFEST.to_owned()),
        ("tools/crm.json", tools().to_string()),
    ];
    BundleFiles(text.into_iter().map(|(path, text)| (path.to_owned(), text.into_bytes())).collect())
}

/// Loads a bundle that has to be without fault.
pub(crate) fn load(policies: &str) -> Bundle {
    match Bundle::load(&files(policies)) {
        Ok(bundle) => bundle,
        Err(found) => panic!("{}", render(&found)),
    }
}

pub(crate) fn render(found: &[countersign_decision::Diagnostic]) -> String {
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

pub(crate) fn agent(roles: &[&str]) -> AgentFacts {
    AgentFacts {
        id: AgentId("00000000-0000-7000-8000-000000000001".parse().unwrap()),
        name: "bot".parse().unwrap(),
        owner: "dana@example.com".to_owned(),
        environment: "prod".parse().unwrap(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
    }
}

/// A call of a tool by an agent in the role `support`.
pub(crate) fn call(tool: &str, arguments: Value) -> Facts {
    let tool: ToolName = tool.parse().unwrap();
    Facts {
        v: Facts::VERSION,
        evaluation_id: RecordId("00000000-0000-7000-8000-000000000002".parse().unwrap()),
        at: TimestampMs(1_760_000_000_000),
        tenant: TenantId("default".to_owned()),
        origin: "mcp".to_owned(),
        agent: agent(&["support"]),
        principal: Principal {
            kind: PrincipalType::Human,
            id: "sam@example.com".to_owned(),
            provenance: Provenance::Registry,
        },
        session: None,
        call: CallFacts {
            method: "tools/call".to_owned(),
            server: tool.server().clone(),
            tool: Some(tool),
            target: None,
            arguments,
            keyed: true,
            pin_mismatch: false,
        },
    }
}

/// Reads a folder of the repository.
pub(crate) fn read(folder: &str) -> BundleFiles {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies").join(folder);
    let mut files = BundleFiles::default();
    for part in ["policies", "manifests", "tools", "tests"] {
        for entry in std::fs::read_dir(root.join(part)).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            files.0.insert(format!("{part}/{name}"), std::fs::read(&path).unwrap());
        }
    }
    files
}
