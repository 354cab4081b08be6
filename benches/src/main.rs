//! Measures what the gateway costs: an MCP echo upstream, an MCP load generator, the disk's own
//! fsync time, and the page that puts them side by side. `benches/run` drives the four.
//!
//! Out of scope: micro-benchmarks of pure code, and anything that starts or configures a gateway
//! (`benches/run`).

mod client;
mod disk;
mod echo;
mod latency;
mod load;
mod page;
mod proc;
mod proxy;
mod report;
mod schedule;
mod wire;

use std::io::Write;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "mcp-bench", version, about = "Measures an MCP gateway from its client's side")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves the echo tool over Streamable HTTP, both eras, and prints its URL
    Echo(echo::EchoArgs),
    /// Calls a tool from many connections and reports the latencies a client sees
    Load(load::LoadArgs),
    /// Passes every request on to an upstream, as a proxy that looks at nothing
    Proxy(proxy::ProxyArgs),
    /// Measures what one durable 4 KiB append costs on the disk of a directory
    Fsync(disk::FsyncArgs),
    /// Renders the results of `benches/run` as a page
    Report(report::ReportArgs),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Echo(args) => echo::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Proxy(args) => proxy::run(&args),
        Command::Fsync(args) => disk::run(&args),
        Command::Report(args) => report::run(&args),
    }
}

/// Builds the runtime of a subcommand: one thread stays on the caller's, more are workers.
fn runtime(threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build()
}

/// Writes one line to standard output, at once.
fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}
