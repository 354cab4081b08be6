//! `countersign tokens`: who may ask the control plane, and for what.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's output")]

use std::process::ExitCode;

use anyhow::Context as _;
use countersign_console::{NewToken, Role, TokenInfo, Tokens};
use countersign_evidence::time::utc;
use countersign_store::Clock as _;
use serde_json::{Value, json};

use crate::clock::SystemClock;
use crate::control::{ACTOR, Control, with_store};
use crate::paths::Paths;

/// Give tokens of the control plane to auditors and programs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a token and show it, once
    Add(AddArgs),
    /// List all tokens, without their secrets
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Refuse a token from now on
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Roles:
  viewer   reads records and proofs, no private field
  auditor  reads records, proofs, private fields and the entries of the log
  admin    everything

Example:
  countersign tokens add acme-audit --role auditor --expires 2027-03-31")]
pub(crate) struct AddArgs {
    /// What uses the token; a name is never given twice
    name: String,
    /// `viewer`, `auditor` or `admin`
    #[arg(long, value_parser = role)]
    role: Role,
    /// When it ends: RFC 3339, or a date (UTC), which is included; never if absent
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// Print JSON: `{"token": {…}, "secret": "cst_…"}`
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RevokeArgs {
    /// The token's name
    name: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: Command, paths: &Paths) -> anyhow::Result<ExitCode> {
    match command {
        Command::Add(args) => add(args, paths).await?,
        Command::List { json } => list(json, paths)?,
        Command::Revoke(args) => revoke(&args, paths).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn role(text: &str) -> Result<Role, String> {
    Role::named(text).ok_or_else(|| "expected `viewer`, `auditor` or `admin`".to_owned())
}

async fn add(args: AddArgs, paths: &Paths) -> anyhow::Result<()> {
    let AddArgs { name, role, expires, json } = args;
    let new = NewToken { name, role: role.to_string(), expires };
    let answer = match Control::find(paths).await {
        Some(control) => control.post("/api/v1/tokens", &json!(new)).await?,
        None => {
            with_store(paths, async |store| {
                let tokens = Tokens::open(&paths.data, &paths.keys())?;
                let (token, secret) = tokens.add(store, &new, ACTOR).await?;
                Ok(json!({"token": token, "secret": secret.as_str()}))
            })
            .await?
        }
    };
    if json {
        println!("{answer}");
    } else {
        // Alone on a line, so that it can be piped into a secret store.
        println!("{}", answer.get("secret").and_then(Value::as_str).unwrap_or_default());
        eprintln!("This token is not shown again. Send it as `Authorization: Bearer cst_…`.");
    }
    Ok(())
}

async fn revoke(args: &RevokeArgs, paths: &Paths) -> anyhow::Result<()> {
    let RevokeArgs { name, json } = args;
    let answer = match Control::find(paths).await {
        Some(control) => control.post(&format!("/api/v1/tokens/{name}/revoke"), &json!({})).await?,
        None => {
            with_store(paths, async |store| {
                let tokens = Tokens::open(&paths.data, &paths.keys())?;
                Ok(json!({"token": tokens.revoke(store, name, ACTOR).await?}))
            })
            .await?
        }
    };
    if *json {
        println!("{answer}");
    } else {
        println!("{name} is revoked");
    }
    Ok(())
}

/// Reads the file; a running gateway is not in the way.
fn list(json: bool, paths: &Paths) -> anyhow::Result<()> {
    let tokens = Tokens::read_list(&paths.data).context("cannot read the tokens")?;
    if json {
        println!("{}", json!({"tokens": tokens}));
        return Ok(());
    }
    if tokens.is_empty() {
        eprintln!("There is no named token yet: `countersign tokens add --help` says how.");
        return Ok(());
    }
    let now = utc(SystemClock.now_ms());
    let width = tokens.iter().map(|token| token.name.len()).max().unwrap_or(0).max(4);
    println!("{:width$}  ROLE     STATUS   {:16}  {:24}  EXPIRES", "NAME", "ID", "MADE");
    for token in &tokens {
        let TokenInfo { name, id, role, created_at, expires_at, .. } = token;
        let (role, expires) = (role.as_str(), expires_at.as_deref().unwrap_or("never"));
        let status = status(token, &now);
        println!("{name:width$}  {role:7}  {status:7}  {id}  {created_at}  {expires}");
    }
    Ok(())
}

/// Tells what a token is worth; times in RFC 3339 and UTC sort as text.
fn status(token: &TokenInfo, now: &str) -> &'static str {
    match (&token.revoked_at, &token.expires_at) {
        (Some(_), _) => "revoked",
        (None, Some(expires)) if expires.as_str() <= now => "expired",
        (None, _) => "active",
    }
}
