//! `countersign log`: what an auditor keeps of the log.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use countersign_ledger::Checkpoint;

use super::records::{log_key, whole_or_cut};
use crate::paths::Paths;

/// Print the log's public key or its newest checkpoint.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print the public key that verifies the log
    #[command(after_help = "Give it to auditors by another way than the log itself.")]
    Vkey,
    /// Print the newest signed checkpoint
    #[command(after_help = "Example: keep today's checkpoint; later the log must extend it
  countersign log checkpoint > 2026-03-15.checkpoint
  countersign verify --checkpoint 2026-03-15.checkpoint")]
    Checkpoint,
}

pub(crate) async fn run(command: Command, paths: &Paths) -> anyhow::Result<ExitCode> {
    let key = log_key(paths)?;
    let text = match command {
        Command::Vkey => format!("{key}\n"),
        Command::Checkpoint => {
            let path = paths.log().join("checkpoint");
            let note = match tokio::fs::read(&path).await {
                Ok(note) => note,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    bail!(
                        "the log has no checkpoint yet; `countersign serve` publishes one every second"
                    )
                }
                Err(error) => return Err(error).context(format!("cannot read {}", path.display())),
            };
            Checkpoint::open(&note, &[key])
                .with_context(|| format!("{} does not verify", path.display()))?;
            String::from_utf8(note)?
        }
    };
    let printed = io::stdout().write_all(text.as_bytes());
    whole_or_cut(printed.map(|()| ExitCode::SUCCESS).map_err(Into::into))
}
