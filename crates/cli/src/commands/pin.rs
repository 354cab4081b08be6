//! `countersign pin`: approve what a server offers now.

#![expect(clippy::print_stdout, reason = "the command's output")]

use std::process::ExitCode;

use countersign_model::ServerName;
use serde_json::{Value, json};

use crate::control::Control;
use crate::paths::Paths;

/// Approve the tools that a server offers now.
///
/// The gateway pins a server's tool definitions when it first sees them. A tool that is new or changed
/// since then is refused until it is pinned again. Look at the change before: a definition is text that
/// agents obey.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  countersign pin crm")]
pub(crate) struct Args {
    /// The server's name in countersign.toml
    server: ServerName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let control = Control::require(paths).await?;
    let path = format!("/api/v1/pins/{}", args.server);
    let answer = control.post(&path, &json!({})).await?;
    if args.json {
        println!("{answer}");
    } else {
        let tools = answer.get("tools").and_then(Value::as_u64).unwrap_or(0);
        println!("{}: {tools} tools pinned", args.server);
    }
    Ok(ExitCode::SUCCESS)
}
