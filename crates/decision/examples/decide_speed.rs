//! Measures `decide`: `cargo run --release -p countersign-decision --example decide_speed`.
//!
//! The bundle has one tool, three general policies and the given number of policies that name one
//! agent each; the call is one of the last agent's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

use countersign_decision::{Bundle, BundleFiles, decide};
use countersign_model::{Facts, Verdict};
use serde_json::json;

const CALLS: u32 = 20_000;

fn bundle(agents: usize) -> Result<Bundle, String> {
    let mut policies = r#"
        @id("environment") forbid (principal, action, resource)
        unless { principal.environment == resource.environment };
        @id("bounds") @code("BOUNDS") forbid (principal, action == Action::"crm/refund", resource)
        when { context.arguments.amount > 5000 };
        @id("deletion") forbid (principal, action in Action::"tag:data-deletion", resource);
    "#
    .to_owned();
    for agent in 0..agents {
        let scope =
            format!(r#"principal == Agent::"agent-{agent}", action == Action::"crm/refund""#);
        let condition = format!("context.arguments.amount <= {}", 100 + agent);
        let _ = writeln!(
            policies,
            r#"@id("p{agent}") permit ({scope}, resource) when {{ {condition} }};"#
        );
    }
    let tools = json!({"server": "crm", "tools": [{"name": "refund", "inputSchema": {
        "type": "object",
        "properties": {
            "order_id": {"type": "string"},
            "amount": {"type": "integer"},
            "reason": {"type": "string"},
        },
        "required": ["order_id", "amount"],
        "additionalProperties": false,
    }}]});
    let files = [
        ("policies/a.cedar", policies),
        (
            "manifests/crm.toml",
            "environment = \"prod\"\ntools.refund.tags = [\"money\"]".to_owned(),
        ),
        ("tools/crm.json", tools.to_string()),
    ];
    let files: BTreeMap<_, _> =
        files.into_iter().map(|(path, text)| (path.to_owned(), text.into_bytes())).collect();
    Bundle::load(&BundleFiles(files)).map_err(|found| format!("{found:?}"))
}

fn facts(agent: usize) -> Result<Facts, serde_json::Error> {
    serde_json::from_value(json!({
        "v": 1,
        "evaluation_id": "00000000-0000-7000-8000-000000000002",
        "at": 1_760_000_000_000_i64,
        "tenant": "default",
        "origin": "mcp",
        "agent": {
            "id": "00000000-0000-7000-8000-000000000001",
            "name": format!("agent-{agent}"),
            "owner": "dana@example.com",
            "environment": "prod",
            "roles": ["support", "refunds"],
        },
        "principal": {"type": "human", "id": "sam@example.com", "provenance": "registry"},
        "call": {
            "method": "tools/call",
            "server": "crm",
            "tool": "crm/refund",
            "arguments": {"order_id": "991", "amount": 42, "reason": "arrived broken"},
        },
    }))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout();
    for agents in [10, 100, 1000, 10_000] {
        let start = Instant::now();
        let bundle = bundle(agents)?;
        let load_ms = start.elapsed().as_millis();
        let facts = facts(agents - 1)?;
        let start = Instant::now();
        for _ in 0..CALLS {
            if decide(&bundle, &facts).verdict != Verdict::Allow {
                return Err("the call must be allowed".into());
            }
        }
        let each = start.elapsed() / CALLS;
        writeln!(out, "{agents:6} policies: loaded in {load_ms} ms, {each:.1?} per decision")?;
    }
    Ok(())
}
