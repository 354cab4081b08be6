//! `countersign verify`: check the log, the database, a package, or one record, with a public key.

mod trusted;

use std::fmt::{self, Display, Write};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use countersign_evidence::folder::LogFolder;
use countersign_evidence::package::{self, Options, Status, Verdict};
use countersign_evidence::proof::{RecordFile, Verified};
use countersign_evidence::shown;
use countersign_evidence::time::utc;
use countersign_evidence::timestamp::{self, Stamped};
use countersign_evidence::witnessed::Witnessed;
use countersign_ledger::LeafIndex;
use countersign_ledger::verify::{Problem, Progress, Report, Trust, VerifyOptions, verify_log};
use countersign_store::{Database, fsck};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};

use super::records::{read, whole_or_cut};
use crate::anchors::timestamp::read_roots;
use crate::config::Config;
use crate::paths::Paths;
use crate::run::store_config;
use trusted::Trusted;

/// Leaf indexes, and timestamps, that the report lists by name.
const LISTED: usize = 10;
/// How often the database is checked again because a gateway published in the middle of the check.
const ATTEMPTS: u32 = 5;

/// Check that nothing that was recorded is changed, missing or out of order.
///
/// Without options, this installation is checked: its published log with its own key, then every row of
/// its database. A gateway may run meanwhile. With --log, --package or --record nothing but the named files is
/// read: no network, no database, no configuration. Exits with 1 and names the first bad place if
/// anything is wrong.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("trusted").args(["vkey", "policy"]).multiple(true))]
#[command(after_help = "Examples:
  countersign verify
  countersign verify --log ./copy-of-the-log --vkey auditor/log.vkey --checkpoint last-year.checkpoint
  countersign verify --log ./copy-of-the-log --vkey auditor/log.vkey --tsa-roots tsa-roots.pem
  countersign verify --package ./evidence-november --vkey auditor/log.vkey --pinned last-year.checkpoint
  countersign verify --record record.json --vkey 'log.example.com/acme+1a2b3c4d+AXl…'
  countersign verify --record record.json --policy auditor/trust.policy

A policy is a file of its lines (C2SP tlog-policy), written by whoever checks:
  log log.example.com/acme+1a2b3c4d+AXl…
  witness auditor witness.example/auditor+5e6f7a8b+BFn…
  witness partner witness.example/partner+9c0d1e2f+BDq…
  group both all auditor partner
  quorum both")]
pub(crate) struct Args {
    /// Check the log in this folder (C2SP tlog-tiles)
    #[arg(long, value_name = "DIR", requires = "trusted")]
    log: Option<PathBuf>,
    /// Check an evidence package in this folder, as `evidence package` builds it
    #[arg(long, value_name = "DIR", requires = "trusted", conflicts_with_all = ["log", "record"])]
    package: Option<PathBuf>,
    /// Check one record with its proof, as `show --proof` writes it
    #[arg(long, value_name = "FILE", requires = "trusted", conflicts_with_all = ["log", "checkpoint"])]
    record: Option<PathBuf>,
    /// The log's public key, or a file with it; may be given several times
    ///
    /// If the log's signing key was replaced, either key will do for a log or a package: the log has a record
    /// of it that both keys signed. A record file needs the key that signed its proof.
    #[arg(long, value_name = "KEY|FILE")]
    vkey: Vec<String>,
    /// A file that says which log and which witnesses are trusted: their quorum must have cosigned
    ///
    /// Its `log` lines give the log's public keys unless --vkey does; then they do not count. The checkpoint of a record, and
    /// the last one of a package, must have the cosignatures of the quorum. Of a log the newest checkpoint
    /// that has them counts, and the records after it are named: witnesses are asked each minute.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// A checkpoint that was kept from earlier: the log must extend it
    #[arg(long, value_name = "FILE", visible_alias = "pinned")]
    checkpoint: Option<PathBuf>,
    /// Check the log's timestamps too: the roots of the authorities that are trusted, in PEM
    #[arg(long, value_name = "FILE", conflicts_with = "record")]
    tsa_roots: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let trust = Trusted::read(&args, paths)?;
    let found = if let Some(file) = &args.record {
        check_record(file, &trust)?
    } else if let Some(folder) = &args.package {
        let Trusted { keys, policy, pinned, roots } = trust;
        check_package(folder, &Options { keys, policy, pinned, roots })?
    } else {
        match &args.log {
            Some(folder) => check_log(folder, &trust)?,
            None => check_installation(paths, trust).await?,
        }
    };
    let text = if args.json { format!("{:#}\n", found.json()) } else { found.to_string() };
    let printed = io::stdout().write_all(text.as_bytes());
    let code = if found.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    // Whoever stops reading still gets the verdict.
    whole_or_cut(printed.map(|()| code).map_err(Into::into)).map(|_| code)
}

