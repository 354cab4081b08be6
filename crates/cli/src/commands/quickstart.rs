//! `countersign quickstart`: everything at work in a minute, on real parts.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use countersign_model::NewAgent;
use countersign_store::Store;
use include_dir::{Dir, include_dir};
use serde::Serialize;
use serde_json::{Value, json};

use crate::client::{Answer, McpClient};
use crate::config::Config;
use crate::paths::Paths;
use crate::run::{self, Running};

/// The starter bundle: policies, manifests, pins and tests for the demonstration server.
static STARTER: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../policies/starter");
/// Where the installation goes, below `--dir`.
const FOLDER: &str = "countersign-quickstart";
/// Who the agents of the demonstration belong to.
const OWNER: &str = "you@example.com";
/// How often the retried refund is sent.
const RETRIES: usize = 5;
/// How long the demonstration server may take to start.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// Show everything at work: a real MCP server, two agents, a session, and its proof.
#[derive(Debug, clap::Args)]
#[command(after_help = "Makes a folder countersign-quickstart below --dir with keys, database, \
    policies and two agents, puts a small MCP server behind the gateway and calls it. \
    The folder is yours to look around in; delete it when done.")]
pub(crate) struct Args {
    /// End after the session instead of staying up.
    #[arg(long)]
    exit: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

/// What happened with one step of the session.
#[derive(Debug, Serialize)]
struct Step {
    what: &'static str,
    agent: &'static str,
    decision: String,
    why: String,
    latency_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    evaluation_id: Option<String>,
}

/// Keys of the two agents.
struct Keys {
    support: String,
    janitor: String,
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let paths = Paths::new(&fresh_folder(&paths.root)?);
    let config = install(&paths).await?;
    let running = run::start(&paths, &config).await?;
    let keys = add_agents(&running).await?;
    wait_until_pinned(&running).await?;

    let client =
        McpClient::new(format!("http://{}/mcp/crm", running.data_plane), keys.support.clone());
    let mut screen = Screen::new(args.json);
    screen.say(&format!(
        "Made {} with keys, ledger, policies and two agents.\n",
        paths.root.display()
    ));
    let steps = session(&client, &keys, &paths, &mut screen).await?;

    running.store.publish_now().await.context("cannot publish the log")?;
    let denied = steps.iter().find(|step| step.what == DELETE);
    let denied = denied.and_then(|step| step.evaluation_id.clone());
    let denied = denied.context("the forbidden delete left no record")?;
    let vkey = running.store.vkey()?;
    let log = paths.log().display().to_string();
    let verify = ["verify", "--log", &log, "--vkey", &vkey];
    let why = ["why", &denied];
    if args.json {
        let (verified, why) = (own(&paths, &verify, true).await?, own(&paths, &why, true).await?);
        screen.finish(&json!({
            "folder": paths.root, "steps": steps, "vkey": vkey,
            "verified": serde_json::from_str::<Value>(&verified)?,
            "why": serde_json::from_str::<Value>(&why)?,
            "mcp": format!("http://{}/mcp", running.data_plane),
        }));
    } else {
        screen.say("\nThe published log, checked with nothing but the public key:\n");
        screen.say(&format!("$ countersign verify --log {log} \\\n    --vkey {vkey}"));
        screen.say(&own(&paths, &verify, false).await?);
        screen.say(&format!("\n$ countersign why {denied}"));
        screen.say(&own(&paths, &why, false).await?);
    }
    if !args.exit {
        screen.say(&invitation(&running, &paths, &keys));
        tokio::signal::ctrl_c().await?;
    }
    running.stop().await?;
    Ok(ExitCode::SUCCESS)
}

/// Runs this program as a user would, and gives what it prints.
async fn own(paths: &Paths, arguments: &[&str], as_json: bool) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = tokio::process::Command::new(program);
    command.arg("--dir").arg(&paths.root).args(arguments);
    if as_json {
        command.arg("--json");
    }
    let output = command.stderr(std::process::Stdio::inherit()).output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "`countersign {}` failed: {text}", arguments.join(" "));
    Ok(text)
}

