//! `countersign signer`: a process of its own, of a user of its own, that has the log's signing key.

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use countersign_store::{SignerFolder, StoreError, serve_signer};
use serde_json::json;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use super::records::whole_or_cut;
use crate::paths::Paths;

/// Sign the log in a process of its own, with a key that the gateway does not have.
///
/// It never signs a tree that does not extend the last one it signed, whatever it is asked.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Run it as a user of its own. The folder, --dir:
  log.key       the log's secret key; back it up, give it to no one
  log.vkeys     the public keys that ever signed
  signer-state  the last tree that was signed
Never put back an older signer-state: the signer would forget what it signed.

Who may ask is decided by the socket's mode, owner and group alone.

Example:
  countersign signer init --dir /var/lib/countersign-signer --origin log.example.com/acme
  countersign signer --dir /var/lib/countersign-signer --socket /run/countersign/signer.sock"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Option<Serve>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make the folder with a fresh key, and print the public key
    Init {
        /// The log's origin, as in the gateway's configuration
        #[arg(long)]
        origin: String,
    },
    /// Print the public key that verifies the log
    Vkey {
        /// Print all keys that the log ever had, oldest first
        #[arg(long)]
        all: bool,
    },
    /// Replace the signing key; the signer may run meanwhile
    ///
    /// See `countersign log rotate-key`.
    RotateKey {
        /// Destroy the old key; refused until the gateway has shown that the replacement is recorded
        #[arg(long)]
        finish: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Serve {
    /// The Unix socket to answer on; one that is left from an earlier run is replaced
    #[arg(long, value_name = "FILE")]
    socket: PathBuf,
    /// The socket's mode: 0660 lets the group ask, 0600 only this user
    #[arg(long, value_name = "MODE", default_value = "0660", value_parser = ["0660", "0600"])]
    mode: String,
    /// Print the public key and the socket as one JSON line when ready
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let folder = &paths.root;
    let text = match (args.command, args.serve) {
        (Some(Command::Init { origin }), _) => {
            let signer = SignerFolder::create(folder, &origin)
                .with_context(|| format!("cannot make a signer in {}", folder.display()))?;
            vkeys(&signer, false)?
        }
        (Some(Command::Vkey { all }), _) => vkeys(&open(folder)?, all)?,
        (Some(Command::RotateKey { finish }), _) => rotate(&open(folder)?, finish)?,
        (None, Some(args)) => return serve(open(folder)?, args).await,
        (None, None) => bail!("give --socket, see `countersign signer --help`"),
    };
    let printed = io::stdout().write_all(text.as_bytes());
    whole_or_cut(printed.map(|()| ExitCode::SUCCESS).map_err(Into::into))
}

fn open(folder: &Path) -> anyhow::Result<SignerFolder> {
    SignerFolder::open(folder).map_err(|error| {
        let fresh = matches!(error, StoreError::Missing(_)) && !folder.join("log.key").exists();
        let error = anyhow::Error::from(error);
        if fresh {
            return error.context("there is no signer; `countersign signer init` makes one");
        }
        error.context(format!("cannot use the signer in {}", folder.display()))
    })
}

fn vkeys(signer: &SignerFolder, all: bool) -> anyhow::Result<String> {
    let keys = signer.vkeys()?;
    let skipped = if all { 0 } else { keys.len().saturating_sub(1) };
    Ok(keys.iter().skip(skipped).map(|key| format!("{key}\n")).collect())
}

/// Begins, goes on with or ends a replacement of the key; returns what to tell.
pub(super) fn rotate(signer: &SignerFolder, finish: bool) -> anyhow::Result<String> {
    if finish {
        let key = signer.finish()?;
        return Ok(format!("The old key is destroyed. From now on this one signs alone:\n{key}\n"));
    }
    let (old, new) = signer.rotate()?;
    let recorded = signer.status()?.rotation.and_then(|rotation| rotation.leaf);
    let state = match recorded {
        Some(leaf) => {
            format!("The log has the record of it, leaf {leaf}: use --finish when ready.")
        }
        None => "A running gateway records it within a minute.".to_owned(),
    };
    Ok(format!("Both keys sign now.\nold {old}\nnew {new}\n{state}\n"))
}

async fn serve(signer: SignerFolder, args: Serve) -> anyhow::Result<ExitCode> {
    let listener = listen(&args.socket, &args.mode)?;
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    announce(&signer, &args)?;
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    serve_signer(signer, listener, stop).await;
    let _ = fs::remove_file(&args.socket);
    Ok(ExitCode::SUCCESS)
}

/// Makes the socket under another name first: nobody connects before its mode is set.
fn listen(socket: &Path, mode: &str) -> anyhow::Result<UnixListener> {
    let cannot = || format!("cannot listen on {}", socket.display());
    if let Ok(there) = fs::symlink_metadata(socket)
        && !std::os::unix::fs::FileTypeExt::is_socket(&there.file_type())
    {
        bail!("{} is there already and is no socket", socket.display());
    }
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        bail!("another process answers on {}", socket.display());
    }
    let mode = u32::from_str_radix(mode, 8)?;
    let name = socket.file_name().with_context(cannot)?.to_string_lossy();
    let beside = socket.with_file_name(format!(".{name}.{}", std::process::id()));
    let _ = fs::remove_file(&beside);
    let listener = UnixListener::bind(&beside).with_context(cannot)?;
    fs::set_permissions(&beside, Permissions::from_mode(mode)).with_context(cannot)?;
    fs::rename(&beside, socket).with_context(cannot)?;
    Ok(listener)
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's output")]
fn announce(signer: &SignerFolder, args: &Serve) -> anyhow::Result<()> {
    let key = vkeys(signer, false)?;
    if args.json {
        println!("{}", json!({"vkey": key.trim_end(), "socket": args.socket}));
        return Ok(());
    }
    eprintln!("Signs            {}", signer.origin());
    eprintln!("Public key       {}", key.trim_end());
    eprintln!("Answers on       {}", args.socket.display());
    eprintln!("Stop with Ctrl-C.");
    Ok(())
}
