//! `countersign evidence`: build what an auditor takes along, or count it.

use std::fmt::{self, Display, Write as _};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use countersign_console::ReadingCommand;
use countersign_evidence::folder::LogFolder;
use countersign_evidence::package::{
    self, Filters, List, Manifest, PackageError, Request, SampleRequest, Scope,
};
use countersign_evidence::time::{Edge, parse};
use countersign_evidence::{query, shown};
use countersign_ledger::{SigningKey, TreeSize};
use countersign_store::Keystore;
use serde_json::{Value, json};

use super::records::{log_keys, open, whole_or_cut};
use super::verify::bar;
use crate::access::Reading;
use crate::config::Config;
use crate::paths::Paths;

/// The first moment that a record can have.
const EVER_FROM: &str = "1970-01-01";
/// A moment after all records.
const EVER_TO: &str = "9999-01-01";

/// Build and count evidence for auditors.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Build a folder with all records of a period, which is checked offline
    Package(PackageArgs),
    /// Count the records of one kind in a period; zero is an answer too
    List(ListArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign evidence package --from 2026-11-01 --to 2026-12-01 --out ./evidence-2026-11
  countersign evidence package --from 2026-11-01 --to 2026-12-01 --decision deny --out ./denials-2026-11
  countersign evidence package --from 2026-11-01 --to 2026-12-01 --sample 25 --draw 4711 --out ./e

The auditor checks it, offline:
  countersign verify --package ./evidence-2026-11 --vkey log.vkey
  python3 ./evidence-2026-11/verify_evidence.py package ./evidence-2026-11 --vkey log.vkey

The folder must not exist. A package opens no private fields; it holds the whole log up to its last
checkpoint, so that everything it leaves out can be seen. That one is built is recorded first (`access`),
after the checkpoint it stands on.")]
pub(crate) struct PackageArgs {
    #[command(flatten)]
    period: Period,
    #[command(flatten)]
    which: Which,
    /// The folder to make
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Add a proof each for a sample of this many decisions
    #[arg(long, value_name = "N", default_value_t = 25)]
    sample: usize,
    /// What the auditor chose for the sample; the root of the last checkpoint unless given
    #[arg(long, value_name = "TEXT")]
    draw: Option<String>,
    /// Build on the checkpoint of this size, to build an earlier package again
    ///
    /// Lists, tables and sheets are the same then; cosignatures and timestamps that came since are added.
    /// Default: the newest that witnesses cosigned, if the whole period is under it, else the newest of all.
    #[arg(long, value_name = "SIZE")]
    at: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign evidence list --kind decisions --from 2026-11-01 --to 2026-12-01
  countersign evidence list --kind gaps --from 2026-11-01 --to 2026-12-01 --json

The rows are in a package, or: countersign records query --kind decision --csv")]
pub(crate) struct ListArgs {
    /// The list
    #[arg(long, value_name = "LIST", value_parser = PossibleValuesParser::new(List::ALL.map(List::name)))]
    kind: String,
    #[command(flatten)]
    period: Period,
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Period {
    /// The first moment: RFC 3339, or a date, which begins at 00:00 UTC
    #[arg(long, value_name = "TIME", value_parser = |text: &str| parse(text, Edge::Start))]
    pub(super) from: i64,
    /// The first moment that is left out: RFC 3339, or a date, of which nothing is included
    #[arg(long, value_name = "TIME", value_parser = |text: &str| parse(text, Edge::Start))]
    pub(super) to: i64,
}

impl Period {
    /// Fills in the ends that were not given.
    pub(super) fn open_ended(from: Option<i64>, to: Option<i64>) -> anyhow::Result<Self> {
        let from = from.map_or_else(|| parse(EVER_FROM, Edge::Start), Ok)?;
        let to = to.map_or_else(|| parse(EVER_TO, Edge::Start), Ok)?;
        Ok(Self { from, to })
    }
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct Which {
    /// Only records of this agent, by name or id
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Only calls of this tool
    #[arg(long, value_name = "SERVER/TOOL")]
    tool: Option<String>,
    /// Only decisions with this verdict, and their outcomes
    #[arg(long, value_parser = ["allow", "deny", "hold"])]
    decision: Option<String>,
}

impl Which {
    pub(super) fn is_set(&self) -> bool {
        self.agent.is_some() || self.tool.is_some() || self.decision.is_some()
    }
}

pub(crate) async fn run(command: Command, paths: &Paths) -> anyhow::Result<ExitCode> {
    let text = match command {
        Command::Package(args) => build(args, paths).await?,
        Command::List(args) => list(args, paths).await?,
    };
    let printed = io::stdout().write_all(text.as_bytes());
    whole_or_cut(printed.map(|()| ExitCode::SUCCESS).map_err(Into::into))
}

async fn build(args: PackageArgs, paths: &Paths) -> anyhow::Result<String> {
    if args.out.symlink_metadata().is_ok() {
        return Err(PackageError::Exists(args.out).into());
    }
    let sample = SampleRequest { draw: args.draw, n: args.sample };
    let request = request(args.period, args.which, sample, paths).await?;
    let (key, keys) = (signing_key(paths)?, log_keys(paths)?);
    let log = match args.at {
        None => LogFolder::open(&paths.log())
            .map_err(PackageError::from)
            .and_then(|log| package::witnessed(log, &request.scope)),
        Some(size) => LogFolder::open_at(&paths.log(), TreeSize(size)).map_err(Into::into),
    };
    let log = log.map_err(explained)?;
    let tree_size = log.size().map_or(0, |size| size.0);
    let filters = asked(&request, None);
    let command = ReadingCommand::EvidencePackage;
    Reading { command, count: None, tree_size, filters }.record(paths).await?;
    let bar = bar("package");
    let mut progress = |done: u64, all: u64| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let built = tokio::task::block_in_place(|| {
        package::build(&log, &keys, key.as_ref(), &request, &args.out, &mut progress)
    });
    bar.finish_and_clear();
    let manifest = built.map_err(explained)?;
    let out = args.out.display().to_string();
    if args.json {
        return Ok(format!("{:#}\n", json!({"package": out, "manifest": manifest})));
    }
    let mut text = String::new();
    summary(&manifest, &mut text)?;
    writeln!(text, "\n{} is ready. To check it, offline, with the log's public key:", shown(&out))?;
    writeln!(text, "  countersign verify --package {} --vkey log.vkey", shown(&out))?;
    Ok(text)
}

async fn list(args: ListArgs, paths: &Paths) -> anyhow::Result<String> {
    let list = List::named(&args.kind).context("there is no such list")?;
    let sample = SampleRequest { draw: None, n: 0 };
    let request = request(args.period, args.which, sample, paths).await?;
    let manifest = survey(&request, paths)?;
    let totals = manifest.totals(list).cloned().unwrap_or_default();
    let filters = asked(&request, Some(list));
    let (command, count) = (ReadingCommand::EvidenceList, Some(totals.rows));
    let tree_size = manifest.checkpoint_end.size;
    Reading { command, count, tree_size, filters }.record(paths).await?;
    let rule = list.rule(&request.scope);
    if args.json {
        let value = json!({
            "list": list, "query": rule, "totals": totals, "excluded": manifest.excluded,
            "as_of": manifest.as_of, "period_is_over": manifest.period_is_over,
            "log": manifest.origin, "checkpoint_end": manifest.checkpoint_end,
        });
        return Ok(format!("{value:#}\n"));
    }
    let mut text = String::new();
    line(&mut text, "list", list.name())?;
    line(&mut text, "query", &rule)?;
    line(&mut text, "rows", totals.rows)?;
    for (name, counts) in
        [("result", &totals.by_result), ("day", &totals.by_day), ("agent", &totals.by_agent)]
    {
        for (value, count) in counts.iter().filter(|(value, _)| !value.is_empty()) {
            line(&mut text, &format!("  {name} {}", shown(value)), count)?;
        }
    }
    source(&manifest, &mut text)?;
    Ok(text)
}

/// Turns what was asked for into a scope of public fields.
pub(super) async fn request(
    period: Period,
    which: Which,
    sample: SampleRequest,
    paths: &Paths,
) -> anyhow::Result<Request> {
    let agent = match which.agent {
        None => None,
        Some(name) => {
            let reader = open(paths).await?;
            let found = query::agent_id(&reader, &name).await;
            reader.close().await;
            Some(found.context("`countersign agents list` shows those that there are")?)
        }
    };
    let filters = Filters { agent, tool: which.tool, decision: which.decision };
    let scope = Scope { from_ms: period.from, to_ms: period.to, filters };
    Ok(Request { scope, sample, generator: env!("CARGO_PKG_VERSION").to_owned() })
}

/// Says what was asked for, for the record of the reading.
pub(super) fn asked(request: &Request, list: Option<List>) -> Value {
    let (from, to) = request.scope.ends();
    let Filters { agent, tool, decision } = &request.scope.filters;
    let SampleRequest { draw, n } = &request.sample;
    json!({
        "from": from, "to": to, "agent": agent, "tool": tool, "decision": decision,
        "draw": draw, "sample": n, "list": list.map(List::name),
    })
}

/// Counts an installation's published log.
pub(super) fn survey(request: &Request, paths: &Paths) -> anyhow::Result<Manifest> {
    let keys = log_keys(paths)?;
    let bar = bar("log");
    let mut progress = |done: u64, all: u64| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let counted = tokio::task::block_in_place(|| {
        let log = LogFolder::open(&paths.log())?;
        package::survey(&log, &keys, request, &mut progress)
    });
    bar.finish_and_clear();
    counted.map_err(explained)
}

/// Returns the key that signs an installation's own log, unless a process of its own has it: then
/// manifests are not signed.
fn signing_key(paths: &Paths) -> anyhow::Result<Option<SigningKey>> {
    let config = Config::read(&paths.config)?;
    if config.signer.socket.is_some() {
        return Ok(None);
    }
    let origin = config.origin();
    let folder = paths.data.join("keys");
    let keys = Keystore::open(&folder)
        .with_context(|| format!("cannot read the log's key in {}", folder.display()))?;
    Ok(Some(keys.log_key(&origin)?))
}

/// Adds what to do about an error.
fn explained(error: PackageError) -> anyhow::Error {
    let no_log = matches!(error, PackageError::Source(_));
    let error = anyhow::Error::from(error);
    if no_log {
        return error.context("name the installation with --dir; `countersign init` makes one");
    }
    error
}

fn line(out: &mut String, name: &str, value: impl Display) -> fmt::Result {
    writeln!(out, "{name:24} {value}")
}

fn source(manifest: &Manifest, out: &mut String) -> fmt::Result {
    line(out, "log", shown(&manifest.origin))?;
    line(out, "size", format!("{} records", manifest.checkpoint_end.size))?;
    line(out, "root", &manifest.checkpoint_end.root)?;
    line(out, "as of", &manifest.as_of)?;
    if !manifest.period_is_over {
        line(out, "note", "no record is from after the period; more may be recorded in it")?;
    }
    Ok(())
}

fn summary(manifest: &Manifest, out: &mut String) -> fmt::Result {
    line(out, "period", format!("{} to {}, UTC", manifest.from, manifest.to))?;
    line(out, "filters", manifest.filters.words())?;
    for entry in &manifest.lists {
        line(out, &format!("  {}", entry.list.name()), entry.totals.rows)?;
    }
    line(out, "sample", format!("{} decisions with a proof", manifest.sample.items.len()))?;
    source(manifest, out)
}
