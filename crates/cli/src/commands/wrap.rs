//! `countersign wrap`: stand in for a stdio MCP server in a client's configuration.
//!
//! The client starts `countersign wrap -- COMMAND…` where it started `COMMAND…` before. Wrap finds the
//! gateway of its folder, or starts one, puts the command behind it and passes messages between its
//! own standard input and output and the gateway. Several wraps share one gateway and one ledger.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use countersign_model::ServerName;
use countersign_store::Store;
use serde_json::{Value, json};

use crate::bridge;
use crate::client::McpClient;
use crate::config::Config;
use crate::control::Control;
use crate::paths::Paths;
use crate::run;

/// How long a gateway that was just started may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const START_POLL: Duration = Duration::from_millis(50);
/// A gateway that wrap started ends when nobody used it for this many seconds.
const IDLE_EXIT_S: &str = "60";
/// Programs that only start others, and so say nothing about what a command is.
const RUNNERS: [&str; 11] =
    ["npx", "node", "uvx", "uv", "python", "python3", "bunx", "deno", "docker", "run", "exec"];
/// File and folder names that say nothing about what a command is.
const GENERIC: [&str; 8] = ["index", "main", "server", "cli", "dist", "build", "src", "bin"];

/// The configuration of an installation that wrap makes: any free ports.
const CONFIG: &str = "# Made by `countersign wrap`.\n\n\
    [data_plane]\nlisten = \"127.0.0.1:0\"\n\n\
    [control_plane]\nlisten = \"127.0.0.1:0\"\n";
/// Its policy: everything the local user's clients do is permitted, and recorded.
const POLICY: &str = "\
// Clients on this computer may use every wrapped server; each call is recorded.
// Add `forbid` policies to take things away, for example:
//   @id(\"no-writes\") forbid (principal, action == Action::\"files/write_file\", resource);

@id(\"wrapped-clients\")
permit (principal in Role::\"wrapped-client\", action, resource);
";

/// Put the gateway in front of a stdio MCP server.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "In a client's configuration, put `countersign wrap --` before the command \
    that starts the server; nothing else changes. Without --dir, the installation is \
    ~/.countersign, made at the first use with a policy that permits and records everything."
)]
pub(crate) struct Args {
    /// The server's name in policies and records; found from the command if absent.
    #[arg(long)]
    name: Option<ServerName>,
    /// The agent that the client acts as; registered at the first use.
    #[arg(long, default_value = "local")]
    agent: String,
    /// The agent's key; kept in the installation if absent.
    #[arg(long, env = "COUNTERSIGN_KEY", hide_env_values = true)]
    key: Option<String>,
    /// The command that starts the server.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => name_of(&args.command).context("cannot name this server: use --name")?,
    };
    let (control, key) = prepare(&args, &name, paths).await?;
    let url = format!("{}/mcp/{name}", control.data_plane());
    bridge::run(McpClient::new(url, key)).await?;
    Ok(ExitCode::SUCCESS)
}

/// Makes sure that there is an installation, a gateway, the server behind it and a key.
///
/// A file lock keeps several wraps that start at once from doing it twice.
async fn prepare(
    args: &Args,
    name: &ServerName,
    paths: &Paths,
) -> anyhow::Result<(Control, String)> {
    std::fs::create_dir_all(&paths.root)
        .with_context(|| format!("cannot make {}", paths.root.display()))?;
    let lock = std::fs::File::create(paths.root.join(".wrap.lock"))?;
    let lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
    if !paths.config.exists() {
        install(paths).await?;
    }
    let control = match Control::find(paths).await {
        Some(control) => control,
        None => start_gateway(paths).await?,
    };
    let upstream = json!({
        "name": name, "command": resolved(&args.command), "env": environment(),
        "cwd": std::env::current_dir().ok(),
    });
    control.post("/api/v1/upstreams", &upstream).await?;
    let key = match &args.key {
        Some(key) => key.clone(),
        None => stored_key(&control, paths, &args.agent).await?,
    };
    drop(lock);
    Ok((control, key))
}

/// Makes an installation for the local user's clients.
async fn install(paths: &Paths) -> anyhow::Result<()> {
    let policies = paths.policies.join("policies");
    std::fs::create_dir_all(&policies)?;
    std::fs::write(policies.join("wrapped-clients.cedar"), POLICY)?;
    let config: Config = toml::from_str(CONFIG)?;
    Store::create(&paths.data, &run::store_config(&config))
        .await
        .context("cannot make the ledger")?;
    // Last, because its presence says that the rest is there.
    std::fs::write(&paths.config, CONFIG).context("cannot write the configuration")
}