/// What a check found.
enum Found {
    Log(Box<CheckedLog>),
    Installation(Box<Installation>),
    Package(Box<Verdict>),
    Record(Box<Verified>),
    Bad(Problem),
}

/// A log that holds, with its timestamps if somebody said whom to trust for them.
struct CheckedLog {
    report: Report,
    timestamps: Option<Vec<Stamped>>,
    witnessed: Option<Witnessed>,
}

/// An installation in which everything holds.
struct Installation {
    log: CheckedLog,
    database: fsck::Report,
}

fn check_record(file: &Path, trust: &Trusted) -> anyhow::Result<Found> {
    let bytes = read(file)?;
    let object = file.display().to_string();
    let checked = RecordFile::parse(&bytes)
        .and_then(|record| record.verify(&trust.keys, trust.policy.as_ref()));
    Ok(match checked {
        Ok(verified) => Found::Record(Box::new(verified)),
        Err(error) => Found::Bad(Problem { object, index: None, reason: error.to_string() }),
    })
}

fn check_package(folder: &Path, options: &Options) -> anyhow::Result<Found> {
    if folder.is_file() {
        bail!("{} is a file; unpack it and name the folder", folder.display());
    }
    let bar = bar("package");
    let mut progress = |done: u64, all: u64| {
        bar.set_length(all);
        bar.set_position(done);
    };
    let verdict = package::verify(folder, options, &mut progress);
    bar.finish_and_clear();
    let verdict = verdict.with_context(|| format!("{} cannot be checked", folder.display()))?;
    Ok(Found::Package(Box::new(verdict)))
}

