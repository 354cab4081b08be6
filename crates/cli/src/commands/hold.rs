//! `countersign hold`: legal holds, which forbid erasure.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use countersign_store::{Reader, StoreError};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::config::Config;
use crate::control::{ACTOR, Control, with_store};
use crate::paths::Paths;
use crate::run::store_config;

/// Forbid the erasure of persons, for as long as the law asks for it.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Forbid the erasure of a person
    Add {
        /// The person
        #[arg(long, value_name = "ID")]
        subject: String,
        /// Why; sealed under the person's key
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Allow the erasure of a person again
    Lift {
        /// The person
        #[arg(long, value_name = "ID")]
        subject: String,
        /// Why; sealed under the person's key
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the holds in force
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) async fn run(command: Command, paths: &Paths) -> anyhow::Result<ExitCode> {
    match command {
        Command::Add { subject, reason, json } => {
            anyhow::ensure!(!reason.trim().is_empty(), "--reason says why; it is empty");
            let answer = match Control::find(paths).await {
                Some(control) => {
                    let body = json!({"subject": subject, "reason": reason});
                    control.post("/api/v1/holds/set", &body).await?
                }
                None => {
                    with_store(paths, async |store| {
                        let place = store.set_hold(&subject, &reason, ACTOR).await?;
                        Ok(json!({"record_id": place.record_id, "index": place.index.map(|index| index.0)}))
                    })
                    .await?
                }
            };
            say(&answer, &format!("{subject} is under a legal hold"), json)?;
        }
        Command::Lift { subject, reason, json } => {
            let answer = match Control::find(paths).await {
                Some(control) => {
                    let body = json!({"subject": subject, "reason": reason});
                    control.post("/api/v1/holds/lift", &body).await?
                }
                None => {
                    with_store(paths, async |store| {
                        let place = store.lift_hold(&subject, reason.as_deref(), ACTOR).await?;
                        Ok(json!({"record_id": place.record_id, "index": place.index.map(|index| index.0)}))
                    })
                    .await?
                }
            };
            say(&answer, &format!("the legal hold on {subject} is lifted"), json)?;
        }
        Command::List { json } => list(json, paths).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn say(answer: &Value, sentence: &str, json: bool) -> io::Result<()> {
    let mut out = io::stdout();
    if json { writeln!(out, "{answer}") } else { writeln!(out, "{sentence}") }
}

async fn list(json: bool, paths: &Paths) -> anyhow::Result<()> {
    let hint = "there is no readable ledger here; `countersign init` makes one";
    let config = store_config(&Config::read(&paths.config)?);
    let reader = Reader::of(&paths.data, &config).await.context(hint)?;
    let holds = read(&reader).await;
    reader.close().await;
    let holds = holds?;
    let mut out = io::stdout();
    if json {
        writeln!(out, "{}", json!({"holds": holds}))?;
        return Ok(());
    }
    if holds.is_empty() {
        writeln!(out, "no person is under a legal hold")?;
    }
    for hold in &holds {
        let text = |name: &str| hold.get(name).and_then(Value::as_str);
        let person = text("person").or_else(|| text("subject")).unwrap_or_default();
        let (since, reason) = (text("since"), text("reason").unwrap_or("reason is closed"));
        writeln!(out, "{person}  since {}: {reason}", since.unwrap_or_default())?;
    }
    Ok(())
}

/// Reads the holds with what can be opened of their private fields.
async fn read(reader: &Reader) -> anyhow::Result<Vec<Value>> {
    let mut shown = Vec::new();
    for hold in reader.holds().await? {
        let since = Timestamp::from_millisecond(hold.since_ms)?.to_string();
        let private = match reader.disclosures(hold.record_id).await {
            Ok(disclosures) => disclosures,
            // Without the keystore there are pseudonyms only.
            Err(StoreError::NoKey(_) | StoreError::Unsealable { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let field = |name: &str| {
            private.iter().find(|field| field.name() == Some(name)).map(|field| field.value())
        };
        shown.push(json!({
            "subject": hold.subject,
            "person": field("principal"),
            "since": since,
            "reason": field("reason"),
            "actor": field("actor"),
            "record_id": hold.record_id,
        }));
    }
    Ok(shown)
}
