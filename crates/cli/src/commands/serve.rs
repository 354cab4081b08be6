//! `countersign serve`: run the gateway until it is told to stop.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Config;
use crate::paths::Paths;
use crate::run::{self, Running};

/// Pause between two looks whether anybody still uses the gateway.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// Run the gateway.
#[derive(Debug, clap::Args)]
#[command(after_help = "The gateway reads `countersign.toml` and `policies/` in --dir. \
    SIGTERM and Ctrl-C stop it: running calls end, the log is published, the ledger closes.")]
pub(crate) struct Args {
    /// Read this configuration instead of `countersign.toml` in --dir.
    #[arg(long, value_name = "FILE")]
    config: Option<std::path::PathBuf>,
    /// Print the addresses as one JSON line when ready.
    #[arg(long)]
    json: bool,
    /// Stop when no client has had a session for this many seconds.
    #[arg(long, value_name = "SECONDS", hide = true)]
    idle_exit: Option<u64>,
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let mut paths = paths.clone();
    if let Some(config) = args.config {
        paths.config = config;
    }
    let config = Config::read(&paths.config)?;
    let running = run::start(&paths, &config).await?;
    // Whoever reads the addresses may send a signal at once.
    let (terminate, interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    announce(&running, args.json);
    let idle = args.idle_exit.map(Duration::from_secs);
    wait_for_the_end(&running, idle, terminate, interrupt).await;
    running.stop().await?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's output")]
fn announce(running: &Running, as_json: bool) {
    let (data, control) = (running.data_plane, running.control_plane);
    if as_json {
        let line = json!({
            "data_plane": format!("http://{data}"),
            "control_plane": format!("http://{control}"),
            "mcp": format!("http://{data}/mcp"),
        });
        println!("{line}");
    } else {
        eprintln!("Agents call      http://{data}/mcp  (one server: http://{data}/mcp/<server>)");
        eprintln!("Control plane    http://{control}");
        eprintln!("Stop with Ctrl-C.");
    }
}

/// Waits for a signal, or for the last client to be gone long enough.
async fn wait_for_the_end(
    running: &Running,
    idle: Option<Duration>,
    mut terminate: Signal,
    mut interrupt: Signal,
) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = unused(running, idle) => {}
    }
}

async fn unused(running: &Running, idle: Option<Duration>) {
    let Some(idle) = idle else { return std::future::pending().await };
    let mut since = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(IDLE_CHECK).await;
        if running.gateway.is_used() {
            since = tokio::time::Instant::now();
        } else if since.elapsed() >= idle {
            return;
        }
    }
}
