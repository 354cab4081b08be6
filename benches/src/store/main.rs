//! Measures the store by itself: durable calls on SQLite and on PostgreSQL in turns, queries and evidence
//! packages of large ledgers.
//!
//! Out of scope: the gateway before and behind it (`benches/run`).

mod commit;
#[path = "../latency.rs"]
mod latency;
mod query;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use clap::{Parser, Subcommand};
use countersign_model::{AgentId, Draft, Kind, RecordId, TenantId};
use countersign_store::{Clock, CommitWarnings, Database, StoreConfig};
use serde_json::json;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use uuid::Uuid;

#[derive(Parser)]
#[command(name = "store-bench", version, about = "Measures the ledger's store")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Records calls as fast as they become durable, on both engines in turns
    Commit(commit::CommitArgs),
    /// Fills a ledger and asks it for first pages by four filters; builds a package of it if asked
    Query(query::QueryArgs),
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::registry().with(CommitWarnings::layer()).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match Cli::parse().command {
        Command::Commit(args) => runtime.block_on(commit::run(&args)),
        Command::Query(args) => runtime.block_on(query::run(&args)),
    }
}

struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing is compared between runs")]
fn new_id() -> Uuid {
    Uuid::now_v7()
}

/// Returns the settings of a store in a folder.
fn config(database: Database, keys: Option<PathBuf>) -> StoreConfig {
    let mut config =
        StoreConfig::new(TenantId("bench".into()), Arc::new(SystemClock), Arc::new(new_id));
    config.database = database;
    config.keys = keys;
    config
}

/// Returns a folder that is gone with the run.
fn folder(parent: Option<&Path>, name: &str) -> anyhow::Result<PathBuf> {
    let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
    let folder = parent.join(format!("countersign-bench-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Returns a decision as the gateway records one: sealed arguments of a kilobyte and facts.
fn decision(n: u64) -> Draft {
    let agent = AgentId(Uuid::from_u128(u128::from(n % 50)));
    let verdict = if n.is_multiple_of(10) { "deny" } else { "allow" };
    Draft::new(RecordId(new_id()), Kind::Decision)
        .with("decision", verdict)
        .with("mode", "enforce")
        .with("agent", agent.to_string())
        .with("agent_name", format!("agent-{}", n % 50))
        .with("environment", "prod")
        .with("origin", "mcp")
        .with("server", format!("server-{}", n % 7))
        .with("tool", format!("server-{}/tool-{}", n % 7, n % 31))
        .with("rules", vec![format!("rule-{}", n % 23)])
        .with("bundle", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
        .about(format!("person-{}@example.com", n % 101))
        .sealed("arguments.text", "x".repeat(1024))
        .sealed("facts", json!({ "v": 1, "hour": 3, "weekday": 7, "risk": 20 }))
}

#[expect(clippy::print_stdout, reason = "the program's output")]
fn say(line: &str) -> std::io::Result<()> {
    println!("{line}");
    std::io::stdout().flush()
}
