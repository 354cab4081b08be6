//! `countersign retention`: what is kept how long, purging what is due, testing the archive.

mod restore;

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use countersign_evidence::time::utc;
use countersign_store::{Clock as _, Reader, RetentionStatus, Setting};
use serde_json::{Value, json};

use crate::clock::SystemClock;
use crate::config::Config;
use crate::control::{ACTOR, Control, with_store};
use crate::paths::Paths;
use crate::run::store_config;

/// Keep private fields for as long as is set, and no longer.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Say what is kept how long, what is due and what is held
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete the private fields whose time has come
    Purge(PurgeArgs),
    /// Restore a random segment of the archive, compare it and record the result
    RestoreTest {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "A running gateway does this by itself once a day. Records, their hashes and every proof stay;
what is under a legal hold stays whole. A deletion cannot be undone."
)]
pub(crate) struct PurgeArgs {
    /// Only say what would be deleted
    #[arg(long, conflicts_with = "yes", required_unless_present = "yes")]
    dry_run: bool,
    /// Delete it
    #[arg(long)]
    yes: bool,
    /// Go on though no day of the log was closed for a month: no gateway ran, and the clock is right. Recorded
    #[arg(long, requires = "yes")]
    clock_is_right: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: Command, paths: &Paths) -> anyhow::Result<ExitCode> {
    match command {
        Command::Show { json } => show(json, paths).await,
        Command::Purge(args) => purge(args, paths).await,
        Command::RestoreTest { json } => restore::run(json, paths).await,
    }
}

async fn status(paths: &Paths) -> anyhow::Result<(u32, RetentionStatus)> {
    let hint = "there is no readable ledger here; `countersign init` makes one";
    let config = store_config(&Config::read(&paths.config)?);
    let reader = Reader::of(&paths.data, &config).await.context(hint)?;
    let status = reader.retention(config.retention, SystemClock.now_ms()).await;
    reader.close().await;
    Ok((config.retention.sections_days(), status?))
}

async fn show(json: bool, paths: &Paths) -> anyhow::Result<ExitCode> {
    let (days, status) = status(paths).await?;
    let mut out = io::stdout();
    if json {
        writeln!(out, "{}", to_json(days, &status))?;
    } else {
        print(days, &status, &mut out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn since(setting: &Setting) -> Option<String> {
    setting.since_ms.map(utc)
}

fn to_json(days: u32, status: &RetentionStatus) -> Value {
    let RetentionStatus { settings, due_records, due_sections, held_records, .. } = status;
    let settings = settings.iter().map(|one| json!({"since": since(one), "days": one.days}));
    let jobs = status.jobs.iter().map(|job| {
        json!({
            "job": job.job, "ended": utc(job.ended_ms), "records": job.records,
            "sections": job.sections, "held": job.held, "keys": job.keys,
        })
    });
    json!({
        "sections_days": days,
        "settings": settings.collect::<Vec<_>>(),
        "due": {"records": due_records, "sections": due_sections},
        "held": held_records,
        "next_due": status.next_due_ms.map(utc),
        "pending_job": status.pending,
        "jobs": jobs.collect::<Vec<_>>(),
    })
}

fn print(days: u32, status: &RetentionStatus, out: &mut impl io::Write) -> io::Result<()> {
    writeln!(out, "private fields    {days} days after their record was made")?;
    writeln!(out, "public parts      kept, with hashes, checkpoints and proofs")?;
    for setting in &status.settings {
        let since = since(setting).unwrap_or_else(|| "by default".into());
        writeln!(out, "  set             {since}: {} days", setting.days)?;
    }
    let RetentionStatus { due_records, due_sections, held_records, .. } = status;
    writeln!(out, "due now           {due_records} records, {due_sections} sections")?;
    writeln!(out, "held              {held_records} of what is due, by legal holds")?;
    if let Some(next) = status.next_due_ms {
        writeln!(out, "next due          {}", utc(next))?;
    }
    if let Some(job) = &status.pending {
        writeln!(out, "under way         job {job}")?;
    }
    for job in &status.jobs {
        let (ended, records, held) = (utc(job.ended_ms), job.records, job.held);
        writeln!(
            out,
            "purged            {ended}: {records} records, held={held}, job {}",
            job.job
        )?;
    }
    Ok(())
}

async fn purge(args: PurgeArgs, paths: &Paths) -> anyhow::Result<ExitCode> {
    let PurgeArgs { dry_run, yes: _, clock_is_right, json } = args;
    let mut out = io::stdout();
    if dry_run {
        let (days, status) = status(paths).await?;
        let RetentionStatus { due_records, due_sections, held_records, .. } = &status;
        if json {
            writeln!(out, "{}", to_json(days, &status))?;
        } else {
            writeln!(
                out,
                "{due_records} records with {due_sections} private sections are due; \
                 held={held_records}; nothing was deleted"
            )?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let answer = match Control::find(paths).await {
        Some(control) => {
            let body = json!({"clock_is_right": clock_is_right});
            control.post("/api/v1/retention/purge", &body).await?
        }
        None => {
            with_store(paths, async |store| {
                if clock_is_right {
                    store.confirm_clock(ACTOR).await?;
                }
                Ok(store.purge_now().await?.to_json())
            })
            .await?
        }
    };
    if json {
        writeln!(out, "{answer}")?;
        return Ok(ExitCode::SUCCESS);
    }
    let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
    let Some(job) = answer.get("job").and_then(Value::as_str) else {
        writeln!(out, "nothing is due; held={}", number("held"))?;
        return Ok(ExitCode::SUCCESS);
    };
    let keys = answer.get("keys").and_then(Value::as_array).map_or(0, Vec::len);
    writeln!(out, "Purged, under job {job}:")?;
    writeln!(out, "  records   {}", number("records"))?;
    writeln!(out, "  sections  {}", number("sections"))?;
    writeln!(out, "  keys      {keys}")?;
    writeln!(out, "  held={}", number("held"))?;
    Ok(ExitCode::SUCCESS)
}
