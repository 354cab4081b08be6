//! `countersign records`: search the ledger, or watch it grow.

use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use countersign_console::ReadingCommand;
use countersign_evidence::csv::CsvWriter;
use countersign_evidence::query::{self, Filter, Rows};
use countersign_evidence::time::{Edge, parse, utc};
use countersign_evidence::{Record, cut, shown};
use countersign_ledger::{LeafIndex, VerifierKey};
use countersign_store::{Keystore, Reader};
use serde_json::{Value, json};

use crate::access::Reading;
use crate::config::Config;
use crate::paths::Paths;
use crate::run::store_config;

/// Rows of a table unless `--limit` says otherwise; JSON and CSV have all.
const TABLE_ROWS: u64 = 100;
/// Pause between two looks for new records.
const TAIL_PAUSE: Duration = Duration::from_millis(250);
/// Records that are read at a time.
const PAGE: u32 = 500;
/// Widths of the table's columns; with an id of 36 characters they make 120.
const WIDTHS: [usize; 5] = [19, 13, 14, 17, 11];

/// Search the ledger.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List the records that match, newest first
    Query(Box<QueryArgs>),
    /// Show the newest records
    Tail(TailArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign records query --agent support-bot --decision deny --from 2026-03-01 --to 2026-04-01
  countersign records query --tool crm/refund --csv > refunds.csv
  countersign records query --kind auth --result rejected --json | jq -r .key_id")]
pub(crate) struct QueryArgs {
    /// Records of this agent, by name or id
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Records about this person, service account or organisation
    #[arg(long, value_name = "ID")]
    principal: Option<String>,
    /// Calls of this tool
    #[arg(long, value_name = "SERVER/TOOL")]
    tool: Option<String>,
    /// Decisions that this policy determined
    #[arg(long, value_name = "ID")]
    policy: Option<String>,
    /// Decisions with this verdict: `allow`, `deny` or `hold`
    #[arg(long, value_name = "VERDICT", value_parser = query::decision)]
    decision: Option<String>,
    /// Records of this kind: `decision`, `outcome`, `auth`, `change`, …
    #[arg(long, value_name = "KIND", value_parser = query::kind)]
    kind: Option<String>,
    /// How a credential was answered (`accepted`, `rejected`), or how a call ended (`executed`,
    /// `failed`, `not_forwarded`, `unknown`)
    #[arg(long, value_name = "RESULT", value_parser = query::result)]
    result: Option<String>,
    /// The first moment: RFC 3339, or a date (UTC)
    #[arg(long, value_name = "TIME", value_parser = |text: &str| parse(text, Edge::Start))]
    from: Option<i64>,
    /// The first moment that is left out: RFC 3339, or a date, of which nothing is included
    #[arg(long, value_name = "TIME", value_parser = |text: &str| parse(text, Edge::Start))]
    to: Option<i64>,
    /// At most this many, 0 for all; a table has 100, JSON and CSV have all unless told
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Print one JSON object per line
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print CSV
    #[arg(long)]
    csv: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct TailArgs {
    /// Go on as records are written
    #[arg(long, short)]
    follow: bool,
    /// Begin with the last N records
    #[arg(short = 'n', long = "last", value_name = "N", default_value_t = 20)]
    last: u32,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: Command, paths: &Paths) -> anyhow::Result<ExitCode> {
    let reader = open(paths).await?;
    let done = match command {
        Command::Query(args) => search(&reader, *args, paths).await,
        Command::Tail(args) => tail(&reader, &args, paths).await,
    };
    reader.close().await;
    whole_or_cut(done.map(|()| ExitCode::SUCCESS))
}

/// Opens an installation's ledger for reading; a gateway may run.
pub(super) async fn open(paths: &Paths) -> anyhow::Result<Reader> {
    let config = store_config(&Config::read(&paths.config)?);
    Reader::of(&paths.data, &config).await.with_context(|| {
        format!("cannot read the ledger in {} (`countersign init` makes one)", paths.data.display())
    })
}

/// Returns the public keys of an installation's own log, oldest first.
pub(super) fn log_keys(paths: &Paths) -> anyhow::Result<Vec<VerifierKey>> {
    let origin = Config::read(&paths.config)?.origin();
    let folder = paths.data.join("keys");
    let keys = Keystore::open(&folder)
        .with_context(|| format!("cannot read the log's key in {}", folder.display()))?;
    Ok(keys.log_keys(&origin)?)
}

/// Takes a reader that has gone away, as `head` does, for one that has seen enough.
pub(super) fn whole_or_cut(done: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    let gone = |error: &anyhow::Error| {
        error.chain().any(|cause| {
            let io = cause.downcast_ref::<io::Error>();
            io.is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
        })
    };
    match done {
        Err(error) if gone(&error) => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

/// Reads a file, naming it if that fails.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

async fn search(reader: &Reader, args: QueryArgs, paths: &Paths) -> anyhow::Result<()> {
    let (json, csv) = (args.json, args.csv);
    let limit = match args.limit {
        Some(0) => u64::MAX,
        Some(limit) => limit,
        None if json || csv => u64::MAX,
        None => TABLE_ROWS,
    };
    let filter = filter(args);
    filter.check_period()?;
    // The reading is recorded too, so the answer is that of the log before it.
    let size = reader.size().await?;
    let count =
        Rows::open(reader, filter.clone()).await?.before(LeafIndex(size)).count(limit).await?;
    let (command, filters) = (ReadingCommand::RecordsQuery, asked(&filter));
    Reading { command, count: Some(count), tree_size: size, filters }.record(paths).await?;
    let mut rows = Rows::open(reader, filter).await?.before(LeafIndex(size));
    let mut out = io::BufWriter::new(io::stdout().lock());
    let count = match (json, csv) {
        (true, _) => print_json(&mut rows, limit, &mut out).await?,
        (_, true) => print_csv(&mut rows, limit, &mut out).await?,
        _ => print_table(&mut rows, limit, &names(reader).await?, &mut out).await?,
    };
    out.flush()?;
    let more = count == limit && rows.next().await?.is_some();
    tell(count, more);
    Ok(())
}

#[expect(clippy::print_stderr, reason = "talk beside the data")]
fn tell(count: u64, more: bool) {
    let noun = if count == 1 { "record" } else { "records" };
    let more = if more { "; there are more: use --limit" } else { "" };
    eprintln!("{count} {noun}{more}");
}

fn filter(args: QueryArgs) -> Filter {
    Filter {
        agent: args.agent,
        principal: args.principal,
        tool: args.tool,
        policy: args.policy,
        decision: args.decision,
        kind: args.kind,
        result: args.result,
        from_ms: args.from,
        until_ms: args.to,
    }
}

/// Says what was asked for, for the record of the reading.
fn asked(filter: &Filter) -> Value {
    let Filter { agent, principal, tool, policy, decision, kind, result, from_ms, until_ms } =
        filter;
    json!({
        "agent": agent, "principal": principal, "tool": tool, "policy": policy, "decision": decision,
        "kind": kind, "result": result, "from": from_ms.map(utc), "to": until_ms.map(utc),
    })
}

async fn print_json(rows: &mut Rows<'_>, limit: u64, out: &mut impl Write) -> anyhow::Result<u64> {
    let mut count = 0;
    while count < limit
        && let Some(record) = rows.next().await?
    {
        writeln!(out, "{}", record.to_json())?;
        count += 1;
    }
    Ok(count)
}

async fn print_csv(rows: &mut Rows<'_>, limit: u64, out: &mut impl Write) -> anyhow::Result<u64> {
    let mut table = CsvWriter::new(out)?;
    let mut count = 0;
    while count < limit
        && let Some(record) = rows.next().await?
    {
        table.write(&record)?;
        count += 1;
    }
    table.finish()?;
    Ok(count)
}

/// Returns the agents' names by their ids.
async fn names(reader: &Reader) -> anyhow::Result<HashMap<String, String>> {
    let agents = reader.agents().await?.into_iter();
    Ok(agents.map(|agent| (agent.id.to_string(), agent.name.to_string())).collect())
}

async fn print_table(
    rows: &mut Rows<'_>,
    limit: u64,
    names: &HashMap<String, String>,
    out: &mut impl Write,
) -> anyhow::Result<u64> {
    let mut count = 0;
    while count < limit
        && let Some(record) = rows.next().await?
    {
        if count == 0 {
            writeln!(out, "{}", head())?;
        }
        writeln!(out, "{}", row(&record, names))?;
        count += 1;
    }
    Ok(count)
}

fn head() -> String {
    line(&["TIME (UTC)", "RESULT", "AGENT", "TOOL", "RULE"].map(str::to_owned), "EVALUATION ID")
}

/// Shows a record in the table; the id is that of the call, as `show` and `why` take it.
fn row(record: &Record, names: &HashMap<String, String>) -> String {
    let text = |name: &str| record.text(name).unwrap_or_default();
    let at = utc(record.time_ms()).replace('T', " ").chars().take(19).collect();
    let result = match record.kind() {
        "decision" | "outcome" => record.result().to_owned(),
        kind if record.result().is_empty() => kind.to_owned(),
        "auth" => format!("auth {}", record.result()),
        kind => kind.to_owned(),
    };
    let agent = match text("agent_name") {
        "" => names.get(text("agent")).map_or(text("agent"), String::as_str),
        name => name,
    };
    let tool = match (text("tool"), text("method")) {
        ("", "") if record.kind() != "auth" => record.result(),
        ("", method) => method,
        (tool, _) => tool,
    };
    let rules = record.list("rules");
    let rule = match rules.as_slice() {
        [] => record.list("reasons").first().copied().unwrap_or_default().to_owned(),
        [one] => (*one).to_owned(),
        [one, more @ ..] => format!("{}+{}", cut(one, 8), more.len()),
    };
    line(&[at, result, agent.to_owned(), tool.to_owned(), rule], record.evaluation_id())
}

fn line(cells: &[String; 5], id: &str) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(WIDTHS) {
        line.push_str(&format!("{:width$}  ", cut(&shown(cell), width)));
    }
    line.push_str(id);
    line
}

async fn tail(reader: &Reader, args: &TailArgs, paths: &Paths) -> anyhow::Result<()> {
    let size = reader.size().await?;
    let command = ReadingCommand::RecordsTail;
    let count = if args.follow { None } else { Some(size.min(u64::from(args.last))) };
    let filters = json!({"last": args.last, "follow": args.follow});
    Reading { command, count, tree_size: size, filters }.record(paths).await?;
    let mut next = size.saturating_sub(u64::from(args.last));
    // Its own reading is shown only to whoever goes on.
    let end = if args.follow { u64::MAX } else { size };
    let mut known = names(reader).await?;
    let terminal = io::stdout().is_terminal();
    if !args.json && terminal {
        writeln!(io::stdout(), "{}", head())?;
    }
    loop {
        let limit = u32::try_from(end.saturating_sub(next)).map_or(PAGE, |left| left.min(PAGE));
        let records = reader.range(LeafIndex(next), limit).await?;
        let found = records.len();
        if records.iter().any(|record| record.leaf.get("kind").is_some_and(|kind| kind == "change"))
        {
            known = names(reader).await?;
        }
        for record in records.into_iter().map(Record::from) {
            next = record.index() + 1;
            let line = if args.json { record.to_json().to_string() } else { row(&record, &known) };
            writeln!(io::stdout(), "{line}")?;
        }
        match (found, args.follow) {
            (0, false) => return Ok(()),
            (0, true) => tokio::time::sleep(TAIL_PAUSE).await,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(leaf: &serde_json::Value) -> Record {
        Record::parse(3, leaf.to_string().into_bytes()).unwrap()
    }

    #[test]
    fn a_row_fits_120_columns_and_commands_no_terminal() {
        let id = "01900000-0000-7000-8000-000000000001";
        let leaf = serde_json::json!({"kind": "decision", "record_id": id, "decision": "deny",
            "time": {"ms": 1_773_543_607_142_u64, "n": 0}, "agent_name": "a-very-long-agent-name-indeed",
            "tool": "crm/delete\u{1b}[2J_everything_at_once", "rules": ["no-deletion-at-night", "b", "c"]});
        let row = row(&record(&leaf), &HashMap::new());
        assert_eq!(
            row,
            "2026-03-15 03:00:07  deny           a-very-long-a…  crm/delete\\u{1b}…  no-dele…+2   01900000-0000-7000-8000-000000000001"
        );
        assert!(row.chars().count() <= 120, "{}", row.chars().count());
        assert!(head().chars().count() <= 120);
    }

    #[test]
    fn rows_of_every_kind_say_what_happened() {
        for (leaf, expected) in [
            (
                serde_json::json!({"kind": "outcome", "outcome": "not_forwarded", "parent": "p"}),
                "not_forwarded",
            ),
            (serde_json::json!({"kind": "auth", "result": "rejected"}), "auth rejected"),
            (serde_json::json!({"kind": "change", "action": "disabled"}), "change"),
            (serde_json::json!({"kind": "heartbeat"}), "heartbeat"),
            (serde_json::json!({"kind": "auth", "agent": "0191"}), "janitor"),
        ] {
            let names: HashMap<String, String> =
                HashMap::from([("0191".to_owned(), "janitor".to_owned())]);
            let row = row(&record(&leaf), &names);
            assert!(row.contains(expected), "{row}");
        }
    }
}
