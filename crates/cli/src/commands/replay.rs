//! `countersign replay`: decide recorded calls again and compare.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use countersign_decision::BundleFiles;
use countersign_evidence::case::find;
use countersign_evidence::query::{Filter, Rows};
use countersign_evidence::replay::{Change, Outcome, Replayed, Replayer};
use countersign_evidence::{Record, shown};
use countersign_gateway::rules::read_bundle;
use countersign_store::Reader;

use super::records::{open, whole_or_cut};
use crate::paths::Paths;

/// Decisions that are decided again if nothing else is asked for.
const LAST: u64 = 100;

/// Decide recorded calls again and compare.
///
/// Each decision is made again from the facts and the bundle that were stored with it. Exits with 1 if any
/// comes out otherwise, or cannot be made again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  countersign replay --last 1000
  countersign replay --all --policies ./new-policies   what a change of policy would have done")]
pub(crate) struct Args {
    /// The evaluation ids of the decisions
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// The last N decisions; 100 if nothing else is given
    #[arg(long, value_name = "N", conflicts_with_all = ["ids", "all"])]
    last: Option<u64>,
    /// All decisions
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    /// Decide by the policies in this folder instead, and say what changes
    ///
    /// Tool pins and manifests that the folder lacks are those of the recorded bundle.
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// Print one JSON object per decision
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let other = args.policies.as_deref().map(read_policies).transpose()?;
    let reader = open(paths).await?;
    let done = replay(&reader, &args, other).await;
    reader.close().await;
    whole_or_cut(done)
}

/// Reads the policies to try; an error in them is told before anything is decided.
fn read_policies(folder: &std::path::Path) -> anyhow::Result<BundleFiles> {
    let files = BundleFiles(read_bundle(folder)?);
    anyhow::ensure!(
        files.0.keys().any(|path| path.starts_with("policies/")),
        "{} has no policies/*.cedar",
        folder.display()
    );
    Ok(files)
}

/// Counts of what came out.
#[derive(Default)]
struct Tally {
    decisions: u64,
    equal: u64,
    changed: u64,
    impossible: u64,
    /// How the other bundle differs from the recorded ones.
    bundles: BTreeSet<Vec<String>>,
}

async fn replay(
    reader: &Reader,
    args: &Args,
    other: Option<BundleFiles>,
) -> anyhow::Result<ExitCode> {
    let mut replayer = Replayer::new(reader, other);
    let mut tally = Tally::default();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut one = async |record: &Record| -> anyhow::Result<()> {
        let replayed = replayer.replay(record).await?;
        tally.add(&replayed);
        if args.json {
            writeln!(out, "{}", serde_json::to_string(&replayed)?)?;
        } else {
            print(&replayed, &mut out)?;
        }
        Ok(())
    };
    if args.ids.is_empty() {
        let mut left = if args.all { u64::MAX } else { args.last.unwrap_or(LAST) };
        let filter = Filter { kind: Some("decision".into()), ..Filter::default() };
        let mut rows = Rows::open(reader, filter).await?;
        while left > 0
            && let Some(record) = rows.next().await?
        {
            one(&record).await?;
            left -= 1;
        }
    }
    for id in &args.ids {
        one(&find(reader, id).await?).await?;
    }
    out.flush().context("cannot write")?;
    tally.tell();
    Ok(if tally.equal == tally.decisions { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Tally {
    fn add(&mut self, replayed: &Replayed) {
        self.decisions += 1;
        match &replayed.result {
            _ if replayed.is_equal() => self.equal += 1,
            Outcome::Unavailable { .. } | Outcome::BundleHashMismatch { decided: false, .. } => {
                self.impossible += 1;
            }
            Outcome::Match | Outcome::Differs { .. } | Outcome::BundleHashMismatch { .. } => {
                self.changed += 1;
            }
        }
        if let Outcome::BundleHashMismatch { differences, .. } = &replayed.result {
            self.bundles.insert(differences.clone());
        }
    }

    #[expect(clippy::print_stderr, reason = "talk beside the data")]
    fn tell(&self) {
        for differences in &self.bundles {
            eprintln!("The bundle is not the recorded one: {}", shown(&differences.join(", ")));
        }
        let Self { decisions, equal, changed, impossible, .. } = self;
        eprintln!(
            "{decisions} decisions: {equal} equal, {changed} different, {impossible} not decided again"
        );
    }
}

fn print(replayed: &Replayed, out: &mut impl Write) -> io::Result<()> {
    let Replayed { evaluation_id: id, at, agent, tool, result } = replayed;
    let agent = shown(agent.as_deref().unwrap_or("-"));
    let tool = shown(tool.as_deref().unwrap_or("-"));
    let line = format!("{id}  {at}  {agent}  {tool}");
    match result {
        Outcome::Match => writeln!(out, "MATCH  {line}"),
        Outcome::Unavailable { reason } => {
            writeln!(out, "UNAVAILABLE  {line}\n    {}", shown(reason))
        }
        Outcome::Differs { changes } => {
            writeln!(out, "DIFFERS  {line}")?;
            print_changes(changes, out)
        }
        Outcome::BundleHashMismatch { recorded, found, differences, changes, rules, decided } => {
            writeln!(out, "BUNDLE_HASH_MISMATCH  {line}")?;
            if !decided {
                let how = shown(&differences.join(", "));
                return writeln!(out, "    recorded {recorded}, found {found}: {how}");
            }
            if changes.is_empty() {
                return writeln!(out, "    the same decision");
            }
            print_changes(changes, out)?;
            match rules.as_slice() {
                [] => writeln!(out, "    by no rule: nothing permits it"),
                rules => writeln!(out, "    by {}", shown(&rules.join(", "))),
            }
        }
    }
}

fn print_changes(changes: &[Change], out: &mut impl Write) -> io::Result<()> {
    changes.iter().try_for_each(|Change { field, recorded, now }| {
        writeln!(out, "    {field}: recorded {}, now {}", quoted(recorded), quoted(now))
    })
}

fn quoted(text: &str) -> String {
    if text.is_empty() { "nothing".to_owned() } else { format!("`{}`", shown(text)) }
}