fn check_log(folder: &Path, trust: &Trusted) -> anyhow::Result<Found> {
    let log =
        LogFolder::open(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(checked_log(&log, trust).map_or_else(Found::Bad, |log| Found::Log(Box::new(log))))
}

fn checked_log(log: &LogFolder, trust: &Trusted) -> Result<CheckedLog, Problem> {
    let bar = bar("log");
    let mut progress = |progress: Progress| {
        bar.set_length(progress.size.0);
        bar.set_position(progress.checked.0);
    };
    let options = VerifyOptions {
        keys: trust.keys.clone(),
        pinned: trust.pinned.clone(),
        ..VerifyOptions::default()
    };
    let report = verify_log(log, &options, &mut progress);
    bar.finish_and_clear();
    let report = report?;
    let roots = trust.roots.as_ref();
    let timestamps = roots.map(|roots| timestamp::check_folder(log, roots)).transpose()?;
    // Which of its keys counted for each cosigned checkpoint was just checked.
    let keys: Vec<_> = report.keys.iter().filter_map(|key| key.vkey.parse().ok()).collect();
    let policy = trust.policy.as_ref();
    let witnessed = policy.map(|policy| Witnessed::newest(log, policy, &keys)).transpose()?;
    Ok(CheckedLog { report, timestamps, witnessed })
}

async fn check_installation(paths: &Paths, mut trust: Trusted) -> anyhow::Result<Found> {
    let folder = paths.log();
    let published = folder.join("checkpoint");
    let config = Config::read(&paths.config)?;
    if let (None, Some(timestamp)) = (&trust.roots, &config.anchors.timestamp) {
        trust.roots = Some(read_roots(&paths.root.join(&timestamp.roots))?);
    }
    let config = store_config(&config);
    let shared = matches!(config.database, Database::Postgres(_));
    if !published.exists() && !shared && !paths.data.join("countersign.db").exists() {
        bail!("there is no ledger in {}; `countersign init` makes one", paths.data.display());
    }
    let checked = tokio::task::block_in_place(|| check_log(&folder, &trust))?;
    let log = match checked {
        Found::Log(log) => *log,
        other @ (Found::Installation(_) | Found::Package(_) | Found::Record(_) | Found::Bad(_)) => {
            return Ok(other);
        }
    };
    for attempt in 1.. {
        let before = std::fs::read(&published).ok();
        let bar = bar("database");
        let mut progress = |done: u64, all: u64| {
            bar.set_length(all);
            bar.set_position(done);
        };
        let checked = if shared {
            fsck::check_shared(&paths.data, &config, &mut progress).await
        } else {
            let now_ms = config.clock.now_ms();
            fsck::check_at(&paths.data, None, now_ms, &mut progress).await
        };
        bar.finish_and_clear();
        let problem = match checked {
            Ok(database) => {
                return Ok(Found::Installation(Box::new(Installation { log, database })));
            }
            Err(problem) => problem,
        };
        // What the check compares with the database may have been published after it began.
        let moving = problem.object.starts_with("log/") || problem.object.starts_with("keys/");
        let published = std::fs::read(&published).ok() != before;
        if !(moving && published && attempt < ATTEMPTS) {
            return Ok(Found::Bad(of_store(problem)));
        }
    }
    bail!("the log is published faster than it can be checked")
}

/// Puts a problem of the database in the same words as one of the log.
fn of_store(problem: fsck::Problem) -> Problem {
    let fsck::Problem { object, key, column, reason } = problem;
    let index = key.parse().ok();
    let place = [Some(object), index.is_none().then_some(key), Some(column)];
    let place: Vec<String> = place.into_iter().flatten().filter(|part| !part.is_empty()).collect();
    Problem { object: place.join(", "), index, reason }
}

/// Makes a progress bar; it draws on standard error, and only if that is a terminal.
pub(super) fn bar(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(0).with_prefix(what);
    let style = ProgressStyle::with_template("{prefix:9} {wide_bar} {human_pos}/{human_len} {eta}");
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

impl Found {
    fn is_sound(&self) -> bool {
        match self {
            Self::Package(verdict) => verdict.is_sound(),
            Self::Log(_) | Self::Installation(_) | Self::Record(_) => true,
            Self::Bad(_) => false,
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Log(log) => Value::Object(log.json()),
            Self::Installation(sound) => {
                let mut found = sound.log.json();
                found.insert("database".to_owned(), store_json(&sound.database));
                Value::Object(found)
            }
            Self::Package(verdict) => json!({
                "ok": verdict.is_sound(),
                "package": verdict,
                "problem": verdict.first_bad(),
            }),
            Self::Record(verified) => json!({"ok": true, "record": verified}),
            Self::Bad(problem) => json!({"ok": false, "problem": problem}),
        }
    }
}

impl Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(log) => {
                print_log(log, f)?;
                writeln!(f, "OK: every record is in the signed log, unchanged and in order")
            }
            Self::Installation(sound) => sound.fmt(f),
            Self::Package(verdict) => print_package(verdict, f),
            Self::Record(verified) => print_record(verified, f),
            Self::Bad(problem) => writeln!(f, "FAILED: {}", shown(&problem.to_string())),
        }
    }
}

impl Display for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_log(&self.log, f)?;
        print_store(&self.database, f)?;
        writeln!(f, "OK: log and database hold what was signed, unchanged and in order")
    }
}

impl CheckedLog {
    /// Counts the records that came after what witnesses vouch for.
    fn after(&self, witnessed: &Witnessed) -> u64 {
        self.report.size.0.saturating_sub(witnessed.size.0)
    }

    fn json(&self) -> Map<String, Value> {
        let mut found = Map::new();
        found.insert("ok".to_owned(), json!(true));
        found.insert("log".to_owned(), json!(self.report));
        if let Some(witnessed) = &self.witnessed {
            let mut value = json!(witnessed);
            if let Some(fields) = value.as_object_mut() {
                fields.insert("records_after".to_owned(), json!(self.after(witnessed)));
            }
            found.insert("witnessed".to_owned(), value);
        }
        if let Some(timestamps) = &self.timestamps {
            found.insert("timestamps".to_owned(), json!(timestamps));
        }
        found
    }
}