/// Starts a gateway that outlives this process, and waits until it answers.
async fn start_gateway(paths: &Paths) -> anyhow::Result<Control> {
    let log_path = paths.data.join("serve.log");
    let log = std::fs::File::create(&log_path).context("cannot write the gateway's log file")?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = std::process::Command::new(program);
    command
        .arg("--dir")
        .arg(&paths.root)
        .args(["serve", "--idle-exit", IDLE_EXIT_S])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    // A group of its own: the signals that end the client's processes do not end the gateway.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().context("cannot start the gateway")?;
    let deadline = tokio::time::Instant::now() + START_TIMEOUT;
    while tokio::time::Instant::now() < deadline {
        if let Some(control) = Control::find(paths).await {
            return Ok(control);
        }
        if let Some(status) = child.try_wait()? {
            bail!("the gateway ended with {status}; see {}", log_path.display());
        }
        tokio::time::sleep(START_POLL).await;
    }
    bail!("the gateway did not answer in time; see {}", log_path.display())
}

/// Reads the agent's key, or registers the agent and keeps the key, readable by the user alone.
async fn stored_key(control: &Control, paths: &Paths, agent: &str) -> anyhow::Result<String> {
    let folder = paths.data.join("wrap");
    let path = folder.join(format!("{agent}.key"));
    if let Ok(key) = std::fs::read_to_string(&path) {
        return Ok(key.trim().to_owned());
    }
    let new = json!({
        "name": agent,
        "purpose": "MCP clients on this computer, through countersign wrap",
        "owner": owner(),
        "environment": "prod",
        "roles": ["wrapped-client"],
    });
    let added = control.post("/api/v1/agents", &new).await?;
    let key = added.get("key").and_then(Value::as_str).context("the gateway gave no key")?;
    std::fs::create_dir_all(&folder)?;
    write_private(&path, key).context("cannot keep the agent's key")?;
    Ok(key.to_owned())
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path)?.write_all(text.as_bytes())
}

#[expect(clippy::disallowed_methods, reason = "the command line program may read the environment")]
fn owner() -> String {
    std::env::var("USER").unwrap_or_else(|_| "local user".into())
}

/// Gives the server what it would have inherited from the client.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(key, _)| !key.starts_with("COUNTERSIGN_"))
        .collect()
}

/// Gives the command with an absolute program where it is a relative path.
fn resolved(command: &[String]) -> Vec<String> {
    let mut command = command.to_vec();
    if let Some(program) = command.first_mut()
        && program.contains('/')
        && let Ok(path) = std::path::absolute(PathBuf::from(program.as_str()))
    {
        *program = path.display().to_string();
    }
    command
}

/// Finds a name in a command: the first word that is neither a runner nor an option, without what says
/// nothing. `npx -y @modelcontextprotocol/server-filesystem /data` is `server-filesystem`.
fn name_of(command: &[String]) -> Option<ServerName> {
    let telling = |word: &&String| {
        let base = word.rsplit('/').next().unwrap_or_default();
        !word.starts_with('-') && !RUNNERS.contains(&base)
    };
    let word = command.iter().find(telling).or_else(|| command.first())?;
    let part = word.split('/').rev().find_map(|part| {
        let stem = part.split('@').next().filter(|stem| !stem.is_empty())?;
        let stem = stem.split('.').next().unwrap_or(stem);
        (!GENERIC.contains(&stem)).then_some(stem)
    })?;
    let words = part.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("-").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_their_servers() {
        for (command, name) in [
            ("npx -y @modelcontextprotocol/server-filesystem /data", Some("server-filesystem")),
            ("npx -y server-memory@1.2.3", Some("server-memory")),
            ("node /x/server-everything/dist/index.js stdio", Some("server-everything")),
            ("uvx mcp-server-git --repository .", Some("mcp-server-git")),
            ("python3 -m mcp_server_time", Some("mcp-server-time")),
            ("/usr/local/bin/crm", Some("crm")),
        ] {
            let words: Vec<_> = command.split(' ').map(str::to_owned).collect();
            let found = name_of(&words);
            assert_eq!(found.as_ref().map(ServerName::as_str), name, "{command}");
        }
    }
}
