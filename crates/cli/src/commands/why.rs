//! `countersign why`: why a call was decided as it was, with the proof.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use countersign_evidence::case::{find, gather};
use countersign_evidence::query::nearest;
use countersign_evidence::time::{Edge, duration, parse};
use countersign_evidence::why::Why;
use countersign_evidence::{Record, shown};
use countersign_store::Reader;

use super::records::{log_keys, open, whole_or_cut};
use crate::paths::Paths;

/// Say why a call was allowed or refused, with the proof.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign why 0199a2c0-5c1e-7d52-9f6e-2b1f6f0f3c11
  countersign why --tool s3/delete_bucket --at 2026-03-15T03:00:00-04:00")]
pub(crate) struct Args {
    /// The call's evaluation id, or any record's id
    #[arg(required_unless_present = "tool")]
    id: Option<String>,
    /// Find the decision about this tool that is nearest to --at
    #[arg(long, value_name = "SERVER/TOOL", requires = "at", conflicts_with = "id")]
    tool: Option<String>,
    /// The time: RFC 3339, or a date (UTC)
    #[arg(long, value_name = "TIME", requires = "tool",
        value_parser = |text: &str| parse(text, Edge::Start))]
    at: Option<i64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let keys = log_keys(paths)?;
    let reader = open(paths).await?;
    let record = wanted(&reader, &args).await?;
    let why = Why::of(&gather(&reader, record, &keys).await?);
    reader.close().await;
    let mut out = io::stdout().lock();
    let printed = if args.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&why)?)
    } else {
        write!(out, "{why}")
    };
    whole_or_cut(printed.map(|()| ExitCode::SUCCESS).map_err(Into::into))
}

async fn wanted(reader: &Reader, args: &Args) -> anyhow::Result<Record> {
    match (&args.id, &args.tool, args.at) {
        (Some(id), ..) => Ok(find(reader, id).await?),
        (None, Some(tool), Some(at)) => {
            let found = nearest(reader, tool, at).await?;
            let found = found.with_context(|| format!("no call of `{tool}` is recorded"))?;
            tell_distance(found.time_ms() - at, tool);
            Ok(found)
        }
        _ => bail!("give an id, or --tool and --at"),
    }
}

#[expect(clippy::print_stderr, reason = "talk beside the data")]
fn tell_distance(ms: i64, tool: &str) {
    let side = if ms < 0 { "before" } else { "after" };
    eprintln!("The nearest call of {} was {} {side} that time.", shown(tool), duration(ms.abs()));
}
