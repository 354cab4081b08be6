//! The one binary of Countersign: configuration, wiring, signals, and a command per job.

mod access;
mod anchors;
mod bridge;
mod client;
mod clock;
mod commands;
mod config;
mod control;
mod demo;
mod paths;
mod run;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::paths::Paths;

/// A call makes some thousand small allocations, many freed by another thread than made them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A gateway between AI agents and everything they act on: every call is decided by policy and
/// recorded, durably and verifiably, before it is forwarded.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, arg_required_else_help = true)]
struct Cli {
    /// The folder with `countersign.toml`, policies and data.
    /// [default: the current folder; for `wrap`, ~/.countersign]
    #[arg(long, global = true, env = "COUNTERSIGN_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Log more of what the program does, on standard error.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show everything at work: a real MCP server, two agents, a session, and its proof.
    Quickstart(commands::quickstart::Args),
    /// Make a new installation in a folder.
    Init(commands::init::Args),
    /// Run the gateway.
    Serve(commands::serve::Args),
    /// Put the gateway in front of a stdio MCP server, in a client's configuration.
    Wrap(commands::wrap::Args),
    /// Register agents and manage their keys.
    #[command(subcommand)]
    Agents(commands::agents::Command),
    /// Give tokens of the control plane to auditors and programs.
    #[command(subcommand)]
    Tokens(commands::tokens::Command),
    /// Check, test and explain policies.
    #[command(subcommand)]
    Policy(commands::policy::Command),
    /// Accept what a server's tools look like now.
    Pin(commands::pin::Args),
    /// Search the ledger.
    #[command(subcommand)]
    Records(commands::records::Command),
    /// Show one record whole.
    Show(commands::show::Args),
    /// Say why a call was allowed or refused, with the proof.
    Why(commands::why::Args),
    /// Decide recorded calls again and compare.
    Replay(commands::replay::Args),
    /// Build and count evidence for auditors.
    #[command(subcommand)]
    Evidence(commands::evidence::Command),
    /// Report what the log says about its own making.
    #[command(subcommand)]
    Report(commands::report::Command),
    /// Draw a sample of decisions that anyone can draw again.
    Sample(commands::sample::Args),
    /// Check the log, a package, a record or a published directory, offline.
    Verify(commands::verify::Args),
    /// Print the log's public key or its newest checkpoint, or replace its signing key.
    #[command(subcommand)]
    Log(commands::log::Command),
    /// Move the ledger from SQLite to PostgreSQL, with every proof.
    Migrate(commands::migrate::Args),
    /// Settle a call whose outcome is unknown.
    Reconcile(commands::reconcile::Args),
    /// Cosign the checkpoints of logs that others run.
    Witness(commands::witness::Args),
    /// Sign the log in a process of its own, with a key that the gateway does not have.
    Signer(commands::signer::Args),
    /// Destroy what the ledger has of a person.
    Erase(commands::erase::Args),
    /// Set, lift and list legal holds, which forbid erasure.
    #[command(subcommand)]
    Hold(commands::hold::Command),
    /// Show and enforce how long private fields are kept, and test the archive.
    #[command(subcommand)]
    Retention(commands::retention::Command),
    /// Check this installation and say how to mend it.
    Doctor(commands::doctor::Args),
    /// The demonstration server behind `quickstart` (MCP over stdio).
    #[command(hide = true)]
    DemoServer,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.verbose);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(cli)),
        Err(error) => Err(error.into()),
    };
    result.unwrap_or_else(|error| {
        report(&error);
        ExitCode::FAILURE
    })
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let paths = Paths::new(&cli.dir.unwrap_or_else(|| default_dir(&cli.command)));
    match cli.command {
        Command::Quickstart(args) => commands::quickstart::run(args, &paths).await,
        Command::Init(args) => commands::init::run(args, &paths).await,
        Command::Serve(args) => commands::serve::run(args, &paths).await,
        Command::Wrap(args) => commands::wrap::run(args, &paths).await,
        Command::Agents(command) => commands::agents::run(command, &paths).await,
        Command::Tokens(command) => commands::tokens::run(command, &paths).await,
        Command::Policy(command) => commands::policy::run(command, &paths).await,
        Command::Pin(args) => commands::pin::run(args, &paths).await,
        Command::Records(command) => commands::records::run(command, &paths).await,
        Command::Show(args) => commands::show::run(args, &paths).await,
        Command::Why(args) => commands::why::run(args, &paths).await,
        Command::Replay(args) => commands::replay::run(args, &paths).await,
        Command::Evidence(command) => commands::evidence::run(command, &paths).await,
        Command::Report(command) => commands::report::run(command, &paths).await,
        Command::Sample(args) => commands::sample::run(args, &paths).await,
        Command::Verify(args) => commands::verify::run(args, &paths).await,
        Command::Log(command) => commands::log::run(command, &paths).await,
        Command::Migrate(args) => commands::migrate::run(args, &paths).await,
        Command::Reconcile(args) => commands::reconcile::run(args, &paths).await,
        Command::Witness(args) => commands::witness::run(args).await,
        Command::Signer(args) => commands::signer::run(args, &paths).await,
        Command::Erase(args) => commands::erase::run(args, &paths).await,
        Command::Hold(command) => commands::hold::run(command, &paths).await,
        Command::Retention(command) => commands::retention::run(command, &paths).await,
        Command::Doctor(args) => commands::doctor::run(args, &paths).await,
        Command::DemoServer => demo::serve().await.map(|()| ExitCode::SUCCESS),
    }
}

/// Gives the folder of an installation that nobody named.
fn default_dir(command: &Command) -> PathBuf {
    match (command, std::env::home_dir()) {
        (Command::Wrap(_), Some(home)) => home.join(".countersign"),
        _ => PathBuf::from("."),
    }
}

/// Sends log lines to standard error; standard output is for data.
fn log_to_stderr(verbose: u8) {
    let default = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_env("COUNTERSIGN_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    // Heard below, and told by whom it concerns.
    let filter = match "sqlx::postgres::notice=off".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let talk = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // A complaint about standard error would go to standard error, and panic.
        .log_internal_errors(false);
    tracing_subscriber::registry()
        .with(talk.with_filter(filter))
        .with(countersign_store::CommitWarnings::layer())
        .init();
}

/// Says what went wrong, and why, one cause a line.
#[expect(clippy::print_stderr, reason = "this is the program's own talk")]
fn report(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because {cause}");
    }
}