fn store_json(store: &fsck::Report) -> Value {
    json!({
        "leaves": store.leaves,
        "root": store.root,
        "checkpoints": store.checkpoints,
        "published": store.published,
        "sections_opened": store.sections_opened,
        "sections_closed": store.sections_closed,
        "records_erased": store.records_erased,
        "records_purged": store.records_purged,
        "purge_jobs": store.purge_jobs,
        "gone_unsigned": store.gone_unsigned,
        "open_calls": store.open_calls,
        "rows": store.rows,
    })
}

fn line(out: &mut impl Write, name: &str, value: impl Display) -> fmt::Result {
    writeln!(out, "{name:24} {value}")
}

fn print_log(log: &CheckedLog, out: &mut impl Write) -> fmt::Result {
    let report = &log.report;
    line(out, "log", &report.origin)?;
    line(out, "size", format!("{} records", report.size))?;
    line(out, "root", report.root.to_base64())?;
    line(out, "checkpoints", report.checkpoints)?;
    for key in report.keys.iter().filter(|key| key.trust != Trust::Given || report.keys.len() > 1) {
        line(out, "  trusted", shown(&key.to_string()))?;
    }
    if let (Some(first), Some(last)) = (report.first_ms, report.last_ms) {
        line(out, "first record", at(first))?;
        line(out, "last record", at(last))?;
    }
    for one in &report.population {
        let kind = match &one.verdict {
            Some(verdict) => format!("  {} {verdict}", one.kind),
            None => format!("  {}", one.kind),
        };
        line(out, &shown(&kind), one.count)?;
    }
    line(out, "decisions, no outcome", leaves(&report.decisions_without_outcome))?;
    if !report.outcomes_without_decision.is_empty() {
        line(out, "outcomes, no decision", leaves(&report.outcomes_without_decision))?;
    }
    line(out, "gaps", leaves(&report.gaps))?;
    line(out, "daily closes", report.closes)?;
    if !report.unsigned.is_empty() {
        let text = format!("{} files, newer than the checkpoint", report.unsigned.len());
        line(out, "not signed yet", text)?;
    }
    if let Some(witnessed) = &log.witnessed {
        let text = format!("{} of {} records", witnessed.size, report.size);
        line(out, "witnessed", text)?;
        print_witnesses(witnessed, out)?;
        match log.after(witnessed) {
            0 => {}
            1 => line(out, "  not witnessed", "the last record")?,
            after => line(out, "  not witnessed", format!("the last {after} records"))?,
        }
    }
    log.timestamps.as_deref().map_or(Ok(()), |timestamps| print_timestamps(timestamps, out))
}

/// Says who cosigned, and when.
fn print_witnesses(witnessed: &Witnessed, out: &mut impl Write) -> fmt::Result {
    for one in &witnessed.cosigned {
        line(out, &format!("  {}", shown(&one.witness)), &one.time)?;
    }
    Ok(())
}

/// Says what existed when: of many timestamps the newest.
fn print_timestamps(timestamps: &[Stamped], out: &mut impl Write) -> fmt::Result {
    line(out, "timestamps", timestamps.len())?;
    for one in timestamps.iter().skip(timestamps.len().saturating_sub(LISTED)) {
        let (time, authority) = (utc(one.timestamp.time_ms), shown(&one.timestamp.authority));
        let accuracy = one.timestamp.accuracy_ms.map(|ms| format!(" (± {})", duration(ms)));
        let text = format!("by {time}{}, says {authority}", accuracy.unwrap_or_default());
        line(out, &format!("  {} records", one.size), text)?;
    }
    Ok(())
}

fn duration(ms: u64) -> String {
    countersign_evidence::time::duration(i64::try_from(ms).unwrap_or(i64::MAX))
}

