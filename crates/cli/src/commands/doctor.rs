//! `countersign doctor`: what is wrong with an installation, and how to mend it.

#![expect(clippy::print_stdout, reason = "the command's output")]

mod checks;
mod limits;

use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

use crate::config::Config;
use crate::control::Control;
use crate::paths::Paths;

/// Check an installation: one sentence and one remedy for each thing that is wrong.
///
/// Exits with 1 if something must be mended. Nothing is changed but a file that is written and removed
/// to measure the disk.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// List the limits that are built in, and check nothing
    #[arg(long)]
    limits: bool,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    /// Someone should look.
    Warning,
    /// It must be mended.
    Error,
}

/// What a check found.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    status: Status,
    /// One sentence.
    says: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, says: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, says: says.into(), remedy: None }
    }

    fn warning(check: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Warning, remedy: Some(remedy.into()), ..Self::ok(check, says) }
    }

    fn error(check: &'static str, says: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Error, remedy: Some(remedy.into()), ..Self::ok(check, says) }
    }
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    if args.limits {
        return Ok(limits::print(args.json));
    }
    let findings = examine(paths).await;
    let failed = findings.iter().any(|finding| finding.status == Status::Error);
    if args.json {
        println!("{}", json!({"ok": !failed, "findings": findings}));
    } else {
        findings.iter().for_each(print);
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(finding: &Finding) {
    let mark = match finding.status {
        Status::Ok => "ok",
        Status::Warning => "warning",
        Status::Error => "ERROR",
    };
    println!("{mark:8} {:11} {}", finding.check, finding.says);
    if let Some(remedy) = &finding.remedy {
        println!("{:20} → {remedy}", "");
    }
}

async fn examine(paths: &Paths) -> Vec<Finding> {
    let (config, found) = checks::config(paths);
    let mut findings = vec![found];
    findings.extend(checks::permissions(paths));
    findings.extend(checks::moved(&config, paths));
    findings.extend(checks::ledger(paths).await);
    findings.push(checks::signer(&config).await);
    findings.extend(checks::anchors(paths));
    findings.push(checks::policy(paths));
    findings.extend(checks::upstreams(&config).await);
    findings.push(checks::disk_space(&paths.data).await);
    findings.push(checks::disk_speed(&paths.data));
    findings.extend(match Control::find(paths).await {
        Some(control) => vec![checks::running(&control)],
        None => checks::ports(&config),
    });
    findings
}

/// Gives the defaults where the file cannot be read: the other checks still say something.
fn config_or_default(read: anyhow::Result<Config>) -> (Config, Option<String>) {
    match read {
        Ok(config) => (config, None),
        Err(error) => (Config::default(), Some(format!("{error:#}"))),
    }
}