/// Finds a folder that does not exist yet, so that nothing is ever overwritten.
fn fresh_folder(root: &Path) -> anyhow::Result<PathBuf> {
    for number in 1..1_000 {
        let name = if number == 1 { FOLDER.to_owned() } else { format!("{FOLDER}-{number}") };
        let folder = root.join(name);
        match std::fs::create_dir(&folder) {
            Ok(()) => return std::path::absolute(folder).context("cannot find the folder"),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", folder.display()));
            }
        }
    }
    bail!("there are a thousand quickstart folders in {} already", root.display())
}

/// Makes keys, ledger, policies, the server's files and the configuration.
async fn install(paths: &Paths) -> anyhow::Result<Config> {
    std::fs::create_dir(&paths.policies)?;
    STARTER.extract(&paths.policies).context("cannot write the starter bundle")?;
    let files = paths.root.join("customer-files");
    std::fs::create_dir(&files)?;
    std::fs::write(files.join("contract.txt"), "The contract of Grace Hopper.\n")?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let (data, control) = ports();
    let text = format!(
        "# Made by `countersign quickstart`.\n\n\
         [data_plane]\nlisten = \"{data}\"\n\n\
         [control_plane]\nlisten = \"{control}\"\n\n\
         [upstreams.crm]\ncommand = [{}, \"demo-server\"]\ncwd = {}\n",
        toml::Value::from(program.display().to_string()),
        toml::Value::from(files.display().to_string()),
    );
    std::fs::write(&paths.config, text)?;
    let config = Config::read(&paths.config)?;
    Store::create(&paths.data, &run::store_config(&config))
        .await
        .context("cannot make the ledger")?;
    Ok(config)
}

/// Takes the default ports if they are free, any others if not.
fn ports() -> (String, String) {
    let default = ("127.0.0.1:7700", "127.0.0.1:7701");
    let free = |address| std::net::TcpListener::bind(address).is_ok();
    if free(default.0) && free(default.1) {
        (default.0.into(), default.1.into())
    } else {
        ("127.0.0.1:0".into(), "127.0.0.1:0".into())
    }
}

async fn add_agents(running: &Running) -> anyhow::Result<Keys> {
    let add = async |name: &str, purpose: &str, role: &str| {
        let new = NewAgent {
            name: name.into(),
            purpose: purpose.into(),
            owner: OWNER.into(),
            environment: "prod".into(),
            roles: vec![role.into()],
            key_expires: None,
        };
        let (_, key) = running.store.agents().add(new, OWNER).await?;
        anyhow::Ok(key.text.to_string())
    };
    Ok(Keys {
        support: add("support-bot", "answers customers and refunds orders", "support-agent")
            .await?,
        janitor: add("janitor", "cleans up customer files", "maintenance").await?,
    })
}

/// Waits until the demonstration server runs and its tools were compared with the pins.
async fn wait_until_pinned(running: &Running) -> anyhow::Result<()> {
    let server = "crm".parse()?;
    let compared = countersign_gateway::watch::compare(&running.gateway, &server);
    tokio::time::timeout(READY_TIMEOUT, compared)
        .await
        .context("the demonstration server did not start in time")?
        .context("the demonstration server did not start")?;
    Ok(())
}

const DELETE: &str = "delete a customer's contract";

/// Runs the scripted session through a real MCP connection.
async fn session(
    client: &McpClient,
    keys: &Keys,
    paths: &Paths,
    screen: &mut Screen,
) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    let janitor = client.with_key(&keys.janitor);
    let stranger = client.with_key("csk_prod_unknown_0000000000000000");
    let refund = |amount: u64| json!({"order_id": "991", "amount": amount});
    let calls = [
        ("query a customer", "support-bot", client, "query", json!({"query": "grace"}), None),
        ("refund 50 dollars", "support-bot", client, "refund", refund(50), Some("refund-991-a")),
        (
            "refund 9,500 dollars",
            "support-bot",
            client,
            "refund",
            refund(9_500),
            Some("refund-991-b"),
        ),
        (DELETE, "janitor", &janitor, "delete_file", json!({"path": "contract.txt"}), None),
        (
            "write to a customer",
            "support-bot",
            client,
            "send_email",
            json!({"to": "grace@example.com", "subject": "Hello", "body": "…"}),
            None,
        ),
        ("query with a wrong key", "nobody", &stranger, "query", json!({"query": "grace"}), None),
    ];
    for (what, agent, client, tool, arguments, key) in calls {
        let started = Instant::now();
        let answer = client.call_tool(tool, &arguments, key).await?;
        let step = step(what, agent, &answer, started.elapsed());
        screen.step(&step);
        steps.push(step);
    }
    let retried = retried_refund(client, paths).await?;
    screen.step(&retried);
    steps.push(retried);
    let kept = paths.root.join("customer-files").join("contract.txt").exists();
    ensure!(kept, "the forbidden delete reached the server");
    screen.say("\nThe contract is still there; the delete never reached the server.\n");
    Ok(steps)
}