fn at(ms: u64) -> String {
    utc(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// Counts leaves and names the first of them.
fn leaves(indexes: &[LeafIndex]) -> String {
    if indexes.is_empty() {
        return "0".to_owned();
    }
    let named: Vec<String> = indexes.iter().take(LISTED).map(ToString::to_string).collect();
    let more = if indexes.len() > LISTED { ", …" } else { "" };
    format!("{} (leaf {}{more})", indexes.len(), named.join(", "))
}

fn print_store(store: &fsck::Report, out: &mut impl Write) -> fmt::Result {
    line(out, "database", format!("{} leaves, {} other rows", store.leaves, store.rows))?;
    let sections = format!("{} opened, {} closed", store.sections_opened, store.sections_closed);
    line(out, "private sections", sections)?;
    if store.records_erased > 0 {
        line(out, "erased records", store.records_erased)?;
    }
    for (job, records) in &store.purge_jobs {
        line(out, "purged by age", format!("{records} records under job {job}"))?;
    }
    let gone = store.records_erased + store.records_purged > 0;
    let unsigned = match store.gone_unsigned {
        None if gone => "not checked: the keys that say what is signed are not here".to_owned(),
        None | Some(0) => String::new(),
        Some(records) => format!(
            "{records} records: what tells of their purge or erasure is newer than the last signed checkpoint"
        ),
    };
    if !unsigned.is_empty() {
        line(out, "gone, not signed yet", unsigned)?;
    }
    line(out, "calls without outcome", store.open_calls)
}

fn print_package(verdict: &Verdict, out: &mut impl Write) -> fmt::Result {
    for check in &verdict.checks {
        let status = match check.status {
            Status::Pass => "PASS",
            Status::Fail => "FAIL",
            Status::NotChecked => "NOT-CHECKED",
        };
        let row = check.row.map(|row| format!(", row {row}")).unwrap_or_default();
        writeln!(out, "{status:12} {}{row}: {}", shown(&check.object), shown(&check.detail))?;
    }
    if let Some(manifest) = &verdict.manifest {
        line(out, "log", shown(&manifest.origin))?;
        line(out, "size", format!("{} records", manifest.checkpoint_end.size))?;
        line(out, "root", &manifest.checkpoint_end.root)?;
        line(out, "period", format!("{} to {}", manifest.from, manifest.to))?;
        line(out, "as of", &manifest.as_of)?;
        line(out, "filters", manifest.filters.words())?;
        for list in &manifest.lists {
            line(out, &format!("  {}", list.list.name()), list.totals.rows)?;
        }
    }
    match verdict.first_bad() {
        None => {
            writeln!(out, "OK: every list has exactly the records that the signed log has for it")
        }
        Some(bad) => {
            let row = bad.row.map(|row| format!(", row {row}")).unwrap_or_default();
            writeln!(out, "FAILED: `{}`{row}: {}", shown(&bad.object), shown(&bad.detail))
        }
    }
}

fn print_record(verified: &Verified, out: &mut impl Write) -> fmt::Result {
    for record in std::iter::once(&verified.record).chain(&verified.outcomes) {
        let kind = record.leaf.get("kind").and_then(Value::as_str).unwrap_or_default();
        line(out, &shown(kind), &record.record_id)?;
        line(out, "  log", &record.origin)?;
        line(out, "  place", format!("leaf {} of {}", record.leaf_index, record.tree_size))?;
        line(out, "  root", &record.root)?;
        if let Some(witnessed) = &record.witnessed {
            line(out, "  cosigned by", shown(&witnessed.says()))?;
        }
        let fields = record.leaf.as_object().into_iter().flatten();
        for (name, value) in fields.filter(|(name, _)| !name.starts_with("_sd")) {
            line(out, &shown(&format!("  {name}")), shown(&plain(value)))?;
        }
        for (name, value) in &record.opened {
            line(out, &shown(&format!("  private {name}")), shown(&plain(value)))?;
        }
        if record.closed > 0 {
            line(out, "  closed fields", record.closed)?;
        }
    }
    writeln!(out, "OK: the signed log has this, word for word")
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_of_the_database_names_table_row_and_column() {
        for (key, column, object, index) in [
            ("7", "leaf_hash", "leaf, leaf_hash", Some(7)),
            ("default/g1", "body", "leaf, default/g1, body", None),
            ("", "", "leaf", None),
        ] {
            let (key, column) = (key.to_owned(), column.to_owned());
            let reason = "it is another one".to_owned();
            let problem = of_store(fsck::Problem { object: "leaf".into(), key, column, reason });
            assert_eq!((problem.object.as_str(), problem.index), (object, index));
        }
    }

    #[test]
    fn long_lists_of_leaves_are_counted_and_cut() {
        let indexes: Vec<LeafIndex> = (0..12).map(LeafIndex).collect();
        assert_eq!(leaves(&[]), "0");
        assert_eq!(leaves(&indexes[..2]), "2 (leaf 0, 1)");
        assert_eq!(leaves(&indexes), "12 (leaf 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …)");
    }
}
