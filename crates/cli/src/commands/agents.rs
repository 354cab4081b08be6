//! `countersign agents`: the registry of agents.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's output")]

use std::process::ExitCode;

use anyhow::Context as _;
use countersign_model::{Agent, AgentName, AgentStatus, NewAgent, TimestampMs};
use countersign_store::{Clock as _, Reader};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::clock::SystemClock;
use crate::config::Config;
use crate::control::{ACTOR, Control, with_store};
use crate::paths::Paths;
use crate::run::store_config;

/// Register agents and manage their keys.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Register an agent and show its API key, once
    Add(AddArgs),
    /// List all agents
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one agent
    Show(NameArgs),
    /// Refuse every credential of an agent from now on
    ///
    /// A running gateway also closes the agent's sessions.
    Disable(NameArgs),
    /// Give an agent a new API key and let its old ones end
    RotateKey(RotateArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  countersign agents add --name support-bot --purpose 'answers support tickets' \\
      --owner ada@example.com --environment prod --role support-agent --expires 90d")]
pub(crate) struct AddArgs {
    /// The name that policy uses; never given twice
    #[arg(long)]
    name: String,
    /// What the agent is for, in a sentence
    #[arg(long)]
    purpose: String,
    /// The person who answers for the agent, usually an e-mail address
    #[arg(long)]
    owner: String,
    /// Where the agent runs: `prod`, `staging`, …
    #[arg(long)]
    environment: String,
    /// A role that policies name; may be repeated
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// When the key ends: a number with `s`, `m`, `h` or `d`; never if absent
    #[arg(long, value_name = "TIME", value_parser = duration_ms)]
    expires: Option<u64>,
    /// Print JSON: `{"agent": {…}, "key_id": "…", "key": "csk_…"}`
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct NameArgs {
    /// The agent's name
    name: AgentName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  countersign agents rotate-key support-bot --overlap 1h")]
pub(crate) struct RotateArgs {
    /// The agent's name
    name: AgentName,
    /// How long the old keys stay good: a number with `s`, `m`, `h` or `d`
    #[arg(long, value_name = "TIME", value_parser = duration_ms, default_value = "0s")]
    overlap: u64,
    /// Print JSON: `{"key_id": "…", "key": "csk_…"}`
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: Command, paths: &Paths) -> anyhow::Result<ExitCode> {
    match command {
        Command::Add(args) => add(args, paths).await?,
        Command::List { json } => list(json, paths).await?,
        Command::Show(args) => show(&args, paths).await?,
        Command::Disable(args) => disable(&args, paths).await?,
        Command::RotateKey(args) => rotate_key(&args, paths).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn add(args: AddArgs, paths: &Paths) -> anyhow::Result<()> {
    let AddArgs { name, purpose, owner, environment, roles, expires, json } = args;
    let key_expires =
        expires.map(|ms| TimestampMs(SystemClock.now_ms().saturating_add_unsigned(ms)));
    let new = NewAgent { name, purpose, owner, environment, roles, key_expires };
    let answer = match Control::find(paths).await {
        Some(control) => control.post("/api/v1/agents", &json!(new)).await?,
        None => {
            with_store(paths, async |store| {
                let (agent, key) = store.agents().add(new, ACTOR).await?;
                Ok(json!({"agent": agent, "key_id": key.id, "key": key.text.as_str()}))
            })
            .await?
        }
    };
    show_key(&answer, json);
    Ok(())
}

async fn rotate_key(args: &RotateArgs, paths: &Paths) -> anyhow::Result<()> {
    let RotateArgs { name, overlap, json } = args;
    let answer = match Control::find(paths).await {
        Some(control) => {
            let path = format!("/api/v1/agents/{name}/rotate-key");
            control.post(&path, &json!({"overlap_ms": overlap})).await?
        }
        None => {
            with_store(paths, async |store| {
                let key = store.agents().rotate_key(name.as_str(), *overlap, ACTOR).await?;
                Ok(json!({"key_id": key.id, "key": key.text.as_str()}))
            })
            .await?
        }
    };
    show_key(&answer, *json);
    Ok(())
}

async fn disable(args: &NameArgs, paths: &Paths) -> anyhow::Result<()> {
    let name = &args.name;
    let answer = match Control::find(paths).await {
        Some(control) => {
            control.post(&format!("/api/v1/agents/{name}/disable"), &json!({})).await?
        }
        None => {
            with_store(paths, async |store| {
                Ok(json!({"agent": store.agents().disable(name.as_str(), ACTOR).await?}))
            })
            .await?
        }
    };
    if args.json {
        println!("{answer}");
    } else {
        println!("{name} is disabled");
    }
    Ok(())
}

/// Prints a new key alone on a line, so that it can be piped into a secret store.
fn show_key(answer: &Value, json: bool) {
    if json {
        println!("{answer}");
    } else {
        println!("{}", answer.get("key").and_then(Value::as_str).unwrap_or_default());
        eprintln!("This key is not shown again. Agents send it as `Authorization: Bearer csk_…`.");
    }
}

/// Reads the registry; a running gateway is not in the way.
pub(crate) async fn registered(paths: &Paths) -> anyhow::Result<Vec<Agent>> {
    let hint = "there is no readable ledger here; `countersign init` makes one";
    let config = store_config(&Config::read(&paths.config)?);
    let reader = Reader::of(&paths.data, &config).await.context(hint)?;
    let agents = reader.agents().await;
    reader.close().await;
    let mut agents = agents?;
    agents.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(agents)
}

async fn list(json: bool, paths: &Paths) -> anyhow::Result<()> {
    let agents = registered(paths).await?;
    if json {
        println!("{}", json!({"agents": agents}));
        return Ok(());
    }
    if agents.is_empty() {
        eprintln!("No agent is registered yet: `countersign agents add --help` says how.");
        return Ok(());
    }
    let width = agents.iter().map(|agent| agent.name.as_str().len()).max().unwrap_or(0).max(4);
    println!("{:width$}  STATUS    ENVIRONMENT  {:36}  OWNER, ROLES", "NAME", "ID");
    for agent in &agents {
        let Agent { id, name, owner, environment, roles, .. } = agent;
        let (name, status) = (name.as_str(), status(agent));
        let (environment, id) = (environment.as_str(), id.to_string());
        let roles = roles.join(", ");
        println!("{name:width$}  {status:8}  {environment:11}  {id}  {owner}, {roles}");
    }
    Ok(())
}

fn status(agent: &Agent) -> &'static str {
    match agent.status {
        AgentStatus::Active => "active",
        AgentStatus::Disabled => "disabled",
    }
}

async fn show(args: &NameArgs, paths: &Paths) -> anyhow::Result<()> {
    let agents = registered(paths).await?;
    let agent = agents.into_iter().find(|agent| agent.name == args.name);
    let agent = agent.with_context(|| format!("there is no agent `{}`", args.name))?;
    if args.json {
        println!("{}", json!({"agent": agent}));
        return Ok(());
    }
    let created = Timestamp::from_millisecond(agent.created.0)?;
    for (name, value) in [
        ("name", agent.name.to_string()),
        ("id", agent.id.to_string()),
        ("status", status(&agent).to_owned()),
        ("purpose", agent.purpose.clone()),
        ("owner", agent.owner.clone()),
        ("environment", agent.environment.to_string()),
        ("roles", agent.roles.join(", ")),
        ("registered", created.to_string()),
    ] {
        println!("{name:12} {value}");
    }
    Ok(())
}

/// Reads a time span such as `90d` into milliseconds.
fn duration_ms(text: &str) -> Result<u64, String> {
    let units = [('s', 1_000), ('m', 60_000), ('h', 3_600_000), ('d', 86_400_000)];
    units
        .into_iter()
        .find_map(|(unit, ms)| Some((text.strip_suffix(unit)?, ms)))
        .and_then(|(number, ms)| number.parse::<u64>().ok()?.checked_mul(ms))
        .ok_or_else(|| "expected a number with `s`, `m`, `h` or `d`, such as `90d`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in [
            ("0s", Some(0)),
            ("90s", Some(90_000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("90d", Some(7_776_000_000)),
            ("90", None),
            ("d", None),
            ("-1d", None),
            ("1.5h", None),
            ("1é", None),
            ("99999999999999999999d", None),
            ("999999999999999d", None),
        ] {
            assert_eq!(duration_ms(text).ok(), ms, "{text:?}");
        }
    }
}
