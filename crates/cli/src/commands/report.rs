//! `countersign report`: what the log says about its own making.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::ensure;
use countersign_console::ReadingCommand;
use countersign_evidence::coverage::{Coverage, Interval, State, durations};
use countersign_evidence::time::{duration, utc};
use countersign_evidence::{Record, shown};
use countersign_ledger::LeafIndex;
use countersign_store::{Clock as _, Reader};
use serde_json::{Value, json};

use super::evidence::Period;
use super::records::{open, whole_or_cut};
use super::verify::bar;
use crate::access::Reading;
use crate::clock::SystemClock;
use crate::paths::Paths;

/// Records that are read at a time.
const PAGE: u32 = 1_000;

/// Report what the log says about its own making.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Say when each gateway's recorder was up, down or in a gap
    Coverage(CoverageArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign report coverage --from 2026-11-01 --to 2026-12-01
  countersign report coverage --from 2026-11-01 --to 2026-12-01 --json | jq '.intervals[] | select(.state == \"gap\")'

  up    it recorded: from its start, or another sign of life, to its last record before what follows
  down  it was not started, or stopped on purpose: nothing could be called through it
  gap   it ended without a word, or was silent for more than 90 seconds; heartbeats come every 60

Per gateway, the intervals fill the period without overlap or hole; a period that is not over ends now.
An evidence package has the same list, coverage/recorder.csv, which is checked offline.")]
pub(crate) struct CoverageArgs {
    #[command(flatten)]
    period: Period,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: Command, paths: &Paths) -> anyhow::Result<ExitCode> {
    let Command::Coverage(args) = command;
    let reader = open(paths).await?;
    let found = coverage(&reader, args.period).await;
    reader.close().await;
    let found = found?;
    let Period { from, to } = found.period;
    let reading = Reading {
        command: ReadingCommand::ReportCoverage,
        count: None,
        tree_size: found.size,
        filters: json!({"from": utc(from), "to": utc(to)}),
    };
    reading.record(paths).await?;
    let text = if args.json { format!("{:#}\n", found.json()) } else { found.text()? };
    let printed = io::stdout().write_all(text.as_bytes());
    whole_or_cut(printed.map(|()| ExitCode::SUCCESS).map_err(Into::into))
}

/// The intervals of a period, and where they were read.
struct Found {
    period: Period,
    /// Whether the period ended before the report was made.
    over: bool,
    size: u64,
    intervals: Vec<Interval>,
}

async fn coverage(reader: &Reader, asked: Period) -> anyhow::Result<Found> {
    ensure!(asked.from < asked.to, "the period ends before it begins");
    // Before the log is read: what is recorded later is later.
    let now = SystemClock.now_ms();
    ensure!(asked.from < now, "the period has not begun");
    let period = Period { to: asked.to.min(now), ..asked };
    let mut coverage = Coverage::default();
    let size = reader.size().await?;
    let bar = bar("log");
    bar.set_length(size);
    let mut next = 0;
    while next < size {
        let records = reader.range(LeafIndex(next), PAGE).await?;
        let Some(last) = records.last() else { break };
        next = last.index.0 + 1;
        records.into_iter().map(Record::from).for_each(|record| coverage.add(&record));
        bar.set_position(next);
    }
    bar.finish_and_clear();
    let intervals = coverage.intervals(period.from, period.to, Some(now));
    Ok(Found { period, over: asked.to <= now, size: next.max(size), intervals })
}

impl Found {
    fn json(&self) -> Value {
        json!({
            "from": utc(self.period.from), "to": utc(self.period.to), "period_is_over": self.over,
            "size": self.size, "by_gateway_ms": durations(&self.intervals),
            "intervals": self.intervals.iter().map(Interval::to_json).collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let (from, to) = (utc(self.period.from), utc(self.period.to));
        writeln!(text, "period  {from} to {to}, UTC{}", if self.over { "" } else { " (now)" })?;
        writeln!(text, "log     {} records\n", self.size)?;
        let line = |gateway: &str, state: &str, from: &str, to: &str, length: &str, cause: &str| {
            format!("{gateway:12}  {state:5}  {from:24}  {to:24}  {length:>15}  {cause}\n")
        };
        text += &line("GATEWAY", "STATE", "FROM (UTC)", "TO (UTC)", "LENGTH", "CAUSE");
        for it in &self.intervals {
            let (from, to) = (utc(it.from_ms), utc(it.to_ms));
            let (gateway, cause) = (shown(&it.gateway), shown(&it.cause));
            text += &line(&gateway, it.state.as_str(), &from, &to, &duration(it.ms()), &cause);
        }
        for (gateway, states) in durations(&self.intervals) {
            let of = |state| duration(states.get(&state).copied().unwrap_or_default());
            let (up, down, gap) = (of(State::Up), of(State::Down), of(State::Gap));
            writeln!(text, "\n{}: up {up}, down {down}, in gaps {gap}", shown(&gateway))?;
        }
        if self.intervals.is_empty() {
            writeln!(text, "No gateway has recorded anything.")?;
        }
        Ok(text)
    }
}
