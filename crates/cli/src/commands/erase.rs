//! `countersign erase`: destroy what the ledger has of a person.

use std::io::{self, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::agents::registered;
use crate::control::{ACTOR, Control, with_store};
use crate::paths::Paths;

/// Days after which no backup of the keystore may be left.
const BACKUP_DAYS: u32 = 30;

/// Destroy what the ledger has of a person.
///
/// The person's key is destroyed and everything sealed under it is deleted. Records, their hashes and every
/// proof stay valid; they show a pseudonym. This cannot be undone.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  countersign erase --subject ada@example.com --ticket DSR-17 --reason 'request by letter of 3 May'")]
pub(crate) struct Args {
    /// The person, as agents and identity providers name them
    #[arg(long, value_name = "ID")]
    subject: String,
    /// The ticket of the request; it is public
    #[arg(long, value_name = "ID")]
    ticket: String,
    /// Why; sealed under the tenant's key, so do not name the person
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let Args { subject, ticket, reason, json } = args;
    let mut answer = match Control::find(paths).await {
        Some(control) => {
            let body = json!({"subject": subject, "ticket": ticket, "reason": reason});
            control.post("/api/v1/subjects/erase", &body).await?
        }
        None => {
            with_store(paths, async |store| {
                Ok(store.erase(&subject, &ticket, reason.as_deref(), ACTOR).await?.to_json())
            })
            .await?
        }
    };
    let owned: Vec<String> = registered(paths)
        .await?
        .into_iter()
        .filter(|agent| agent.owner == subject)
        .map(|agent| agent.name.to_string())
        .collect();
    let mut out = io::stdout();
    if json {
        if let Some(fields) = answer.as_object_mut() {
            fields.insert("keystore_backup_days".into(), BACKUP_DAYS.into());
            fields.insert("owner_of".into(), owned.into());
        }
        writeln!(out, "{answer}")?;
        return Ok(ExitCode::SUCCESS);
    }
    show(&answer, &owned, &mut out)?;
    Ok(ExitCode::SUCCESS)
}

fn show(answer: &Value, owned: &[String], out: &mut impl io::Write) -> io::Result<()> {
    let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or_default();
    writeln!(out, "Erased, under ticket {}:", text("ticket"))?;
    writeln!(out, "  pseudonym  {}", text("subject"))?;
    writeln!(out, "  records    {}", number("records"))?;
    writeln!(out, "  sections   {}", number("sections"))?;
    writeln!(out, "  recorded   {}, leaf {}", text("record_id"), number("index"))?;
    writeln!(out)?;
    writeln!(
        out,
        "The records stay in the log and every proof still holds; they show the pseudonym."
    )?;
    writeln!(out, "Backups of the database keep ciphertext that nobody can open without the key.")?;
    writeln!(
        out,
        "Backups of the keystore still hold the key: they must be gone within {BACKUP_DAYS} days."
    )?;
    if !owned.is_empty() {
        writeln!(out, "The registry still names the person as the owner of {}.", owned.join(", "))?;
    }
    Ok(())
}
