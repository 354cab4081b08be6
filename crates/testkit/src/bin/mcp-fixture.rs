//! Runs the conformance fixture outside a test.
//!
//! `mcp-fixture --http 127.0.0.1:0` prints the URL it listens on as one line on standard output;
//! `mcp-fixture --stdio` speaks MCP there instead.

use std::error::Error;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use countersign_testkit::{CallLog, EraMode, Fixture, serve_http, serve_stdio};
use tokio::net::TcpListener;

/// An MCP server for tests, with the tools of the official conformance suite.
#[derive(Debug, Parser)]
struct Arguments {
    /// Serve Streamable HTTP on this address; port 0 takes any free port.
    #[arg(long, value_name = "ADDRESS", required_unless_present = "stdio")]
    http: Option<SocketAddr>,
    /// Serve standard input and output.
    #[arg(long, conflicts_with = "http")]
    stdio: bool,
    /// Speak only `legacy` (up to 2025-11-25) or only `modern` (2026-07-28).
    #[arg(long, default_value = "both")]
    era: EraMode,
    /// Append one JSON line per executed `tools/call` to this file.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let log = match &arguments.log {
        Some(path) => CallLog::to_file(path)?,
        None => CallLog::default(),
    };
    let fixture = Arc::new(Fixture::new(arguments.era, log));
    match arguments.http {
        Some(address) => {
            let listener = TcpListener::bind(address).await?;
            let bound = listener.local_addr()?;
            writeln!(std::io::stdout(), "http://{bound}/mcp")?;
            serve_http(fixture, listener).await?;
        }
        None => serve_stdio(fixture, tokio::io::stdin(), tokio::io::stdout()).await?,
    }
    Ok(())
}