/// Sends one refund several times at once, as a client with a bad connection would.
async fn retried_refund(client: &McpClient, paths: &Paths) -> anyhow::Result<Step> {
    let started = Instant::now();
    let calls = (0..RETRIES).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            let arguments = json!({"order_id": "993", "amount": 75});
            client.call_tool("refund", &arguments, Some("refund-993")).await
        })
    });
    let mut answers = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        answers.push(call.await??);
    }
    let latency = started.elapsed();
    let replayed = answers.iter().filter(|answer| answer.replayed).count();
    let refunds = paths.root.join("customer-files").join("refunds.jsonl");
    let paid =
        std::fs::read_to_string(refunds)?.lines().filter(|line| line.contains("993")).count();
    ensure!(paid == 1, "the retried refund was paid {paid} times");
    let first = answers.iter().find(|answer| !answer.replayed).context("no call went through")?;
    let mut step = step("the same refund, sent 5 times", "support-bot", first, latency);
    step.why = format!("paid once, {replayed} answers replayed");
    Ok(step)
}

/// Reads what an answer says about its decision.
fn step(what: &'static str, agent: &'static str, answer: &Answer, latency: Duration) -> Step {
    let meta = |name: &str| {
        let member = |holder: &str| answer.body.get(holder)?.get("_meta")?.get(name).cloned();
        member("result")
    };
    let refusal = meta("dev.countersign/refusal");
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let (decision, why, evaluation_id) = match &refusal {
        Some(refusal) => {
            let held = refusal.get("stage").is_some_and(|stage| stage == "approval");
            let rule = text(refusal.get("rule_id"));
            let why = format!("{} {}", text(refusal.get("code")), rule);
            (if held { "hold" } else { "deny" }, why, Some(text(refusal.get("evaluation_id"))))
        }
        None if answer.status == 401 => ("reject", "401, recorded; nothing forwarded".into(), None),
        None => {
            let id = meta("dev.countersign/evaluation-id");
            ("allow", "forwarded and answered".into(), id.map(|id| text(Some(&id))))
        }
    };
    Step {
        what,
        agent,
        decision: decision.into(),
        why: why.trim().to_owned(),
        latency_ms: (latency.as_secs_f64() * 10_000.0).round() / 10.0,
        evaluation_id,
    }
}

/// Says how to go on.
fn invitation(running: &Running, paths: &Paths, keys: &Keys) -> String {
    let mcp = format!("http://{}/mcp", running.data_plane);
    let client = json!({"mcpServers": {"countersign": {
        "type": "http", "url": mcp, "headers": {"Authorization": format!("Bearer {}", keys.support)},
    }}});
    format!(
        "\nThe gateway stays up: {mcp} (control plane http://{}).\n\
         Paste this into an MCP client's configuration:\n\n{}\n\n\
         In another terminal: countersign --dir {} records query\n\
         Stop with Ctrl-C.\n",
        running.control_plane,
        serde_json::to_string_pretty(&client).unwrap_or_default(),
        paths.root.display(),
    )
}

/// Prints the session for people, or all of it as JSON for machines.
struct Screen {
    json: bool,
    header: bool,
}

#[expect(clippy::print_stdout, reason = "the command's output")]
impl Screen {
    fn new(json: bool) -> Self {
        Self { json, header: false }
    }

    fn say(&self, text: &str) {
        if !self.json {
            println!("{}", text.trim_end_matches('\n'));
        }
    }

    fn step(&mut self, step: &Step) {
        if self.json {
            return;
        }
        if !self.header {
            println!("{:<31}{:<13}{:<9}{:>8}  why", "call", "agent", "decision", "ms");
            self.header = true;
        }
        let Step { what, agent, decision, why, latency_ms, .. } = step;
        println!("{what:<31}{agent:<13}{decision:<9}{latency_ms:>8.1}  {why}");
    }

    fn finish(&self, everything: &Value) {
        if self.json {
            println!("{everything:#}");
        }
    }
}
