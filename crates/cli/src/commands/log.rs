//! `countersign log`: what an auditor keeps of the log, and the replacement of its signing key.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use countersign_ledger::Checkpoint;
use countersign_store::SignerFolder;

use super::records::{log_keys, whole_or_cut};
use super::signer::rotate;
use crate::config::Config;
use crate::paths::Paths;

/// Print the log's public key or its newest checkpoint, or replace its signing key.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print the public key that verifies the log
    #[command(after_help = "Give it to auditors by another way than the log itself.")]
    Vkey {
        /// Print all keys that the log ever had, oldest first
        #[arg(long)]
        all: bool,
    },
    /// Print the newest signed checkpoint
    #[command(after_help = "Example: keep today's checkpoint; later the log must extend it
  countersign log checkpoint > 2026-03-15.checkpoint
  countersign verify --checkpoint 2026-03-15.checkpoint")]
    Checkpoint,
    /// Replace the key that signs the log
    ///
    /// Makes a new key. From then on both keys sign, and a running gateway records the replacement within a
    /// minute; a stopped one when it starts. Give auditors and witnesses the new public key meanwhile, then
    /// destroy the old key with --finish. Run again after a crash: every step goes on where it was. If a
    /// process of its own signs, use `countersign signer rotate-key` there.
    RotateKey {
        /// Destroy the old key; refused until the replacement is recorded and signed
        #[arg(long)]
        finish: bool,
    },
}

pub(crate) async fn run(command: Command, paths: &Paths) -> anyhow::Result<ExitCode> {
    let text = match command {
        Command::Vkey { all } => {
            let keys = log_keys(paths)?;
            let skipped = if all { 0 } else { keys.len().saturating_sub(1) };
            keys.iter().skip(skipped).map(|key| format!("{key}\n")).collect()
        }
        Command::Checkpoint => checkpoint(paths).await?,
        Command::RotateKey { finish } => {
            let config = Config::read(&paths.config)?;
            if config.signer.socket.is_some() {
                bail!("the key is with the signer: use `countersign signer rotate-key` there");
            }
            let folder = SignerFolder::of_keystore(&paths.keys(), &config.origin());
            tokio::task::block_in_place(|| rotate(&folder, finish))?
        }
    };
    let printed = io::stdout().write_all(text.as_bytes());
    whole_or_cut(printed.map(|()| ExitCode::SUCCESS).map_err(Into::into))
}

async fn checkpoint(paths: &Paths) -> anyhow::Result<String> {
    let path = paths.log().join("checkpoint");
    let note = match tokio::fs::read(&path).await {
        Ok(note) => note,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("the log has no checkpoint yet; `countersign serve` publishes one every second")
        }
        Err(error) => return Err(error).context(format!("cannot read {}", path.display())),
    };
    Checkpoint::open(&note, &log_keys(paths)?)
        .with_context(|| format!("{} does not verify", path.display()))?;
    Ok(String::from_utf8(note)?)
}
