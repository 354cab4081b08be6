//! `countersign sample`: draw decisions that an auditor tests one by one.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use countersign_console::ReadingCommand;
use countersign_evidence::package::{List, Sample, SampleItem, SampleRequest, script};
use countersign_evidence::shown;
use countersign_evidence::time::{Edge, parse};
use countersign_ledger::LeafIndex;
use serde::Deserialize;
use serde_json::json;

use super::evidence::{Period, Which, asked, request, survey};
use super::records::whole_or_cut;
use crate::access::Reading;
use crate::paths::Paths;

/// Draw a sample of decisions, the same for everyone who has the number.
///
/// The rank of a record is SHA-256 of the draw, a colon and its id; the n smallest are the sample. The
/// auditor chooses the draw, so that nobody else can steer it. The population is the published log, or the
/// decisions of a package. A draw from the log is itself recorded (`access`).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign sample --n 25 --draw 4711 --from 2026-11-01 --to 2026-12-01
  countersign sample --n 25 --draw 4711 --decision deny --json | jq -r '.items[].record_id'
  countersign sample --n 25 --draw 4711 --package ./evidence-2026-11

Then look at each: countersign show ID --proof record.json")]
pub(crate) struct Args {
    /// How many records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    n: u16,
    /// The auditor's number, or any text
    #[arg(long, value_name = "TEXT")]
    draw: String,
    /// Draw from the decisions of this package; check it first
    #[arg(long, value_name = "DIR", conflicts_with_all = ["from", "to", "agent", "tool", "decision"])]
    package: Option<PathBuf>,
    /// The first moment: RFC 3339, or a date, which begins at 00:00 UTC
    #[arg(long, value_name = "TIME", value_parser = |text: &str| parse(text, Edge::Start))]
    from: Option<i64>,
    /// The first moment that is left out: RFC 3339, or a date, of which nothing is included
    #[arg(long, value_name = "TIME", value_parser = |text: &str| parse(text, Edge::Start))]
    to: Option<i64>,
    #[command(flatten)]
    which: Which,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A sample and what it was drawn from.
struct Drawn {
    population: u64,
    items: Vec<SampleItem>,
    /// Whether the population is less than all decisions of the log.
    narrowed: bool,
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let n = usize::from(args.n);
    let drawn = match &args.package {
        Some(folder) => from_package(folder, &args.draw, n)?,
        None => from_log(&args, n, paths).await?,
    };
    let text = if args.json {
        let value = json!({
            "draw": args.draw, "n": n, "population": drawn.population, "items": drawn.items,
            "script": script(&args.draw, n),
        });
        format!("{value:#}\n")
    } else {
        text(&args, &drawn)?
    };
    let printed = io::stdout().write_all(text.as_bytes());
    whole_or_cut(printed.map(|()| ExitCode::SUCCESS).map_err(Into::into))
}

async fn from_log(args: &Args, n: usize, paths: &Paths) -> anyhow::Result<Drawn> {
    let narrowed = args.from.is_some() || args.to.is_some() || args.which.is_set();
    let period = Period::open_ended(args.from, args.to)?;
    let sample = SampleRequest { draw: Some(args.draw.clone()), n };
    let request = request(period, args.which.clone(), sample, paths).await?;
    let manifest = survey(&request, paths)?;
    let population = manifest.totals(List::Decisions).map_or(0, |totals| totals.rows);
    let count = u64::try_from(manifest.sample.items.len()).ok();
    let tree_size = manifest.checkpoint_end.size;
    let (command, filters) = (ReadingCommand::Sample, asked(&request, None));
    Reading { command, count, tree_size, filters }.record(paths).await?;
    Ok(Drawn { population, items: manifest.sample.items, narrowed })
}

/// A line of `records/decisions.jsonl`, as far as it is needed.
#[derive(Deserialize)]
struct Line {
    index: u64,
    leaf: LeafId,
}

#[derive(Deserialize)]
struct LeafId {
    record_id: String,
}

fn from_package(folder: &Path, draw: &str, n: usize) -> anyhow::Result<Drawn> {
    let path = folder.join("records/decisions.jsonl");
    let cannot = || format!("cannot read {}; is it an evidence package?", path.display());
    let file = BufReader::new(File::open(&path).with_context(cannot)?);
    let mut sample = Sample::new(draw, n);
    let mut population = 0;
    for line in file.lines() {
        let line: Line = serde_json::from_str(&line.with_context(cannot)?).with_context(cannot)?;
        sample.offer(&line.leaf.record_id, LeafIndex(line.index));
        population += 1;
    }
    let items = sample.drawn().into_iter().map(|(rank, record_id, index)| SampleItem {
        record_id,
        leaf_index: index.0,
        rank: rank.to_string(),
    });
    Ok(Drawn { population, items: items.collect(), narrowed: false })
}

fn text(args: &Args, drawn: &Drawn) -> anyhow::Result<String> {
    let mut text = String::new();
    let (found, population) = (drawn.items.len(), drawn.population);
    writeln!(text, "{found} of {population} decisions, draw `{}`:\n", shown(&args.draw))?;
    for item in &drawn.items {
        writeln!(text, "{}", shown(&item.record_id))?;
    }
    let input = match (&args.package, drawn.narrowed) {
        (Some(folder), _) => folder.join("records/decisions.jsonl").display().to_string(),
        (None, true) => "records/decisions.jsonl of a package with the same options".to_owned(),
        (None, false) => {
            "the output of `countersign records query --kind decision --json`".to_owned()
        }
    };
    writeln!(text, "\nThe same with Python; its argument is {input}:\n")?;
    text.push_str(&script(&args.draw, usize::from(args.n)));
    Ok(text)
}
